"""Image references to pixels: decoded when asked for, always 8-bit RGB, always from inside the source folder.

A reference may not climb out of that folder. A symbolic link inside it is followed, so that images may lie on another
disk: texts of a dataset name paths, they make no links.

How a file becomes RGB, whatever its depth and transparency, and which pixels a mask marks, says docs/data.md. A row of
an `.npz` array, `uint8` [height, width], [height, width, 1] or [height, width, 3], is taken as it is; grey is repeated.
Arrays are read one member at a time and never by pickle.
"""

import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from medbench.tasks.foundation.errors import DataError, PictureError
from medbench.tasks.foundation.files import inside
from medbench.tasks.foundation.shortages import shortage
from medbench.tasks.sample import ImageRef

T = TypeVar("T")
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Pillow warns from here on; the largest chest X-rays have a sixth of it.
MAX_PIXELS = 89_478_485
# More than this is decoded one at a time, and values of more than 8 bits so many pixels at a time.
_LARGE, _BLOCK = 16_000_000, 1 << 20
_one_large = threading.Lock()
# What medical data come in. No other decoder sees a file, whatever its name: some start programs (EPS), some hang.
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
# The largest array of a supported dataset (DermaMNIST at 224 pixels, training images) has 1.05 GB.
_MAX_ARRAY_BYTES = 4 * 2**30
# Images become a tenth of their size; a bomb is a thousand times as large as its file.
_SMALL_ARRAY, _MOST_PACKED = 1 << 26, 100
_GREY_STACK, _COLOUR_STACK = 3, 4
_CHANNELS = (1, 3)

# What Pillow's decoders and the readers of arrays raise on hostile or damaged bytes.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError),
    *(NotImplementedError, RuntimeError, AttributeError, AssertionError, ZeroDivisionError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_MALFORMED = (
    *(zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError),
    *(SyntaxError, TypeError, OverflowError, TokenError),
)

_BACKGROUND = (255, 255, 255, 255)
_EIGHT_BITS, _SIXTEEN_BITS, _BYTE = 255, 65_535, 256
_RGB = 3
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

_PNG_HEADER = struct.Struct(">8x8xIIBBxxB")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_START, _PNG_CHECKSUM, _PNG_DEEP = 8, 4, 16
_PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA = 2, 4, 6

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED, _SIGNED = 1, 2
_LONG, _WHITE_IS_ZERO = 32, 0
_OTHER_BYTE = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}


def open_image(source: Path, ref: ImageRef) -> Image.Image:
    """Decode one image of a source folder as 8-bit RGB.

    Raises SampleError if it is missing, damaged, too large or outside `source`; the message names the file.
    """
    path = locate(source, ref.path)
    return _from_array(path, ref) if ref.member else _opened(path, lambda image: _to_rgb(path, image))


def open_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Return which pixels [height, width] a mask file marks, see docs/data.md; raises like `open_image`."""
    return _opened(path, lambda image: _marked_pixels(path, image))


def locate(folder: Path, relative: str) -> Path:
    """Return the file `relative` of `folder`, which need not exist; a SampleError if it leads out of it (`inside`)."""
    try:
        return inside(folder, relative)
    except DataError as error:
        raise PictureError(f"The path {relative!r} is not opened: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels from the header of an image file; a SampleError if it is none."""
    return _opened(path, lambda image: image.size, any_size=True)


def size_of_image(source: Path, ref: ImageRef) -> tuple[int, int]:
    """Return width and height in pixels of one image, without decoding a file; raises like `open_image`."""
    return open_image(source, ref).size if ref.member else image_size(locate(source, ref.path))


