"""A few fixed predictions whose scores tell whether the metrics of a task still compute what they did.

The digest goes into `tasks/versions.lock.json`: an edit that changes a score must raise the version of the tasks it
touches. Metrics that need Java are present by their signature only; parity tests hold their values.
"""

from collections.abc import Sequence

from medbench.tasks.answers.choice import read_choice
from medbench.tasks.answers.thoughts import final_answer
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import PROTOCOLS, Item, metrics_for, scored_items, state_of
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind, TaskSpec

_DIGITS = 10
_PAIRS = (
    ("Yes, there is a left-sided mass.", "yes", "CLOSED"),
    ("no", "No", "CLOSED"),
    ("The lungs are normal", "no", "CLOSED"),
    ("lung lung heart", "left lung", "OPEN"),
    ("two 1,000 mL chest tubes. No pneumothorax.", "2 chest tubes. no pneumothorax", "OPEN"),
    ("A", "a", "OPEN"),
    ("", "liver", "OPEN"),
    ("<think>No, the heart.</think> **Yes**", "yes", "CLOSED"),
    ("No doubt, the left or the right lung.", "right", "CLOSED"),
    ("I cannot tell.", "yes", "CLOSED"),
    ("\\boxed{T2\u2011weighted}</s>", "T2-weighted", "OPEN"),
    ("\u5fc3\u80ba", "\u5fc3\u80ba\u672a\u89c1", "OPEN"),
    (" ".join(f"w{number % 7}" for number in range(60)), " ".join(f"w{number % 9}" for number in range(70)), "OPEN"),
)
_CHOICES = {"yes": "yes", "no": "no", "a": "a"}
_BOXES = (
    (Box(0, 0, 10, 10), Box(0, 0, 10, 10)),
    (Box(0, 0, 4, 4), Box(1.4, 0, 5.4, 4)),
    (Box(0, 0, 10, 10), Box(10, 0, 20, 10)),
    (None, Box(0, 0, 20, 20)),
)


def scores_fingerprint(spec: TaskSpec) -> str:
    """Return the identity of a task's metrics: their signatures and what they say of the fixed predictions."""
    items = _items(spec.kind)
    found: dict[str, float | None] = {}
    for protocol in PROTOCOLS:
        _, scorables = scored_items(protocol, spec.kind, items)
        for metric in metrics_for(spec.name, spec.kind, protocol):
            chosen = [scorable for scorable in scorables if metric.applies(scorable)]
            needs_java = metric.tokenised is not None
            value = None if needs_java else float(metric.compute(metric.statistics(chosen).sum(axis=0)))
            found[metric.signature] = None if value is None else round(value, _DIGITS)
    return fingerprint(found)


def _items(kind: Kind) -> Sequence[Item]:
    scorables = _of_boxes() if kind == "rec" else _of_texts(kind)
    return [Item(state=state_of(scorable, kind), scorable=scorable) for scorable in scorables]


def _of_boxes() -> list[Scorable]:
    return [
        Scorable(prediction="a box", reference="liver", predicted_box=predicted, reference_box=reference)
        for predicted, reference in _BOXES
    ]


def _of_texts(kind: Kind) -> list[Scorable]:
    choices = _CHOICES if kind == "cls" else {}
    return [
        Scorable(
            prediction=answer,
            reference=reference.lower() if choices else reference,
            choices=choices,
            choice=read_choice(answer, choices) or "",
            labels={"answer_type": answer_type},
        )
        for text, reference, answer_type in _PAIRS
        for answer in [final_answer(text)]
        if not choices or reference.lower() in choices
    ]
