"""One command, tried at one call: what it was done to, how it ended, and whether the same command made it good."""

import io
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError

import torch

from benchmarks.chaos import warm
from benchmarks.chaos.calls import ERRORS, LISTING, Point, points
from benchmarks.chaos.scenarios import Room, Scenario, reset
from benchmarks.chaos.warm import End
from medbench.tasks.foundation.files import fingerprint

KILL, ALL = "SIGKILL", 99
_KILLED, _ALIKE = -9, 4
_TIMES = re.compile(rb'"(elapsed_seconds|samples_per_second|tokens_per_second)":[0-9.e-]+')
_TIMING = re.compile(rb'"timing":\{.*?\},"routing":')
Masked = Callable[[bytes], bytes | None]
MAY_DIFFER: Mapping[str, Masked] = {
    # Where the time of a run went: other numbers at every run, and fewer calls when one goes on.
    "env.json": lambda _: b"there",
    # The report shows the same numbers.
    "report.html": lambda data: _TIMING.sub(b"", data),
    # A training's log holds seconds and speeds beside the losses.
    "train_log.jsonl": lambda data: _TIMES.sub(b"", data),
    # Whoever meets what nobody foresaw may want to report it.
    "traceback-": lambda _: None,
    # A state that was read from a checkpoint has lists for tuples, and zeros for what was never moved.
    "optimizer.pt": lambda data: _values(data),  # noqa: PLW0108 - it is defined below
    # TensorBoard's own files: names and records hold the time, and a training that goes on begins another.
    "events.out.tfevents": lambda _: None,
}
"""What may differ between an undisturbed command and one that went on, by how a file's name begins."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A call of a scenario's command, and what happens there: `SIGKILL`, or the name of an error."""

    point: Point
    event: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a trial; `fault` says what did not end well."""

    trial: Trial
    fault: str
    told: str = ""  # What the command said.


class Bench:
    """A scenario made ready: its start, the calls of its undisturbed command, and what that leaves."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.room = scenario, Room(path=folder)
        shutil.rmtree(folder, ignore_errors=True)
        for made in (self.room.work, self.room.logs):
            made.mkdir(parents=True)
        scenario.prepare(self.room)
        self._start = folder / "start"
        shutil.copytree(self.room.work, self._start, symlinks=True)
        first = self._undisturbed()
        warm.warm_up(self.room.logs)
        self.wanted = contents(self.room.work)
        listed = self._undisturbed(lambda _: LISTING)
        self.points = points(listed.trace, self.room.work, listed.pid)
        self._made_good: dict[str, str] = {}  # What came of the same command, by what the disturbed one left.
        if (again := contents(self.room.work)) != self.wanted:
            raise RuntimeError(f"{scenario.name}: two runs differ in {differences(again, self.wanted)}: {first.err}")

    def _undisturbed(self, tracing: warm.Tracing | None = None) -> End:
        reset(self.room, self._start)
        if (end := self._command(tracing)).code != self.scenario.code:
            raise RuntimeError(f"{self.scenario.name} ended with {end.code}: {end.err}")
        return end

    def _command(self, tracing: warm.Tracing | None = None, *more: str) -> End:
        words = [str(word) for word in self.scenario.words(self.room)]
        return warm.command([*words, *more], self.room.logs, tracing)

    def trials(self, errors_each: int) -> list[Trial]:
        """Return a kill and so many errors at every call that is tried."""
        each, found = min(errors_each, self.scenario.errors_each), []
        for number, point in enumerate(_thinned(self.points)[:: self.scenario.every]):
            # That another writer holds what becomes a file would be a lie: it would make that file.
            errors = [one for one in ERRORS[point.name] if (one, point.path[-8:]) != ("EAGAIN", ".partial")]
            # Where not all are tried, the next call takes the next ones.
            turned = [errors[(number + turn) % len(errors)] for turn in range(min(each, len(errors)))]
            found += [Trial(point, event) for event in (KILL, *turned)]
        return found

    def sample(self, seed: int = 0) -> list[Trial]:
        """Return a kill at a call of each kind and place, and each error at one call of each kind."""
        places: dict[tuple[str, str], Trial] = {}
        shuffled = random.Random(seed).sample(every := self.trials(ALL), len(every))
        for trial in shuffled:
            where = Path(trial.point.path).suffix if trial.event == KILL else ""
            places.setdefault((f"{trial.point.name} {where}", trial.event), trial)
        return list(places.values())

    def verdict(self, trial: Trial) -> Verdict:
        """Do it: disturb the command, look at how it ended, give it again, and look at what is there."""
        reset(self.room, self._start)
        what = "signal=KILL" if trial.event == KILL else f"error={trial.event}"
        end = self._command(lambda pid: trial.point.inject(pid, what))
        left = contents(self.room.work)
        faults = list(self._faults(trial, end, left))
        state = fingerprint({name: sha256(data).hexdigest() for name, data in left.items()})
        if state not in self._made_good:
            self._made_good[state] = self._fault_of_going_on()
        return Verdict(trial, "; ".join(filter(None, (*faults, self._made_good[state]))), end.err)

    def _fault_of_going_on(self) -> str:
        """Give the command again; return what is not as if it had never been disturbed."""
        again = self._command()
        if self.scenario.goes_on and self.scenario.goes_on in again.err and again.code == 1:
            again = self._command(None, self.scenario.goes_on)
        if again.code != self.scenario.code:
            return f"the same command ended with {again.code}: {again.err.strip()[-600:]}"
        different = differences(contents(self.room.work), self.wanted)
        return f"after the same command: {different}" if different else ""

    def _faults(self, trial: Trial, end: End, there: Mapping[str, bytes]) -> Iterator[str]:
        if trial.event == KILL and end.code != _KILLED:
            yield f"was not met: it ended with {end.code}"
        if trial.event != KILL and "(INJECTED)" not in end.trace:
            yield "was not met"
        if end.code is None:
            yield f"ran longer than {warm.SECONDS:.0f} s"
        elif trial.event != KILL and end.code not in (self.scenario.code, 1):
            yield f"exit code {end.code}"
        if "Traceback (most recent call last)" in end.err:
            yield f"a traceback: {end.err.strip().splitlines()[-1]}"
        if "did not foresee" in end.err:
            yield f"not foreseen: {end.err.strip()[-300:]}"
        if end.code == 1 and "Error: " not in end.err:
            yield f"exit code 1 without a sentence: {end.err.strip()[-300:]}"
        promised = self.scenario.promise and any(self.room.work.glob(self.scenario.promise))
        # What could not be removed is too much, but nothing is missing: the next command has another go.
        if end.code == self.scenario.code and (left := differences(there, self.wanted, litter=False)):
            yield f"exit code {end.code}, but {left}"
        elif promised and (left := differences(there, self.wanted, litter=False)):
            yield f"{self.scenario.promise} is there, but {left}"


