"""Pixels: the same RGB as the official code for 8-bit files, a stated rule for the others, errors by file name."""

import hashlib
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from native_data import medmnist_npz
from PIL import Image

from medbench.tasks import images
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.images import array_form, image_size, open_image, read_array
from medbench.tasks.sample import ImageRef


def picture(mode: str) -> Image.Image:
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (6, 5, 4), dtype=np.uint8), "RGBA")
    if mode == "RGBA":
        return colours
    return colours.convert("RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGB", "png"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
        ("YCbCr", "jpg"),
        ("CMYK", "tif"),
    ],
)
def test_eight_bit_files_are_pillows_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    decoded = open_image(tmp_path, ImageRef(path=path.name))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), expected)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4"])
def test_deep_files_are_scaled_from_their_lowest_to_their_highest_value(tmp_path: Path, dtype: str) -> None:
    values = np.array([[100, 1100], [2100, 4100]], dtype=dtype)
    Image.fromarray(values).save(tmp_path / "a.tif")
    decoded = np.asarray(open_image(tmp_path, ImageRef(path="a.tif")))
    np.testing.assert_array_equal(decoded[..., 0], [[0, 64], [128, 255]])
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_a_sixteen_bit_png_is_scaled_and_not_clipped_to_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1000], [2000, 4095]], dtype=np.uint16)).save(tmp_path / "a.png")
    decoded = np.asarray(open_image(tmp_path, ImageRef(path="a.png")))[..., 0]
    np.testing.assert_array_equal(decoded, [[0, 62], [125, 255]])


def test_deep_files_with_small_values_are_kept_and_constant_ones_are_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[3, 200]], dtype=np.int32)).save(tmp_path / "small.tif")
    Image.fromarray(np.full((2, 2), 4000, dtype=np.uint16)).save(tmp_path / "flat.png")
    Image.fromarray(np.array([[np.nan, -5.0, 300.0]], dtype=np.float32)).save(tmp_path / "nan.tif")
    assert np.asarray(open_image(tmp_path, ImageRef(path="small.tif")))[0, :, 0].tolist() == [3, 200]
    assert not np.asarray(open_image(tmp_path, ImageRef(path="flat.png"))).any()
    assert np.asarray(open_image(tmp_path, ImageRef(path="nan.tif")))[0, :, 1].tolist() == [4, 0, 255]


@pytest.mark.parametrize("grey", [False, True])
def test_rows_of_an_array_are_images(tmp_path: Path, grey: bool) -> None:
    medmnist_npz(tmp_path, grey=grey)
    stored = read_array(tmp_path / "dermamnist_224.npz", "test_images")[3]
    decoded = np.asarray(open_image(tmp_path, ImageRef(path="dermamnist_224.npz", member="test_images", index=3)))
    expected = np.repeat(stored[..., None], 3, axis=2) if grey else stored
    np.testing.assert_array_equal(decoded, expected)


def test_an_array_is_decompressed_once_for_all_its_rows_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medmnist_npz(tmp_path)
    reads: list[str] = []

    def counted(path: Path, member: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        reads.append(member)
        return read_array(path, member)

    monkeypatch.setattr(images, "read_array", counted)
    refs = [ImageRef(path="dermamnist_224.npz", member="test_images", index=index) for index in range(4)]
    threads = [threading.Thread(target=open_image, args=(tmp_path, ref)) for ref in refs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == ["test_images"]


def test_a_rewritten_array_is_read_again(tmp_path: Path) -> None:
    ref = ImageRef(path="d.npz", member="x", index=0)
    for value in (10, 20):
        np.savez_compressed(tmp_path / "d.npz", x=np.full((1, 2, 2), value, dtype=np.uint8))
        assert np.asarray(open_image(tmp_path, ref)).max() == value


def image_digest(source: Path, ref: ImageRef) -> str:
    image = open_image(source, ref)
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def test_the_digest_is_of_pixels_not_of_files(tmp_path: Path) -> None:
    same = picture("RGB")
    same.save(tmp_path / "a.png", compress_level=1)
    same.save(tmp_path / "b.png", compress_level=9)
    same.convert("L").save(tmp_path / "c.png")
    same.resize((6, 5)).save(tmp_path / "d.png")
    digests = [image_digest(tmp_path, ImageRef(path=name)) for name in ("a.png", "b.png", "c.png", "d.png")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    Image.new("RGB", (2, 3)).save(tmp_path / "e.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "f.png")
    assert image_digest(tmp_path, ImageRef(path="e.png")) != image_digest(tmp_path, ImageRef(path="f.png"))


def write_bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    data = chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b""))


def write_truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:300])


