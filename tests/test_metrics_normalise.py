"""Normalisation and text processing: parity with the official functions, and what the strict form promises."""

import json
import re

import pytest
from fixture_root import fixtures
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fixtures import official

from medbench.tasks.answers.texts import clean_prediction, first_words, normalise_answer, normalise_strictly

_WORDS = [
    "a",
    "the",
    "An",
    "none",
    "Two",
    "dont",
    "x-ray",
    "1,000",
    "3.5",
    ".5",
    "e.g.",
    ",",
    "-",
    "...",
    "yes/no",
    ":",
    "肺",
]
ANSWERS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_WORDS), max_size=8).map(" ".join))


def test_normalisation_equals_the_official_one() -> None:
    cases = official()["normalize_word"]
    assert len(cases) == 98
    assert [normalise_answer(case["in"]) for case in cases] == [case["out"] for case in cases]
    assert [normalise_answer(case["out"]) for case in cases] == [case["out_twice"] for case in cases]


def test_every_contraction_of_the_official_table_is_there() -> None:
    pairs = {
        "couldn'tve": "couldn't've", "hed've": "he'd've", "ow's'at": "'ow's'at", "'ow'sat": "'ow's'at",
        "yall'd've": "y'all'd've", "y'all'dve": "y'all'd've", "somebody'd": "somebodyd", "oclock": "o'clock",
    }  # fmt: skip
    assert {short: normalise_answer(short) for short in pairs} == pairs
    for unchanged in ("lets", "shes", "im", "ive", "id've"):
        assert normalise_answer(unchanged) == unchanged


def test_at_most_32_periods_are_removed_officially_and_all_strictly() -> None:
    assert normalise_answer("x. " * 40).count(".") == 8
    assert "." not in normalise_strictly("x. " * 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "a"),
        ("the", "the"),
        ("The liver.", "liver"),
        ("1,000 cells/left-right", "1000 cells left right"),
        ("upper-left, lower - right", "upper left lower right"),
        ("Answer: yes", "answer yes"),
        ("0.5 cm", "0.5 cm"),
        ("...", "..."),
        ("none", "0"),
        ("dont know", "don't know"),
        (" \n", ""),
        ("肺", "肺"),
        ("*:0", "0"),
    ],
)
def test_strict_normalisation(text: str, expected: str) -> None:
    assert normalise_strictly(text) == expected


@given(ANSWERS)
@settings(deadline=None, max_examples=300)
def test_strict_form_is_blank_only_for_blank_answers_and_is_stable(text: str) -> None:
    once = normalise_strictly(text)
    assert bool(once) == bool(text.split())
    assert normalise_strictly(once) == once


@given(ANSWERS)
@settings(deadline=None, max_examples=300)
def test_official_form_has_single_spaces_and_no_mark(text: str) -> None:
    normal = normalise_answer(text)
    assert normal == " ".join(normal.split())
    assert not re.search(r"[;/\[\]\"{}()=+\\_\-><@`,?!]", normal)
    assert not {"a", "an", "the"} & set(normal.split())


def test_text_processor_equals_the_official_one() -> None:
    document = json.loads((fixtures() / "unimed" / "data" / "datasets.json").read_text("utf-8"))
    cases = document["text_processor"]
    assert len(cases) >= 10
    assert [first_words(case["in"]) for case in cases] == [case["out"] for case in cases]


def test_a_lone_newline_does_not_separate_words_for_the_text_processor() -> None:
    assert first_words("one\ntwo three four", 2) == "one\ntwo three"
    assert first_words("one \n two three", 2) == "one two"


def test_predictions_are_cleaned() -> None:
    assert clean_prediction(" Left <UNK>Lung\n") == "left lung"
