"""The paper's tables as layouts: which metrics of which tasks, in which order."""

from collections.abc import Sequence
from dataclasses import dataclass

REPORT_METRICS = ("bleu1", "bleu4", "rouge1", "rouge2", "rougeL", "meteor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A table's rows.

    Attributes:
        name: On the command line.
        rows: Task and metric of each.
        models_as_rows: Whether models are the rows, as in the paper's Tables 2 and 5.
        gains: Whether the gain over a baseline stands behind each kind of task, and in total.
    """

    name: str
    rows: Sequence[tuple[str, str]]
    models_as_rows: bool = False
    gains: bool = False


_DATASETS = (
    ("slake-vqa", "bleu1"), ("path-vqa", "bleu1"), ("mimic-cxr", "bleu1"), ("mpx-single", "bleu1"),
    ("slake-rec", "iou"), ("sa-med2d-rec", "iou"), ("slake-reg", "bleu1"), ("sa-med2d-reg", "bleu1"),
    ("dermamnist", "accuracy"), ("organsmnist", "accuracy"),
)  # fmt: skip
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(name="table2", rows=_DATASETS, models_as_rows=True, gains=True),
        Layout(
            name="table3",
            rows=(
                ("slake-vqa", "bleu1"), ("slake-vqa", "f1"), ("path-vqa", "bleu1"), ("path-vqa", "f1"),
                *(("mimic-cxr", metric) for metric in REPORT_METRICS),
                *(("mpx-single", metric) for metric in REPORT_METRICS),
                ("dermamnist", "accuracy"), ("organsmnist", "accuracy"),
            ),
        ),
        Layout(name="table5", rows=_DATASETS, models_as_rows=True, gains=True),
        Layout(
            name="table6",
            rows=(
                *(("slake-rec", metric) for metric in ("iou", "r_at_0.5")),
                *(("sa-med2d-rec", metric) for metric in ("iou", "r_at_0.5")),
                *(("slake-reg", metric) for metric in ("bleu1", "f1", "accuracy")),
                *(("sa-med2d-reg", metric) for metric in ("bleu1", "f1", "accuracy")),
            ),
        ),
    )
}  # fmt: skip
