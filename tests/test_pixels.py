"""Pictures of every depth and kind of transparency as they are shown, and masks as they mark."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from medbench.tasks.images import open_image, open_mask, size_of_image
from medbench.tasks.sample import ImageRef

RAMP = np.linspace(0, 1, 60).reshape(6, 10)
SHOWN = np.rint(RAMP * 255)
Array = npt.NDArray[Any]


def shown(folder: Path, name: str) -> Array:
    return np.asarray(open_image(folder, ImageRef(path=name))).astype(int)


def tiff(path: Path, array: Array, *, photometric: int | None = None, compressed: bool = False) -> None:
    """Write a TIFF of any kind of number and order of bytes, which Pillow cannot."""
    end = ">" if array.dtype.byteorder == ">" else "<"
    height, width, channels = (*array.shape, 1)[:3]
    data = zlib.compress(array.tobytes()) if compressed else array.tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    kind = photometric if photometric is not None else 2 if channels > 2 else 1
    tags = {256: [width], 257: [height], 258: [array.dtype.itemsize * 8] * channels, 259: [8 if compressed else 1]}
    tags |= {262: [kind], 273: [8], 277: [channels], 278: [height], 279: [len(data)]}
    tags |= {338: [2]} if channels == 4 else {}
    tags |= {339: [sample_format] * channels}
    entries, beyond = b"", b""
    behind = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        value = (
            struct.pack(f"{end}{len(values)}I", *values) if tag == 279 else struct.pack(f"{end}{len(values)}H", *values)
        )
        if len(value) > 4:
            value, beyond = struct.pack(f"{end}I", behind + len(beyond)), beyond + value
        entries += struct.pack(f"{end}HHI", tag, 4 if tag == 279 else 3, len(values)) + value.ljust(4, b"\0")
    head = (b"MM\0*" if end == ">" else b"II*\0") + struct.pack(f"{end}I", 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{end}H", len(tags)) + entries + b"\0" * 4 + beyond)


def deep_png(path: Path, array: Array, key: tuple[int, ...] = ()) -> None:
    """Write a 16-bit PNG with grey, grey and alpha, RGB or RGBA; `key` is the colour that is transparent."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]]
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packed = zlib.compress(rows)
    parts = chunk(b"IDAT", packed[:50]) + chunk(b"IDAT", packed[50:])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    hidden = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + hidden + parts + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *(("<u2", 4095), (">u2", 4095), ("<u2", 65535), ("<i2", 900), (">i2", 30_000), ("<i4", 70_000)),
        *((">i4", 70_000), ("<u4", 4e9), ("<f4", 1), (">f4", 1), ("<f4", 3000)),
    ],
)
def test_values_of_every_depth_are_spread_over_eight_bits(tmp_path: Path, dtype: str, scale: float) -> None:
    tiff(tmp_path / "a.tif", (RAMP * scale).astype(dtype))
    assert np.abs(shown(tmp_path, "a.tif")[..., 0] - SHOWN).max() <= 1


@pytest.mark.parametrize("dtype", ["<i1", "<i2", ">i2", "<i4"])
def test_signed_values_go_from_their_lowest_to_their_highest(tmp_path: Path, dtype: str) -> None:
    tiff(tmp_path / "a.tif", (RAMP * 200 - 100).astype(dtype))
    assert np.abs(shown(tmp_path, "a.tif")[..., 0] - SHOWN).max() <= 2


@pytest.mark.parametrize(("dtype", "scale"), [("<u2", 65535), ("<f4", 1)])
def test_where_zero_is_white_it_is_white(tmp_path: Path, dtype: str, scale: float) -> None:
    tiff(tmp_path / "a.tif", (RAMP * scale).astype(dtype), photometric=0)
    assert np.abs(shown(tmp_path, "a.tif")[..., 0] - (255 - SHOWN)).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_twelve_of_sixteen_bits_of_a_png_are_seen_in_every_channel(tmp_path: Path, channels: int) -> None:
    array = np.repeat((RAMP * 4095)[..., np.newaxis], channels, axis=2)
    if channels in {2, 4}:
        array[..., -1] = 65535
    deep_png(tmp_path / "a.png", array)
    assert np.abs(shown(tmp_path, "a.png") - SHOWN[..., np.newaxis]).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("compressed", [False, True])
