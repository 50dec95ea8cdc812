"""How well answers are read, in small: nothing is invented, and little is left; `make bench-reading` has thousands."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.reading import all_of, faults, generated, is_right, measure, read
from benchmarks.reading_choices import Output
from medbench.tasks.sample import Box

SHARE = 0.08
FAMILIES = ("choices", "yes, no, maybe", "closed questions", "classes", "boxes", "thoughts")


@pytest.fixture(scope="module")
def outputs() -> list[Output]:
    return generated(SHARE)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_is_invented(outputs: list[Output], family: str) -> None:
    mine = [output for output in outputs if output.form.startswith(family)]
    assert len(mine) > 40
    assert faults(mine, read(mine), invented=True) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_nearly_all_that_take_an_answer_are_read(outputs: list[Output], family: str) -> None:
    mine = [output for output in outputs if output.form.startswith(family) and output.truth is not None]
    assert all_of(measure(mine, read(mine))).left < 0.12, faults(mine, read(mine))[:5]


def test_the_outputs_are_the_same_every_time_and_of_every_kind(outputs: list[Output]) -> None:
    assert [output.text for output in generated(SHARE)] == [output.text for output in outputs]
    assert len(generated()) > 5000
    assert {output.task.kind for output in outputs} == {"qa", "vqa", "cls", "rec"}
    nothing = Counter(output.truth is None for output in outputs)
    assert min(nothing.values()) > 100


def test_a_reader_that_guesses_would_be_caught(outputs: list[Output]) -> None:
    silent = [output for output in outputs if output.truth is None and output.sample.choices]
    guessed = [next(iter(output.sample.choices)) for output in silent]
    rows = measure(silent, guessed)
    assert all(row.invented == 1 for row in rows)
    assert len(faults(silent, guessed, invented=True)) == len(silent)


def test_the_shares_of_a_form_add_up(outputs: list[Output]) -> None:
    three = [replace(output, form="all", truth="A") for output in outputs[:3]]
    (row,) = measure(three, ["A", "B", None])
    assert (row.right, row.invented, row.left) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert all_of([row, row]).outputs == 6


def test_boxes_may_differ_by_rounding_alone() -> None:
    assert is_right(Box(1, 2, 3, 4), Box(1 + 1e-9, 2, 3, 4))
    assert not is_right(Box(1, 2, 3, 4), Box(2, 1, 4, 3))
    assert not is_right(None, Box(1, 2, 3, 4))
