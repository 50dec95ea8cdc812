"""One command of medbench in this process, and what it took by stage: seconds, and the most memory held.

`python -m benchmarks.soak_inside FILE WORD...` runs `medbench WORD...` and writes FILE, in which `stages` are what each
of those functions took that `STAGES` names, and the whole. Linux counts the most that a process ever held, and
forgets it when asked to, so that a stage's peak is exact and no thread has to look.
"""

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medbench.harness.cli import answer
from medbench.tasks.foundation.console import Meter, Terminal, heard_by
from medbench.tasks.foundation.files import canonical_json

STAGES = {
    "read": "medbench.harness.run:load_workload", "generate": "medbench.harness.run:generate",
    "score": "medbench.harness.finish:score_tasks", "audit": "medbench.leaderboard.pages:audit_after_run",
    "report": "medbench.leaderboard.pages:report_of",
}  # fmt: skip
"""Where the main path calls what is measured; no stage lies within another."""
MEGABYTE = 1_000_000
_SELF = Path("/proc/self")


def main() -> int:
    """Run the command and write what it took."""
    target, words = Path(sys.argv[1]), sys.argv[2:]
    took = Took()
    for stage, place in STAGES.items():
        took.watch(stage, place)
    listener = Counting()
    with heard_by(listener):
        whole = took.measured("whole", lambda: answer(words))()
    document = {"code": whole, "stages": took.stages, "progress": listener.progress, "lines": listener.lines}
    target.write_text(canonical_json(document), encoding="utf-8")
    return int(whole)


class Took:
    """Seconds and megabytes by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self._most = 0.0

    def watch(self, stage: str, place: str) -> None:
        """Measure a function, `module:name`, wherever that module calls it."""
        module, name = place.split(":")
        room: Any = importlib.import_module(module)
        setattr(room, name, self.measured(stage, getattr(room, name)))

    def measured(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, measured as a stage, to the end of what it yields if it does."""

        def run(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - any function
            self._note_most()
            before, started, cpu = resident(), time.perf_counter(), time.process_time()
            (_SELF / "clear_refs").write_text("5")

            def ended() -> None:
                self._note_most()
                most = self._most if stage == "whole" else _status("VmHWM")
                took = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
                took |= {"before": before, "peak": most, "after": resident()}
                self.stages[stage] = took

            found = function(*given, **named)
            ended()
            return _followed(found, ended) if isinstance(found, Iterator) else found

        return run

    def _note_most(self) -> None:
        self._most = max(self._most, _status("VmHWM"))


def _followed(found: Iterator[Any], ended: Callable[[], None]) -> Iterator[Any]:
    yield from found
    ended()


class Counting(Terminal):
    """The terminal, which also counts its lines and how far the progress came: seconds, done and megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.progress: list[tuple[float, int, float]] = []

    def say(self, text: str) -> None:
        """Count a line."""
        self.lines += 1
        super().say(text)

    def warn(self, text: str) -> None:
        """Count a line."""
        self.lines += 1
        super().warn(text)

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        """Note how far it comes."""
        with super().meter(label, total, done) as shown:
            yield _Noting(shown, self.progress, total)


class _Noting(Meter):
    """Notes a hundred moments of a progress."""

    def __init__(self, shown: Meter, progress: list[tuple[float, int, float]], total: int) -> None:
        self._shown, self._progress, self._step = shown, progress, max(1, total // 100)
        self._done = 0
        progress.append((time.perf_counter(), 0, resident()))

    def advance(self, count: int = 1, **shown: Any) -> None:
        self._shown.advance(count, **shown)
        before, self._done = self._done, self._done + count
        if before // self._step < self._done // self._step:
            self._progress.append((time.perf_counter(), self._done, resident()))


def resident() -> float:
    """Return the megabytes that this process holds."""
    return _status("VmRSS")


def _status(field: str) -> float:
    lines = (_SELF / "status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / MEGABYTE


if __name__ == "__main__":
    sys.exit(main())
