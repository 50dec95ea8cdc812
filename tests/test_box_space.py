"""Boxes as models write them: every notation, one declared space, and nothing guessed."""

import json
import math
from typing import Any, cast

import pytest
from cpu_growth import QUADRATIC, growth
from fixture_root import fixtures
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.box_space import BOX_SPACES, UNI_MED, BoxSpace
from medbench.tasks.protocols import rec_ceilings
from medbench.tasks.sample import Box

SIZE = (1000, 1000)
WANTED = Box(12, 34, 56, 78)
PERMILLE = BOX_SPACES["permille"]

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
FRACTIONS = st.tuples(*[st.floats(0, 1)] * 4)


@pytest.mark.parametrize(
    "text",
    [
        "[12, 34, 56, 78]",
        "[[12,34,56,78]]",
        "(12, 34, 56, 78)",
        "{12, 34, 56, 78}",
        "{<12><34><56><78>}",
        "<12> <34> <56> <78>",
        "<loc_12><loc_34><loc_56><loc_78>",
        "<loc0012><loc0034><loc0056><loc0078> liver",
        "<|object_ref_start|>liver<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>",
        "<box>(12,34),(56,78)</box>",
        "<box>12 34 56 78</box>",
        "[[12, 34], [56, 78]]",
        '{"bbox_2d": [12, 34, 56, 78], "label": "liver"}',
        '```json\n[{"bbox_2d": [12, 34, 56, 78]}, {"bbox_2d": [1, 2, 3, 4]}]\n```',
        '{"x1": 12, "y1": 34, "x2": 56, "y2": 78}',
        "xmin=12, ymin=34, xmax=56, ymax=78",
        "left: 12, top: 34, right: 56, bottom: 78",
        "12 34 56 78",
        "The liver is at 12, 34, 56, 78.",
        "1.2e1 34.0 56 78",
        '{"y1": 34, "x1": 12, "y2": 78, "x2": 56}',
        '{"x": 12, "y": 34, "width": 44, "height": 44}',
        "left: 12, top: 34, width: 44, height: 44",
    ],
)
def test_every_notation_is_read(text: str) -> None:
    assert PERMILLE.read(text, SIZE) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see it.",
        "[12, 34, 56]",
        "12 34 56 78 90",
        "In 2 of 3 slices: 12 34 56 78",
        "[1200, 34, 56, 78]",
        "[-1, 34, 56, 78]",
        "[1e999, 34, 56, 78]",
        "v1.2.3.4",
        "[nan, nan, nan, nan]",
        "[[12, 34]]",
        "(512, 512), (12, 34), (56, 78)",
        "<12><34><56><78><90>",
        "[12%, 34, 56%, 78]",
        "x1: 12, y1: 34, x2: 56",
    ],
)
def test_what_is_no_box_in_the_space_is_no_box(text: str) -> None:
    assert PERMILLE.read(text, SIZE) is None


@pytest.mark.parametrize(
    ("space", "text", "expected"),
    [
        ("fraction", "[0.1, 0.2, 0.5, 0.6]", Box(20, 80, 100, 240)),
        ("fraction", "[.1, .2, .5, 1]", Box(20, 80, 100, 400)),
        ("fraction", "[10, 20, 50, 60]", None),
        ("percent", "[10, 20, 50, 60]", Box(20, 80, 100, 240)),
        ("permille", "[10%, 20%, 50%, 60%]", Box(20, 80, 100, 240)),
        ("percent", "[0.1, 0.2, 0.5, 0.6]", Box(0.2, 0.8, 1.0, 2.4)),
        ("permille", "[100, 200, 500, 600]", Box(20, 80, 100, 240)),
        ("permille-yxyx", "[200, 100, 600, 500]", Box(20, 80, 100, 240)),
        ("pixels", "[20, 80, 100, 240]", Box(20, 80, 100, 240)),
        ("pixels", "[20, 80, 1000, -240]", Box(20, 80, 1000, -240)),
        ("pixels-xywh", "[20, 80, 80, 160]", Box(20, 80, 100, 240)),
        ("loc1024", "<loc0256><loc0128><loc0768><loc0512>", Box(25, 100, 100, 300)),
        ("uni-med", "{<10><20><50><60>} is the liver", Box(20, 80, 100, 240)),
        ("uni-med", "{ <10> <20><50> <60>}", Box(20, 80, 100, 240)),
        ("uni-med", "\n{<10><20><50><60>}", Box(20, 80, 100, 240)),
        ("uni-med", "the liver is at {<10><20><50><60>}", None),
        ("uni-med", "[10, 20, 50, 60]", None),
        ("uni-med", "{<999><0><0><999>}", Box(1998, 0, 0, 3996)),
    ],
)
def test_the_space_decides_what_the_numbers_mean(space: str, text: str, expected: Box | None) -> None:
    found = BOX_SPACES[space].read(text, (200, 400))
    assert found == (None if expected is None else pytest.approx(expected))


