"""How predictions become numbers: the metrics of a task, what each protocol scores, and the scoring.

| state | what it is | paper | strict |
|---|---|---|---|
| `ok` | an answer that could be read | scored | scored |
| `empty` | no answer | as it stands, so 0 nearly always; a report is left out | wrong |
| `unparsed` | no box or choice could be read | as it stands: no box is IoU 0, no choice is wrong | wrong |
| `refused` | the model declined | as it stands | wrong |
| `truncated` | cut off by the limit of tokens, or a thought that never ended | as it stands | wrong |
| `error` | server, memory or file failed | not scored; bounds | not scored; bounds |

`paper` does what the official evaluation does: predictions in lower case without `<unk>`, references cut to
their first 50 words, and a report counts only if both its prediction and its reference have text. `strict`
compares with whole references, and a model's silence is a wrong answer: it scores 0 on every metric, so that abstaining
never pays. What a machine failed to bring is nobody's answer: it stays out, and two bounds say what the number would be
had all of it been wrong, or all of it right. Both protocols score what a model answers, not what it thinks before
(`medbench.tasks.answers.thoughts`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medbench.tasks.answers.refusals import is_refusal
from medbench.tasks.foundation.errors import unknown_name
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable
from medbench.tasks.metrics.normalise import normalise_strictly
from medbench.tasks.metrics.paper import paper_metrics, processed_texts
from medbench.tasks.metrics.ptb import tokenise
from medbench.tasks.metrics.strict import strict_metrics
from medbench.tasks.spec import Kind

Protocol = Literal["paper", "strict"]
State = Literal["ok", "unparsed", "empty", "refused", "truncated", "error"]
IndexArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

_NOTHING_RIGHT = "\u25a1"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One prediction with its state.

    Attributes:
        state: How the prediction came out.
        scorable: The prediction beside its reference.
        error: Why the model's own parser could make nothing of an answer; empty otherwise.
    """

    state: State
    scorable: Scorable
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """One metric on the items of one task; the value, per-sample values and resampling all follow from it.

    Attributes:
        metric: The metric.
        indices: Positions of the M scored items among all items, ascending, [M].
        statistics: Their sufficient statistics, [M, K].
        answered: Which of them are answers that could be read, [M].
        bounds: The value had all failures (state `error`) been wrong answers, and had all been right; None where
            nothing failed.
    """

    metric: Metric
    indices: IndexArray
    statistics: FloatArray
    answered: BoolArray
    bounds: tuple[float, float] | None = None

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
    """Return the metrics of a task in the order of the tables; an unknown task has those of its kind.

    Raises:
        UsageError: If there is no such kind or protocol.
    """
    if kind not in _METRIC_IDS:
        raise unknown_name("kind of task", kind, _METRIC_IDS)
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    ids = _OWN_METRIC_IDS.get(task_name, _METRIC_IDS[kind])
    return ids + _MORE_STRICT_METRIC_IDS.get(kind, ()) if protocol == "strict" else ids


def metrics_for(task_name: str, kind: Kind, protocol: Protocol, *, classes: Sequence[str] = ()) -> tuple[Metric, ...]:
    """Return the metrics of a task under a protocol, in the order of the tables.

    Args:
        task_name: Name of the task.
        kind: Its kind, which decides if the name is not one of ours.
        protocol: Whose definitions.
        classes: The normalised classes for macro-F1 if its statistics are to be added over several calls; by
            default they are the references of each call.

    Raises:
        UsageError: If there is no such kind or protocol.
    """
    ids = metric_ids(task_name, kind, protocol)
    defined = paper_metrics(kind, classes) if protocol == "paper" else strict_metrics(kind, classes)
    return tuple(defined[metric_id] for metric_id in ids)


def state_of(scorable: Scorable, kind: Kind) -> State:
    """Return the state of a prediction that came out whole: `ok`, or why it is no answer."""
    if not scorable.prediction.strip():
        return "empty"
    read = scorable.predicted_box if kind == "rec" else scorable.choice
    if read:
        return "ok"
    needed = kind == "rec" or bool(scorable.choices)
    if is_refusal(scorable.prediction) and (needed or not _is_reference(scorable)):
        return "refused"
    return "unparsed" if needed else "ok"


def _is_reference(scorable: Scorable) -> bool:
    # `Unknown` may be the right answer to an open question.
    return normalise_strictly(scorable.prediction) == normalise_strictly(scorable.reference)


