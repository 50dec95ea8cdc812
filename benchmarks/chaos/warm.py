"""Processes that have imported all that a command needs: a command costs a fork, not the start of an interpreter."""

import atexit
import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from medbench.harness.cli import main
from medbench.harness.identity import code_of_all

SECONDS = 120.0
_MODULES = "modules.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a command ended."""

    pid: int
    code: int | None  # Its exit code, -9 for SIGKILL and so on; None if it was still running after SECONDS.
    out: str
    err: str
    trace: str  # What strace wrote.
    seconds: float


Tracing = Callable[[int], Sequence[str]]
"""Returns the words of strace for the process of a number."""


def command(words: Sequence[str], logs: Path, tracing: Tracing | None = None) -> End:
    """Run `medbench WORDS...` in a fork of this process to its end, under strace if that is asked for."""
    logs.mkdir(parents=True, exist_ok=True)
    trace = logs / "trace"
    trace.write_text("")
    ready, go = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        os.close(go)
        _be_medbench(words, logs, ready)
    os.close(ready)
    tracer = None if tracing is None else _attached(tracing(pid), pid, trace, logs)
    os.close(go)
    code = _ended(pid)
    if tracer is not None:
        tracer.wait()
    out, err = ((logs / name).read_text("utf-8", "replace") for name in ("out", "err"))
    seconds = time.monotonic() - started
    return End(pid=pid, code=code, out=out, err=err, trace=trace.read_text("utf-8", "replace"), seconds=seconds)


def _be_medbench(words: Sequence[str], logs: Path, ready: int) -> NoReturn:
    code: object = 70
    try:
        os.setsid()
        # Where only a parent may trace (Yama), its sister strace may not without this: PR_SET_PTRACER, anybody.
        ctypes.CDLL(None).prctl(0x59616D61, -1)
        os.read(ready, 1)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["medbench", *words]
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - a traceback is what is looked for, and nothing may go on as the parent
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # noqa: SLF001 - as an interpreter that ends does
        sys.stdout.flush()
        (logs / _MODULES).write_text("\n".join(sys.modules))
    os._exit(code if isinstance(code, int) else int(code is not None))


def _attached(words: Sequence[str], pid: int, trace: Path, logs: Path) -> "subprocess.Popen[bytes]":
    """Return strace at work on a process, which it holds when this returns."""
    told = logs / "strace"
    with told.open("wb") as stream:
        line = ["strace", "-f", "-y", "-s", "0", "-o", str(trace), *words, "-p", str(pid)]
        tracer = subprocess.Popen(line, stderr=stream)  # noqa: S603 - words of this package
    while b"attached" not in told.read_bytes():
        if tracer.poll() is not None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeError(told.read_text("utf-8", "replace"))
        time.sleep(0.001)
    return tracer


def _ended(pid: int) -> int | None:
    handle = os.pidfd_open(pid)
    ended, _, _ = select.select([handle], [], [], SECONDS)
    os.close(handle)
    # What it started goes with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if ended else None


def warm_up(logs: Path) -> None:
    """Import what the last command had imported, so that the next forks find it; hash our code once for all."""
    for name in (logs / _MODULES).read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    code_of_all()
    # Pages that the collector never looks at are not copied in every fork.
    gc.freeze()
