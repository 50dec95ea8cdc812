"""Which metrics a task has, what each protocol scores, and the laws that every metric obeys."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import cast

import numpy as np
import pytest
from fixture_root import fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.choice import read_choice
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.metrics import java
from medbench.tasks.metrics.metric import Metric, Scorable
from medbench.tasks.protocols import (
    PROTOCOLS,
    STATES,
    Item,
    Protocol,
    State,
    count_states,
    evaluate,
    metric_ids,
    metrics_for,
    scored_items,
    state_of,
    tokenise_together,
)
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind

_KINDS: tuple[Kind, ...] = ("qa", "vqa", "report", "rec", "reg", "cls")
_OWN_TASKS: list[tuple[str, Kind]] = [("pubmedqa", "qa")]
_READ_CHOICES = {("paper", "qa"), ("strict", "qa"), ("strict", "cls")}
_CLASSES = ("no", "0", "left lung", "mass")
_NEEDS_JAVA = {"meteor", "bleu1", "bleu4"}
_WORDS = [
    "no",
    "No.",
    "yes",
    "none",
    "the",
    "left",
    "lung",
    "mass",
    "...",
    "1,000",
    "x-ray",
    "3.5",
    "肺",
    "\n",
    "\0",
    "<unk>",
]

TEXTS = st.one_of(st.lists(st.sampled_from(_WORDS), max_size=7).map(" ".join), st.text(max_size=12))
NUMBERS = st.integers(0, 12).map(float)
SOME_BOXES = st.one_of(st.none(), st.builds(Box, NUMBERS, NUMBERS, NUMBERS, NUMBERS))
SCORABLES = st.builds(
    Scorable,
    prediction=TEXTS,
    reference=TEXTS,
    predicted_box=SOME_BOXES,
    reference_box=st.builds(Box.from_xywh, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    labels=st.sampled_from([{"answer_type": "OPEN"}, {"answer_type": "CLOSED"}, {}]),
)


def metrics_without_java() -> list[Metric]:
    return [
        metric
        for protocol in PROTOCOLS
        for task, kind in [("any", kind) for kind in _KINDS] + _OWN_TASKS
        for metric in metrics_for(task, kind, protocol, classes=_CLASSES)
        if not (kind == "report" and metric.metric_id in _NEEDS_JAVA)
    ]


def scorable(prediction: str, reference: str, answer_type: str = "OPEN") -> Scorable:
    return Scorable(prediction=prediction, reference=reference, labels={"answer_type": answer_type})


def item(state: State, prediction: str = "left lung", reference: str = "left lung") -> Item:
    return Item(state=state, scorable=scorable(prediction, reference))


def test_metrics_are_those_of_the_table_in_its_order() -> None:
    six = ("bleu1", "bleu4", "rouge1", "rouge2", "rougeL", "meteor")
    answers = ("bleu1", "f1", "closed_accuracy", "open_f1", "closed_f1")
    for protocol in PROTOCOLS:
        assert metric_ids("medqa", "qa", protocol) == ("accuracy", "bleu1", "f1")
        assert metric_ids("pubmedqa", "qa", protocol) == ("accuracy", "macro_f1")
        assert metric_ids("slake-vqa", "vqa", protocol) == metric_ids("theirs", "vqa", protocol) == answers
        assert metric_ids("slake-rec", "rec", protocol) == ("iou", "r_at_0.5")
        assert metric_ids("sa-med2d-reg", "reg", protocol) == ("bleu1", "f1", "accuracy")
        assert metric_ids("mimic-cxr", "report", protocol) == six
    assert metric_ids("dermamnist", "cls", "paper") == ("accuracy",)
    assert metric_ids("dermamnist", "cls", "strict") == ("accuracy", "macro_f1")


def test_ids_and_signatures_agree_and_name_the_protocol() -> None:
    seen: dict[tuple[str, bool], set[str]] = {}
    for protocol in PROTOCOLS:
        for kind in _KINDS:
            metrics = metrics_for("any", kind, protocol)
            assert tuple(metric.metric_id for metric in metrics) == metric_ids("any", kind, protocol)
            for metric in metrics:
                parts = metric.signature.split("|")
                assert (parts[0], parts[-1]) == (metric.metric_id, protocol)
                assert ("choice-if-any" in parts) == ((protocol, kind) in _READ_CHOICES)
                definition = metric.signature.replace("choice-if-any|", "")
                seen.setdefault((metric.metric_id, kind == "report"), set()).add(definition)
    # One definition per id and protocol, but for BLEU-1, which is another thing for reports than for answers.
    assert {len(signatures) for (name, _), signatures in seen.items() if name != "macro_f1"} == {2}


def test_signatures_of_the_reports() -> None:
    assert [metric.signature for metric in metrics_for("mimic-cxr", "report", "paper")] == [
        "bleu1|corpus|closest|ptb|drop-empty|refs50|paper",
        "bleu4|corpus|closest|ptb|drop-empty|refs50|paper",
        "rouge1|rouge1.0.1|f|sets|normalised-twice|drop-empty|refs50|paper",
        "rouge2|rouge1.0.1|f|sets|normalised-twice|drop-empty|refs50|paper",
        "rougeL|rouge1.0.1|f|sets|normalised-twice|drop-empty|refs50|paper",
        "meteor|java1.5|ptb|normalised|drop-empty|refs50|paper",
    ]


def test_unknown_names_are_errors_with_suggestions() -> None:
    with pytest.raises(UsageError, match="strict"):
        metrics_for("any", "vqa", cast("Protocol", "strickt"))
    with pytest.raises(UsageError, match="report"):
        metrics_for("any", cast("Kind", "reports"), "paper")


@pytest.mark.parametrize(
    ("protocol", "kind", "expected"),
    [
        ("paper", "vqa", ["ok", "unparsed", "empty", "refused", "truncated"]),
        ("paper", "rec", ["ok", "unparsed", "empty", "refused", "truncated"]),
        ("paper", "report", ["ok", "unparsed", "refused", "truncated"]),
        ("strict", "vqa", ["ok", "unparsed", "empty", "refused", "truncated"]),
        ("strict", "rec", ["ok", "unparsed", "empty", "refused", "truncated"]),
        ("strict", "report", ["ok", "unparsed", "empty", "refused", "truncated"]),
    ],
)
def test_states_that_are_scored(protocol: Protocol, kind: Kind, expected: list[State]) -> None:
    items = [item(state, "" if state == "empty" else "left lung") for state in STATES]
    indices, scorables = scored_items(protocol, kind, items)
    assert [items[index].state for index in indices] == expected
    assert len(scorables) == len(expected)


def test_reports_without_text_are_left_out_officially() -> None:
    items = [item("ok", "<unk> "), item("ok", "lung", " \n"), item("ok", "lung", "lung"), item("ok", "...", "lung")]
    assert scored_items("paper", "report", items)[0].tolist() == [2, 3]
    assert scored_items("strict", "report", items)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("state", ["unparsed", "empty", "refused", "truncated"])
def test_what_is_no_answer_is_wrong_under_strict_whatever_text_it_has(state: State) -> None:
    items = [item(state, "left lung", "left lung")]
    assert [found.value for found in evaluate("any", "reg", "strict", items)] == [0, 0, 0]
    assert [found.value for found in evaluate("any", "reg", "paper", items)] == [1, 1, 1]


def test_indices_lead_back_to_the_items() -> None:
    kinds = ["OPEN", "CLOSED", "CLOSED", "OPEN", "CLOSED"]
    states: list[State] = ["ok", "ok", "error", "truncated", "ok"]
    predictions = ["left lung", "no", "no", "mass", "yes"]
    items = [
        Item(state=state, scorable=scorable(prediction, "no", kind))
        for state, prediction, kind in zip(states, predictions, kinds, strict=True)
    ]
    found = {evaluation.metric.metric_id: evaluation for evaluation in evaluate("any", "vqa", "strict", items)}
    assert found["f1"].indices.tolist() == [0, 1, 3, 4]
    assert found["closed_accuracy"].indices.tolist() == [1, 4]
    assert found["open_f1"].indices.tolist() == [0, 3]
    assert found["closed_accuracy"].per_sample().tolist() == [1, 0]
    assert found["closed_accuracy"].value == 0.5
    assert count_states(items) == {"ok": 3, "unparsed": 0, "empty": 0, "refused": 0, "truncated": 1, "error": 1}


def test_abstaining_never_pays_under_strict() -> None:
    silent = [choosing("A", "A")] * 30 + [choosing("I cannot tell.", "A")] * 70
    trying = [choosing("A", "A")] * 90 + [choosing("B", "A")] * 10
    [abstained] = evaluate("medqa-options", "qa", "strict", silent)
    [answered] = evaluate("medqa-options", "qa", "strict", trying)
    assert (abstained.value, answered.value) == (0.3, 0.9)
    assert (abstained.value_among_answered, answered.value_among_answered) == (1.0, 0.9)
    assert abstained.answered.sum() == 30
    assert count_states(silent)["refused"] == 70


@given(
    st.lists(st.sampled_from(["A", "B", "I cannot tell.", "", "neither", "<think>"]), min_size=1, max_size=12),
    st.data(),
)
@settings(deadline=None, max_examples=100)
def test_replacing_an_answer_by_silence_never_raises_a_strict_number(texts: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(texts) - 1))
    silent = data.draw(st.sampled_from(["", "I'm sorry, but I cannot help.", "..."]))
    before = [choosing(text, "A") for text in texts]
    after = [*before[:place], choosing(silent, "A"), *before[place + 1 :]]
    [first] = evaluate("medqa-options", "qa", "strict", before)
    [second] = evaluate("medqa-options", "qa", "strict", after)
    assert second.value <= first.value


def test_what_a_machine_failed_to_bring_is_bounded() -> None:
    items = [choosing("A", "A"), choosing("B", "A"), Item(state="error", scorable=choosing("", "B").scorable)]
    for protocol in PROTOCOLS:
        [accuracy] = evaluate("medqa-options", "qa", protocol, items)
        assert accuracy.value == 0.5
        assert accuracy.bounds == pytest.approx((1 / 3, 2 / 3))
    [without] = evaluate("medqa-options", "qa", "strict", items[:2])
    assert without.bounds is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [kind for kind in _KINDS if kind != "report"])
def test_bounds_are_the_numbers_of_the_worst_and_the_best_model(protocol: Protocol, kind: Kind) -> None:
    box = Box(0, 0, 10, 10)
    named = [
        replace(scorable(text, right, answer_type), predicted_box=box, reference_box=box)
        for text, right, answer_type in (("no", "no", "CLOSED"), ("lung", "liver", "OPEN"), ("x", "spleen", "OPEN"))
    ]
    items = [Item(state="ok", scorable=one) for one in named[:2]]
    failed = [*items, Item(state="error", scorable=named[2])]
    best = [*items, Item(state="ok", scorable=replace(named[2], prediction="spleen"))]
    for found, right in zip(evaluate("x", kind, protocol, failed), evaluate("x", kind, protocol, best), strict=True):
        if found.bounds is not None:
            assert found.bounds[0] <= found.value <= found.bounds[1] + 1e-12
            assert found.bounds[1] == pytest.approx(right.value)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_scored_is_not_a_number(protocol: Protocol, kind: Kind) -> None:
    for items in ([], [item("error")]):
        evaluations = evaluate("any", kind, protocol, items)
        assert evaluations
        assert all(math.isnan(evaluation.value) for evaluation in evaluations)
        assert all(len(evaluation.indices) == len(evaluation.statistics) == 0 for evaluation in evaluations)


def test_references_are_cut_only_officially() -> None:
    whole = " ".join(f"w{number}" for number in range(60))
    paper = {e.metric.metric_id: e.value for e in evaluate("any", "reg", "paper", [item("ok", whole, whole)])}
    strict = {e.metric.metric_id: e.value for e in evaluate("any", "reg", "strict", [item("ok", whole, whole)])}
    assert paper == pytest.approx({"bleu1": 50 / 60, "f1": 2 * 50 / 110, "accuracy": 0})
    assert set(strict.values()) == {1}


@given(st.lists(SCORABLES, max_size=5), st.lists(SCORABLES, max_size=5))
@settings(deadline=None, max_examples=60)
def test_statistics_shard_and_do_not_depend_on_order(first: list[Scorable], second: list[Scorable]) -> None:
    for metric in metrics_without_java():
        whole = metric.statistics([*first, *second])
        assert np.array_equal(whole, np.concatenate([metric.statistics(first), metric.statistics(second)]))
        assert np.array_equal(whole[::-1], metric.statistics([*first, *second][::-1]))
        assert len(whole) == len(first) + len(second)


@given(st.lists(SCORABLES, min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_values_are_fractions(scorables: list[Scorable]) -> None:
    for metric in metrics_without_java():
        statistics = metric.statistics(scorables)
        for value in [*metric.compute(statistics), float(metric.compute(statistics.sum(axis=0)))]:
            assert math.isnan(value) or 0 <= value <= 1


@given(st.lists(SCORABLES, min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_values_of_many_resamples_are_the_values_of_each(scorables: list[Scorable]) -> None:
    for metric in metrics_without_java():
        statistics = metric.statistics(scorables)
        counts = np.random.default_rng(0).integers(0, 3, size=(5, len(scorables)))
        resampled = metric.compute(counts @ statistics)
        alone = [float(metric.compute(row @ statistics)) for row in counts]
        assert resampled.tolist() == pytest.approx(alone, nan_ok=True)


@given(st.lists(st.sampled_from(["left", "lung", "mass", "no", "the", "A", "x-ray"]), min_size=2, max_size=9))
@settings(deadline=None)
def test_the_oracle_scores_1_under_strict(words: list[str]) -> None:
    text = " ".join(words)
    oracle = [scorable(text, text, "OPEN"), scorable(text, text, "CLOSED")]
    for kind in _KINDS[:-1]:
        for metric in metrics_for("any", kind, "strict"):
            if kind != "rec" and not (kind == "report" and metric.metric_id in _NEEDS_JAVA):
                assert float(metric.compute(metric.statistics(oracle).sum(axis=0))) == pytest.approx(1)


@pytest.mark.parametrize("answer", ["a", "A", "the", "...", "?", "none", "0.5 cm", "肺", "left\nlung", "\0"])
def test_the_oracle_of_odd_answers_scores_1_under_strict(answer: str) -> None:
    items = [item("ok", answer, answer)]
    for task, kind in _odd_tasks():
        assert {found.value for found in evaluate(task, kind, "strict", items)} == {1}


def _odd_tasks() -> Sequence[tuple[str, Kind]]:
    return [("any", "qa"), ("pubmedqa", "qa"), ("any", "reg"), ("any", "cls")]


def test_an_empty_model_scores_0_under_strict() -> None:
    texts = ["no", "a", "...", "left lung"]
    items = [Item(state="empty", scorable=scorable("", text, "CLOSED")) for text in texts]
    for task, kind in _odd_tasks():
        assert {found.value for found in evaluate(task, kind, "strict", items)} == {0}


def test_metrics_can_be_sent_to_a_worker() -> None:
    texts = [scorable("the left lung", "left lung", "CLOSED"), scorable("no", "yes", "OPEN")]
    for metric in metrics_without_java():
        copy = ForkingPickler.loads(ForkingPickler.dumps(metric))
        assert copy.signature == metric.signature
        assert np.array_equal(copy.statistics(texts), metric.statistics(texts))
        assert [copy.applies(text) for text in texts] == [metric.applies(text) for text in texts]


def test_edge_pairs_are_scored_by_every_metric() -> None:
    lines = (fixtures() / "metrics" / "edge_pairs.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    texts = [scorable(record["prediction"], record["reference"], "CLOSED") for record in records]
    assert len(texts) == 23
    for metric in metrics_without_java():
        assert len(metric.statistics(texts)) == 23


def choosing(text: str, reference: str) -> Item:
    choices = {"A": "warfarin", "B": "heparin"}
    found = Scorable(prediction=text, reference=reference, choices=choices, choice=read_choice(text, choices) or "")
    return Item(state=state_of(found, "qa"), scorable=found)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_option_a_is_right_only_for_those_who_take_it(protocol: Protocol) -> None:
    items = [choosing("The answer is A.", "A"), choosing("a", "A"), choosing("B", "A")]
    [accuracy] = evaluate("medqa-options", "qa", protocol, items)
    assert accuracy.per_sample().tolist() == [1, 1, 0]


def test_an_unread_choice_is_wrong_under_both_protocols() -> None:
    items = [choosing("Both are given.", "A"), choosing("I cannot help.", "A"), choosing("", "A"), choosing("B", "B")]
    assert [item.state for item in items] == ["unparsed", "refused", "empty", "ok"]
    [paper] = evaluate("medqa-options", "qa", "paper", items)
    [strict] = evaluate("medqa-options", "qa", "strict", items)
    assert paper.per_sample().tolist() == [0, 0, 0, 1]
    assert strict.indices.tolist() == [0, 1, 2, 3]
    assert strict.per_sample().tolist() == [0, 0, 0, 1]


def test_a_class_is_read_out_of_a_sentence_only_under_strict() -> None:
    choices = {name: name for name in ("melanoma", "melanocytic nevi")}
    text = "This is a melanoma."
    found = Scorable(prediction=text, reference="melanoma", choices=choices, choice=read_choice(text, choices) or "")
    items = [Item(state=state_of(found, "cls"), scorable=found)]
    assert [item.value for item in evaluate("any", "cls", "paper", items)] == [0]
    assert [item.value for item in evaluate("any", "cls", "strict", items)] == [1, 1]


def test_reports_of_many_tasks_are_tokenised_by_one_start_of_java(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counting(texts: Sequence[str]) -> tuple[str, ...]:
        calls.append(len(texts))
        return tuple(text.lower() for text in texts)

    monkeypatch.setattr(java, "_tokenise_all", counting)
    monkeypatch.setattr(java, "_known", {})
    first, second = ([item("ok", f"lung {name}", f"heart {name}")] for name in ("left", "right"))
    tokenise_together([("mimic-cxr", "report", first), ("any", "vqa", first), ("mpx-single", "report", second)])
    assert calls == [4]
    corpus = [metric for metric in metrics_for("mimic-cxr", "report", "strict") if metric.metric_id == "bleu1"]
    corpus[0].statistics([first[0].scorable])
    assert calls == [4]
