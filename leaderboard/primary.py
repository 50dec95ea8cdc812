"""The one metric by which a task is decided; the others describe."""

from collections.abc import Container

from medbench.tasks.spec import Kind

PRIMARY: dict[Kind, str] = {
    "qa": "accuracy",
    "vqa": "bleu1",
    "report": "bleu1",
    "rec": "iou",
    "reg": "bleu1",
    "cls": "accuracy",
}
"""What the Uni-Med paper's Tables 2 and 5 count; fixed before anybody sees a number."""


def primary_metric(kind: Kind, there: Container[str]) -> str | None:
    """Return a task's primary metric, or None if a protocol does not have it."""
    return PRIMARY[kind] if PRIMARY[kind] in there else None
