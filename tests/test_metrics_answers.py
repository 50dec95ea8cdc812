"""Metrics of short answers: parity with the official functions and with nltk, and the properties of both protocols."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_fixtures import official, pairs, scores
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from medbench.tasks.answers.texts import normalise_answer
from medbench.tasks.metrics.answers import (
    answers_closed,
    asymmetric_f1,
    class_statistics,
    clipped_f1,
    contains_reference,
    exact_match,
    macro_f1,
    sentence_bleu1,
)
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.metrics.reports import corpus_bleu1, corpus_bleu4, corpus_bleu_statistics
from medbench.tasks.protocols import Item, evaluate
from medbench.tasks.spec import Kind

SENTENCES = st.lists(st.sampled_from(["no", "lung", "left", "mass", "3.5", "肺"]), max_size=9).map(" ".join)
SOME_WORDS = st.lists(st.sampled_from(["no", "lung", "left", "mass"]), min_size=1, max_size=9).map(" ".join)


def values(kind: Kind, items: Sequence[Item]) -> dict[str, float]:
    return {found.metric.metric_id: found.value for found in evaluate("any", kind, "paper", items)}


def item(prediction: str, reference: str, answer_type: str = "OPEN") -> Item:
    labels = {"answer_type": answer_type}
    return Item(state="ok", scorable=Scorable(prediction=prediction, reference=reference, labels=labels))


def test_scores_of_single_pairs_equal_the_official_ones() -> None:
    cases = official()["short_pairs"]
    assert len(cases) == 64
    for case in cases:
        texts = normalise_answer(case["pred"]), normalise_answer(case["ref"])
        assert texts == (case["norm_pred"], case["norm_ref"])
        assert asymmetric_f1(*texts) == pytest.approx(case["f1"], abs=1e-12)
        assert sentence_bleu1(*texts) == pytest.approx(case["bleu1"], abs=1e-12)
        assert contains_reference(*texts) == case["vqa_acc_substring"]
        assert exact_match(*texts) == case["identify_acc_exact"] == case["cls_acc_exact"]


def test_aggregates_equal_the_official_ones() -> None:
    document = official()
    expected = document["short_aggregate"]
    # The fixture was made without the cleaning that removes <unk>.
    items = [
        item(case["pred"].replace("<unk>", "unk"), case["ref"], "OPEN" if index % 3 else "CLOSED")
        for index, case in enumerate(document["short_pairs"])
    ]
    vqa = expected["vqa.evaluate_open_and_closed"]
    assert values("vqa", items) == pytest.approx(
        {
            "bleu1": vqa["all"]["bleu_scores"]["bleu1"],
            "f1": vqa["all"]["f1_score"],
            "closed_accuracy": vqa["closed"]["acc_score"],
            "open_f1": vqa["open"]["f1_score"],
            "closed_f1": vqa["closed"]["f1_score"],
        },
        abs=1e-12,
    )
    reg = expected["identify.evaluate"]
    assert values("reg", items) == pytest.approx(
        {"bleu1": reg["bleu_scores"]["bleu1"], "f1": reg["f1_score"], "accuracy": reg["acc_score"]}, abs=1e-12
    )
    assert values("cls", items)["accuracy"] == pytest.approx(expected["cls.evaluate_all"]["accuracy"], abs=1e-12)


@pytest.mark.parametrize("kind", ["vqa_closed", "vqa_open", "reg"])
def test_scores_of_the_synthetic_pairs_equal_the_official_ones(kind: str) -> None:
    expected = scores(kind)
    items = [item(pair["prediction"], pair["reference"], "CLOSED") for pair in pairs(kind)]
    assert len(items) == expected["n"]
    found = values("vqa", items) | values("reg", items)
    assert found["bleu1"] == pytest.approx(expected["sentence_bleu"]["bleu1"], abs=1e-12)
    assert found["f1"] == found["closed_f1"] == pytest.approx(expected["f1"], abs=1e-12)
    assert found["closed_accuracy"] == pytest.approx(expected["acc_substring"], abs=1e-12)
    assert found["accuracy"] == pytest.approx(expected["acc_exact"], abs=1e-12)


@given(SENTENCES, SENTENCES)
@settings(deadline=None)
def test_sentence_bleu1_is_clipped_precision_times_the_brevity_penalty(prediction: str, reference: str) -> None:
    words, wanted = prediction.split(), reference.split()
    matches = (Counter(words) & Counter(wanted)).total()
    expected = matches / len(words) * min(1, math.exp(1 - len(wanted) / len(words))) if matches else 0
    assert sentence_bleu1(prediction, reference) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
@settings(deadline=None)
def test_corpus_bleu_equals_that_of_pycocoevalcap(texts: list[tuple[str, str]]) -> None:
    scorer = BleuScorer(n=4)
    for prediction, reference in texts:
        scorer += (prediction, [reference])
    expected, per_pair = scorer.compute_score(option="closest")
    statistics = corpus_bleu_statistics([pair[0] for pair in texts], [pair[1] for pair in texts])
    totals = statistics.sum(axis=0)
    assert float(corpus_bleu1(totals)) == pytest.approx(expected[0], rel=1e-9, abs=1e-15)
    assert float(corpus_bleu4(totals)) == pytest.approx(expected[3], rel=1e-9, abs=1e-15)
    assert corpus_bleu4(statistics) == pytest.approx(per_pair[3], rel=1e-9, abs=1e-15)


def test_corpus_bleu_of_nothing_is_not_a_number() -> None:
    assert np.isnan(corpus_bleu1(corpus_bleu_statistics([], []).sum(axis=0)))
    assert float(corpus_bleu4(corpus_bleu_statistics([""], [""]).sum(axis=0))) == 0


def test_statistics_of_corpus_bleu_cannot_be_changed_by_a_caller() -> None:
    statistics = corpus_bleu_statistics(["left lung"], ["lung"])
    with pytest.raises(ValueError, match="read-only"):
        statistics[0, 0] = 7


@pytest.mark.parametrize(
    ("prediction", "reference", "official_value", "clipped_value"),
    [
        (" ".join(["pneumonia"] * 10), "pneumonia", 1.0, 2 / 11),
        ("lung", "lung lung heart", 2 / 3, 0.5),
        ("mass " * 9 + "no", "mass", 0.9473684210526316, 0.18181818181818182),
        ("liver liver spleen", "liver spleen spleen", 1.0, 2 / 3),
        ("", "mass", 0.0, 0.0),
        ("mass", "", 0.0, 0.0),
        ("", "", 0.0, 0.0),
    ],
)
def test_repetition_pays_officially_but_not_strictly(
    prediction: str, reference: str, official_value: float, clipped_value: float
) -> None:
    assert asymmetric_f1(prediction, reference) == pytest.approx(official_value, abs=1e-12)
    assert clipped_f1(prediction, reference) == pytest.approx(clipped_value, abs=1e-12)


@given(SENTENCES, SENTENCES)
@settings(deadline=None)
def test_clipped_f1_is_symmetric_and_at_most_the_official_one(prediction: str, reference: str) -> None:
    value = clipped_f1(prediction, reference)
    assert value == clipped_f1(reference, prediction)
    assert 0 <= value <= 1
    assert 0 <= asymmetric_f1(prediction, reference) <= 1
    assert (asymmetric_f1(prediction, reference) == 0) == (value == 0)


@given(SOME_WORDS)
@settings(deadline=None)
def test_the_right_answer_scores_1(text: str) -> None:
    assert sentence_bleu1(text, text) == clipped_f1(text, text) == asymmetric_f1(text, text) == 1
    assert answers_closed(text, text) == exact_match(text, text) == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "paper", "strict"),
    [
        ("it appears normal", "no", 1, 0),
        ("i do not know", "no", 1, 0),
        ("eyes", "yes", 1, 0),
        ("abnormal", "no", 1, 0),
        ("yes, there is a nodule", "no", 1, 0),
        ("Yes, there is no nodule.", "yes", 1, 1),
        ("yes and no", "yes", 1, 0),
        ("yes and no", "no", 1, 0),
        ("No.", "no", 1, 1),
        ("the left lung", "Left Lung", 1, 1),
        ("lung, left", "left lung", 0, 0),
        ("ct", "CT", 1, 1),
        ("", "no", 0, 0),
        ("anything", "the", 1, 0),
    ],
)
def test_closed_questions(prediction: str, reference: str, paper: int, strict: int) -> None:
    assert contains_reference(normalise_answer(prediction), normalise_answer(reference)) == paper
    assert answers_closed(prediction, reference) == strict


def test_macro_f1_by_hand() -> None:
    predictions = ["yes", "yes", "no", "dog", "no"]
    references = ["yes", "no", "no", "no", "maybe"]
    statistics = class_statistics(predictions, references, ("maybe", "no", "yes"))
    no, yes = 2 * 1 / (2 * 1 + 1 + 2), 2 * 1 / (2 * 1 + 1 + 0)
    assert float(macro_f1(statistics.sum(axis=0))) == pytest.approx((0 + no + yes) / 3)


def test_macro_f1_is_over_the_classes_that_occur() -> None:
    statistics = class_statistics(["yes", "no"], ["yes", "yes"], ("maybe", "no", "yes"))
    assert float(macro_f1(statistics.sum(axis=0))) == pytest.approx(2 / 3)
    assert np.isnan(macro_f1(np.zeros(9)))
    assert np.isnan(macro_f1(np.zeros(0)))


def test_macro_f1_of_a_constant_answer_is_low() -> None:
    references = ["yes"] * 8 + ["no"] + ["maybe"]
    statistics = class_statistics(["yes"] * 10, references, ("maybe", "no", "yes"))
    assert float(macro_f1(statistics.sum(axis=0))) == pytest.approx((16 / 18) / 3)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ('{"answer": "yes"} Actually, no.', "yes", 0),
        ('{"answer": "yes"} Yes, it is.', "yes", 1),
        ("~~yes~~ no", "no", 1),
        ("~~left~~ right", "right", 1),
    ],
)
def test_what_is_struck_out_or_taken_back_beside_json_counts(prediction: str, reference: str, right: int) -> None:
    assert answers_closed(prediction, reference) == right
