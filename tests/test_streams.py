"""Standard streams that are closed, full or left, limits of the machine, and interrupts: each ends as it should."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, medbench

from medbench.harness import cli
from medbench.tasks.foundation import console, streams
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, MedbenchError, SampleError, UsageError
from medbench.tasks.foundation.last_resort import explained
from medbench.tasks.foundation.shortages import shortage
from medbench.tasks.images import image_size
from medbench.tasks.metrics.java import JavaProgram, packaged_jar
from medbench.tasks.suite import prepare_mini_suite


def run_in_shell(line: str, limit: str = "") -> tuple[int, str]:
    """Return the exit code of `medbench` in a line of bash, a pipe's last failure, and what reached standard error."""
    command = " ".join(COMMAND)
    line = f"{limit} set -o pipefail; {line.replace('medbench', command)}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("medbench models | true", 0, ""), ("medbench run --help | true", 0, ""),
        ("medbench --help >/dev/full", EXIT_FAILED, "Standard output cannot be written to: No space left on device"),
        ("medbench models >/dev/full", EXIT_FAILED, "Standard output cannot be written to: No space left on device"),
        ("medbench models >&-", EXIT_FAILED, "Standard output cannot be written to: Bad file descriptor"),
        ("medbench nothing >&- 2>&-", 2, ""), ("medbench nothing 2>/dev/full", 2, ""),
        ("PYTHONIOENCODING=ascii medbench models", 0, ""),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_reader_may_leave_and_lost_results_are_an_error(line: str, code: int, says: str) -> None:
    ended, told = run_in_shell(line)
    assert (ended, "Traceback" in told, "Exception ignored" in told) == (code, False, False), told
    assert says in told


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_hears_it(tmp_path: Path) -> None:
    run = f"medbench run --model mock --tasks medqa --limit 3 --output-dir {tmp_path}"
    # What it would print at its end is lost in the second; all of it is in the run's folder, too.
    for line, code in ((f"{run}/pipe 2>&1 | true", 0), (f"{run}/closed <&- >&- 2>&-", EXIT_FAILED)):
        assert run_in_shell(line)[0] == code
    for name in ("pipe", "closed"):
        [folder] = [path for path in (tmp_path / name).iterdir() if path.is_dir()]
        assert (folder / "done").exists()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_what_nobody_reads_is_thrown_away(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    for kind in (streams.Results, streams.Talk):
        with kind(os.fdopen(os.dup(writer), "wb"), encoding="utf-8", errors="backslashreplace") as stream:
            for _ in range(3):
                stream.write("a result\n" * 20_000)
                stream.flush()


def test_results_that_a_disk_does_not_take_are_an_error_once() -> None:
    with streams.Results(Path("/dev/full").open("wb"), encoding="utf-8", errors="backslashreplace") as stream:
        stream.write("a \ud800 result\n")
        with pytest.raises(MedbenchError, match="Standard output cannot be written to: No space left"):
            stream.flush()
    with streams.Talk(Path("/dev/full").open("wb"), encoding="ascii", errors="backslashreplace") as talk:
        talk.write("é" * 100_000)
        talk.flush()


def test_what_a_thread_raises_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python itself does, the test holds on to the streams that are replaced.
    files = {name: io.TextIOWrapper((tmp_path / name).open("wb"), encoding="utf-8") for name in ("stdout", "stderr")}
    for name, file in files.items():
        monkeypatch.setattr(sys, name, file)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    streams.guard_streams(explained, console.show_error)

    def fails() -> None:
        raise ValueError("in a thread")

    class Fails:
        def __del__(self) -> None:
            raise ValueError("nobody waits for it")

    worker = threading.Thread(target=fails)
    worker.start()
    worker.join()
    Fails()
    sys.stderr.flush()
    told = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert "did not foresee: ValueError: in a thread" in told
    assert "Traceback" not in told + capsys.readouterr().err
    assert "nobody waits" not in told


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "Memory ran out"), (OSError(errno.ENOMEM, "Cannot allocate memory"), "Memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory ran out"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "Memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), "No more files can be opened at once"),
        (RuntimeError("can't start new thread"), "starts no more threads or processes"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "starts no more threads or processes"),
    ],
)  # fmt: skip
def test_a_shortage_of_the_machine_is_named(
    raised: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise ValueError("something else") from raised

    monkeypatch.setattr(cli.cli, "main", fails)
    assert cli.answer(["tasks"]) == EXIT_FAILED
    shown = " ".join(capsys.readouterr().err.split())
    assert told in shown
    assert "the same command continues" in shown
    assert "did not foresee" not in shown


def test_what_is_no_shortage_is_none() -> None:
    assert shortage(ValueError("out of range")) is None
    assert shortage(OSError(errno.EIO, "Input/output error")) is None


def test_an_error_is_told_where_rich_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("rich.console.Console.print", full)
    console.show_error(UsageError("It is \x1b[2J wrong.", "Do better."))
    assert capsys.readouterr().err == "Error: It is \\x1b[2J wrong.\nDo better.\n"


def test_a_picture_that_cannot_be_opened_is_no_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(number: int) -> object:
        def opens(*_: object, **__: object) -> object:
            raise OSError(number, os.strerror(number))

        return opens

    for number, says in ((errno.EMFILE, "No more files can be opened"), (errno.EIO, "cannot be read: Input/output")):
        monkeypatch.setattr("PIL.Image.open", short(number))
        with pytest.raises(SampleError, match=says) as caught:
            image_size(tmp_path / "a.png")
        assert "Download" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["ulimit -v 300000;", "ulimit -n 5;", "ulimit -v 120000;"])
