"""What is measured: tasks, batches, and how exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.suite import SuiteName, suite_of

Precision = Literal["fp32", "bf16"]
DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT_ONLY = "its questions have no image and never enter the connector"
_FEWEST_TASKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is measured of a model."""

    data_dir: Path
    tasks: tuple[str, ...] = ()  # Those named; none are all that can be had.
    batches: int = 100  # Per task, as in the paper.
    batch_size: int = 4
    seed: int | None = None  # None is the one that the checkpoint was trained with.
    device: str = "auto"
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The tasks of a measurement, those left out with the reason, and the fingerprints of the data."""

    tasks: tuple[str, ...]
    left_out: Mapping[str, str]
    data: Mapping[str, str]
    sizes: Mapping[str, int]  # Training samples of each task.
    suite: SuiteName

    @property
    def copied(self) -> str:
        """The task with the most training samples: copies of it repeat the fewest."""
        return max(self.sizes, key=self.sizes.__getitem__)


def choose_tasks(choice: Choice, offered: Sequence[str]) -> Chosen:
    """Return the tasks to measure, of those named or `offered`.

    UsageError if a name is unknown or fewer than two are left; DataError if a named one is not prepared.
    """
    if strangers := [name for name in choice.tasks if name not in task_names()]:
        raise unknown_name("task", strangers[0], task_names())
    named = tuple(dict.fromkeys(choice.tasks))
    found: dict[str, Prepared] = {}
    left_out: dict[str, str] = {}
    for name in named or offered:
        try:
            prepared = None if get_task(name).kind == "qa" else load_prepared(choice.data_dir, name)
        except DataError as error:
            if named:
                raise
            left_out[name] = f"not prepared: {error.problem}"
            continue
        if prepared is None:
            left_out[name] = TEXT_ONLY
        elif not prepared.manifest.counts.get("train"):
            left_out[name] = "it has no train split"
        else:
            found[name] = prepared
    if len(found) < _FEWEST_TASKS:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        problem = f"{len(found)} of the tasks can be measured ({reasons or 'no more was named'})."
        raise UsageError(problem, "Interference needs two tasks with images at least, prepared in --data-dir.")
    data = {name: prepared.manifest.data_fingerprint for name, prepared in found.items()}
    sizes = {name: prepared.manifest.counts["train"] for name, prepared in found.items()}
    return Chosen(tasks=tuple(data), left_out=left_out, data=data, sizes=sizes, suite=suite_of(found.values()))
