"""A measurement from its plan to its files: models one after the other, each continued where it was stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from medbench.tasks.foundation.console import meter
from medbench.tasks.foundation.errors import RunError, StoppedError
from medbench.tasks.foundation.files import canonical_json, read_json_object, write_atomically
from medbench.unimed.interpret import results
from medbench.unimed.interpret.choice import Choice, Chosen
from medbench.unimed.interpret.document import FILE, Document, Measured, Moment, csv_files
from medbench.unimed.interpret.maps import Maps
from medbench.unimed.interpret.streaming import Measuring, Source, stored_dtype
from medbench.unimed.weights import device_and_dtype

PASSES = 3
CONDITIONS = "conditions.json"
GIB = 1 << 30
_SIDE, _PRODUCTS = 768, 3
_FLOAT32 = 4
_SUMMED = 4  # Vectors of P numbers that pass 1 holds in memory.


class Opened(Source, Protocol):
    """A loaded model that gives gradients."""

    @property
    def fingerprint(self) -> str:
        """Identity of the weights."""

    @property
    def connector(self) -> str:
        """What the connector is, in words."""

    @property
    def seed(self) -> int:
        """Of the order of the samples, and of what is drawn here."""


OpenedT = TypeVar("OpenedT", bound=Opened)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a model takes, before a weight is loaded."""

    parameters: int  # Of its connector.
    weights: int  # Bytes of all its weights.
    operations: float  # Floating-point operations of one batch, forwards and backwards.


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Generic[OpenedT]):
    """A model that is to be measured."""

    label: str  # Its name in the files, and of its folder.
    chosen: Chosen
    needs: Needs
    open: Callable[[], OpenedT]
    # The routing over its training as far as it is known; what is measured for it is kept in a folder.
    moments: Callable[[OpenedT, Path], tuple[Moment, ...]] = lambda _, __: ()
    # Maps of so many images of each task, with a seed; None where no features can be had.
    maps: Callable[[int, int], Maps | None] | None = None
    draws: str = ""  # How its training drew its batches, where that is known.


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def plan(subjects: Sequence[Subject[Any]], choice: Choice) -> Table:
    """Return columns and rows that say what a measurement takes; time at the speed of a matrix product here."""
    speed = _operations_per_second(*device_and_dtype(choice.device, "float32"))
    columns = (
        "model", "parameters P", "tasks T", "batches", "T x P on disk, GiB", "memory, GiB", "operations", "at least",
    )  # fmt: skip
    return columns, [_planned(subject, choice.batches, speed) for subject in subjects]


def _planned(subject: Subject[Any], batches: int, speed: float) -> list[str]:
    tasks, needs = len(subject.chosen.tasks), subject.needs
    each = np.dtype(stored_dtype(tasks, needs.parameters)).itemsize
    seen = PASSES * tasks * batches
    memory = needs.weights + needs.parameters * (_SUMMED * each + 2 * _FLOAT32)
    operations = seen * needs.operations
    return [
        subject.label, f"{needs.parameters:,}", str(tasks), f"{PASSES} x {tasks} x {batches} = {seen:,}",
        f"{tasks * needs.parameters * each / GIB:.3f}", f"{memory / GIB:.3f}", f"{operations:.2g}",
        f"{operations / speed / 60:.1f} min",
    ]  # fmt: skip


def _operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    one = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    float((one @ one).sum())
    started = time.perf_counter()
    for _ in range(_PRODUCTS):
        # Reading a number waits for the device.
        float((one @ one).sum())
    return _PRODUCTS * 2 * _SIDE**3 / (time.perf_counter() - started)


def measure(subjects: Sequence[Subject[Any]], choice: Choice, output: Path) -> Document:
    """Measure models and write `interference.json` and a folder of CSV files for each; return the document.

    The same call goes on where an earlier one was stopped, to the same bytes. RunError if the folder holds another
    measurement, a loss is no number or the disk is full; StoppedError if the user stopped it; errors of `open`.
    """
    models = []
    for subject in subjects:
        folder = output / subject.label
        try:
            measured = _measured(subject, choice, folder)
        except KeyboardInterrupt as error:
            raise StoppedError(f"What is through is kept in {folder}. The same command goes on.") from error
        for name, text in csv_files(measured).items():
            write_atomically(folder / name, text)
        models.append(measured)
    document = Document(models=tuple(models))
    write_atomically(output / FILE, canonical_json(document.model_dump(mode="json"), indent=2) + "\n")
    return document


def _measured(subject: Subject[Any], choice: Choice, folder: Path) -> Measured:
    source, chosen = subject.open(), subject.chosen
    tasks, size = len(chosen.tasks), source.layout.size
    conditions: dict[str, Any] = {
        "connector": source.connector, "fingerprint": source.fingerprint, "tasks": list(chosen.tasks),
        "data": dict(chosen.data), "batches": choice.batches, "batch_size": choice.batch_size, "seed": source.seed,
        "precision": choice.precision, "copied": chosen.copied, "stored": str(np.dtype(stored_dtype(tasks, size))),
    }  # fmt: skip
    agree(folder / CONDITIONS, conditions)
    measuring = Measuring(
        folder=folder / "kept", source=source, batches=choice.batches, copied=chosen.copied, seed=source.seed
    )
    with meter(f"Measuring {subject.label}", PASSES * tasks * choice.batches, done=measuring.done()) as progress:
        measuring.run(progress)
    return Measured(
        **{**conditions, "tasks": chosen.tasks}, label=subject.label, left_out=dict(chosen.left_out),
        losses=results.losses_of(measuring), groups=results.groups_of(measuring),
        scores=results.scored_groups(measuring), routing=results.routing_of(measuring),
        over_training=subject.moments(source, folder / "kept"), suite=chosen.suite,
    )  # fmt: skip


def agree(file: Path, conditions: Mapping[str, Any]) -> None:
    """Write down what is measured, or refuse to go on with what was measured otherwise."""
    if not file.exists():
        write_atomically(file, canonical_json(conditions, indent=2) + "\n")
        return
    before = read_json_object(file)
    for name, value in conditions.items():
        if before.get(name) != value:
            problem = f"{file.parent} holds another measurement: {name} was {before.get(name)!r} and is {value!r}."
            raise RunError(problem, "Give another --output, or the same model, data and options as before.")
