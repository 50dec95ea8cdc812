"""How predictions become numbers: the metrics of a task, what each protocol scores, and the scoring.

The states of a prediction, and what each protocol makes of them, stand in `docs/scoring.md`. `paper` does what the
official evaluation does: predictions in lower case without `<unk>`, references cut to their first 50 words, and a
report counts only if both its prediction and its reference have text. `strict` compares with whole references, and a
model's silence is a wrong answer: it scores 0 on every metric, so that abstaining never pays. What a machine failed to
bring is nobody's answer: it stays out, and two bounds say what the number would be had all of it been wrong, or all of
it right. Both score what a model answers, not what it thinks before (`medbench.tasks.answers.thoughts`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.answers.choice import is_refusal
from medbench.tasks.answers.texts import normalise_strictly
from medbench.tasks.foundation.errors import unknown_name
from medbench.tasks.metrics.java import tokenise
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable
from medbench.tasks.metrics.table import processed_texts, table_of
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind

Protocol = Literal["paper", "strict"]
State = Literal["ok", "unparsed", "empty", "refused", "truncated", "error"]

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
STATES: tuple[State, ...] = get_args(State)

_METRIC_IDS: Mapping[Kind, tuple[str, ...]] = {
    "qa": ("accuracy", "bleu1", "f1"),
    "vqa": ("bleu1", "f1", "closed_accuracy", "open_f1", "closed_f1"),
    "rec": ("iou", "r_at_0.5"),
    "reg": ("bleu1", "f1", "accuracy"),
    "report": ("bleu1", "bleu4", "rouge1", "rouge2", "rougeL", "meteor"),
    "cls": ("accuracy",),
}
# Where the answer is one of a few words or letters, BLEU and F1 would say the same as accuracy.
_OWN_METRIC_IDS: Mapping[str, tuple[str, ...]] = {
    "pubmedqa": ("accuracy", "macro_f1"),
    "pubmedqa-context": ("accuracy", "macro_f1"),
    "medqa-options": ("accuracy",),
}
_MORE_STRICT_METRIC_IDS: Mapping[Kind, tuple[str, ...]] = {"cls": ("macro_f1",)}
# What a wrong answer says under `paper`, which leaves out what says nothing at all.
_NOTHING_RIGHT = "\u25a1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One prediction beside its reference, with its state."""

    state: State
    scorable: Scorable
    error: str = ""  # Why the model's own parser could make nothing of an answer; empty otherwise.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One metric on the items of one task; the value, per-sample values and resampling all follow from it."""

    metric: Metric
    indices: npt.NDArray[np.intp]  # Positions of the M scored items among all items, ascending, [M].
    statistics: FloatArray  # Their sufficient statistics, [M, K].
    answered: npt.NDArray[np.bool_]  # Which of them are answers that could be read, [M].
    # The value had all failures (state `error`) been wrong answers, and had all been right; None where nothing failed.
    bounds: tuple[float, float] | None = None
    unscored: int = 0  # Items that are left out since the metric's program ended on them; the bounds include them.

    @property
    def value(self) -> float:
        """The metric over all scored items; NaN if there is none."""
        return float(self.metric.compute(self.statistics.sum(axis=0)))

    @property
    def value_among_answered(self) -> float:
        """The metric over the answers that could be read; NaN if there is none. Never a main number."""
        return float(self.metric.compute(self.statistics[self.answered].sum(axis=0)))

    def per_sample(self) -> FloatArray:
        """Return the metric of each scored item alone, [M]; NaN where the metric counts nothing."""
        return self.metric.compute(self.statistics)


def metric_ids(task_name: str, kind: Kind, protocol: Protocol) -> tuple[str, ...]:
    """Return the metrics of a task, or else of its kind, in order; UsageError if there is no such kind or protocol."""
    for what, given, known in (("kind of task", kind, _METRIC_IDS), ("protocol", protocol, PROTOCOLS)):
        if given not in known:
            raise unknown_name(what, given, known)
    ids = _OWN_METRIC_IDS.get(task_name, _METRIC_IDS[kind])
    return ids + _MORE_STRICT_METRIC_IDS.get(kind, ()) if protocol == "strict" else ids


def metrics_for(task_name: str, kind: Kind, protocol: Protocol, *, classes: Sequence[str] = ()) -> tuple[Metric, ...]:
    """Return the metrics of a task under a protocol, in the order of the tables.

    `classes` are the normalised classes for macro-F1 if its statistics are to be added over several calls; by default
    they are the references of each call. Raises UsageError if there is no such kind or protocol.
    """
    ids, table = metric_ids(task_name, kind, protocol), table_of(kind, classes)
    return tuple(table[metric_id][PROTOCOLS.index(protocol)] for metric_id in ids)


def state_of(scorable: Scorable, kind: Kind) -> State:
    """Return the state of a prediction that came out whole: `ok`, or why it is no answer."""
    if not scorable.prediction.strip():
        return "empty"
    read = scorable.predicted_box if kind == "rec" else scorable.choice
    if read:
        return "ok"
    needed = kind == "rec" or bool(scorable.choices)
    # `Unknown` may be the right answer to an open question.
    if is_refusal(scorable.prediction) and (
        needed or normalise_strictly(scorable.prediction) != normalise_strictly(scorable.reference)
    ):
        return "refused"
    return "unparsed" if needed else "ok"


