"""Boxes: parity with the official IoU, and what the exact IoU does otherwise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fixtures import lines, official, scores

from medbench.tasks.metrics.answers import exact_iou, inclusive_iou, paper_hit, paper_iou, strict_hit, strict_iou
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, Protocol, State, evaluate
from medbench.tasks.sample import Box

BOXES = st.builds(Box, *[st.integers(-5, 30).map(lambda number: number / 2)] * 4)
REAL_BOXES = st.builds(Box.from_xywh, *[st.floats(0, 50)] * 2, *[st.floats(0.1, 50)] * 2)


def item(predicted: Box | None, wanted: Box, state: State = "ok") -> Item:
    scorable = Scorable(prediction="", reference="", predicted_box=predicted, reference_box=wanted)
    return Item(state=state, scorable=scorable)


def values(protocol: Protocol, items: list[Item]) -> list[float]:
    return [found.value for found in evaluate("any", "rec", protocol, items)]


def test_iou_equals_the_official_one() -> None:
    for case in official()["computeIoU"]:
        assert inclusive_iou(Box(*case["b1"]), Box(*case["b2"])) == pytest.approx(case["iou"], abs=1e-12)


def test_scores_of_official_answers() -> None:
    document = official()
    items: list[Item] = []
    for case in document["ref_pairs"]:
        found = case["record"]["pred_bbox"]
        predicted = Box(*found) if isinstance(found, list) else None
        items.append(item(predicted, Box.from_xywh(*case["gt_xywh"]), "ok" if predicted else "unparsed"))
        assert paper_iou(items[-1].scorable) == pytest.approx(case["iou"], abs=1e-12)
    expected = document["ref_aggregate"]
    assert len(items) == expected["n"]
    assert values("paper", items) == pytest.approx([expected["miou"], expected["acc"]], abs=1e-12)


def test_scores_of_2000_boxes() -> None:
    records = lines("boxes2000.jsonl")
    items = [item(Box(*record["pred_xyxy"]), Box.from_xywh(*record["gt_xywh"])) for record in records]
    expected = scores("boxes")
    assert values("paper", items) == pytest.approx([expected["miou"], expected["R@0.5(>)"]], abs=1e-12)
    assert values("strict", items) == pytest.approx([0.5715, 0.5925], abs=5e-5)
    flips = sum(paper_hit(found.scorable) != strict_hit(found.scorable) for found in items)
    assert flips == 31


@pytest.mark.parametrize(
    ("first", "second", "official_value", "exact_value"),
    [
        (Box(0, 0, 10, 10), Box(10, 0, 20, 10), 0.047619047619047616, 0.0),
        (Box(0, 0, 10, 10), Box(10.5, 0, 20.5, 10), 0.023255813953488372, 0.0),
        (Box(0, 0, 4, 4), Box(1.4, 0, 5.4, 4), 0.5625, 0.48148148148148145),
        (Box(10, 10, 5, 5), Box(0, 0, 20, 20), 0.0, 0.0),
        (Box(10, 0, 9, 10), Box(0, 0, 20, 20), 0.0, 0.0),
        (Box(10, 0, 0, 9), Box(0, 20, 8, 29), 0.0, 0.0),
        (Box(0, 0, 10, 10), Box(0, 0, 10, 5), 66 / 121, 0.5),
        (Box(5, 5, 5, 9), Box(5, 5, 5, 9), 1.0, 1.0),
        (Box(5, 5, 5, 9), Box(5, 5, 5, 8), 0.8, 0.0),
        (Box(0, 0, 1e300, 1e300), Box(0, 0, 1e300, 1e300), 0.0, 0.0),
        (Box(0, 0, float("nan"), 1), Box(0, 0, 1, 1), 0.0, 0.0),
    ],
)
def test_both_definitions(first: Box, second: Box, official_value: float, exact_value: float) -> None:
    assert inclusive_iou(first, second) == pytest.approx(official_value, abs=1e-12)
    assert exact_iou(first, second) == pytest.approx(exact_value, abs=1e-12)


def test_half_is_a_hit_only_under_strict() -> None:
    half = item(Box(0, 0, 10, 5), Box(0, 0, 10, 10)).scorable
    inclusive_half = item(Box(0, 0, 9, 4), Box(0, 0, 9, 9)).scorable
    assert (strict_iou(half), strict_hit(half)) == (0.5, 1)
    assert (paper_iou(inclusive_half), paper_hit(inclusive_half)) == (0.5, 0)


def test_an_unread_box_is_zero_and_a_failure_no_sample() -> None:
    wanted = Box(0, 0, 10, 10)
    items = [item(wanted, wanted), item(None, wanted, "unparsed"), item(None, wanted, "error")]
    assert values("paper", items) == [0.5, 0.5]
    assert values("strict", items) == [0.5, 0.5]
    assert values("strict", [*items, item(None, wanted, "empty")]) == pytest.approx([1 / 3, 1 / 3])


@given(BOXES, BOXES)
@settings(deadline=None, max_examples=300)
def test_values_are_symmetric_and_in_range(first: Box, second: Box) -> None:
    for iou in (inclusive_iou, exact_iou):
        assert 0 <= iou(first, second) <= 1
        assert iou(first, second) == iou(second, first)


@given(REAL_BOXES)
@settings(deadline=None)
def test_a_box_equals_itself(box: Box) -> None:
    assert inclusive_iou(box, box) == pytest.approx(1)
    assert exact_iou(box, box) == pytest.approx(1)
