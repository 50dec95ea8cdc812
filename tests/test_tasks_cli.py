"""The commands `medbench tasks` and `medbench data`."""

import json
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner, Result
from native_data import (
    medmnist_npz,
    slake,
    write_json,
)
from task_helpers import slake_prepared, suite

from tasks.catalog import task_names
from tasks.cli import data_group, tasks_command
from tasks.foundation.errors import DataError, MedbenchError, UsageError
from tasks.prepare import load_prepared


def run(*arguments: object, command: Command = data_group) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_table_of_tasks_says_what_is_prepared(tmp_path: Path) -> None:
    slake_prepared(tmp_path)
    lines = run("--data-dir", tmp_path / "data", command=tasks_command).stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert set(task_names()) <= set(rows)
    assert rows["slake-vqa"][-1] == "yes"
    assert rows["slake-rec"][-1] == "no"
    assert "6018" in rows["slake-vqa"]
    assert "r_at_0.5" in rows["slake-rec"]
    assert "yes" not in run(command=tasks_command).stdout


def test_the_list_shows_layouts_and_options() -> None:
    text = run("list", "sa-med2d-rec", "mimic-cxr").stdout
    assert "max_per_modality" in text
    assert "annotation.json" in text
    assert "may leave your machine" in text
    assert "path-vqa" not in text
    assert all(name in run("list").stdout for name in task_names())


def test_prepare_and_verify(tmp_path: Path) -> None:
    slake(tmp_path / "native")
    data = tmp_path / "data"
    done = run("prepare", "slake-*", "--source", tmp_path / "native", "--data-dir", data)
    assert done.exception is None
    assert "2 train, 1 test" in done.stderr
    assert "skipped 3: answer is empty" in done.stderr
    verified = run("verify", "--data-dir", data)
    assert verified.exception is None
    assert "slake-vqa  train   6018      2       -6016  intact" in verified.stdout
    (data / "slake-rec" / "test.jsonl").write_text("")
    failed = run("verify", "slake-rec", "slake-vqa", "--data-dir", data)
    assert isinstance(failed.exception, DataError)
    assert failed.exception.exit_code == 1
    assert "slake-rec (test.jsonl)" in failed.exception.problem
    assert "slake-vqa" not in failed.exception.problem


def test_verify_notices_an_edited_manifest(tmp_path: Path) -> None:
    path = slake_prepared(tmp_path).folder / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), "data_fingerprint": "0" * 64})
    failed = run("verify", "slake-vqa", "--data-dir", tmp_path / "data")
    assert "manifest.json" in str(failed.exception)


def test_options_are_passed_on(tmp_path: Path) -> None:
    medmnist_npz(tmp_path / "native", "breastmnist", classes=2)
    command = ("prepare", "dermamnist", "--source", tmp_path / "native", "--data-dir", tmp_path / "data")
    assert run(*command, "--option", "flag=breastmnist").exception is None
    assert load_prepared(tmp_path / "data", "dermamnist").manifest.options == {"flag": "breastmnist"}
    for options in (["--option", "flag"], ["--option", "flag=a", "--option", "flag=b"], ["--option", "colour=red"]):
        assert isinstance(run(*command, *options).exception, UsageError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "slake-vqa"], "--source"),
        (["prepare", "slake-vqa", "--source", "."], "--data-dir"),
        (["verify"], "--data-dir"),
        (["prepare", "slake-vqx", "--source", ".", "--data-dir", "nowhere"], "slake-vqa"),
        (["prepare", "mini", "slake-vqa"], "alone"),
        (["prepare", "mini", "--source", "."], "alone"),
        (["verify", "--data-dir", "nowhere"], "medbench data prepare"),
        (["verify", "slake-vqa", "--data-dir", "nowhere"], "medbench data prepare"),
        (["list", "slak-vqa"], "slake-vqa"),
    ],
)
def test_mistakes_end_with_a_hint(arguments: list[str], message: str) -> None:
    found = run(*arguments).exception
    assert isinstance(found, MedbenchError)
    assert message in str(found)


def test_mini_prepares_the_bundled_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.mini_suite.DATA", suite(tmp_path / "suite"))
    done = run("prepare", "mini", "--data-dir", tmp_path / "cache")
    assert done.exception is None
    assert load_prepared(Path(done.stdout.strip()), "slake-vqa").manifest.counts["test"] == 1
