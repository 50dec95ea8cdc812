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

from medbench.leaderboard.audit.overlap.grams import Postings, WordHashes, runs_of, slices, words_of
from medbench.leaderboard.audit.overlap.items import Item
from medbench.leaderboard.audit.overlap.minhash import bands, signatures
from medbench.leaderboard.audit.overlap.pictures import PictureIndex
from medbench.leaderboard.audit.overlap.pixels import NEAR, Print, _counted_by_table, distance, print_of
from medbench.leaderboard.audit.overlap.printing import Printer
from medbench.leaderboard.audit.overlap.scan import Scan
from medbench.leaderboard.audit.overlap.test_side import TestSide
from medbench.leaderboard.audit.overlap.texts import CONTAINMENT, JACCARD, TextIndex
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
    index = PictureIndex([print_of(image) for image in images])
    disguised = [print_of(DISGUISES[disguise](image)) for image in images]
    found = [(match.row, match.picture) for match in index.match(disguised) if match.how in {"exact", "near"}]
    assert found == [(number, number) for number in range(len(images))]


def test_a_pixel_copy_is_exact_whatever_file_it_is_in(tmp_path: Path) -> None:
    first = noise(tmp_path / "a.png", 1)
    opened(first).save(tmp_path / "b.bmp")
    index = PictureIndex([print_of(opened(first))])
    assert [match.how for match in index.match([print_of(opened(tmp_path / "b.bmp"))])] == ["exact"]


def test_slices_of_one_head_are_not_one_picture() -> None:
    prints = [print_of(opened(path)) for path in SLICES]
    comparable = [one for one in prints if one.comparable]
    assert len(comparable) > 100
    found = [
        match
        for match in PictureIndex(comparable).match(comparable)
        if match.how == "near" and match.row != match.picture
    ]
    assert len(found) <= 2


@pytest.mark.parametrize("value", [0, 255, 90])
def test_flat_pictures_are_blank_and_have_no_near_ones(value: int) -> None:
    blank = print_of(Image.new("RGB", (128, 128), (value, value, value)))
    other = print_of(Image.new("RGB", (256, 128), (value, value, value)))
    assert blank.flat
    assert not blank.comparable
    assert [match.how for match in PictureIndex([blank]).match([blank, other])] == ["blank"]


def test_small_pictures_are_compared_by_their_pixels_only(tmp_path: Path) -> None:
    small = print_of(opened(noise(tmp_path / "a.png", 3, (28, 28))))
    large = print_of(opened(noise(tmp_path / "b.png", 3, (224, 224))))
    assert not small.comparable
    assert list(PictureIndex([small]).match([large])) == []
    assert [match.how for match in PictureIndex([small]).match([small])] == ["exact"]


def random_prints(draw: np.random.Generator, count: int) -> list[Print]:
    views = draw.integers(0, 2**64, (count, 3, 4), dtype=np.uint64)
    return [Print(str(draw.integers(2**62)), view, flat=False, comparable=True) for view in views]


def changed(draw: np.random.Generator, one: Print, bits: int) -> Print:
    view = int(draw.integers(3))
    flipped = np.zeros(256, dtype=bool)
    flipped[draw.choice(256, bits, replace=False)] = True
    mask = np.packbits(flipped).view(np.uint64)
    return Print(str(draw.integers(2**62)), np.stack([one.views[view] ^ mask] * 3), flat=False, comparable=True)


def test_the_large_index_misses_no_near_picture() -> None:
    draw = np.random.default_rng(5)
    tests = random_prints(draw, 2000)
    index = PictureIndex(tests)
    assert not index.searches_all
    asked = [changed(draw, tests[number], bits=number % (NEAR + 1)) for number in range(640)]
    found = {(match.row, match.picture): match.bits for match in index.match(asked)}
    assert all(found[number, number] == number % (NEAR + 1) for number in range(640))
    assert len(found) == 640


def test_most_pictures_to_review_are_found_in_the_large_index_and_all_in_the_small_one() -> None:
    draw = np.random.default_rng(6)
    tests = random_prints(draw, 2000)
    asked = [changed(draw, tests[number], bits=55) for number in range(300)]
    large = {match.row for match in PictureIndex(tests).match(asked) if match.how == "review"}
    small = {match.row for match in PictureIndex(tests[:300]).match(asked) if match.how == "review"}
    assert len(large) > 240
    assert len(small) == 300


