"""Image references to pixels: decoded when asked for, always 8-bit RGB, always from inside the source folder.

A reference may not climb out of that folder. A symbolic link inside it is followed, so that images may lie on another
disk: texts of a dataset name paths, they make no links.

How each kind of file becomes RGB:

- 8 bits per channel (black and white, grey, palette, RGB, CMYK, YCbCr, with or without alpha): Pillow's own
  `convert("RGB")`, which is what the official Uni-Med code does; alpha is dropped, not blended.
- More than 8 bits (16-bit PNG or TIFF, 32-bit integer, float), where Pillow would clip everything above 255
  to white: the values of this image are scaled linearly so that its lowest becomes 0 and its highest 255.
  Values that already fit 0-255 are kept.
- A row of an `.npz` array, `uint8` [height, width] or [height, width, 3]: as it is; grey is repeated.
"""

import hashlib
import struct
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.foundation.errors import DataError, SampleError
from tasks.foundation.files import inside
from tasks.npz import read_array
from tasks.sample import ImageRef

# Pillow warns from here on; the largest chest X-rays have a sixth of it.
MAX_PIXELS = 89_478_485

_EIGHT_BITS = 255
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
_GREY_STACK, _COLOUR_STACK, _CHANNELS = 3, 4, 3

# Pillow's decoders raise these on hostile or damaged bytes.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(source: Path, ref: ImageRef) -> Image.Image:
    """Decode one image as 8-bit RGB.

    Args:
        source: The source folder of the prepared task.
        ref: Where the image is, relative to that folder.

    Raises:
        SampleError: If the image is missing, damaged, too large or outside `source`; the message names the
            file.
    """
    path = locate(source, ref.path)
    return _from_array(path, ref) if ref.member else _from_file(path)


def image_digest(source: Path, ref: ImageRef) -> str:
    """Return the SHA-256 of the decoded RGB pixels and their size; equal pixels in other files are equal.

    Raises:
        SampleError: Like `open_image`.
    """
    image = open_image(source, ref)
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def locate(folder: Path, relative: str) -> Path:
    """Return the file `relative` of `folder`, which need not exist.

    Raises:
        SampleError: If the text is no valid path or leads out of `folder`; see `inside`.
    """
    try:
        return inside(folder, relative)
    except DataError as error:
        raise SampleError(f"The path {relative!r} is not opened: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header of an image file.

    Raises:
        SampleError: If the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except _UNDECODABLE as error:
        raise _undecodable(path, error) from error


def size_of_image(source: Path, ref: ImageRef) -> tuple[int, int]:
    """Return width and height in pixels of one image, without decoding a file.

    Raises:
        SampleError: Like `open_image`.
    """
    return open_image(source, ref).size if ref.member else image_size(locate(source, ref.path))


def open_mask(path: Path) -> Image.Image:
    """Decode a mask file as it is, without conversion; raises like `open_image`."""
    try:
        with Image.open(path) as image:
            _refuse_giant(path, image)
            image.load()
            return image
    except _UNDECODABLE as error:
        raise _undecodable(path, error) from error


def _from_file(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            _refuse_giant(path, image)
            return _deep_to_rgb(image) if image.mode in _DEEP_MODES else image.convert("RGB")
    except _UNDECODABLE as error:
        raise _undecodable(path, error) from error


def _refuse_giant(path: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise SampleError(
            f"The image {path} claims {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}.",
            "Scale the picture down, or remove it from the dataset.",
        )


def _undecodable(path: Path, error: BaseException) -> SampleError:
    if isinstance(error, FileNotFoundError):
        return SampleError(f"The image {path} is missing.", "Restore it, then prepare the task again.")
    return SampleError(f"The image {path} cannot be decoded: {error}.", "Download the file again.")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > _EIGHT_BITS:
        values = (values - low) * (_EIGHT_BITS / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _from_array(path: Path, ref: ImageRef) -> Image.Image:
    try:
        array = _cached_array(path, ref.member)
    except DataError as error:
        raise SampleError(error.problem, error.hint) from error
    if not 0 <= ref.index < len(array):
        raise SampleError(f"{path} has {len(array)} rows in {ref.member!r}; there is no row {ref.index}.")
    return Image.fromarray(array[ref.index]).convert("RGB")


_array_lock = threading.Lock()


def _cached_array(path: Path, member: str) -> npt.NDArray[np.uint8]:
    # One decompression at a time: threads that want the same array wait instead of doubling the memory.
    with _array_lock:
        try:
            changed_at = path.stat().st_mtime_ns
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder.") from error
        return _load_array(path, member, changed_at)


@lru_cache(maxsize=2)
def _load_array(path: Path, member: str, _changed_at: int) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[Any] = read_array(path, member)
    grey = array.ndim == _GREY_STACK
    colour = array.ndim == _COLOUR_STACK and array.shape[-1] == _CHANNELS
    if array.dtype != np.uint8 or not (grey or colour):
        raise DataError(
            f"{path}: {member!r} is {array.dtype} {array.shape}; images are uint8 [N, H, W] or [N, H, W, 3]."
        )
    return array