def _opened(path: Path, read: Callable[[Image.Image], T], *, any_size: bool = False) -> T:
    """Return what `read` makes of an image file, which may have `MAX_PIXELS` where its pixels are read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if not any_size and image.width * image.height > MAX_PIXELS:
                problem = f"The image {path} claims {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}."
                raise PictureError(problem, "Scale the image down, or remove it from the dataset.")
            # Several at once, one for each thread that decodes, would need as many times its memory.
            large = not any_size and image.width * image.height > _LARGE
            with _one_large if large else nullcontext():
                return read(image)
    except FileNotFoundError as error:
        raise PictureError(f"The image {path} is missing.", "Restore it, then prepare the task again.") from error
    except UnidentifiedImageError as error:
        way_out = f"Images are read as {', '.join(FORMATS)}: save it as one of them, or download the file again."
        raise PictureError(f"The image {path} cannot be decoded: it is none, or of another format.", way_out) from error
    except _UNDECODABLE as error:
        if found := shortage(error):
            raise PictureError(f"The image {path} cannot be read: {found.problem}", found.hint) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise PictureError(f"The image {path} cannot be read: {error.strerror}.", "Check the folder.") from error
        raise PictureError(f"The image {path} cannot be decoded: {error}.", "Download the file again.") from error


def _from_array(path: Path, ref: ImageRef) -> Image.Image:
    try:
        # One decompression at a time: threads that want the same array wait instead of doubling the memory.
        with _array_lock:
            array = _load_stack(path, ref.member, path.stat().st_mtime_ns)
    except DataError as error:
        raise PictureError(error.problem, error.hint) from error
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder.") from error
    if not 0 <= ref.index < len(array):
        raise PictureError(f"{path} has {len(array)} rows in {ref.member!r}; there is no row {ref.index}.")
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
    most = min(_MAX_ARRAY_BYTES, max(_SMALL_ARRAY, path.stat().st_size * _MOST_PACKED))
    if size > most:
        raise DataError(f"{path}: the array {member!r} claims {size} bytes; at most {most} are read of this file.")
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
    problem = f"{path}: {member!r} is {dtype} {list(shape)}; images are uint8 [N, H, W] or [N, H, W, 3]."
    raise DataError(problem, way_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deep:
    """Values that 8 bits do not hold."""

    values: npt.NDArray[Any]  # As in the file, [H, W, 1] or [H, W, 3].
    # How much is seen of each pixel, 0 to `opaque`, [H, W, 1]; or of all.
    alpha: npt.NDArray[Any] = field(default_factory=lambda: np.ones((1, 1, 1)))
    opaque: int = 1
    whole: bool = True  # Whether the file holds whole numbers.

    def blocks(self) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Yield rows by rows their place, values and alpha 0 to 1: large images are never all of 8 bytes."""
        height, width, _ = self.values.shape
        step = max(1, _BLOCK // max(width, 1))
        for start in range(0, height, step):
            rows = slice(start, start + step)
            alpha = self.alpha if len(self.alpha) == 1 else self.alpha[rows]
            yield rows, self.values[rows].astype(np.float64), alpha.astype(np.float64) / self.opaque


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Return an opened image as 8-bit RGB without anything beside its pixels; raises what Pillow raises on damage."""
    deep = _deep(path, image)
    if deep is not None:
        painted = _painted(deep)
        return Image.fromarray(painted if painted.shape[-1] == _RGB else painted[..., 0]).convert("RGB")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), _with_alpha(image))
    rgb = image.convert("RGB")
    rgb.info.clear()
    return rgb


def _marked_pixels(path: Path, image: Image.Image) -> BoolArray:
    """Return which pixels [H, W] of an opened mask are marked: those that are seen and are not black.

    Where nothing but black is seen, what is seen is marked. Where a palette has no black, its first colour is none.
    """
    deep = _deep(path, image) or _of_channels(np.asarray(_with_alpha(image)))
    coloured = ((deep.values != 0) & ~np.isnan(deep.values)).any(axis=-1)
    seen = np.broadcast_to(deep.alpha[..., 0] > 0, coloured.shape)
    marked: BoolArray = coloured & seen
    if not marked.any() and not seen.all():
        return seen
    if marked.all() and image.mode == "P":
        return np.asarray(image) > 0
    return marked


def _deep(path: Path, image: Image.Image) -> _Deep | None:
    """Return the values of an image that 8 bits do not hold, or None if they do."""
    if image.format == "PNG":
        return _deep_png(path, image) or (_deep_grey(image) if image.mode in _DEEP_MODES else None)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _deep_tiff(path, image)
    return _deep_grey(image) if image.mode in _DEEP_MODES else None


def _deep_grey(image: Image.Image) -> _Deep:
    values: npt.NDArray[Any] = np.asarray(image)[..., np.newaxis]
    hidden = image.info.get("transparency")
    alpha = values != hidden if isinstance(hidden, int) else np.ones((1, 1, 1))
    return _Deep(values=values, alpha=alpha, whole=image.mode != "F")


def _deep_png(path: Path, image: Image.Image) -> _Deep | None:
    """Return the 16-bit colours of a PNG file, of which Pillow keeps the high bytes alone; None if it has none."""
    with path.open("rb") as stream:
        head = stream.read(_PNG_HEADER.size)
    width, height, depth, colour, interlaced = _PNG_HEADER.unpack(head)
    if depth != _PNG_DEEP or colour not in {_PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA}:
        return None
    packed = _png_pixels(path.read_bytes())

    def unpacked(mode: str, raw: str) -> npt.NDArray[np.uint16]:
        return np.asarray(Image.frombytes(mode, (width, height), packed, "zip", (raw, interlaced)), dtype=np.uint16)

    if colour == _PNG_GREY_ALPHA:
        # Four bytes a pixel: the high and the low byte of grey and of alpha.
        pairs = unpacked("RGBA", "RGBA")
        both = pairs[..., ::2] * _BYTE + pairs[..., 1::2]
        return _Deep(values=both[..., :1], alpha=both[..., 1:], opaque=_SIXTEEN_BITS)
    mode = "RGB" if colour == _PNG_RGB else "RGBA"
    deep = _of_channels(unpacked(mode, f"{mode};16B") * _BYTE + unpacked(mode, f"{mode};16L"))
    hidden = image.info.get("transparency")
    if colour == _PNG_RGB and isinstance(hidden, tuple):
        # One colour stands for what is transparent.
        return _Deep(values=deep.values, alpha=(deep.values != hidden).any(axis=-1, keepdims=True))
    return deep


def _of_channels(values: npt.NDArray[Any]) -> _Deep:
    if values.shape[-1] == _RGB:
        return _Deep(values=values)
    return _Deep(values=values[..., :_RGB], alpha=values[..., _RGB:], opaque=_SIXTEEN_BITS)


def _png_pixels(data: bytes) -> bytes:
    packed: list[bytes] = []
    place = _PNG_START
    while place + _PNG_CHUNK.size <= len(data):
        length, name = _PNG_CHUNK.unpack_from(data, place)
        start = place + _PNG_CHUNK.size
        if name == b"IDAT":
            packed.append(data[start : start + length])
        place = start + length + _PNG_CHECKSUM
    return b"".join(packed)


def _deep_tiff(path: Path, image: TiffImagePlugin.TiffImageFile) -> _Deep | None:
    tags = image.tag_v2
    bits, form = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    raw = _raw_mode(image)
    if raw.partition(";")[0] in {"RGB", "RGBA"} and raw.partition(";")[2] in _OTHER_BYTE:
        return _of_channels(np.asarray(image, dtype=np.uint16) * _BYTE + _other_bytes(path))
    if image.mode not in _DEEP_MODES and (image.mode, form) != ("L", _SIGNED):
        return None
    stored: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "L":
        stored = stored.view(np.int8)
    elif image.mode == "I" and (bits, form) == (_LONG, _UNSIGNED):
        stored = stored.view(np.uint32)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = stored.astype(np.float64)
        stored = (_SIXTEEN_BITS if image.mode.startswith("I;16") else np.nanmax(values) + np.nanmin(values)) - values
    return _Deep(values=stored[..., np.newaxis], whole=image.mode != "F")


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", ())
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _other_bytes(path: Path) -> npt.NDArray[np.uint16]:
    """Return those bytes of a 16-bit colour TIFF which Pillow drops, by telling it the other order of bytes."""
    with Image.open(path, formats=FORMATS) as image:
        kind, _, order = _raw_mode(image).partition(";")
        swapped = f"{kind};{_OTHER_BYTE[order]}"
        image.tile = [tile._replace(args=(swapped, *(tile.args or ())[1:])) for tile in image.tile]
        return np.asarray(image, dtype=np.uint16)


def _painted(deep: _Deep) -> npt.NDArray[np.uint8]:
    """Return the values as they are shown on white, 8 bits."""
    seen = (values[np.isfinite(values) & (alpha > 0)] for _, values, alpha in deep.blocks())
    ranges = [(float(one.min()), float(one.max())) for one in seen if one.size] or [(0.0, 0.0)]
    low, high = min(ranges)[0], max(last for _, last in ranges)

    def bounded(values: FloatArray) -> FloatArray:
        found: FloatArray = np.clip(np.nan_to_num(values, nan=0, posinf=high, neginf=low), low, high)
        return found

    factor, least = (_EIGHT_BITS / (high - low) if high > low else 0.0), low
    if not deep.whole and low >= 0 and high <= 1:
        factor, least = float(_EIGHT_BITS), 0.0
    elif low >= 0 and high <= _EIGHT_BITS and (deep.whole or _all_whole(bounded(one) for _, one, _ in deep.blocks())):
        factor, least = 1.0, 0.0
    painted = np.empty(deep.values.shape, np.uint8)
    for rows, values, alpha in deep.blocks():
        painted[rows] = np.rint((bounded(values) - least) * factor * alpha + _EIGHT_BITS * (1 - alpha))
    return painted


def _all_whole(blocks: Iterator[FloatArray]) -> bool:
    return all(bool((values == np.rint(values)).all()) for values in blocks)


def _with_alpha(image: Image.Image) -> Image.Image:
    # Pillow knows no way from grey that is multiplied by its alpha straight to RGBA.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
