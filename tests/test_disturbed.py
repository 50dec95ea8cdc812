"""Signals, full and read-only disks, clocks that jump: a sentence, the right exit code, then the same bytes."""

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from command_line import COMMAND, medbench, start_medbench
from shard_runs import contents, folder_in, make_data, words

from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED

pytestmark = pytest.mark.slow
SIGNALS = {
    "TERM": (signal.SIGTERM,), "HUP": (signal.SIGHUP,), "INT twice": (signal.SIGINT,) * 2,
    "TERM twice": (signal.SIGTERM,) * 2, "HUP and TERM": (signal.SIGHUP, signal.SIGTERM),
}  # fmt: skip
MOMENTS = {"loading": ".loading-*", "answering": "*/generations/*.jsonl", "publishing": "*/results.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    assert medbench(*words(data, output)).returncode == 0
    return contents(folder_in(output))


def wait_for(there: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("sent", SIGNALS)
def test_signals_end_with_130_and_nothing_is_lost(
    sent: str, moment: str, data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    process = start_medbench(*words(data, tmp_path))
    wait_for(lambda: list(tmp_path.glob(MOMENTS[moment])), process)
    for number in SIGNALS[sent]:
        process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    # One that came while Python ended had nothing to stop.
    assert process.returncode == EXIT_INTERRUPTED, told
    again = medbench(*words(data, tmp_path))
    assert again.returncode == 0, again.stderr
    assert contents(folder_in(tmp_path)) == whole


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL])
def test_the_java_of_a_score_does_not_outlive_its_run(sent: signal.Signals, tmp_path: Path) -> None:
    given = ("--model", "mock", "--tasks", "mimic-cxr", "--batch-size", 1, "--output-dir", tmp_path)
    process = start_medbench("run", *given)
    own = psutil.Process(process.pid)
    wait_for(lambda: any("Meteor" in one.cmdline() for one in own.children()), process)
    children = own.children(recursive=True)
    process.send_signal(sent)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 1.5
    while alive := [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive


def limited(given: Sequence[object], blocks: int) -> "subprocess.CompletedProcess[str]":
    """Run a command that may write files of so many blocks of 512 bytes, as on a disk that is full."""
    line = ["sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh", *COMMAND, *map(str, given)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("blocks", [0, 1, 4, 12, 40, 100])
def test_files_that_may_not_grow_end_in_a_sentence(
    blocks: int, data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for _ in range(2):
        ended = limited(words(data, tmp_path), blocks)
        assert "Traceback (most recent call last)" not in ended.stderr
        assert (ended.returncode, "Error: " in ended.stderr) == (EXIT_FAILED, True), ended.stderr
        assert not list(tmp_path.glob("*/done"))
        assert not list(tmp_path.rglob("*.partial"))
    assert medbench(*words(data, tmp_path)).returncode == 0
    assert contents(folder_in(tmp_path)) == whole


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a small disk of one's own, which only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        line = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if os.geteuid() or subprocess.run(line, check=False, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk; `ulimit -f` fills one for everybody")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("options", ["size=4k", "size=24k", "size=64k", "size=160k", "nr_inodes=4", "nr_inodes=12"])
def test_a_full_disk_loses_nothing(
    options: str, disk: Callable[..., Path], data: Path, whole: dict[str, bytes]
) -> None:
    folder = disk(options)
    for _ in range(2):
        ended = medbench(*words(data, folder))
        assert (ended.returncode, "Error: " in ended.stderr) == (EXIT_FAILED, True), ended.stderr
        assert "did not foresee" not in ended.stderr
        assert not list(folder.glob("*/done"))
    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=9999", str(folder)], check=True)
    assert medbench(*words(data, folder)).returncode == 0
    assert contents(folder_in(folder)) == whole


def test_a_disk_that_becomes_read_only_is_told(disk: Callable[..., Path], data: Path, whole: dict[str, bytes]) -> None:
    folder = disk("size=64m")
    assert medbench(*words(data, folder)).returncode == 0
    (folder_in(folder) / "done").unlink()
    shutil.rmtree(folder_in(folder) / "scores")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    ended = medbench(*words(data, folder))
    assert (ended.returncode, "Read-only file system" in ended.stderr) == (EXIT_FAILED, True), ended.stderr
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    assert medbench(*words(data, folder)).returncode == 0
    assert contents(folder_in(folder)) == whole


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(itertools.repeat(0.0), id="1970, frozen"),
        pytest.param(itertools.count(2**32 - 5), id="2106, fast"),
        pytest.param(itertools.count(1e9, -1e5), id="backwards"),
        pytest.param(itertools.cycle((2e9, 1e9)), id="to and fro"),
    ],
)
def test_a_clock_that_jumps_changes_nothing(
    clock: Iterator[float], data: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: next(clock))
    ended = medbench(*words(data, tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert contents(folder_in(tmp_path)) == whole


def test_a_terminal_that_is_closed_ends_a_run_as_ctrl_c_does(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    ours, theirs = os.openpty()
    line = [*COMMAND, *words(data, tmp_path)]
    process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, text=True)
    os.close(theirs)
    wait_for(lambda: list(tmp_path.glob(MOMENTS["answering"])), process)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == EXIT_INTERRUPTED
    assert medbench(*words(data, tmp_path)).returncode == 0
    assert contents(folder_in(tmp_path)) == whole


def test_talk_that_no_disk_takes_stops_no_run(data: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([*COMMAND, *words(data, tmp_path)], stderr=full, check=False, timeout=120)
    assert ended.returncode == 0
    assert contents(folder_in(tmp_path)) == whole
