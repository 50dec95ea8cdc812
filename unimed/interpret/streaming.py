"""Gradients go by in two passes, and what Eqs. 2 to 5 need of them stays: T·P numbers on the disk, a few P in memory.

Pass 1 keeps of each task the mean of its gradients made of length one, and of all tasks the sums of Eq. 5; pass 2 sees
the same batches again and multiplies. A third pass sees T times as many batches of one task: what Eq. 5 says of T tasks
that are all the same. Each task of each pass is kept when it is through, so a killed measurement goes on there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import canonical_json, replaced_when_whole, write_atomically
from medbench.tasks.validation import parse_json_file
from medbench.unimed.interpret.document import ALL, BINS, Record
from medbench.unimed.interpret.interference import Bins, binned

if TYPE_CHECKING:
    from medbench.tasks.foundation.console import Meter

BOUND = 4 << 30  # Bytes of T·P numbers up to which they are float64; float32 beyond.
_CHUNK = 1 << 22
_ROOM = 0.8  # Share of a GPU's free memory that the T·P numbers may take there.
_SUMS = 4  # Σ m, Σ |m|, and the same with random signs.
Kept = TypeVar("Kept", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the parameters of each group lie in a flat gradient."""

    names: tuple[str, ...]  # In their order.
    groups: Mapping[str, slice]  # One after the other, without gaps.

    @classmethod
    def of(cls, parameters: Mapping[str, torch.Tensor], group_of: Callable[[str], str]) -> "Layout":
        """Return the layout of parameters by the group of each name."""
        names = sorted(parameters, key=group_of)
        groups: dict[str, slice] = {}
        end = 0
        for name in names:
            group, start, end = group_of(name), end, end + parameters[name].numel()
            groups[group] = slice(groups[group].start if group in groups else start, end)
        return cls(names=tuple(names), groups=groups)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return max((one.stop for one in self.groups.values()), default=0)


class Step(NamedTuple):
    """What one batch gives."""

    gradient: torch.Tensor  # [P], zeros where the loss does not depend on a parameter.
    loss: float
    routing: tuple[float, ...]  # Mean weight of each expert; empty without experts.


class Source(Protocol):
    """Where gradients come from; the same task and number give the same bits again."""

    @property
    def layout(self) -> Layout:
        """Where the parameters lie in a gradient."""

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks, in their order."""

    @property
    def device(self) -> torch.device:
        """Where gradients are made."""

    def steps(self, task: str, first: int, count: int) -> Iterator[Step]:
        """Yield what the batches `first` to `first + count` of a task give."""


class Count(Record):
    """`Bins` as a record."""

    shared: tuple[int, ...] = (0,) * BINS
    total: float = 0.0
    single: int = 0
    silent: int = 0

    @classmethod
    def of(cls, bins: Bins) -> "Count":
        """Return the record of bins."""
        return cls(**asdict(bins))

    def bins(self) -> Bins:
        """Return the bins of the record."""
        return Bins(**self.model_dump())


Counts = dict[str, Count]


class FirstPass(Record):
    """What is kept of a task's first pass, lists by batch."""

    squares: dict[str, tuple[float, ...]]  # Squared lengths of the gradient in each group.
    losses: tuple[float, ...]
    routing: tuple[tuple[float, ...], ...]
    halves: Counts  # Scores of the two halves of the batches as if they were two tasks.


class SecondPass(Record):
    """What is kept of a task's second pass."""

    pulls: dict[str, tuple[tuple[float, ...], ...]]  # By group, u_j·g^b [T, n].
    half: dict[str, tuple[float, ...]]  # By group, the same with u of the task's own first half, for the second half.


