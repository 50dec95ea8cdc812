"""Shards that are killed, that meet, and that end at the same instant: nothing is lost, and one of them merges."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any, NoReturn

import pytest
from command_line import medbench, start_medbench
from shard_runs import contents, folder_in, make_data, shard, words

from medbench.harness import merging, rundir, shards
from medbench.harness import run as running
from medbench.harness.finish import RunOutcome
from medbench.harness.rundir import RunDirectory, held, held_run
from medbench.harness.settings import Settings
from medbench.harness.shards import Shard, hold, read_shard
from medbench.tasks.foundation.errors import EXIT_FAILED, RunError

TASKS = "slake-rec,dermamnist"


class Killed(BaseException):
    """Nothing of ours catches it, as nothing does what a kill does."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    output = tmp_path_factory.mktemp("whole")
    assert medbench(*words(data, output, tasks=TASKS)).returncode == 0
    return contents(folder_in(output))


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """Kill the process just before it renames or removes for the `number`th time; yield what it did until then."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(path: Path, *more: object, **options: object) -> object:
            if len(done) == number:
                raise Killed
            done.append(f"{name} {Path(path).name}")
            return original(path, *more, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", counted("replace", Path.replace))
        patch.setattr(Path, "rename", counted("rename", Path.rename))
        patch.setattr(shutil, "rmtree", counted("rmtree", shutil.rmtree))
        yield done


@pytest.fixture(scope="module")
def answered(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with two of two shards that were not merged."""
    output = tmp_path_factory.mktemp("answered")
    shard(data, output, "1/2", tasks=TASKS)

    def killed(*_: object) -> NoReturn:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging.Merger, "merge", killed)
        with pytest.raises(Killed):
            medbench(*words(data, output, "--shard", "2/2", tasks=TASKS))
    return output


@pytest.mark.slow
@pytest.mark.parametrize("then", ["merge", "shard", "whole"])
def test_a_merger_that_is_killed_at_any_instant_is_made_good(
    then: str, answered: Path, whole: dict[str, bytes], data: Path, tmp_path: Path
) -> None:
    number, ended = 0, False
    while not ended:
        output = tmp_path / str(number)
        shutil.copytree(answered, output)
        run = folder_in(output)
        with killed_at(number) as steps:
            try:
                assert medbench("merge", run).returncode == 0
                ended = True
            except Killed:
                number += 1
        again = {
            "merge": ["merge", str(run)],
            "shard": words(data, output, "--shard", "1/2", tasks=TASKS),
            "whole": words(data, output, tasks=TASKS),
        }[then]
        assert medbench(*again).returncode == 0, steps
        assert contents(run) == whole, steps
        shutil.rmtree(output)
    assert number > 10


def wait_for_records(output: Path, process: "Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in output.rglob("generations/*.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_a_shard_that_is_killed_is_waited_for_and_goes_on(data: Path, tmp_path: Path) -> None:
    given = {"model": "mock", "tasks": "slake-*,dermamnist"}
    assert medbench(*words(data, tmp_path / "one", **given)).returncode == 0
    output = tmp_path / "two"
    process = start_medbench(*words(data, output, "--shard", "1/2", "--batch-size", 1, **given))
    try:
        wait_for_records(output, process)
        busy = medbench(*words(data, output, "--shard", "1/2", **given))
        assert (busy.returncode, "Another process" in busy.stderr) == (EXIT_FAILED, True), busy.stderr
        alone = medbench(*words(data, output, **given))
        assert alone.returncode == EXIT_FAILED
        assert "Other processes are answering shards of" in " ".join(alone.stderr.split())
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    [torn] = folder_in(output).glob("shards/1-of-2/generations/slake-rec.jsonl")
    torn.write_bytes(torn.read_bytes() + b'{"run":"half a rec')
    assert "have no record yet: shard 1/2 (" in " ".join(shard(data, output, "2/2", **given).stderr.split())
    assert "Continuing:" in shard(data, output, "1/2", **given).stderr
    assert contents(folder_in(output)) == contents(folder_in(tmp_path / "one"))


@pytest.mark.slow
def test_shards_that_begin_and_end_together_are_merged_by_one(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for attempt in range(3):
        output = tmp_path / str(attempt)
        started = [start_medbench(*words(data, output, "--shard", f"{one}/4", tasks=TASKS)) for one in (1, 2, 3, 4)]
        told = [process.communicate(timeout=200)[1] for process in started]
        assert [process.returncode for process in started] == [0] * 4, told
        assert sum("report.html" in one and "is complete" not in one for one in told) == 1, told
        assert contents(folder_in(output)) == whole


@pytest.mark.slow
def test_threads_that_end_at_the_same_instant_are_merged_by_one(
    data: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks hold between open files, so threads meet as processes do; here they meet at the end for sure."""
    meeting, merged = threading.Barrier(3), []
    noted, merge = shards.note_environment, merging.Merger.merge

    def note(*given: Any) -> None:
        noted(*given)
        meeting.wait(timeout=60)

    def counted(self: merging.Merger, *given: Any) -> RunOutcome:
        merged.append(threading.current_thread().name)
        return merge(self, *given)

    monkeypatch.setattr(shards, "note_environment", note)
    monkeypatch.setattr(merging.Merger, "merge", counted)
    settings = Settings(model="mock:oracle", tasks=(TASKS,), data_dir=data, output_dir=tmp_path)
    ends: list[object] = []

    def answer(which: str) -> None:
        ends.append(running.run_shard(settings, read_shard(which)))

    threads = [threading.Thread(target=answer, args=(f"{number}/3",)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(ends) == 3
    assert len(merged) == 1
    assert contents(folder_in(tmp_path)) == whole


@pytest.mark.slow
def test_a_shard_that_meets_another_at_its_end_leaves_the_merging_to_it(
    data: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """One that tries failed samples again is at work, though all samples have a record."""
    shard(data, tmp_path, "1/2", tasks=TASKS)
    run = RunDirectory(path=folder_in(tmp_path), identity=folder_in(tmp_path).name[-12:])
    with hold(run, Shard(number=1, of=2)):
        told = " ".join(shard(data, tmp_path, "2/2", tasks=TASKS).stderr.split())
        assert "all samples have a record; at work: shard 1/2. The last one merges" in told
        by_hand = medbench("merge", run.path)
        assert (by_hand.returncode, "answering shards of" in by_hand.stderr) == (EXIT_FAILED, True)
    shard(data, tmp_path, "1/2", tasks=TASKS)
    assert contents(run.path) == whole


@pytest.mark.slow
def test_a_shard_whose_end_meets_a_merger_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "_PATIENCE", 0.3)
    noted, locks = shards.note_environment, []

    def hold_the_run(*given: Any) -> None:
        noted(*given)
        lock = held_run(folder_in(tmp_path))
        lock.__enter__()
        locks.append(lock)

    monkeypatch.setattr(shards, "note_environment", hold_the_run)
    told = " ".join(shard(data, tmp_path, "1/1", tasks=TASKS).stderr.split())
    assert f"Another process holds {folder_in(tmp_path)}; if it is stopped: medbench merge" in told
    refused = medbench(*words(data, tmp_path, "--shard", "1/2", tasks=TASKS))
    assert (refused.returncode, "Another process is writing to" in refused.stderr) == (EXIT_FAILED, True)
    locks[0].__exit__(None, None, None)
    assert medbench("merge", folder_in(tmp_path)).returncode == 0


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RunError, match=r"cannot be locked: .*No locks available"), held(tmp_path / "x.lock", ""):
        pass
