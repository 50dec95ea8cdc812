"""Image references to pixels: decoded when asked for, always 8-bit RGB, always from inside the source folder.

A reference may not climb out of that folder. A symbolic link inside it is followed, so that images may lie on another
disk: texts of a dataset name paths, they make no links.

How a file becomes RGB, whatever its depth and transparency, is in `medbench.tasks.pixels`. A row of an `.npz` array,
`uint8` [height, width], [height, width, 1] or [height, width, 3], is taken as it is; grey is repeated. Arrays are read
one member at a time and never by pickle.
"""

import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import inside
from medbench.tasks.pixels import marked_pixels, to_rgb
from medbench.tasks.sample import ImageRef

T = TypeVar("T")

# Pillow warns from here on; the largest chest X-rays have a sixth of it.
MAX_PIXELS = 89_478_485
# The largest array of a supported dataset (DermaMNIST at 224 pixels, training images) has 1.05 GB.
_MAX_ARRAY_BYTES = 4 * 2**30
_GREY_STACK, _COLOUR_STACK = 3, 4
_CHANNELS = (1, 3)

# What Pillow's decoders and the readers of arrays raise on hostile or damaged bytes.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_MALFORMED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


def open_image(source: Path, ref: ImageRef) -> Image.Image:
    """Decode one image of a source folder as 8-bit RGB.

    Raises SampleError if it is missing, damaged, too large or outside `source`; the message names the file.
    """
    path = locate(source, ref.path)
    return _from_array(path, ref) if ref.member else _opened(path, lambda image: to_rgb(path, image))


def open_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Return which pixels [height, width] a mask file marks, see `medbench.tasks.pixels`; raises like `open_image`."""
    return _opened(path, lambda image: marked_pixels(path, image))


def locate(folder: Path, relative: str) -> Path:
    """Return the file `relative` of `folder`, which need not exist; a SampleError if it leads out of it (`inside`)."""
    try:
        return inside(folder, relative)
    except DataError as error:
        raise SampleError(f"The path {relative!r} is not opened: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header of an image file; a SampleError if it is none."""
    return _opened(path, lambda image: image.size, any_size=True)


def size_of_image(source: Path, ref: ImageRef) -> tuple[int, int]:
    """Return width and height in pixels of one image, without decoding a file; raises like `open_image`."""
    return open_image(source, ref).size if ref.member else image_size(locate(source, ref.path))


def _opened(path: Path, read: Callable[[Image.Image], T], *, any_size: bool = False) -> T:
    """Return what `read` makes of an image file, which may have `MAX_PIXELS` where its pixels are read."""
    try:
        with Image.open(path) as image:
            if not any_size and image.width * image.height > MAX_PIXELS:
                raise SampleError(
                    f"The image {path} claims {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}.",
                    "Scale the picture down, or remove it from the dataset.",
                )
            return read(image)
    except FileNotFoundError as error:
        raise SampleError(f"The image {path} is missing.", "Restore it, then prepare the task again.") from error
    except _UNDECODABLE as error:
        raise SampleError(f"The image {path} cannot be decoded: {error}.", "Download the file again.") from error


def _from_array(path: Path, ref: ImageRef) -> Image.Image:
    try:
        # One decompression at a time: threads that want the same array wait instead of doubling the memory.
        with _array_lock:
            array = _load_stack(path, ref.member, path.stat().st_mtime_ns)
    except DataError as error:
        raise SampleError(error.problem, error.hint) from error
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder.") from error
    if not 0 <= ref.index < len(array):
        raise SampleError(f"{path} has {len(array)} rows in {ref.member!r}; there is no row {ref.index}.")
    return Image.fromarray(array[ref.index]).convert("RGB")


_array_lock = threading.Lock()


@lru_cache(maxsize=2)
def _load_stack(path: Path, member: str, _changed_at: int) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[Any] = read_array(path, member)
    refuse_other_stacks(path, member, array.shape, array.dtype)
    return array[..., 0] if array.ndim == _COLOUR_STACK and array.shape[-1] == 1 else array


def array_form(path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array of an `.npz` file from its header alone; a DataError if it has none."""
    with _open_member(path, member) as stream:
        old = np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
    return shape, dtype


def read_array(path: Path, member: str) -> npt.NDArray[Any]:
    """Read one array of an `.npz` file whole; raises like `array_form`, also if it is larger than 4 GiB."""
    shape, dtype = array_form(path, member)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > _MAX_ARRAY_BYTES:
        raise DataError(f"{path}: the array {member!r} claims {size} bytes; at most {_MAX_ARRAY_BYTES} are read.")
    with _open_member(path, member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


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


def refuse_other_stacks(path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse, by a DataError, an array that is no stack of 8-bit images; its values and axes are not guessed.

    Such stacks are `uint8` [N, H, W], [N, H, W, 1] or [N, H, W, 3]; the hint says how to make it so.
    """
    four = len(shape) == _COLOUR_STACK
    if dtype == np.uint8 and (len(shape) == _GREY_STACK or (four and shape[-1] in _CHANNELS)):
        return
    way_out = "Download the file again from its authors."
    if four and shape[1] in _CHANNELS and shape[-1] not in _CHANNELS:
        way_out = f"Its channels come first. Save np.moveaxis({member}, 1, -1) as uint8, or download the file again."
    elif dtype.kind == "f":
        values = f"({member} * 255).round().astype('uint8')"
        way_out = f"Save {values} if its values go from 0 to 1, or download the file again."
    elif four and len(set(shape[1:])) == 1:
        way_out = "Volumes (3-D sets) are not read. Download the 2-D set of this name from its authors."
    problem = f"{path}: {member!r} is {dtype} {list(shape)}; pictures are uint8 [N, H, W] or [N, H, W, 3]."
    raise DataError(problem, way_out)