def scored_items(
    protocol: Protocol, kind: Kind, items: Sequence[Item]
) -> tuple[npt.NDArray[np.intp], tuple[Scorable, ...]]:
    """Return the positions [M] that a protocol scores, and what: of no answer, under `strict`, an empty one."""
    chosen = [
        (place, _silent(item.scorable) if protocol == "strict" and item.state != "ok" else item.scorable)
        for place, item in enumerate(items)
        if item.state != "error" and (protocol == "strict" or kind != "report" or all(processed_texts(item.scorable)))
    ]
    return np.asarray([place for place, _ in chosen], dtype=np.intp), tuple(scorable for _, scorable in chosen)


def _silent(scorable: Scorable) -> Scorable:
    return replace(scorable, prediction="", choice="", predicted_box=None)


def count_states(items: Sequence[Item]) -> dict[State, int]:
    """Return how many items are in each state, for the counts beside a number."""
    counts = Counter(item.state for item in items)
    return {state: counts[state] for state in STATES}


def evaluate(
    task_name: str, kind: Kind, protocol: Protocol, items: Sequence[Item], metrics: Sequence[Metric] | None = None
) -> tuple[Evaluation, ...]:
    """Return one evaluation per metric of a task under a protocol, in the order of the tables, or of given `metrics`.

    What a metric could not score (a row of NaN) stays out of it like a failed item. Raises UsageError if there is no
    such kind or protocol, MedbenchError if a metric needs Java and it cannot start.
    """
    indices, scorables = scored_items(protocol, kind, items)
    answered = np.asarray([items[index].state == "ok" for index in indices], dtype=np.bool_)
    missed = [_wrong_and_right(protocol, item.scorable) for item in items if item.state == "error"]
    evaluations = []
    for metric in metrics_for(task_name, kind, protocol) if metrics is None else metrics:
        applies = np.asarray([metric.applies(scorable) for scorable in scorables], dtype=np.bool_)
        chosen = [scorable for scorable, wanted in zip(scorables, applies, strict=True) if wanted]
        statistics = metric.statistics(chosen)
        lost = np.isnan(statistics.sum(axis=1))
        unscored = [_wrong_and_right(protocol, chosen[place]) for place in np.flatnonzero(lost)]
        statistics, chosen = statistics[~lost], [one for one, gone in zip(chosen, lost, strict=True) if not gone]
        evaluations.append(
            Evaluation(
                metric=metric, indices=indices[applies][~lost], statistics=statistics,
                answered=answered[applies][~lost], unscored=len(unscored),
                bounds=_bounds(metric, chosen, statistics, [*missed, *unscored]),
            )
        )  # fmt: skip
    return tuple(evaluations)


def _wrong_and_right(protocol: Protocol, scorable: Scorable) -> tuple[Scorable, Scorable]:
    """Return a failed item as if its answer had been wrong, and as if it had been right."""
    wrong = replace(_silent(scorable), prediction="" if protocol == "strict" else _NOTHING_RIGHT)
    reference, choice = scorable.reference, scorable.reference if scorable.choices else ""
    return wrong, replace(scorable, prediction=reference, choice=choice, predicted_box=scorable.reference_box)


def _bounds(
    metric: Metric, scored: Sequence[Scorable], statistics: FloatArray, missed: Sequence[tuple[Scorable, Scorable]]
) -> tuple[float, float] | None:
    missed = [pair for pair in missed if metric.applies(pair[0])]
    if not missed:
        return None
    if metric.adds:
        # What cannot be scored even then (NaN) counts nothing.
        added = (np.nan_to_num(metric.statistics(more)) for more in zip(*missed, strict=True))
        totals = (statistics.sum(axis=0) + more.sum(axis=0) for more in added)
    else:
        totals = (metric.statistics([*scored, *more]).sum(axis=0) for more in zip(*missed, strict=True))
    wrong, right = (float(metric.compute(total)) for total in totals)
    return wrong, right


def tokenise_together(tasks: Iterable[tuple[str, Kind, Sequence[Item]]]) -> None:
    """Tokenise the reports of several tasks (name, kind, items) at once; evaluating them finds the tokens there."""
    texts = [
        text
        for name, kind, items in tasks
        for protocol in PROTOCOLS
        for metric in metrics_for(name, kind, protocol)
        if metric.tokenised is not None
        for scorable in scored_items(protocol, kind, items)[1]
        for text in metric.tokenised(scorable)
    ]
    tokenise(texts)


def rec_ceilings(
    task: str, boxes: Iterable[tuple[Box, tuple[int, int]]], space: BoxSpace, protocol: Protocol
) -> dict[str, float]:
    """Return, by metric, what a perfect model scores that must write its boxes in `space`: the quantisation ceiling.

    Uni-Med truncates to whole hundredths of the image, which costs small boxes most. `boxes` are the right ones in
    pixels, each with width and height of its image.
    """
    empty = Scorable(prediction="", reference="")
    written = (replace(empty, predicted_box=space.as_written(box, size), reference_box=box) for box, size in boxes)
    items = [Item(state="ok", scorable=scorable) for scorable in written]
    return {found.metric.metric_id: found.value for found in evaluate(task, "rec", protocol, items)}
