"""Workers as processes of this machine, one for each GPU or several on its processors.

A worker dies with its driver, also after `kill -9`: it reads a pipe that ends with it. It leads a session of its own,
so that Ctrl-C reaches the driver alone, and all that it started is ended with it. What it writes to its terminal goes
to a file that has no name; of a dead one the last line is told.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from medbench.harness.workers.inside import Died, Inside, Job, Message, Work
from medbench.harness.workers.pool import Crew

_LAST_BYTES = 4000
_DYING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Process:
    """A worker's process, this end of its pipe, and what it writes to its terminal."""

    process: "subprocess.Popen[bytes]"
    pipe: "Connection[Any, Any]"
    written: int  # A file without a name.

    def end(self) -> str:
        """End it with all that it started; return how it ended."""
        with suppress(subprocess.TimeoutExpired):
            # One that is dying is let die, so that its own reason is known.
            self.process.wait(0.5)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            # One that waits for a broken device may never end.
            self.process.wait(_DYING_SECONDS)
        self.pipe.close()
        last = os.pread(self.written, _LAST_BYTES, max(0, os.fstat(self.written).st_size - _LAST_BYTES))
        os.close(self.written)
        return _how(self.process.returncode, last.decode(errors="replace"))


def _how(code: int | None, last: str) -> str:
    if code is None:
        return "it cannot be ended"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"{name}, as when memory runs out" if -code == signal.SIGKILL else name
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1][:300]}" if lines else f"exit code {code}"


class Processes(Crew):
    """Workers of this machine; `gpus` are the numbers that each may see, if they are to have some."""

    def __init__(self, count: int, gpus: list[str] | None = None) -> None:
        self.count = self.sharers = count
        self.what = f"{count} {'processes' if count > 1 else 'process'}"
        if gpus:
            self.what += f", GPUs {'; '.join(gpus)}"
        self._gpus = gpus
        self._workers: dict[int, _Process] = {}

    def start(self, number: int, job: Job) -> None:
        """Start a process and send it its job."""
        ours, theirs = Pipe()
        written, name = tempfile.mkstemp(prefix="medbench-worker-")
        Path(name).unlink()
        with theirs:
            command = [sys.executable, "-P", "-X", "faulthandler", "-m", __name__, str(theirs.fileno())]
            process = subprocess.Popen(  # noqa: S603 - this very interpreter and module
                command, pass_fds=[theirs.fileno()], env=self._environment(number), stdin=subprocess.DEVNULL,
                stdout=written, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._workers[number] = _Process(process, ours, written)
        with suppress(OSError):
            # Of one that died at once is heard soon.
            ours.send(job)

    def _environment(self, number: int) -> Mapping[str, str]:
        threads = max(1, processors() // self.count)
        own = {"CUDA_VISIBLE_DEVICES": self._gpus[number]} if self._gpus else {}
        # What was imported from elsewhere here is found there too.
        path = os.pathsep.join(filter(None, sys.path))
        return {"OMP_NUM_THREADS": str(threads), **os.environ, **own, "PYTHONPATH": path}

    def give(self, number: int, work: Work) -> None:
        """Send it through the pipe; of one that died meanwhile is heard soon."""
        with suppress(OSError):
            self._workers[number].pipe.send(work)

    def hear(self, seconds: float) -> list[tuple[int, Message]]:
        """Return all that they have said: the writer syncs its disk once for it."""
        speaking = wait([worker.pipe for worker in self._workers.values()], seconds)
        numbers = [number for number, worker in self._workers.items() if worker.pipe in speaking]
        return [(number, message) for number in numbers for message in self._read(number)]

    def _read(self, number: int) -> Iterator[Message]:
        worker = self._workers[number]
        try:
            while worker.pipe.poll():
                message: Message = worker.pipe.recv()
                yield message
        except (EOFError, OSError):
            del self._workers[number]
            yield Died(reason=worker.end())

    def end(self, number: int) -> None:
        """Kill it."""
        worker = self._workers.pop(number)
        worker.process.kill()
        worker.end()

    def dismiss(self) -> None:
        """Kill them; answers that were heard are kept by others."""
        for worker in self._workers.values():
            worker.process.kill()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Be a worker: the first argument is a pipe that brings a job, then work, and ends with the driver."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    works: SimpleQueue[Work] = SimpleQueue()
    inside = Inside(pipe.recv())
    Thread(target=_listen, args=(pipe, works), daemon=True).start()
    for message in inside.load():
        pipe.send(message)
    while True:
        for message in inside.do(works.get()):
            pipe.send(message)


def _listen(pipe: "Connection[Any, Any]", works: "SimpleQueue[Work]") -> None:
    with suppress(EOFError, OSError):
        while True:
            works.put(pipe.recv())
    # The driver is gone. Nobody waits for what is under way, here or in processes that were started here.
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
