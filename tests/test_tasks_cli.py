"""The commands `medbench tasks` and `medbench data`."""

import json
import re
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner, Result
from native_data import (
    medmnist_npz,
    slake,
    write_json,
)
from task_helpers import one_task, question, slake_prepared, suite

from medbench.tasks.catalog import task_names
from medbench.tasks.cli import data_group, tasks_command
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import load_prepared
from medbench.tasks.spec import Skipped


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
    rows = table_rows(verified.stdout)
    assert set(rows) == {
        (task, part)
        for task in ("slake-vqa", "slake-rec", "slake-reg")
        for part in ("train", "test", "images", "skipped")
    }
    assert rows["slake-vqa", "train"][:3] == ["6018", "2", "-6016"]
    assert rows["slake-rec", "test"][:3] == ["201", "2", "-199"]
    assert {row[-1] for row in rows.values()} == {"intact"}
    (data / "slake-rec" / "test.jsonl").write_text("")
    failed = run("verify", "slake-rec", "slake-vqa", "--data-dir", data)
    assert isinstance(failed.exception, DataError)
    assert failed.exception.exit_code == 1
    assert "slake-rec (test.jsonl)" in failed.exception.problem
    assert "slake-vqa" not in failed.exception.problem


def table_rows(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the cells of a table by its first two columns."""
    cells = [re.split(r"  +", line.rstrip()) for line in text.splitlines()[1:]]
    return {(row[0], row[1]): row[2:] for row in cells}


def test_verify_shows_the_digest_of_every_file(tmp_path: Path) -> None:
    done = slake_prepared(tmp_path)
    rows = table_rows(run("verify", "--data-dir", tmp_path / "data").stdout)
    names = {"train": "train.jsonl", "test": "test.jsonl", "images": "images.sha256", "skipped": "skipped.jsonl"}
    for part, name in names.items():
        assert rows["slake-vqa", part][3:] == [file_sha256(done.folder / name)[:12], "intact"]
    assert rows["slake-vqa", "images"][1] == "3"
    assert rows["slake-vqa", "skipped"][1] == "6"


def test_verify_shows_reasons_and_on_demand_every_skipped_item(tmp_path: Path) -> None:
    slake_prepared(tmp_path)
    short = run("verify", "--data-dir", tmp_path / "data")
    assert "slake-vqa: skipped 3: answer is empty" in short.stderr
    assert "xmlab1/q1" not in short.stdout
    long = run("verify", "--skipped", "--data-dir", tmp_path / "data")
    assert long.stdout.startswith(short.stdout)
    rows = table_rows(long.stdout.removeprefix(short.stdout))
    assert len(rows) == 6
    assert rows["slake-vqa", "xmlab3/q22"] == ["answer is empty"]


def test_a_skipped_item_with_line_breaks_stays_one_row(tmp_path: Path) -> None:
    skipped = (Skipped(item="a\nb\tc\x0bd [red]", reason="odd"), Skipped(item="e", reason="odd"))
    prepare_task(one_task(question(1), skipped=skipped), tmp_path, tmp_path / "data", {})
    shown = run("verify", "--skipped", "--data-dir", tmp_path / "data").stdout
    assert shown.splitlines()[-2:] == ["slake-vqa  a b c d [red]  odd", "slake-vqa  e              odd"]


def test_nothing_skipped_is_an_empty_table(tmp_path: Path) -> None:
    prepare_task(one_task(question(1)), tmp_path, tmp_path / "data", {})
    assert run("verify", "--skipped", "--data-dir", tmp_path / "data").stdout.endswith("task  skipped item  reason\n")


@pytest.mark.parametrize("name", ["skipped.jsonl", "images.sha256"])
@pytest.mark.parametrize("gone", [False, True])
def test_verify_notices_damage_to_lists_beside_the_samples(tmp_path: Path, name: str, gone: bool) -> None:
    path = slake_prepared(tmp_path).folder / name
    if gone:
        path.unlink()
    else:
        path.write_text("")
    failed = run("verify", "--skipped", "--images", "--data-dir", tmp_path / "data")
    assert isinstance(failed.exception, DataError)
    assert f"slake-vqa ({name})" in failed.exception.problem
    part = name.partition(".")[0]
    assert table_rows(failed.stdout)["slake-vqa", part][-1] == ("missing" if gone else "changed")


def test_verify_hashes_images_again_on_demand(tmp_path: Path) -> None:
    slake_prepared(tmp_path)
    command = ("verify", "--images", "--data-dir", tmp_path / "data")
    assert run(*command).exception is None
    images = tmp_path / "native" / "imgs"
    (images / "xmlab1" / "source.jpg").write_bytes(b"another picture")
    (images / "xmlab3" / "source.jpg").unlink()
    assert run("verify", "--data-dir", tmp_path / "data").exception is None
    failed = run(*command)
    assert isinstance(failed.exception, DataError)
    assert failed.exception.exit_code == 1
    assert "slake-vqa (2 images)" in failed.exception.problem
    rows = table_rows(failed.stdout)
    assert rows["slake-vqa", "imgs/xmlab1/source.jpg"] == ["changed"]
    assert rows["slake-vqa", "imgs/xmlab3/source.jpg"] == ["missing"]
    assert ("slake-vqa", "imgs/xmlab2/source.jpg") not in rows


def test_images_that_were_not_hashed_are_said_to_be_so(tmp_path: Path) -> None:
    slake(tmp_path / "native")
    data = tmp_path / "data"
    done = run(*("prepare", "slake-vqa", "--source", tmp_path / "native", "--data-dir", data, "--image-hashes", "none"))
    assert done.exception is None
    assert load_prepared(data, "slake-vqa").manifest.images_sha256 is None
    verified = run("verify", "--images", "--data-dir", data)
    assert verified.exception is None
    assert table_rows(verified.stdout)["slake-vqa", "images"][-1] == "not hashed"
    assert "slake-vqa: the images were not hashed" in verified.stderr


def test_prepare_says_where_the_skipped_items_are(tmp_path: Path) -> None:
    slake(tmp_path / "native")
    done = run("prepare", "slake-vqa", "slake-rec", "--source", tmp_path / "native", "--data-dir", tmp_path / "data")
    assert f"every skipped item: {tmp_path / 'data' / 'slake-vqa' / 'skipped.jsonl'}" in done.stderr
    assert "slake-rec/skipped.jsonl" not in done.stderr


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
        (["prepare", "mini", "--image-hashes", "none"], "alone"),
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
    monkeypatch.setattr("medbench.tasks.suite.DATA", suite(tmp_path / "suite"))
    done = run("prepare", "mini", "--data-dir", tmp_path / "cache")
    assert done.exception is None
    assert load_prepared(Path(done.stdout.strip()), "slake-vqa").manifest.counts["test"] == 1