def test_bits_are_counted_alike_by_old_and_new_numpy() -> None:
    values = np.random.default_rng(7).integers(0, 2**64, (50, 4), dtype=np.uint64)
    expected = [[int(value).bit_count() for value in row] for row in values]
    assert _counted_by_table(values).tolist() == expected
    assert distance(values, np.zeros(4, dtype=np.uint64)).tolist() == [sum(row) for row in expected]


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def brute_force(tests: list[str], rows: list[str]) -> tuple[set[tuple[int, int]], dict[tuple[int, int], float]]:
    contained, similar = set(), {}
    for row, theirs in enumerate(rows):
        for number, ours in enumerate(tests):
            grams = runs(ours, 8)
            if grams and len(grams & runs(theirs, 8)) >= CONTAINMENT * len(grams):
                contained.add((row, number))
            one, other = runs(ours, 5), runs(theirs, 5)
            if len(ours.split()) >= 8 and one and one & other:
                similar[row, number] = len(one & other) / len(one | other)
    return contained, similar


TEXTS = st.lists(
    st.lists(st.sampled_from(["the", "a", "lung", "is", "clear", "left"]), max_size=24).map(" ".join), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(st.sets(TEXTS.filter(bool).map(lambda texts: texts[0])), TEXTS)
def test_near_texts_are_those_of_the_definition(tests: set[str], rows: list[str]) -> None:
    ordered = sorted(tests)
    contained, similar = brute_force(ordered, rows)
    found = list(TextIndex(ordered).near(rows, np.zeros(len(ordered), dtype=bool)))
    assert {(near.row, near.text) for near in found if near.containment >= CONTAINMENT} == contained
    for near in found:
        assert near.containment >= CONTAINMENT or near.jaccard == pytest.approx(similar[near.row, near.text])
        assert near.containment >= CONTAINMENT or near.jaccard >= JACCARD


def test_minhash_finds_what_its_bands_promise() -> None:
    draw = np.random.default_rng(8)
    tests = [" ".join(f"w{word}" for word in draw.integers(0, 10**6, 60)) for _ in range(400)]
    rows = []
    for text in tests:
        words = text.split()
        for place in draw.choice(60, 2, replace=False):
            words[place] = "changed"
        rows.append(" ".join(words))
    _, similar = brute_force([tests[0]], [rows[0]])
    assert JACCARD < similar[0, 0] < 0.9
    found = {near.row: near.text for near in TextIndex(tests).near(rows, np.zeros(400, dtype=bool))}
    assert len(found) >= 390
    assert all(row == text for row, text in found.items())


def test_signatures_agree_as_often_as_sets_are_alike() -> None:
    known = WordHashes()
    base = [f"w{number}" for number in range(1000)]
    words = words_of([" ".join(base), " ".join([*base[:700], *(f"v{number}" for number in range(300))])], known)
    hashes, text = runs_of(words, 1)
    both = signatures(hashes, slices(text, 2)[:-1])
    # Jaccard 700/1300 = 0.54; three standard errors of 128 coins are 0.13.
    assert float((both[0] == both[1]).mean()) == pytest.approx(700 / 1300, abs=0.13)
    assert bands(both).shape == (2, 32)


def test_hashes_of_words_survive_forgetting_and_do_not_depend_on_the_process() -> None:
    known = WordHashes()
    before = known["pneumothorax"]
    known.clear()
    assert known["pneumothorax"] == before == 14677939435098704003


def test_a_table_of_nothing_finds_nothing() -> None:
    empty = Postings(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))
    assert [len(part) for part in empty.pairs(np.ones(3, dtype=np.uint64), np.arange(3))] == [0, 0]
    assert list(TextIndex([]).near(["some words"], np.zeros(0, dtype=bool))) == []
    assert list(TextIndex(["short text"]).near([], np.zeros(1, dtype=bool))) == []


def stream(count: int, start: int = 0) -> Iterator[Item]:
    for number in range(start, start + count):
        text = " ".join(f"w{number * word % 50021}" for word in range(1, 41))
        yield report(number, text)


def test_memory_does_not_grow_with_the_training_data() -> None:
    tests = [report(one.item_id, one.answer) for one in stream(500)]
    side = TestSide([as_task(tests, task="mimic-cxr", kind="report", decisive="patient")], Printer(enabled=False))
    scan = Scan(side, Printer(enabled=False), keep_prints=False)
    scan.feed(stream(10_000))
    before = psutil.Process().memory_info().rss
    tally = scan.feed(stream(40_000, start=10_000))[""]
    assert tally.rows == 50_000
    assert int(tally.shared["text"].sum()) == 500
    assert psutil.Process().memory_info().rss - before < 24 * 2**20
