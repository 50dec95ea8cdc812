"""ROUGE in both dialects against the packages that define them, and the subsequences underneath."""

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fixtures import official, pairs, scores
from rouge import Rouge
from rouge_score import rouge_scorer

from medbench.tasks.answers.texts import normalise_answer
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.metrics.reports import GOOGLE_ROUGE, SET_ROUGE, RougeId, lcs_length, lcs_words
from medbench.tasks.metrics.table import twice_normalised_texts
from medbench.tasks.protocols import metrics_for

_PACKAGE_NAMES: dict[str, RougeId] = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}
_WORDS = ["no", "lung", "left", ".", "mass.", "3.5", "x.y", "..", "肺", "Heart", "x-ray"]
TEXTS = st.lists(st.sampled_from(_WORDS), max_size=14).map(" ".join)
WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def by_the_rouge_package(prediction: str, reference: str) -> dict[RougeId, float]:
    scores = Rouge().get_scores(prediction, reference)[0]
    return {name: cast("float", scores[key]["f"]) for key, name in _PACKAGE_NAMES.items()}


@pytest.fixture(scope="module")
def google() -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(list(GOOGLE_ROUGE), use_stemmer=False)


def test_set_rouge_equals_the_package_on_reports() -> None:
    for pair in pairs("report", "mpx")[::8]:
        texts = normalise_answer(pair["prediction"]), normalise_answer(pair["reference"])
        assert {name: score(*texts) for name, score in SET_ROUGE.items()} == pytest.approx(
            by_the_rouge_package(*texts), abs=1e-12
        )


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=300)
def test_set_rouge_equals_the_package_on_anything(prediction: str, reference: str) -> None:
    if not prediction.strip(".") or not reference.strip("."):
        # The package cannot score texts of nothing but periods.
        expected: dict[RougeId, float] = dict.fromkeys(SET_ROUGE, 0.0)
    else:
        expected = by_the_rouge_package(prediction, reference)
    assert {name: score(prediction, reference) for name, score in SET_ROUGE.items()} == pytest.approx(
        expected, abs=1e-12
    )


def test_google_rouge_equals_the_package_and_the_fixture(google: rouge_scorer.RougeScorer) -> None:
    reports, expected_means = pairs("report"), scores("report", "scores_reference.json")
    for name, score in GOOGLE_ROUGE.items():
        own = [score(pair["prediction"], pair["reference"]) for pair in reports]
        assert sum(own) / len(own) == pytest.approx(expected_means[f"google_{name}"], abs=1e-12)
    for pair in reports[::25]:
        expected = google.score(pair["reference"], pair["prediction"])
        for name, score in GOOGLE_ROUGE.items():
            assert score(pair["prediction"], pair["reference"]) == pytest.approx(expected[name].fmeasure, abs=1e-12)


LATIN = (TEXTS | st.text(max_size=30)).map(lambda text: text.encode("ascii", "ignore").decode())
"""Of other scripts the package knows no words."""


@given(LATIN, LATIN)
@settings(deadline=None, max_examples=300)
def test_google_rouge_equals_the_package_on_anything_in_its_script(prediction: str, reference: str) -> None:
    expected = rouge_scorer.RougeScorer(list(GOOGLE_ROUGE), use_stemmer=False).score(reference, prediction)
    for name, score in GOOGLE_ROUGE.items():
        assert score(prediction, reference) == pytest.approx(expected[name].fmeasure, abs=1e-12)


def test_rouge_of_single_official_pairs() -> None:
    names: dict[str, RougeId] = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    for case in official()["caption_pairs"]:
        # The fixture scored each pair for itself, before the METEOR step had rewritten anything.
        texts = normalise_answer(case["pred"]), normalise_answer(case["ref"])
        for key, name in names.items():
            expected = case["rouge"][key]
            assert all(texts) == (expected != "NaN")
            if all(texts):
                assert SET_ROUGE[name](*texts) == pytest.approx(expected, abs=1e-12)


def test_paper_rouge_sees_texts_normalised_twice_and_skips_those_without_words() -> None:
    many_periods = "x. " * 40
    assert twice_normalised_texts(Scorable(prediction=many_periods, reference="a"))[0].count(".") == 0
    texts = [("left lung", "left lung"), ("the", "left lung"), ("left lung", "...")]
    (metric,) = (metric for metric in metrics_for("any", "report", "paper") if metric.metric_id == "rouge1")
    statistics = metric.statistics([Scorable(prediction=first, reference=second) for first, second in texts])
    assert statistics[:, 1].tolist() == [1, 0, 0]
    assert float(metric.compute(statistics.sum(axis=0))) == pytest.approx(1, abs=1e-8)


def naive_length(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for index, other in enumerate(second):
            row.append(before[index] + 1 if word == other else max(before[index + 1], row[index]))
    return row[-1]


@given(WORDS, WORDS)
@settings(deadline=None, max_examples=300)
def test_subsequences_have_the_right_length(first: list[str], second: list[str]) -> None:
    length = naive_length(first, second)
    assert lcs_length(first, second) == lcs_length(second, first) == length
    words = lcs_words(first, second)
    assert words <= set(first) & set(second)
    assert len(words) <= length
    assert bool(words) == bool(length)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\u5fc3\u80ba\u672a\u89c1\u5f02\u5e38\u3002", "\u5fc3\u5f71\u589e\u5927"),
        ("\u041b\u0435\u0433\u043a\u0438\u0435 \u0447\u0438\u0441\u0442\u044b", "\u041b\u0435\u0433\u043a\u0438\u0435"),
        ("M\u00e9ni\u00e8re disease", "M\u00e9ni\u00e8re syndrome"),
    ],
)
def test_google_rouge_has_words_in_every_script(text: str, other: str) -> None:
    for score in GOOGLE_ROUGE.values():
        assert score(text, text) == 1
    assert 0 < GOOGLE_ROUGE["rouge1"](text, other) < 1
