"""Per-sample gradients on the disk, n·P numbers, their products, and from these to `fisher.json`.

A killed measurement goes on at the task where it was; the gradients are removed when the document is written.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medbench.tasks.foundation.console import Meter, meter
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, replaced_when_whole, write_atomically
from medbench.unimed.interpret import fisher
from medbench.unimed.interpret.choice import Choice
from medbench.unimed.interpret.document import ALL
from medbench.unimed.interpret.fisher import FILE, Comparison, FisherDocument, FisherModel
from medbench.unimed.interpret.interference import Array
from medbench.unimed.interpret.measure import GIB, Opened, Subject, Table, agree
from medbench.unimed.interpret.streaming import Layout, Source, finite_steps, mapped, new_array, stored_dtype

_CONDITIONS = "fisher-conditions.json"
_NUMBERS = 1 << 25  # That a product takes into memory at once.


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The gradients of some samples of each task, a file [samples, P] each."""

    folder: Path
    layout: Layout
    tasks: Sequence[str]
    samples: int  # Of each task.

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of the numbers: float64 up to the bound of `streaming`."""
        return stored_dtype(len(self.tasks) * self.samples, self.layout.size)

    def gather(self, source: Source, progress: Meter) -> None:
        """Write the files that are missing; RunError if a loss is no number or the disk is full."""
        for task in self.tasks:
            if not self._file(task).exists():
                with replaced_when_whole(self._file(task)) as path:
                    rows = new_array(path, (self.samples, self.layout.size), self.dtype)
                    steps = source.steps(task, 0, self.samples)
                    for row, step in zip(rows, finite_steps(steps, task, progress), strict=True):
                        row[:] = step.gradient.cpu().numpy()
                    rows.flush()

    def done(self) -> int:
        """Return how many samples need not be seen again."""
        return self.samples * sum(self._file(task).exists() for task in self.tasks)

    def read(self) -> list[npt.NDArray[Any]]:
        """Return the rows of each task, on the disk; DataError if a file is broken."""
        shape = (self.samples, self.layout.size)
        return [mapped(self._file(task), shape, self.dtype) for task in self.tasks]

    def remove(self) -> None:
        """Remove the files."""
        for task in self.tasks:
            with suppress(OSError):
                self._file(task).unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def _file(self, task: str) -> Path:
        return self.folder / f"{task}.npy"


def products(one: Rows, other: Rows) -> dict[str, Array]:
    """Return products [n, n] of the rows of one with those of the other, by group and of all, in float64."""
    left, right = one.read(), other.read()
    count = len(one.tasks) * one.samples
    found = {}
    width = max(1, _NUMBERS // count)
    for group, of in one.layout.groups.items():
        total = np.zeros((count, count))
        for start in range(of.start, of.stop, width):
            part = slice(start, min(of.stop, start + width))
            total += _columns(left, part) @ _columns(right, part).T
        found[group] = total
    return {ALL: sum(found.values(), np.zeros((count, count))), **found}


def _columns(rows: Sequence[npt.NDArray[Any]], part: slice) -> Array:
    return np.concatenate([one[:, part] for one in rows]).astype(np.float64)


def plan(subjects: Sequence[Subject[Any]], samples: int) -> Table:
    """Return columns and rows that say what it takes on the disk; UsageError if a task has fewer samples."""
    refuse_too_many(subjects, samples)
    rows = []
    for one in subjects:
        count, size = len(one.chosen.tasks) * samples, one.needs.parameters
        room = count * size * np.dtype(stored_dtype(count, size)).itemsize
        rows.append([one.label, f"{len(one.chosen.tasks)} x {samples} = {count:,}", f"{size:,}", f"{room / GIB:.3f}"])
    return ("model", "samples n", "parameters P", "n x P on disk, GiB"), rows


def refuse_too_many(subjects: Sequence[Subject[Any]], samples: int) -> None:
    """Raise a UsageError if a task of a model has fewer training samples."""
    there, task = min((there, task) for one in subjects for task, there in one.chosen.sizes.items())
    if there < samples:
        problem = f"--fisher is {samples}, but {task} has {there} training samples."
        raise UsageError(problem, f"Give {there} at most, or leave the task out with --tasks.")


def measure(subjects: Sequence[Subject[Any]], choice: Choice, samples: int, output: Path) -> FisherDocument:
    """Measure models and compare the others with the first; write `fisher.json` and return it.

    `choice` and the subjects have batches of one sample. UsageError if a task has fewer samples; RunError if the folder
    holds another measurement; errors of `open` and `Rows.gather`.
    """
    refuse_too_many(subjects, samples)
    labels = [one.label for one in subjects]
    known = fisher.read_fisher(output / FILE) if (output / FILE).exists() else None
    if known and [one.label for one in known.models] != labels:
        known = None
    kept = [_gathered(one, choice, samples, output / one.label, gather=known is None) for one in subjects]
    document = known or _document(kept)
    write_atomically(output / FILE, canonical_json(document.model_dump(mode="json"), indent=2) + "\n")
    # Its parts have the order of the file, whether they were measured now or before.
    found = fisher.read_fisher(output / FILE)
    for label, files in fisher.csv_files(found).items():
        for name, text in files.items():
            write_atomically(output / label / name, text)
    for _, rows in kept:
        rows.remove()
    return found


def _gathered(
    subject: Subject[Any], choice: Choice, samples: int, folder: Path, *, gather: bool
) -> tuple[dict[str, Any], Rows]:  # fmt: skip
    """Return what was measured of a model and its gradients; the model is let go of."""
    source: Opened = subject.open()
    tasks = subject.chosen.tasks
    told: dict[str, Any] = {
        "connector": source.connector, "fingerprint": source.fingerprint, "tasks": list(tasks),
        "data": dict(subject.chosen.data), "samples": samples, "seed": source.seed, "precision": choice.precision,
        "draws": subject.draws,
    }  # fmt: skip
    agree(folder / _CONDITIONS, told)
    rows = Rows(folder=folder / "fisher", layout=source.layout, tasks=tasks, samples=samples)
    if gather:
        with meter(f"Gradients of {subject.label}", len(tasks) * samples, done=rows.done()) as progress:
            rows.gather(source, progress)
    return {**told, "tasks": tasks, "label": subject.label}, rows


def _document(kept: Sequence[tuple[dict[str, Any], Rows]]) -> FisherDocument:
    models, comparisons = list[FisherModel](), list[Comparison]()
    (first, first_rows), first_grams = kept[0], dict[str, Array]()
    for told, rows in kept:
        grams, weights = products(rows, rows), fisher.resampled(len(rows.tasks), rows.samples, seed=told["seed"])
        sizes = {ALL: rows.layout.size, **{name: of.stop - of.start for name, of in rows.layout.groups.items()}}
        groups = {group: fisher.part_of(gram, weights, parameters=sizes[group]) for group, gram in grams.items()}
        models.append(FisherModel(**told, groups=groups))
        first_grams = first_grams or grams
        if rows is not first_rows and all(told[name] == first[name] for name in ("tasks", "data", "seed")):
            cross = products(first_rows, rows) if rows.layout == first_rows.layout else {}
            labels = (first["label"], told["label"])
            comparisons.append(fisher.compare(labels, first_grams, grams, cross, weights, seed=told["seed"]))
    return FisherDocument(models=tuple(models), comparisons=tuple(comparisons))
