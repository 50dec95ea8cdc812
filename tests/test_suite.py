"""The mini suite is known by a record; one's own data need neither it nor a cache."""

import shutil
from pathlib import Path

import pytest
from in_process import Terminal

from medbench.tasks import suite
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import EXIT_USAGE, DataError
from medbench.tasks.images import open_image
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import load_prepared, prepared_names
from medbench.tasks.suite import DATA, RECORD_FILE, open_task, prepare_mini_suite, recorded_test_splits, suite_of
from tools import locks


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def test_the_record_is_that_of_the_suite_as_it_is_prepared_now() -> None:
    """If this fails after the suite or a reader was changed: python -m tools.locks."""
    assert dict(recorded_test_splits()) == locks.prepared_test_splits()


def test_every_task_of_the_suite_is_recognised_from_wherever(tmp_path: Path) -> None:
    folder = prepare_mini_suite()
    names = prepared_names(folder)
    assert len(names) > 12
    for name in names:
        assert suite_of([load_prepared(folder, name)]) == "mini"
    shutil.copytree(DATA / "MedMNIST", tmp_path / "mine")
    copied = prepare_task(get_task("organsmnist"), tmp_path / "mine", tmp_path / "data", {"flag": "breastmnist"})
    assert suite_of([copied]) == "mini"


def test_a_task_is_opened_from_the_suite_or_from_ones_own_folder(small_data: Path) -> None:
    for data_dir in (None, small_data):
        task = open_task("slake-vqa", data_dir)
        sample = task.samples("test")[0]
        assert (sample.task, sample.split) == ("slake-vqa", "test")
        [image] = task.images(sample)
        assert (image.mode, image.size) == ("RGB", open_image(task.source, sample.images[0]).size)
    with pytest.raises(DataError, match="not prepared"):
        open_task("mimic-cxr-both", small_data)


def test_ones_own_data_need_neither_the_suite_nor_a_cache(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEDBENCH_HOME", str(tmp_path / "file" / "cache"))

    def fail(*_: object) -> Path:
        raise AssertionError("the mini suite was prepared")

    monkeypatch.setattr(suite, "prepare_suite", fail)
    told = terminal(
        "run", "-m", "blind", "-t", "slake-*,cls", "--data-dir", small_data, "--output-dir", tmp_path / "runs"
    )
    assert told.code == 0, told.err
    assert "MINI SUITE" not in told.err
    [run] = (tmp_path / "runs").glob("blind-custom-*")
    for words in (("report", run), ("leaderboard", run), ("score", run), ("breakdown", run), ("audit", "model", run)):
        assert terminal(*words).code in ({0, 3, 4, 5} if words[0] == "audit" else {0}), words


def test_the_record_and_the_lock_are_written_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RECORD_FILE", tmp_path / "prepared.json")
    monkeypatch.setattr(locks, "write_lock", lambda: None)
    assert locks.main(["--help"]) == EXIT_USAGE
    assert not (tmp_path / "prepared.json").exists()
    assert locks.main([]) == 0
    assert (tmp_path / "prepared.json").read_bytes() == RECORD_FILE.read_bytes()
