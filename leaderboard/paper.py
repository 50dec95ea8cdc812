"""Numbers that papers print, from the YAML files in `published/`, and the Uni-Med paper's tables as layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.protocols import Protocol

FOLDER = Path(__file__).parent / "published"
_Percentage = Annotated[float, Field(ge=0, le=100)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A model's numbers in a paper."""

    __pydantic_config__ = _STRICT

    scores: Mapping[str, Mapping[str, _Percentage]]  # by task and metric
    zero_shot: frozenset[str] = frozenset()  # tasks whose train split it has not seen
    leaked: frozenset[str] = frozenset()  # tasks whose test split it has, as far as the source says
    runs: int | None = 1  # trainings whose mean the numbers are; None for several that the source does not count
    spread: Mapping[str, Mapping[str, _Percentage]] = field(default_factory=dict)  # standard deviations over these
    over: str = ""  # the model that the source counts this one's gain over
    gains: Mapping[str, float] = field(default_factory=dict)  # as it prints it, in percent, by kind and as `total`


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The numbers of one table: `source` is which of which paper, `models` stand in the paper's order."""

    __pydantic_config__ = _STRICT

    source: str
    protocol: Protocol
    models: Mapping[str, Reported]

    @property
    def table(self) -> str:
        """The last part of the source: which table it is."""
        return self.source.rpartition(", ")[2]


def publications() -> list[str]:
    """Return the names of the bundled files."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_publication(name: str) -> Publication:
    """Return the published numbers of a bundled file, or of one that the user wrote.

    Raises UsageError if there is no such file, or it does not have the form of `leaderboard/published/table3.yaml`.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise unknown_name("table of published numbers", name, publications())
    try:
        found = TypeAdapter(Publication).validate_python(read_yaml_table(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{file} holds no published numbers: {where}: {first['msg']}.", f"See {FOLDER}.") from error
    for task in {task for model in found.models.values() for task in model.scores}:
        if task not in task_names():
            raise unknown_name("task", task, task_names())
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The rows of one of the paper's tables: which metrics of which tasks, in which order.

    In its Tables 2 and 5 models are the rows, and the gain over a baseline stands behind each kind of task.
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
_REPORT_METRICS = ("bleu1", "bleu4", "rouge1", "rouge2", "rougeL", "meteor")
_TABLE_3: Mapping[str, Sequence[str]] = {
    "slake-vqa": ("bleu1", "f1"), "path-vqa": ("bleu1", "f1"), "mimic-cxr": _REPORT_METRICS,
    "mpx-single": _REPORT_METRICS, "dermamnist": ("accuracy",), "organsmnist": ("accuracy",),
}  # fmt: skip
_TABLE_6: Mapping[str, Sequence[str]] = {
    "slake-rec": ("iou", "r_at_0.5"), "sa-med2d-rec": ("iou", "r_at_0.5"),
    "slake-reg": ("bleu1", "f1", "accuracy"), "sa-med2d-reg": ("bleu1", "f1", "accuracy"),
}  # fmt: skip


def _rows(metrics: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((task, metric) for task, those in metrics.items() for metric in those)


LAYOUTS = {
    "table2": Layout(name="table2", rows=_DATASETS, models_as_rows=True, gains=True),
    "table3": Layout(name="table3", rows=_rows(_TABLE_3)),
    "table5": Layout(name="table5", rows=_DATASETS, models_as_rows=True, gains=True),
    "table6": Layout(name="table6", rows=_rows(_TABLE_6)),
}