class Scores(Record):
    """Scores of all tasks together, by group."""

    tasks: Counts
    flipped: Counts  # The same where each batch has a random sign; empty for copies.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """A measurement of a source in a folder of its own; `copied` is the task of the third pass."""

    folder: Path
    source: Source
    batches: int
    copied: str
    seed: int

    def run(self, progress: "Meter") -> None:
        """Do what is not done yet; RunError if a loss is no number or the disk is full, DataError if a file is broken.

        `progress` counts batches.
        """
        tasks = self.source.tasks
        for place, task in enumerate(tasks):
            if not self._record("pass1", task).exists():
                self._first(place, task, progress)
        if not self.scores_file.exists():
            self._score("sums", self.scores_file)
        for task in tasks:
            if not self._record("pass2", task).exists():
                self._second(task, progress)
        if not self.copies_file.exists():
            self._copies(progress)
        self._remove("*.npy")

    def done(self) -> int:
        """Return how many batches need not be seen again."""
        tasks = self.source.tasks
        known = sum(self._record(name, task).exists() for name in ("pass1", "pass2") for task in tasks)
        return (known + (len(tasks) if self.copies_file.exists() else self._last("copies"))) * self.batches

    @property
    def scores_file(self) -> Path:
        """The scores of the tasks."""
        return self.folder / "scores.json"

    @property
    def copies_file(self) -> Path:
        """The scores of as many copies of one task."""
        return self.folder / "copies.json"

    def first(self, task: str) -> FirstPass:
        """Return the first pass of a task."""
        return _read(FirstPass, self._record("pass1", task))

    def second(self, task: str) -> SecondPass:
        """Return the second pass of a task."""
        return _read(SecondPass, self._record("pass2", task))

    def _record(self, name: str, task: str) -> Path:
        return self.folder / f"{name}-{task}.json"

    def _unit(self, task: str) -> Path:
        return self.folder / f"unit-{task}.npy"

    @property
    def _dtype(self) -> npt.DTypeLike:
        return stored_dtype(len(self.source.tasks), self.source.layout.size)

    def _first(self, place: int, task: str, progress: "Meter") -> None:
        """Gather u and the means of one task; the sums are written before the record that says that they are there."""
        layout, squares = self.source.layout, _lists(self.source.layout)
        signs = np.random.default_rng([self.seed, place]).choice([-1.0, 1.0], size=self.batches)
        unit, early, late, flipped = self._zeros(4)
        losses, routing, middle = [], [], self.batches // 2
        for number, step in enumerate(self._steps(task, 0, progress)):
            gradient = step.gradient
            for group, square in _dots(layout, gradient, gradient).items():
                squares[group].append(square)
            norm = squares[ALL][-1] ** 0.5
            _add(unit, gradient, 1 / norm / self.batches if norm else 0.0)
            _add(early if number < middle else late, gradient, 1.0)
            _add(flipped, gradient, float(signs[number]))
            losses.append(step.loss)
            routing.append(step.routing)
        self._write_sums("sums", place, (early + late) / self.batches, flipped / self.batches)
        with replaced_when_whole(self._unit(task)) as path:
            new_array(path, tuple(unit.shape), self._dtype)[:] = unit.cpu().numpy()
        halves = _binned(layout, *_of_halves(early / max(1, middle), late / (self.batches - middle)))
        record = FirstPass(squares=_fixed(squares), losses=tuple(losses), routing=tuple(routing), halves=halves)
        _write(record, self._record("pass1", task))
        self._remove(f"sums-{place:04d}.npy")

    def _second(self, task: str, progress: "Meter") -> None:
        layout, tasks = self.source.layout, self.source.tasks
        units = self._units()
        [half], middle = self._zeros(1), self.batches // 2
        norms = [square**0.5 for square in self.first(task).squares[ALL]]
        pulls: dict[str, list[list[float]]] = {group: [[] for _ in tasks] for group in (ALL, *layout.groups)}
        with_half = _lists(layout)
        for number, step in enumerate(self._steps(task, 0, progress)):
            for place, unit in enumerate(units):
                for group, pull in _dots(layout, unit, step.gradient).items():
                    pulls[group][place].append(pull)
            if number < middle:
                _add(half, step.gradient, 1 / norms[number] / middle if norms[number] else 0.0)
                continue
            for group, pull in _dots(layout, half, step.gradient).items():
                with_half[group].append(pull)
        record = SecondPass(pulls={group: _fixed_rows(rows) for group, rows in pulls.items()}, half=_fixed(with_half))
        _write(record, self._record("pass2", task))

    def _copies(self, progress: "Meter") -> None:
        for place in range(self._last("copies"), len(self.source.tasks)):
            [mean] = self._zeros(1)
            for step in self._steps(self.copied, place * self.batches, progress):
                _add(mean, step.gradient, 1 / self.batches)
            self._write_sums("copies", place, mean, torch.zeros_like(mean))
            self._remove(f"copies-{place:04d}.npy")
        self._score("copies", self.copies_file)

    def _steps(self, task: str, first: int, progress: "Meter") -> Iterator[Step]:
        return finite_steps(self.source.steps(task, first, self.batches), task, progress)

    def _zeros(self, count: int) -> list[torch.Tensor]:
        size, dtype = self.source.layout.size, torch.from_numpy(np.empty(0, self._dtype)).dtype
        return [torch.zeros(size, dtype=dtype, device=self._place(count)) for _ in range(count)]

    def _units(self) -> list[torch.Tensor]:
        """Return the u of all tasks: where the gradients are made, or, without the room, on the disk."""
        tasks, size = self.source.tasks, self.source.layout.size
        found = [torch.from_numpy(mapped(self._unit(task), (size,), self._dtype)) for task in tasks]
        place = self._place(len(tasks))
        return found if place.type == "cpu" else [one.to(place) for one in found]

    def _place(self, vectors: int) -> torch.device:
        """Return the GPU that makes the gradients if it has room for so many vectors of P numbers, or else the CPU."""
        device = self.source.device
        needed = vectors * self.source.layout.size * np.dtype(self._dtype).itemsize
        fits = device.type == "cuda" and needed < _ROOM * torch.cuda.mem_get_info(device)[0]
        return device if fits else torch.device("cpu")

    def _last(self, name: str) -> int:
        """Return how many tasks are in the newest sums."""
        return max((int(file.stem.rpartition("-")[2]) for file in self.folder.glob(f"{name}-*.npy")), default=0)

    def _write_sums(self, name: str, place: int, *means: torch.Tensor) -> None:
        """Write the sums of the tasks up to and with this one; the last row counts the tasks that reach a parameter."""
        size = self.source.layout.size
        shape, dtype = (_SUMS + 1, size), self._dtype
        before = mapped(self._sums(name, place), shape, dtype) if place else None
        with replaced_when_whole(self._sums(name, place + 1)) as path:
            now = new_array(path, shape, dtype)
            for part in _chunks(size):
                mean, flipped = (one[part].cpu().numpy() for one in means)
                rows = np.stack([mean, abs(mean), flipped, abs(flipped), mean != 0])
                now[:, part] = rows if before is None else rows + before[:, part]
            now.flush()

    def _sums(self, name: str, count: int) -> Path:
        return self.folder / f"{name}-{count:04d}.npy"

    def _score(self, name: str, file: Path) -> None:
        tasks = len(self.source.tasks)
        sums = mapped(self._sums(name, tasks), (_SUMS + 1, self.source.layout.size), self._dtype)
        # Copies of one task reach the same parameters, each of them as often as there are copies.
        both = Scores(
            tasks=_binned(self.source.layout, sums[0], sums[1], sums[4]),
            flipped=_binned(self.source.layout, sums[2], sums[3], sums[4]) if name == "sums" else {},
        )  # fmt: skip
        _write(both, file)
        self._remove(f"{name}-*.npy")

    def _remove(self, pattern: str) -> None:
        for file in self.folder.glob(pattern):
            with suppress(OSError):
                file.unlink()