def test_a_limit_of_the_shell_ends_in_a_sentence(limit: str, tmp_path: Path) -> None:
    run = f"medbench run --model uni-med --tasks slake-vqa --limit 2 --output-dir {tmp_path}"
    code, told = run_in_shell(run, limit)
    assert (code, "Traceback" in told, "did not foresee" in told) == (EXIT_FAILED, False, False), told
    # OpenBLAS ends the process itself, in its own words.
    assert re.search(r"^(Error|OpenBLAS error): ", told, re.MULTILINE)


@pytest.mark.slow
def test_an_interrupt_at_any_time_is_a_sentence() -> None:
    """From the first import on; one that comes when all is done may find nobody who would tell it."""
    for step in range(1, 16):
        process = subprocess.Popen([*COMMAND, "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Before that it is Python's own start that is interrupted, which no program can change.
        time.sleep(0.1 + 0.05 * step)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode in {0, EXIT_INTERRUPTED, -signal.SIGINT}
        assert "Traceback" not in told or "site.py" in told or "medbench" not in told, told
        assert "Exception ignored" not in told


@pytest.mark.slow
@pytest.mark.parametrize("started", [1, 2, 3, 4])
def test_a_thread_that_cannot_start_ends_in_a_sentence_and_the_same_command_continues(
    started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "run", "--model", "uni-med", "--tasks", "slake-vqa", "--limit", 3, "--output-dir", tmp_path
    prepare_mini_suite()
    counted, starts = count(1), threading._start_new_thread  # type: ignore[attr-defined]

    def limited(*given: Any, **more: Any) -> Any:  # noqa: ANN401
        if next(counted) >= started:
            raise RuntimeError("can't start new thread")
        return starts(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(threading, "_start_new_thread", limited)
        done = medbench(*run)
    assert (done.returncode, "Traceback" in done.stderr) == (EXIT_FAILED, False)
    assert "starts no more threads or processes" in " ".join(done.stderr.split())
    assert medbench(*run).returncode == 0


def test_java_that_finds_no_room_is_not_to_be_reinstalled(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", full)
    with pytest.raises(MedbenchError, match="Java cannot start: The system starts no more threads") as caught:
        JavaProgram(packaged_jar("meteor/meteor-1.5.jar"), "PlainTextMeteor", ())
    assert "Reinstall" not in caught.value.hint
