"""Image references to pixels: decoded when asked for, always 8-bit RGB, always from inside the source folder.

A reference may not climb out of that folder. A symbolic link inside it is followed, so that images may lie on another
disk: texts of a dataset name paths, they make no links.

How a file becomes RGB, whatever its depth and transparency, is in `tasks.pixels`. A row of an `.npz` array, `uint8`
[height, width], [height, width, 1] or [height, width, 3], is taken as it is; grey is repeated.
"""

import hashlib
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import inside
from medbench.tasks.pixels import marked_pixels, to_rgb
from medbench.tasks.sample import ImageRef

# Pillow warns from here on; the largest chest X-rays have a sixth of it.
MAX_PIXELS = 89_478_485
# The largest array of a supported dataset (DermaMNIST at 224 pixels, training images) has 1.05 GB.
_MAX_ARRAY_BYTES = 4 * 2**30

_GREY_STACK, _COLOUR_STACK = 3, 4
_CHANNELS = (1, 3)

_MALFORMED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


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
    return array[..., 0] if array.ndim == _COLOUR_STACK and array.shape[-1] == 1 else array


def array_form(path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array from its header alone.

    Raises:
        DataError: If the file or the member is missing or malformed.
    """
    with _open_member(path, member) as stream:
        return _read_header(stream)


def refuse_other_stacks(path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that is no stack of 8-bit pictures; its values and axes are not guessed.

    Raises:
        DataError: If it is not `uint8` [N, H, W], [N, H, W, 1] or [N, H, W, 3]; the hint says how to make it so.
    """
    grey = len(shape) == _GREY_STACK
    colour = len(shape) == _COLOUR_STACK and shape[-1] in _CHANNELS
    if dtype != np.uint8 or not (grey or colour):
        problem = f"{path}: {member!r} is {dtype} {list(shape)}; pictures are uint8 [N, H, W] or [N, H, W, 3]."
        raise DataError(problem, _way_out(member, shape, dtype))


def _way_out(member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if len(shape) == _COLOUR_STACK and shape[1] in _CHANNELS and shape[-1] not in _CHANNELS:
        return f"Its channels come first. Save np.moveaxis({member}, 1, -1) as uint8, or download the file again."
    if dtype.kind == "f":
        return (
            f"Save ({member} * 255).round().astype('uint8') if its values go from 0 to 1, or download the file again."
        )
    if len(shape) == _COLOUR_STACK and len(set(shape[1:])) == 1:
        return "Volumes (3-D sets) are not read. Download the 2-D set of this name from its authors."
    return "Download the file again from its authors."


def read_array(path: Path, member: str) -> npt.NDArray[Any]:
    """Read one array whole; raises like `array_form`, also if it is larger than 4 GiB."""
    with _open_member(path, member) as stream:
        shape, dtype = _read_header(stream)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > _MAX_ARRAY_BYTES:
        raise DataError(f"{path}: the array {member!r} claims {size} bytes; at most {_MAX_ARRAY_BYTES} are read.")
    with _open_member(path, member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype


@contextmanager
def _open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
            yield stream
    except KeyError as error:
        raise DataError(f"{path} has no array {member!r}.", "Download the file again from its authors.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder given.") from error
    except _MALFORMED as error:
        raise DataError(f"{path}: the array {member!r} is broken: {error}.", "Download the file again.") from error