def _values(data: bytes) -> bytes:
    """Return what a torch file holds by its path, of tensors those that are not zero, whatever they were written as."""
    found: dict[str, str] = {}

    def gather(path: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            if value.any():
                found[path] = sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        elif isinstance(value, dict | list | tuple):
            for name, part in value.items() if isinstance(value, dict) else enumerate(value):
                gather(f"{path}/{name}", part)
        else:
            found[path] = repr(value)

    try:
        gather("", torch.load(io.BytesIO(data), weights_only=True))
    except (RuntimeError, EOFError, ValueError, UnpicklingError):
        # A command that was killed while it wrote.
        return data
    return fingerprint(found).encode()


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Return calls without most of those that are alike: of a file written in many parts the first and every eighth."""
    return [point for point in points if point.number <= _ALIKE or point.number % (2 * _ALIKE) == 0]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file and folder below a folder by its path, without what may differ."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mask = next((mask for name, mask in MAY_DIFFER.items() if path.name.startswith(name)), None)
        data = path.read_bytes() if path.is_file() else b"folder"
        if (kept := mask(data) if mask else data) is not None:
            found[path.relative_to(folder).as_posix()] = kept
    return found


def differences(there: Mapping[str, bytes], wanted: Mapping[str, bytes], *, litter: bool = True) -> str:
    """Return in words what is missing, other or too much; empty if nothing is."""
    missing = [name for name in wanted if name not in there]
    other = [name for name in wanted if name in there and there[name] != wanted[name]]
    more = [name for name in there if name not in wanted] if litter else []
    told = (("missing", missing), ("other", other), ("left over", more))
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told if names)


def counted(trials: Sequence[Trial]) -> tuple[int, int]:
    """Return how many kills and how many errors there are."""
    events = Counter(trial.event == KILL for trial in trials)
    return events[True], events[False]
