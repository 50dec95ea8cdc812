"""Pictures on their way to a server: their pixels and nothing else, smaller where that is asked for, once each."""

import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from task_helpers import question
from test_openai import prepared

from medbench.adapters.openai.requests import ImageEncoder, data_uri, size_within
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef


def pixels_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_keep_their_pixels_and_nothing_else_of_their_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", "an invented name")
    Image.fromarray(noise).save(tmp_path / "a.png", pnginfo=notes, dpi=(72, 72), icc_profile=b"a profile")
    uri = ImageEncoder().encode(tmp_path, ImageRef(path="a.png")).uri
    sent = pixels_of(uri)
    assert (sent.format, sent.mode, sent.info) == ("PNG", "RGB", {})
    assert np.array_equal(np.asarray(sent), noise)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_kind_of_file_is_sent_as_eight_bit_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tif" if mode == "CMYK" else "a.png"
    if mode == "I;16":
        Image.fromarray(np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)).save(tmp_path / name)
    else:
        Image.new("RGBA", (10, 6), (200, 30, 90, 128)).convert("RGB" if mode == "CMYK" else "RGBA").convert(mode).save(
            tmp_path / name
        )
    sent = pixels_of(ImageEncoder().encode(tmp_path, ImageRef(path=name)).uri)
    assert (sent.mode, sent.size) == ("RGB", (10, 6))
    assert np.array_equal(np.asarray(sent), np.asarray(open_image(tmp_path, ImageRef(path=name))))


def test_larger_pictures_are_scaled_down_and_that_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "small.png")
    images = (ImageRef(path="large.png"), ImageRef(path="small.png"))
    request = prepared(question(1, images=images), tmp_path, max_pixels="1200")
    [scaled] = request.scaled
    assert (scaled.original, scaled.sent) == ((400, 300), (40, 30))
    uris = [part["image_url"]["url"] for part in request.body["messages"][0]["content"][:2]]
    assert [pixels_of(uri).size for uri in uris] == [(40, 30), (40, 30)]


@pytest.mark.parametrize(
    ("size", "pixels"), [((400, 300), 1200), ((1, 5000), 100), ((5000, 1), 100), ((7, 3), 1), ((999, 2), 10)]
)
def test_a_scaled_picture_has_a_pixel_and_no_more_than_allowed(size: tuple[int, int], pixels: int) -> None:
    width, height = size_within(size, pixels)
    assert 1 <= width * height <= pixels
    assert size_within((10, 10), 100) == (10, 10)


def test_a_picture_is_encoded_once_however_many_ask(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = ImageEncoder()
    together = threading.Barrier(8)

    def picture(_: int) -> str:
        together.wait()
        return images.encode(tmp_path, ImageRef(path="a.png")).uri

    with ThreadPoolExecutor(8) as pool:
        uris = set(pool.map(picture, range(8)))
    assert (len(uris), images.encoded) == (1, 1)


def test_what_is_kept_of_pictures_is_bounded(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    room = int(2.5 * len(data_uri(Image.new("RGB", (8, 8), (ord("a"), 0, 0)))))
    images = ImageEncoder(room=room)
    for name in "abacab":
        images.encode(tmp_path, ImageRef(path=f"{name}.png"))
    # `b` was dropped for `c`, since `a` was asked for later, and is encoded again.
    assert images.encoded == 4


def test_a_broken_picture_is_an_error_of_its_sample(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(SampleError, match="cannot be decoded"):
        prepared(question(1, images=(ImageRef(path="a.png"),)), tmp_path)
