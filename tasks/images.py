"""Image references to pixels: decoded when asked for, always 8-bit RGB, always from inside the source folder.

A reference may not climb out of that folder. A symbolic link inside it is followed, so that images may lie on another
disk: texts of a dataset name paths, they make no links.

How a file becomes RGB, whatever its depth and transparency, is in `tasks.pixels`. A row of an `.npz` array, `uint8`
[height, width], [height, width, 1] or [height, width, 3], is taken as it is; grey is repeated.
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

from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import inside
from medbench.tasks.npz import COLOUR_STACK, read_array, refuse_other_stacks
from medbench.tasks.pixels import marked_pixels, to_rgb
from medbench.tasks.sample import ImageRef

# Pillow warns from here on; the largest chest X-rays have a sixth of it.
MAX_PIXELS = 89_478_485


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


def open_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Return which pixels [height, width] a mask file marks, see `medbench.tasks.pixels`; raises like `open_image`."""
    try:
        with Image.open(path) as image:
            _refuse_giant(path, image)
            return marked_pixels(path, image)
    except _UNDECODABLE as error:
        raise _undecodable(path, error) from error


def _from_file(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            _refuse_giant(path, image)
            return to_rgb(path, image)
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
    refuse_other_stacks(path, member, array.shape, array.dtype)
    return array[..., 0] if array.ndim == COLOUR_STACK and array.shape[-1] == 1 else array