def write_truncated_jpeg(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<svg/>"),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nrubbish"),
        lambda path: path.mkdir(),
        lambda _: None,
        write_truncated,
        write_truncated_jpeg,
        write_bomb,
    ],
    ids=["empty", "text", "rubbish", "folder", "missing", "truncated", "truncated jpeg", "bomb"],
)
def test_what_cannot_be_decoded_is_an_error_of_this_sample(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(SampleError, match=r"a\.png"):
        open_image(tmp_path, ImageRef(path="a.png"))


def test_large_pictures_below_pillows_own_error_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 9_999)
    with pytest.raises(SampleError, match="100 x 100"):
        open_image(tmp_path, ImageRef(path="a.png"))


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "/etc/hostname",
        "a/../../secret.png",
        "a/../b.png",
        "link/../secret.png",
        "..",
        "a\0b",
        "\ud800",
    ],
)
def test_nothing_outside_the_source_is_opened(tmp_path: Path, path: str) -> None:
    source = tmp_path / "source"
    (source / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "secret.png", tmp_path / "other" / "secret.png", source / "b.png"):
        Image.new("L", (2, 2)).save(place)
    (source / "link").symlink_to(tmp_path / "other")
    with pytest.raises(SampleError, match="not opened"):
        open_image(source, ImageRef(path=path))


@pytest.mark.parametrize("path", ["imgs/a.png", "link.png", "./imgs//a.png"])
def test_links_that_the_user_made_are_followed_to_other_disks(tmp_path: Path, path: str) -> None:
    source, disk = tmp_path / "source", tmp_path / "disk"
    source.mkdir()
    disk.mkdir()
    Image.new("L", (2, 2)).save(disk / "a.png")
    (source / "imgs").symlink_to(disk, target_is_directory=True)
    (source / "link.png").symlink_to(disk / "a.png")
    assert open_image(source, ImageRef(path=path)).size == (2, 2)


def test_links_to_nothing_or_to_themselves_are_errors_of_this_sample(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("gone.png", "loop.png"):
        with pytest.raises(SampleError, match=name):
            open_image(tmp_path, ImageRef(path=name))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (ImageRef(path="d.npz", member="nothing"), "nothing"),
        (ImageRef(path="d.npz", member="ok", index=2), "no row 2"),
        (ImageRef(path="d.npz", member="ok", index=-1), "no row -1"),
        (ImageRef(path="d.npz", member="floats"), "float64"),
        (ImageRef(path="d.npz", member="flat"), "uint8"),
        (ImageRef(path="d.npz", member="objects"), "objects"),
        (ImageRef(path="none.npz", member="ok"), "none.npz"),
        (ImageRef(path="text.npz", member="ok"), "text.npz"),
        (ImageRef(path="lies.npz", member="huge"), "huge"),
        (ImageRef(path="lies.npz", member="rubbish"), "rubbish"),
    ],
)
def test_broken_arrays_are_errors_of_this_sample(tmp_path: Path, ref: ImageRef, message: str) -> None:
    ok = np.zeros((2, 3, 3), dtype=np.uint8)
    objects = np.array([{}], dtype=object)
    np.savez(tmp_path / "d.npz", ok=ok, floats=ok / 2, flat=ok[0], objects=objects)
    (tmp_path / "text.npz").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 9999, 9), }"
        text = header.encode().ljust(117) + b"\n"
        archive.writestr("huge.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
        archive.writestr("rubbish.npy", b"rubbish")
    with pytest.raises(SampleError, match=message):
        open_image(tmp_path, ref)


def test_a_header_tells_the_shape_and_the_size(tmp_path: Path) -> None:
    medmnist_npz(tmp_path)
    assert array_form(tmp_path / "dermamnist_224.npz", "test_images") == ((7, 28, 28, 3), np.dtype(np.uint8))
    Image.new("L", (7, 3)).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == (7, 3)
    with pytest.raises(SampleError, match=r"b\.png"):
        image_size(tmp_path / "b.png")
    with pytest.raises(DataError, match="nothing"):
        array_form(tmp_path / "dermamnist_224.npz", "nothing")
