"""The searches under the audit of data: what is near is found, what is not is not, and no memory grows."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from audit_data_items import as_task, noise, report
from fixture_root import realdata
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from medbench.leaderboard.audit.data.items import Item
from medbench.leaderboard.audit.data.scan import CONTAINMENT, ItemIndex, Scan, TextIndex
from medbench.tasks.alike import NEAR, REVIEW, ImageIndex, Print, Printer, print_of
from medbench.tasks.suite import DATA

SLICES = sorted((DATA / "Slake1.0" / "imgs").glob("*/source.jpg"))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def compressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


DISGUISES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 75": lambda image: compressed(image, 75),
    "224 pixels": lambda image: image.resize((224, 224)),
    "JPEG 75 of 224 pixels": lambda image: compressed(image.resize((224, 224)), 75),
    "mirrored": ImageOps.mirror,
    "mirrored, JPEG 75 of 224 pixels": lambda image: compressed(ImageOps.mirror(image).resize((224, 224)), 75),
    "inverted": ImageOps.invert,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_picture_is_found_and_no_other(disguise: str) -> None:
    folder = realdata("vqa_rad") / "images"
    images = [opened(path) for path in sorted(folder.glob("*.jpg"))[::8]]
    index = ImageIndex([print_of(image) for image in images])
    disguised = [print_of(DISGUISES[disguise](image)) for image in images]
    found = [(match.row, match.image) for match in index.match(disguised) if match.how in {"exact", "near"}]
    assert found == [(number, number) for number in range(len(images))]


def test_a_pixel_copy_is_exact_whatever_file_it_is_in(tmp_path: Path) -> None:
    first = noise(tmp_path / "a.png", 1)
    opened(first).save(tmp_path / "b.bmp")
    index = ImageIndex([print_of(opened(first))])
    assert [match.how for match in index.match([print_of(opened(tmp_path / "b.bmp"))])] == ["exact"]


def test_slices_of_one_head_are_not_one_picture() -> None:
    prints = [print_of(opened(path)) for path in SLICES]
    comparable = [one for one in prints if one.comparable]
    assert len(comparable) > 100
    found = [
        match for match in ImageIndex(comparable).match(comparable) if match.how == "near" and match.row != match.image
    ]
    assert len(found) <= 2


@pytest.mark.parametrize("value", [0, 255, 90])
def test_flat_pictures_are_blank_and_have_no_near_ones(value: int) -> None:
    blank = print_of(Image.new("RGB", (128, 128), (value, value, value)))
    other = print_of(Image.new("RGB", (256, 128), (value, value, value)))
    assert blank.flat
    assert not blank.comparable
    assert [match.how for match in ImageIndex([blank]).match([blank, other])] == ["blank"]


def test_small_pictures_are_compared_by_their_pixels_only(tmp_path: Path) -> None:
    small = print_of(opened(noise(tmp_path / "a.png", 3, (28, 28))))
    large = print_of(opened(noise(tmp_path / "b.png", 3, (224, 224))))
    assert not small.comparable
    assert list(ImageIndex([small]).match([large])) == []
    assert [match.how for match in ImageIndex([small]).match([small])] == ["exact"]


def random_prints(draw: np.random.Generator, count: int) -> list[Print]:
    views = draw.integers(0, 2**64, (count, 3, 4), dtype=np.uint64)
    return [Print(str(draw.integers(2**62)), view, flat=False, comparable=True) for view in views]


def changed(draw: np.random.Generator, one: Print, bits: int) -> Print:
    view = int(draw.integers(3))
    flipped = np.zeros(256, dtype=bool)
    flipped[draw.choice(256, bits, replace=False)] = True
    mask = np.packbits(flipped).view(np.uint64)
    return Print(str(draw.integers(2**62)), np.stack([one.views[view] ^ mask] * 3), flat=False, comparable=True)


def test_no_near_image_and_none_to_review_is_missed_among_many() -> None:
    draw = np.random.default_rng(5)
    tests = random_prints(draw, 12_000)
    asked = [changed(draw, tests[number * 7], bits=number % 64) for number in range(320)]
    found = {(match.row, match.image): (match.bits, match.how) for match in ImageIndex(tests).match(asked)}
    expected = {
        (number, number * 7): (number % 64, "near" if number % 64 <= NEAR else "review")
        for number in range(320)
        if number % 64 <= REVIEW
    }
    assert found == expected


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def brute_force(tests: list[str], rows: list[str]) -> dict[tuple[int, int], float]:
    found = {}
    for row, theirs in enumerate(rows):
        for number, ours in enumerate(tests):
            grams = runs(ours, 8)
            share = len(grams & runs(theirs, 8)) / len(grams) if grams else 0.0
            if share >= CONTAINMENT:
                found[row, number] = share
    return found


TEXTS = st.lists(
    st.lists(st.sampled_from(["the", "a", "lung", "is", "clear", "left"]), max_size=24).map(" ".join), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(st.sets(TEXTS.filter(bool).map(lambda texts: texts[0])), TEXTS)
def test_contained_texts_are_those_of_the_definition(tests: set[str], rows: list[str]) -> None:
    ordered = sorted(tests)
    index = TextIndex(ordered)
    found = {(row, number): share for row, text in enumerate(rows) for number, share in index.contained_in(text)}
    assert found == brute_force(ordered, rows)


def test_a_text_with_two_changed_words_is_found_by_its_runs() -> None:
    draw = np.random.default_rng(8)
    tests = [" ".join(f"w{word}" for word in draw.integers(0, 10**6, 120)) for _ in range(400)]
    rows = []
    for text in tests:
        words = text.split()
        for place in draw.choice(120, 2, replace=False):
            words[place] = "changed"
        rows.append(f"before it {' '.join(words)} after it")
    index = TextIndex(tests)
    assert [[number for number, _ in index.contained_in(row)] for row in rows] == [[number] for number in range(400)]


def test_nothing_is_found_in_nothing() -> None:
    assert list(TextIndex([]).contained_in("one two three four five six seven eight nine")) == []
    assert list(TextIndex(["short text"]).contained_in("short text")) == []


def stream(count: int, start: int = 0) -> Iterator[Item]:
    for number in range(start, start + count):
        text = " ".join(f"w{number * word % 50021}" for word in range(1, 41))
        yield report(number, text)


def test_memory_does_not_grow_with_the_training_data() -> None:
    tests = [report(one.item_id, one.answer) for one in stream(500)]
    index = ItemIndex([as_task(tests, task="mimic-cxr", kind="report", decisive="patient")], Printer(enabled=False))
    scan = Scan(index, Printer(enabled=False))
    scan.feed(stream(10_000))
    before = psutil.Process().memory_info().rss
    tally = scan.feed(stream(40_000, start=10_000))[""]
    assert tally.rows == 50_000
    assert int(tally.shared["text"].sum()) == 500
    assert psutil.Process().memory_info().rss - before < 24 * 2**20
