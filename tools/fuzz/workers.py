"""Batches of cases in processes of their own, which may hang, run out of memory or die; each case is judged there."""

import json
import mmap
import os
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from medbench.tasks.foundation.errors import MedbenchError
from tools.fuzz import ROOT
from tools.fuzz.bombs import BOMBS
from tools.fuzz.mutations import Form, case_of

SECONDS = 1.0
"""What one case may take of the processor."""
MEMORY = 512 << 20
"""Bytes that one case may take."""
_ROOM = 3 << 30  # Beyond what the parent has mapped; more is refused by the system.
_PATIENCE = 5  # After so many times its seconds a case is killed with its process.
_ASLEEP = 120.0  # So many seconds no case takes by the clock, however busy the machine is.
_PROGRESS = struct.Struct("<qdd")
SLOW = "over time"
KILLED = "killed: time or memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Something of the product that reads what others wrote, and how it is fed."""

    name: str
    form: Form
    read: Callable[[Path], object]  # Gets the folder that `build` made, with a case in `file`.
    seeds: Sequence[bytes] = ()  # What `file` holds after `build` if there are none.
    file: str = "input"
    build: Callable[[Path], object] = lambda _: None
    share: float = 10  # How many cases it gets beside the others: few where one takes long.
    seconds: float = SECONDS
    declared: tuple[type[Exception], ...] = (MedbenchError,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A case that ended as none may."""

    reader: str
    number: int
    what: str  # The same for all cases of one cause.


@dataclass(slots=True, kw_only=True)
class Tally:
    """How the cases of a reader ended."""

    cases: int = 0
    slowest: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def note(self, reader: str, number: int, ended: str, wrong: str, seconds: float) -> None:
        """Count one case."""
        self.cases += 1
        self.slowest = max(self.slowest, seconds)
        self.ended[ended] += 1
        if wrong:
            self.findings.append(Finding(reader=reader, number=number, what=wrong))

    def add(self, other: "Tally") -> None:
        """Add what another counted."""
        self.cases += other.cases
        self.slowest = max(self.slowest, other.slowest)
        self.ended.update(other.ended)
        self.findings += other.findings


class OverTimeError(BaseException):
    """A case took too long; no `except Exception` of what is tested catches it."""


def seeds_of(reader: Reader, folder: Path) -> Sequence[bytes]:
    """Return the seeds of a reader, whose folder is built."""
    return reader.seeds or ((folder / reader.file).read_bytes(),)


def case(reader: Reader, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Return a case by its number: the seeds as they are, the bombs of its form, then what is drawn."""
    bombs = BOMBS[reader.form]
    # Where there are few cases, other readers get other bombs.
    first = zlib.crc32(reader.name.encode()) % len(bombs)
    known = (*seeds, *bombs[first:], *bombs[:first])
    return (
        known[number] if number < len(known) else case_of(reader.form, seeds, Random(f"{seed}/{reader.name}/{number}"))
    )


def judged(reader: Reader, folder: Path, data: bytes) -> tuple[str, str, float]:
    """Return how a case ends (`value` or the kind of a declared error), what is wrong with that, and its seconds."""
    file, wrong = folder / reader.file, ""
    if file.parent != folder:
        file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    signal.setitimer(signal.ITIMER_PROF, reader.seconds * 2)
    peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        reader.read(folder)
        ended = "value"
    except reader.declared as error:
        ended, wrong = type(error).__name__, "memory: MemoryError" if _ran_out(error) else ""
    except OverTimeError:
        ended = SLOW
    except BaseException as error:  # noqa: BLE001 - that none gets through is what is tested
        ended, wrong = type(error).__name__, f"{type(error).__name__} in {_place(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    if seconds > reader.seconds:
        wrong = SLOW
    return ended, wrong or ("memory: too much" if taken > MEMORY else ""), seconds


def _ran_out(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """Return the last line of ours that an error passed."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(str(ROOT)) and "/fuzz/" not in name:
            place = f"{Path(name).relative_to(ROOT)}:{trace.tb_lineno}".removeprefix("src/medbench/")
        trace = trace.tb_next
    return place


TEMPLATES: dict[str, Path] = {}
"""What `build` made of a reader's folder, by its name: made once, copied for each batch."""


def in_child(work: Callable[[Callable[[Any], None]], None], is_late: Callable[[float], bool]) -> tuple[list[Any], bool]:
    """Return what work told (any JSON) in a process of its own, and whether it came to its end.

    It is killed when `is_late` says so of the seconds that the processor worked for it: others work here, too.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, this process never goes on as its parent.
        try:
            _confine()
            work(lambda told: _tell(send, told))
            _tell(send, _END)
        finally:
            os._exit(0)
    os.close(send)
    parts = []
    with os.fdopen(receive, "rb", buffering=0) as stream:
        while True:
            if select.select([stream], [], [], 0.1)[0]:
                part = stream.read(1 << 16)
                if not part:
                    break
                parts.append(part)
            elif is_late(_worked(child)):
                os.kill(child, signal.SIGKILL)
                break
    os.waitpid(child, 0)
    told = [json.loads(line) for line in b"".join(parts).splitlines()]
    return (told[:-1], True) if told[-1:] == [_END] else (told, False)


_END = "end"


def _tell(pipe: int, told: object) -> None:
    os.write(pipe, json.dumps(told).encode() + b"\n")


def _worked(process: int) -> float:
    """Return the seconds that the processor has worked for a process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _confine() -> None:
    """Bound what this process may take, and keep what it says to itself."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise OverTimeError

    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _ROOM, mapped + _ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, stop)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno() if hasattr(stream, "fileno") and _has_number(stream) else 1)


def _has_number(stream: Any) -> bool:  # noqa: ANN401 - a test may have put anything in its place
    try:
        stream.fileno()
    except (OSError, ValueError):
        return False
    return True


def run_batch(reader: Reader, seed: int, numbers: range, tally: Tally) -> None:
    """Run the cases of a batch and add how they ended; one that kills its process is found, and the rest goes on."""
    while numbers:
        progress = mmap.mmap(-1, _PROGRESS.size)
        progress[:] = _PROGRESS.pack(numbers.start, 0, time.monotonic())
        told, whole = in_child(partial(_cases, reader, seed, numbers, progress), partial(_is_late, reader, progress))
        reached = numbers.start + len(told)
        for number, (ended, wrong, seconds) in enumerate(told, start=numbers.start):
            tally.note(reader.name, number, ended, wrong, seconds)
        if not whole and reached < numbers.stop:
            tally.note(reader.name, reached, "killed", KILLED, 0.0)
        numbers = range(reached + (not whole), numbers.stop)


def _is_late(reader: Reader, progress: mmap.mmap, worked: float) -> bool:
    """Return whether the case that a process is at has had too much of the processor, or sleeps."""
    _, before, since = _PROGRESS.unpack(progress[:])
    return bool(worked - before > reader.seconds * _PATIENCE or time.monotonic() - since > _ASLEEP)


def _cases(reader: Reader, seed: int, numbers: range, progress: mmap.mmap, tell: Callable[[Any], None]) -> None:
    with _scratch(reader) as folder:
        seeds = seeds_of(reader, folder)
        for number in numbers:
            progress[:] = _PROGRESS.pack(number, time.process_time(), time.monotonic())
            data = case(reader, seeds, seed, number)
            found = judged(reader, folder, data)
            if found[1] == SLOW:
                # The first time may have had to import or compile something.
                found = judged(reader, folder, data)
            tell(found)


class _scratch:  # noqa: N801 - used like a function
    """A folder that a reader's `build` filled, gone afterwards."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108

    def __enter__(self) -> Path:
        template = TEMPLATES.get(self._reader.name)
        if template is None:
            self._reader.build(self._folder)
        else:
            shutil.copytree(template, self._folder, dirs_exist_ok=True)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def seeds_end(reader: Reader) -> tuple[set[str], float]:
    """Return how the seeds of a reader end here, and the seconds of one of them."""
    with _scratch(reader) as folder:
        seeds = seeds_of(reader, folder)
        ended = {judged(reader, folder, seed)[0] for seed in seeds}
        seconds = [judged(reader, folder, seed)[2] for seed in seeds]
    return ended, sum(seconds) / len(seconds)


def ended_so(reader: Reader, data: bytes) -> tuple[str, str]:
    """Return how data end in a process of its own, and what is wrong with that."""

    def work(tell: Callable[[Any], None]) -> None:
        with _scratch(reader) as folder:
            tell(judged(reader, folder, data))

    told, _ = in_child(work, lambda worked: worked > reader.seconds * _PATIENCE + 2)
    return (told[0][0], told[0][1]) if told else ("killed", KILLED)


def data_of(reader: Reader, seed: int, number: int) -> bytes:
    """Return the data of a case by its number."""
    with _scratch(reader) as folder:
        return case(reader, seeds_of(reader, folder), seed, number)


def smaller(reader: Reader, what: str, data: bytes, seconds: float = 10.0) -> bytes:
    """Return less data that end the same, without halves, quarters and so on, as far as so many seconds reach."""
    until = time.monotonic() + seconds
    again = True
    while again:
        again = False
        for start, end in _parts(data):
            if time.monotonic() > until:
                return data
            shorter = data[:start] + data[end:]
            if ended_so(reader, shorter)[1] == what:
                data, again = shorter, True
                break
    return data


def _parts(data: bytes) -> Iterator[tuple[int, int]]:
    size = len(data) // 2
    while size:
        for start in range(0, len(data), size):
            yield start, min(start + size, len(data))
        size //= 2