def test_official_boxes_are_written_and_read_as_officially() -> None:
    # 29 of 100 pixels is 28.999999999999996 hundredths in the official order of operations.
    assert UNI_MED.write(Box(29, 0, 58, 100), (100, 100)) == "{<28><0><57><100>}"
    document: dict[str, Any] = json.loads((fixtures() / "metrics" / "official_unimed.json").read_text("utf-8"))
    for pair in document["ref_pairs"]:
        box = UNI_MED.read(pair["answer"], cast("tuple[int, int]", tuple(pair["size_wh"])))
        expected = pair["record"]["pred_bbox"]
        assert box == (Box(*expected) if isinstance(expected, list) else None)


@given(st.sampled_from(sorted(BOX_SPACES)), SIZES, FRACTIONS)
@settings(deadline=None)
def test_what_is_written_is_read_to_the_precision_of_the_space(
    name: str, size: tuple[int, int], fractions: tuple[float, float, float, float]
) -> None:
    space = BOX_SPACES[name]
    left, right = sorted(fractions[:2])
    top, bottom = sorted(fractions[2:])
    box = Box(left * size[0], top * size[1], right * size[0], bottom * size[1])
    found = space.as_written(box, size)
    assert found is not None
    step = 10**-space.digits / (space.units or 1)
    for edge, wanted, side in zip(found, box, size * 2, strict=True):
        assert abs(edge - wanted) <= 2 * step * (side if space.units else 1) + 1e-6


SIDES = st.integers(1, 150) | st.integers(1, 9000)


@given(SIDES, SIDES)
@settings(deadline=None, max_examples=500)
@example(64, 1)
@example(8, 8)
@example(28, 28 * 200)
@example(9000, 9000)
def test_pixels_of_whole_squares_are_those_of_the_library(width: int, height: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    assume(max(width, height) <= 200 * min(width, height))
    space = BOX_SPACES["pixels-28"]
    assert space.scaled_pixels is not None
    fewest, most = space.scaled_pixels
    high, wide = smart_resize(height, width, factor=28, min_pixels=fewest, max_pixels=most)
    whole = Box(0, 0, width, height)
    assert space.write(whole, (width, height)) == f"[0, 0, {wide}, {high}]"
    assert space.read(f"[0, 0, {wide}, {high}]", (width, height)) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("uni-med", "{<left><top><right><bottom>} in whole numbers from 0 to 100, where 100 is the image's whole"),
        ("fraction", "[left, top, right, bottom] in numbers from 0 to 1, where 1 is the image's whole width or height"),
        ("permille-yxyx", "[top, left, bottom, right] in whole numbers from 0 to 1000"),
        ("pixels", "[left, top, right, bottom] in pixels of the image, which is 64 wide and 48 high, counted from"),
        ("pixels-28", "[left, top, right, bottom] in pixels of the image, counted from its top left corner"),
        ("pixels-xywh", "[left, top, width, height] in pixels of the image, which is 64 wide"),
        ("loc1024", "<loc{top, 4 digits}><loc{left, 4 digits}><loc{bottom, 4 digits}><loc{right, 4 digits}> in whole "),
    ],
)
def test_a_space_says_how_it_is_written(space: str, words: str) -> None:
    assert BOX_SPACES[space].in_words((64, 48)).startswith(words)


def test_what_cannot_be_written_is_not_asked_for() -> None:
    assert "from 0 to 1023, where 1024 is" in BOX_SPACES["loc1024"].in_words()
    assert BOX_SPACES["pixels"].in_words() == BOX_SPACES["pixels-28"].in_words((64, 48))


@given(st.text(max_size=60) | st.text(alphabet="[](){}<>0123456789.,- e\n\"'xyloc_:", max_size=60), SIZES)
@settings(deadline=None, max_examples=300)
def test_no_answer_breaks_a_parser(text: str, size: tuple[int, int]) -> None:
    for space in BOX_SPACES.values():
        box = space.read(text, size)
        assert box is None or all(math.isfinite(edge) for edge in box)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["[", "1 ", "<1", "(1,1),", "x1=1,", "<1>", "x ", "1x", "not [1,2,3,4] ", "<a", "top left ", '"1', "1-"]
)
def test_reading_takes_linear_time(piece: str) -> None:
    assert growth(lambda text: PERMILLE.read(text, SIZE), piece) < QUADRATIC


def test_the_ceiling_is_what_a_perfect_model_scores() -> None:
    boxes = [(Box(0, 0, 50, 50), (100, 100)), (Box(1.5, 1.5, 3.5, 3.5), (100, 100))]
    exact = BoxSpace(name="pixels", units=None, digits=15)
    assert set(rec_ceilings("slake-rec", boxes, exact, "strict").values()) == {1}
    # The small box is written as (1, 1, 3, 3): 2.25 of 5.75 square pixels.
    assert rec_ceilings("slake-rec", boxes, UNI_MED, "strict") == pytest.approx(
        {"iou": (1 + 2.25 / 5.75) / 2, "r_at_0.5": 0.5}
    )


def test_the_ceiling_of_the_2000_boxes_is_that_of_the_facts() -> None:
    lines = (fixtures() / "metrics" / "boxes2000.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    boxes = [(Box.from_xywh(*record["gt_xywh"]), (record["width"], record["height"])) for record in records]
    found = rec_ceilings("slake-rec", boxes, UNI_MED, "paper")
    assert found == pytest.approx({"iou": 0.7685, "r_at_0.5": 0.850}, abs=5e-5)