def test_so_are_those_of_a_colour_tiff(tmp_path: Path, dtype: str, channels: int, compressed: bool) -> None:
    array = np.repeat((RAMP * 4095)[..., np.newaxis], channels, axis=2).astype(dtype)
    array[..., 3:] = 65535
    tiff(tmp_path / "a.tif", array, compressed=compressed)
    assert np.abs(shown(tmp_path, "a.tif") - SHOWN[..., np.newaxis]).max() <= 1


def test_not_a_number_and_infinity_do_not_hide_the_rest(tmp_path: Path) -> None:
    array = np.array([[np.nan, np.inf, -np.inf, 0.0, 0.5, 1.0]], dtype="<f4")
    tiff(tmp_path / "a.tif", array)
    assert shown(tmp_path, "a.tif")[0, :, 0].tolist() == [0, 255, 0, 0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "grey", "deep"])
def test_what_is_transparent_is_white_and_not_the_colour_below(tmp_path: Path, mode: str) -> None:
    rgba = np.zeros((2, 3, 4), dtype=np.uint8)
    rgba[0, :, 3], rgba[0, 0, :3] = 255, 90
    image = Image.fromarray(rgba)
    if mode == "deep":
        deep_png(tmp_path / "a.png", rgba.astype(np.uint16) * 257)
        # The brightest that is seen becomes white.
        assert shown(tmp_path, "a.png")[..., 0].tolist() == [[255, 0, 0], [255] * 3]
        return
    if mode == "grey":
        Image.fromarray(np.array([[90, 1, 1], [0, 0, 0]], dtype=np.uint8)).save(tmp_path / "a.png", transparency=0)
        assert shown(tmp_path, "a.png")[..., 2].tolist() == [[90, 1, 1], [255] * 3]
        return
    (image.quantize() if mode == "P" else image.convert(mode)).save(tmp_path / "a.png")
    assert shown(tmp_path, "a.png")[..., 1].tolist() == [[90, 0, 0], [255] * 3]


@pytest.mark.parametrize("key", [(0, 0, 0), (513, 7, 65_535)])
def test_the_transparent_colour_of_a_deep_png_is_white(tmp_path: Path, key: tuple[int, int, int]) -> None:
    array = np.full((2, 2, 3), 20_000, dtype=np.uint16)
    array[0, 0] = key
    array[1, 1] = 0, 0, 1
    deep_png(tmp_path / "x.png", array, key)
    found = shown(tmp_path, "x.png")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() != [255, 255, 255]


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert shown(tmp_path, "a.png")[0, 0].tolist() == [127] * 3


def test_a_turned_photograph_is_the_stored_one_and_brings_no_note_along(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    ref = ImageRef(path="a.jpg")
    decoded = open_image(tmp_path, ref)
    assert decoded.size == size_of_image(tmp_path, ref) == (30, 20)
    assert (decoded.info, dict(decoded.getexif())) == ({}, {})
    again = io.BytesIO()
    decoded.save(again, "jpeg")
    assert not Image.open(again).getexif()


def marked(folder: Path, image: Image.Image, **more: Any) -> tuple[int, int]:
    image.save(folder / "mask.png", **more)
    pixels = open_mask(folder / "mask.png")
    return int(pixels.sum()), int(pixels[1:3, 2:4].sum())


def test_a_mask_marks_the_same_pixels_in_every_form(tmp_path: Path) -> None:
    grey = np.zeros((6, 8), dtype=np.uint8)
    grey[1:3, 2:4] = 255
    mask = Image.fromarray(grey)
    opaque = Image.merge("LA", (mask, Image.new("L", mask.size, 255)))
    alone = Image.merge("LA", (Image.new("L", mask.size, 0), mask))
    swapped = Image.fromarray((grey == 0).astype(np.uint8), "P")
    swapped.putpalette([255, 0, 0, 0, 0, 0])
    indexed = Image.fromarray((grey > 0).astype(np.uint8) * 3, "P")
    indexed.putpalette([0, 0, 0] + [9, 9, 9] * 255)
    deep = Image.fromarray((grey > 0).astype(np.uint16))
    forms = [mask, mask.convert("1"), mask.convert("RGB"), mask.convert("RGBA"), opaque, alone, swapped, indexed, deep]
    assert [marked(tmp_path, form) for form in forms] == [(4, 4)] * len(forms)
    assert marked(tmp_path, indexed, transparency=0) == (4, 4)
    assert marked(tmp_path, Image.new("RGBA", (8, 6), (0, 0, 0, 255))) == (0, 0)
