"""How a picture becomes 8-bit RGB, whatever its depth, and a mask the pixels that it marks: docs/data.md says."""

import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_BACKGROUND = (255, 255, 255, 255)
_EIGHT_BITS = 255
_SIXTEEN_BITS = 65_535
_BYTE = 256
_GREY, _RGB = 2, 3
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})

_PNG_HEADER = struct.Struct(">8x8xIIBBxxB")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_START = 8
_PNG_CHECKSUM = 4
_PNG_DEEP = 16
_PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA = 2, 4, 6

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED, _SIGNED = 1, 2
_LONG = 32
_WHITE_IS_ZERO = 0
_OTHER_BYTE = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deep:
    """Values that 8 bits do not hold."""

    values: FloatArray  # [H, W] or [H, W, 3].
    alpha: FloatArray | None = None  # How much is seen of each pixel, 0 to 1, [H, W]; None if all is.
    whole: bool = True  # Whether the file holds whole numbers.


def to_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Return an opened picture as 8-bit RGB without anything beside its pixels.

    Raises OSError or ValueError: what Pillow raises on damaged files.
    """
    deep = _deep(path, image)
    if deep is not None:
        values = _eight_bits(deep)
        if deep.alpha is not None:
            share = deep.alpha if values.ndim == deep.alpha.ndim else deep.alpha[..., np.newaxis]
            values = values * share + _EIGHT_BITS * (1 - share)
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), _with_alpha(image))
    rgb = image.convert("RGB")
    rgb.info.clear()
    return rgb


def marked_pixels(path: Path, image: Image.Image) -> BoolArray:
    """Return which pixels [H, W] of an opened mask are marked: those that are seen and are not black.

    Where nothing but black is seen, what is seen is marked. Where a palette has no black, its first colour is none.
    Raises like `to_rgb`.
    """
    values, seen = _colours_and_sight(path, image)
    coloured = values if values.ndim == _GREY else values.any(axis=-1)
    marked = coloured & seen
    if not marked.any() and not seen.all():
        return seen
    if marked.all() and image.mode == "P":
        return np.asarray(image) > 0
    return marked


def _colours_and_sight(path: Path, image: Image.Image) -> tuple[BoolArray, BoolArray]:
    deep = _deep(path, image)
    if deep is not None:
        everywhere = np.ones(deep.values.shape[:2], dtype=np.bool_)
        return np.nan_to_num(deep.values) != 0, everywhere if deep.alpha is None else deep.alpha > 0
    rgba = np.asarray(_with_alpha(image))
    return rgba[..., :3] > 0, rgba[..., 3] > 0


def _deep(path: Path, image: Image.Image) -> _Deep | None:
    """Return the values of a picture that 8 bits do not hold, or None if they do."""
    if image.format == "PNG":
        return _deep_png(path, image) or (_deep_grey(image) if image.mode in _DEEP_MODES else None)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _deep_tiff(path, image)
    return _deep_grey(image) if image.mode in _DEEP_MODES else None


def _deep_grey(image: Image.Image) -> _Deep:
    values = np.asarray(image, dtype=np.float64)
    hidden = image.info.get("transparency")
    alpha = (values != hidden).astype(np.float64) if isinstance(hidden, int) else None
    return _Deep(values=values, alpha=alpha, whole=image.mode != "F")


def _deep_png(path: Path, image: Image.Image) -> _Deep | None:
    """Return the 16-bit colours of a PNG file, of which Pillow keeps the high bytes alone; None if it has none."""
    with path.open("rb") as stream:
        head = stream.read(_PNG_HEADER.size)
    width, height, depth, colour, interlaced = _PNG_HEADER.unpack(head)
    if depth != _PNG_DEEP or colour not in {_PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA}:
        return None
    packed = _png_pixels(path.read_bytes())

    def unpacked(mode: str, raw: str) -> FloatArray:
        part = Image.frombytes(mode, (width, height), packed, "zip", (raw, interlaced))
        return np.asarray(part, dtype=np.float64)

    if colour == _PNG_GREY_ALPHA:
        # Four bytes a pixel: the high and the low byte of grey and of alpha.
        pairs = unpacked("RGBA", "RGBA")
        grey, alpha = pairs[..., 0] * _BYTE + pairs[..., 1], pairs[..., 2] * _BYTE + pairs[..., 3]
        return _Deep(values=grey, alpha=alpha / _SIXTEEN_BITS)
    mode = "RGB" if colour == _PNG_RGB else "RGBA"
    deep = _of_channels(unpacked(mode, f"{mode};16B") * _BYTE + unpacked(mode, f"{mode};16L"))
    hidden = image.info.get("transparency")
    if colour == _PNG_RGB and isinstance(hidden, tuple):
        # One colour stands for what is transparent.
        return replace(deep, alpha=(deep.values != hidden).any(axis=-1).astype(np.float64))
    return deep


def _of_channels(values: FloatArray) -> _Deep:
    alpha = values[..., 3] / _SIXTEEN_BITS if values.shape[-1] > _RGB else None
    return _Deep(values=values[..., :_RGB], alpha=alpha)


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
        return _of_channels(np.asarray(image, dtype=np.float64) * _BYTE + _other_bytes(path))
    if image.mode not in _DEEP_MODES and (image.mode, form) != ("L", _SIGNED):
        return None
    stored: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "L":
        stored = stored.view(np.int8)
    elif image.mode == "I" and (bits, form) == (_LONG, _UNSIGNED):
        stored = stored.view(np.uint32)
    values = stored.astype(np.float64)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = (_SIXTEEN_BITS if image.mode.startswith("I;16") else np.nanmax(values) + np.nanmin(values)) - values
    return _Deep(values=values, whole=image.mode != "F")


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", ())
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _other_bytes(path: Path) -> FloatArray:
    """Return those bytes of a 16-bit colour TIFF which Pillow drops, by telling it the other order of bytes."""
    with Image.open(path) as image:
        kind, _, order = _raw_mode(image).partition(";")
        swapped = f"{kind};{_OTHER_BYTE[order]}"
        image.tile = [tile._replace(args=(swapped, *(tile.args or ())[1:])) for tile in image.tile]
        return np.asarray(image, dtype=np.float64)


def _eight_bits(deep: _Deep) -> FloatArray:
    """Return the values as they are shown, 0 to 255."""
    seen = np.isfinite(deep.values)
    if deep.alpha is not None:
        seen &= (deep.alpha > 0) if deep.values.ndim == deep.alpha.ndim else (deep.alpha > 0)[..., np.newaxis]
    if not seen.any():
        return np.zeros_like(deep.values)
    low, high = float(deep.values[seen].min()), float(deep.values[seen].max())
    values = np.clip(np.nan_to_num(deep.values, nan=0, posinf=high, neginf=low), low, high)
    if not deep.whole and low >= 0 and high <= 1:
        return values * _EIGHT_BITS
    if low >= 0 and high <= _EIGHT_BITS and (deep.whole or bool((values == np.rint(values)).all())):
        return values
    return (values - low) * (_EIGHT_BITS / (high - low)) if high > low else np.zeros_like(values)


def _with_alpha(image: Image.Image) -> Image.Image:
    # Pillow knows no way from grey that is multiplied by its alpha straight to RGBA.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