def finite_steps(steps: Iterator[Step], task: str, progress: "Meter") -> Iterator[Step]:
    """Yield steps of a task, counted by `progress`; RunError if a loss or a gradient is no number."""
    progress.advance(0, status=task)
    for step in steps:
        if not np.isfinite(step.loss) or not bool(torch.isfinite(step.gradient).all()):
            problem = f"A batch of {task} has the loss {step.loss}, or a gradient that is no number."
            raise RunError(problem, "Measure with --precision fp32, or look at the checkpoint.")
        # Only a GPU adds up where it computes; others may have no float64.
        yield step if step.gradient.is_cuda else step._replace(gradient=step.gradient.cpu())
        progress.advance()


def stored_dtype(tasks: int, parameters: int) -> npt.DTypeLike:
    """Return the type of the numbers that are kept on the way."""
    return np.float64 if tasks * parameters * np.dtype(np.float64).itemsize <= BOUND else np.float32


def scores_of(path: Path) -> Scores:
    """Return scores from their file."""
    return _read(Scores, path)


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, min(size, start + _CHUNK)) for start in range(0, size, _CHUNK))


def _add(into: torch.Tensor, gradient: torch.Tensor, factor: float) -> None:
    """Add a gradient, which may lie elsewhere."""
    for part in _chunks(len(into)):
        into[part].add_(gradient[part].to(into.device), alpha=factor)


def _dots(layout: Layout, one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """Return the product of two vectors in each group and in all, in float64."""
    found = {group: _dot(one[of], other[of]) for group, of in layout.groups.items()}
    return {ALL: sum(found.values()), **found}


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    device = one.device
    return sum(float(one[part].double() @ other[part].to(device).double()) for part in _chunks(len(one)))


def _of_halves(early: torch.Tensor, late: torch.Tensor) -> list[npt.NDArray[Any]]:
    found = (early + late, early.abs() + late.abs(), (early != 0).to(torch.uint8) + (late != 0))
    return [one.cpu().numpy() for one in found]


def _binned(
    layout: Layout, total: npt.NDArray[Any], absolute: npt.NDArray[Any], reached: npt.NDArray[Any]
) -> Counts:  # fmt: skip
    """Return the counts of each group, and of all."""
    found = {}
    for group, of in layout.groups.items():
        parts = (slice(of.start + one.start, of.start + one.stop) for one in _chunks(of.stop - of.start))
        found[group] = sum(
            (
                binned(total[one].astype(np.float64), absolute[one].astype(np.float64), reached[one].astype(np.uint8))
                for one in parts
            ),
            Bins(),
        )
    return {group: Count.of(bins) for group, bins in {ALL: sum(found.values(), Bins()), **found}.items()}


def _lists(layout: Layout) -> dict[str, list[float]]:
    return {group: [] for group in (ALL, *layout.groups)}


def _fixed(lists: Mapping[str, list[float]]) -> dict[str, tuple[float, ...]]:
    return {group: tuple(values) for group, values in lists.items()}


def _fixed_rows(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows))


def new_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> "np.memmap[Any, np.dtype[Any]]":
    """Return a new array on the disk, in the place of what is there."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def mapped(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array on the disk, changes to which stay in memory; DataError if it is not what was written."""
    hint = f"Delete the folder {path.parent}; the same command measures it again."
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError, TokenError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint) from error
    if found.shape != shape or found.dtype != dtype:
        raise DataError(f"{path} holds {found.dtype} {found.shape}, not {np.dtype(dtype)} {shape}.", hint)
    return found


def _write(record: Record, path: Path) -> None:
    write_atomically(path, canonical_json(record.model_dump(mode="json")) + "\n")


def _read(kind: type[Kept], path: Path) -> Kept:
    return parse_json_file(kind, path)
