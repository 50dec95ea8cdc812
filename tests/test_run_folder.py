"""What a run's folder meets while the run goes on: it is removed, it cannot be locked, it holds what others left."""

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from medbench.harness.cli import answer
from medbench.harness.finish import RunOutcome
from medbench.harness.run import publish_run, run
from medbench.harness.rundir import held
from medbench.harness.settings import Settings
from medbench.tasks.foundation.errors import EXIT_FAILED, RunError
from medbench.tasks.foundation.files import replaced_when_whole, write_atomically

PAGES = ("leaderboard.md", "report.html", "audit/audit.json")
Run = Callable[..., RunOutcome]


@pytest.fixture
def again(small_data: Path, tmp_path: Path) -> Run:
    """Run the command of the test, once more and once more."""
    settings = Settings(model="mock:oracle", tasks=("mimic-cxr",), data_dir=small_data, output_dir=tmp_path / "runs")

    def command(publish: Callable[[Path], None] = publish_run, **given: bool) -> RunOutcome:
        return run(Settings(**{**settings.as_yaml(), **given}), publish)

    return command


def folder_in(tmp_path: Path) -> Path:
    return next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())


# Pages


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_cannot_be_written_leaves_a_run_that_the_same_command_ends(
    page: str, again: Run, tmp_path: Path
) -> None:
    def in_the_way(path: Path) -> None:
        (path / page).mkdir(parents=True)
        publish_run(path)

    with pytest.raises(RunError, match=f"Cannot write .*{page}"):
        again(in_the_way)
    folder = folder_in(tmp_path)
    assert not (folder / "done").exists()
    (folder / page).rmdir()
    again()
    assert (folder / "done").exists()
    assert all((folder / one).is_file() for one in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_is_taken_from_a_finished_run_is_made_again(
    page: str, again: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = again().path
    before = (path / page).read_bytes()
    (path / page).unlink()
    assert again().phases is None
    assert (path / page).read_bytes() == before
    assert f"complete but for {page}, written now" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("part", ["generations", "scores"])
def test_a_finished_run_without_its_answers_or_scores_is_not_called_complete(part: str, again: Run) -> None:
    path = again().path
    before = {file.name: file.read_bytes() for file in (path / part).iterdir()}
    shutil.rmtree(path / part)
    assert again().phases is not None
    assert {file.name: file.read_bytes() for file in (path / part).iterdir()} == before


# The folder goes


@pytest.mark.parametrize("left", [(), ("run.yaml",)])
def test_a_folder_that_goes_before_the_end_is_never_done(left: tuple[str, ...], again: Run, tmp_path: Path) -> None:
    def gone(path: Path) -> None:
        kept = {name: (path / name).read_bytes() for name in left}
        shutil.rmtree(path)
        path.mkdir()
        for name, data in kept.items():
            (path / name).write_bytes(data)

    with pytest.raises(RunError, match="is gone: it was removed while the run went on"):
        again(gone)
    assert not (folder_in(tmp_path) / "done").exists()
    assert (again().path / "done").exists()


@pytest.mark.parametrize("after", [1, 2])
def test_a_folder_that_goes_while_the_model_writes_ends_the_run_at_once(
    after: int, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.harness.generate._MOST_SECONDS_KEPT", -1.0)
    settings = Settings(model="own", tasks=("vqa",), data_dir=small_data, output_dir=tmp_path / "runs")
    asked: list[str] = []

    def always_yes(text: str) -> str:
        asked.append(text)
        if len(asked) == after:
            shutil.rmtree(folder_in(tmp_path))
        return "yes"

    with pytest.raises(RunError, match=r"is gone: it was removed .* or its disk"):
        run(settings, publish_run, adapter=always_yes)
    assert len(asked) == after


# Locks


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_where_nothing_can_be_locked_the_way_out_is_told_and_works(
    code: int, again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(_: int, __: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(RunError, match="cannot be locked") as told:
        again()
    assert "--no-lock" in told.value.hint
    path = again(lock=False).path
    assert (path / "done").exists()
    assert not list(path.rglob(".*"))


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held(tmp_path / ".weights.lock", ""):
        code = answer(["train", "--data-dir", str(tmp_path / "none"), "--output", str(tmp_path / "weights")])
    assert code == EXIT_FAILED
    assert "Another process is training into" in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()


# What others left


def test_what_a_killed_writer_left_is_cleared(again: Run) -> None:
    path = again().path
    (path / "scores" / ".mimic-cxr.jsonl.99.partial").write_text("half", encoding="utf-8")
    (path / ".results.json.partial").write_text("half", encoding="utf-8")
    again()
    assert not list(path.rglob(".*.partial"))


def test_a_file_is_written_over_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".page.html.partial").write_text("a much longer half of a page", encoding="utf-8")
    write_atomically(tmp_path / "page.html", "whole")
    assert [(file.name, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()] == [("page.html", "whole")]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with replaced_when_whole(path) as first:
        first.write_text("first", encoding="utf-8")
        with replaced_when_whole(path) as second:
            assert second != first
            second.write_text("second", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "second"
    assert path.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    texts = [f"{number}" * 5000 for number in range(8)]

    def write(text: str) -> None:
        for _ in range(20):
            write_atomically(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text(encoding="utf-8") in texts
    assert list(tmp_path.iterdir()) == [path]


# What nobody foresaw


def test_what_nobody_foresaw_leaves_its_traceback_in_the_folder(again: Run, tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise TypeError(path.name)

    with pytest.raises(RunError, match="did not foresee: TypeError") as told:
        again(fails)
    folder = folder_in(tmp_path)
    kept = next(folder.glob("traceback-*.txt"))
    assert str(kept) in told.value.hint
    assert "in fails" in kept.read_text(encoding="utf-8")
    assert (again().path / "done").exists()