def is_scored(protocol: Protocol, kind: Kind, item: Item) -> bool:
    """Return whether a protocol scores an item of a task of this kind; the table of this module says why."""
    if item.state == "error":
        return False
    return protocol == "strict" or kind != "report" or all(processed_texts(item.scorable))


def scored_items(protocol: Protocol, kind: Kind, items: Sequence[Item]) -> tuple[IndexArray, tuple[Scorable, ...]]:
    """Return the positions [M] of the items that a protocol scores, and what it scores there.

    Under `strict` an item that is no answer is an empty prediction, whatever text came with it.
    """
    indices = [index for index, item in enumerate(items) if is_scored(protocol, kind, item)]
    return np.asarray(indices, dtype=np.intp), tuple(_as_scored(protocol, items[index]) for index in indices)


def _as_scored(protocol: Protocol, item: Item) -> Scorable:
    return _silent(item.scorable) if protocol == "strict" and item.state != "ok" else item.scorable


def _silent(scorable: Scorable) -> Scorable:
    return replace(scorable, prediction="", choice="", predicted_box=None)


def _wrong(protocol: Protocol, scorable: Scorable) -> Scorable:
    # `paper` leaves out what says nothing at all, so there a wrong answer must say something.
    return replace(_silent(scorable), prediction="" if protocol == "strict" else _NOTHING_RIGHT)


def _right(scorable: Scorable) -> Scorable:
    return replace(
        scorable, prediction=scorable.reference, choice=scorable.reference if scorable.choices else "",
        predicted_box=scorable.reference_box,
    )  # fmt: skip


def count_states(items: Sequence[Item]) -> dict[State, int]:
    """Return how many items are in each state, for the counts beside a number."""
    counts = Counter(item.state for item in items)
    return {state: counts[state] for state in STATES}


def evaluate(task_name: str, kind: Kind, protocol: Protocol, items: Sequence[Item]) -> tuple[Evaluation, ...]:
    """Score the predictions of one task under one protocol.

    Args:
        task_name: Name of the task.
        kind: Its kind.
        protocol: Whose definitions and whose policy on states.
        items: All predictions of the task, in the order of its samples.

    Returns:
        One evaluation per metric, in the order of the tables.

    Raises:
        UsageError: If there is no such kind or protocol.
        MedbenchError: If a metric of reports needs Java and Java cannot start.
    """
    metrics = metrics_for(task_name, kind, protocol)
    indices, scorables = scored_items(protocol, kind, items)
    answered = np.asarray([items[index].state == "ok" for index in indices], dtype=np.bool_)
    failed = [item.scorable for item in items if item.state == "error"]
    missed = [(_wrong(protocol, scorable), _right(scorable)) for scorable in failed]
    return tuple(_evaluated(metric, indices, scorables, answered, missed) for metric in metrics)


def tokenise_together(tasks: Iterable[tuple[str, Kind, Sequence[Item]]]) -> None:
    """Tokenise the reports of several tasks (name, kind, items) for both protocols with one start of the tokenizer.

    Evaluating the tasks afterwards finds the tokens there.
    """
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


def _evaluated(
    metric: Metric,
    indices: IndexArray,
    scorables: Sequence[Scorable],
    answered: BoolArray,
    missed: Sequence[tuple[Scorable, Scorable]],
) -> Evaluation:
    applies = np.fromiter((metric.applies(scorable) for scorable in scorables), dtype=np.bool_, count=len(scorables))
    chosen = [scorable for scorable, wanted in zip(scorables, applies, strict=True) if wanted]
    statistics = metric.statistics(chosen)
    ways = [list(way) for way in zip(*(pair for pair in missed if metric.applies(pair[0])), strict=True)]
    bounds = [float(metric.compute(_with(metric, chosen, statistics, way))) for way in ways]
    return Evaluation(
        metric=metric,
        indices=indices[applies],
        statistics=statistics,
        answered=answered[applies],
        bounds=(bounds[0], bounds[1]) if bounds else None,
    )


def _with(metric: Metric, scored: Sequence[Scorable], statistics: FloatArray, more: Sequence[Scorable]) -> FloatArray:
    """Return the totals [K] of what was scored and of `more`."""
    if not metric.adds:
        return np.asarray(metric.statistics([*scored, *more]).sum(axis=0))
    return np.asarray(statistics.sum(axis=0) + metric.statistics(more).sum(axis=0))
