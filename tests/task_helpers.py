"""Short ways to read and prepare the tiny native folders of `native_data`."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from native_data import (
    medmnist_npz,
    slake,
    write_json,
)

from medbench.tasks.catalog import get_task
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Reading, Skipped, TaskSpec


def read(task: str, source: Path, **options: str) -> Reading:
    return get_task(task).reader(source, options)


def by_id(reading: Reading) -> dict[str, Sample]:
    found = {sample.sample_id: sample for sample in reading.samples}
    assert len(found) == len(reading.samples)
    return found


def reasons(reading: Reading) -> dict[str, int]:
    return dict(Counter(item.reason for item in reading.skipped))


def slake_prepared(tmp_path: Path, task: str = "slake-vqa") -> Prepared:
    source = tmp_path / "native"
    if not source.exists():
        slake(source)
    return prepare_task(get_task(task), source, tmp_path / "data", {})


def one_task(*samples: Sample, skipped: tuple[Skipped, ...] = (), group_key: str = "image") -> TaskSpec:
    reading = Reading(samples=samples, skipped=skipped, split_method="given")
    return dataclasses.replace(get_task("slake-vqa"), reader=lambda *_: reading, group_key=group_key)


def question(number: int, **fields: Any) -> Sample:
    defaults: dict[str, Any] = {
        "sample_id": f"q{number}",
        "task": "slake-vqa",
        "split": "test",
        "inputs": {"question": "?"},
        "reference": "yes",
        "groups": {"image": str(number)},
    }
    return Sample(**{**defaults, **fields})


def suite(folder: Path) -> Path:
    slake(folder / "slake")
    medmnist_npz(folder / "mnist", "breastmnist", classes=2)
    tasks = {
        "slake-vqa": {"source": "slake"},
        "slake-rec": {"source": "slake", "options": {}},
        "organsmnist": {"source": "mnist", "options": {"flag": "breastmnist"}},
    }
    write_json(folder / "suite.json", {"name": "mini", "tasks": tasks})
    return folder
