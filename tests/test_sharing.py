"""`medbench data profile`: which images tasks share, on planted data and on the mini suite."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from native_data import write_picture
from task_helpers import question

from medbench.tasks import sharing
from medbench.tasks.catalog import get_task
from medbench.tasks.cli import data_group
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import ImageHashes, load_prepared
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading
from medbench.tasks.suite import prepare_mini_suite


def plant(data: Path, task: str, source: Path, *pictures: str, hashes: ImageHashes = "prepared") -> None:
    """Prepare a task with one question for each picture, or without one where it has no name."""

    def sample(number: int, name: str, split: Split) -> Sample:
        images = (ImageRef(path=name),) if name else ()
        groups = {get_task(task).group_key: str(number)}
        return question(number, task=task, split=split, images=images, groups=groups)

    found = tuple(sample(number, name, "train") for number, name in enumerate(pictures))
    reading = Reading(samples=(*found, sample(len(found), "a.png", "test")), skipped=(), split_method="given")
    spec = dataclasses.replace(get_task(task), reader=lambda *_: reading)
    prepare_task(spec, source, data, {}, image_hashes=hashes)


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A folder with the pictures a, b and c, and another one where `other.png` is a again."""
    for place, name in enumerate("abc"):
        write_picture(tmp_path / "native" / f"{name}.png", (20 + place, 30))
    write_picture(tmp_path / "elsewhere" / "other.png", (20, 30))
    write_picture(tmp_path / "elsewhere" / "a.png", (9, 9))
    return tmp_path / "native"


def told(data: Path, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(data_group, ["profile", "--data-dir", str(data), "--json", *words])
    assert done.exception is None, done.exception
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_images_are_counted_once_wherever_they_lie(native: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plant(data, "slake-vqa", native, "a.png", "a.png", "b.png", "")
    plant(data, "slake-reg", native, "a.png")
    plant(data, "mpx-single", native.with_name("elsewhere"), "other.png")
    found = told(data)
    together = found["together"]
    assert (together["images"], together["entries"]) == (2, 5)
    assert (together["images_by_tasks"], together["images_by_entries"]) == ({"1": 1, "3": 1}, {"1": 1, "4": 1})
    assert (together["tasks_per_image"], together["entries_per_image"]) == (2.0, 2.5)
    assert (together["shared_images"], together["shared_entries"]) == (1, 4)
    assert found["text_only"] == {"slake-vqa": 1}
    by_set = {one["data"]: one for one in found["data_sets"]}
    assert by_set["slake"]["images_by_tasks"] == {"1": 1, "2": 1}
    assert by_set["mpx-single"]["images_by_tasks"] == {"1": 1}
    assert found["published"] == {"source": sharing.IMAX_SOURCE, "tasks_per_image": 4.1, "entries_per_image": 7.46}
    assert "image-centric" in found["meaning"]


def test_the_splits_and_tasks_that_are_asked_for(native: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plant(data, "slake-vqa", native, "a.png", "b.png", "c.png")
    plant(data, "slake-reg", native, "a.png")
    assert told(data, "--split", "test")["together"]["images_by_tasks"] == {"2": 1}
    alone = told(data, "--tasks", "slake-vqa")
    assert (alone["tasks"], alone["together"]["images_by_tasks"]) == (["slake-vqa"], {"1": 3})
    assert "decentralised" in told(data)["meaning"]


def test_without_hashes_the_path_tells_images_apart(native: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    plant(data, "slake-vqa", native, "a.png", hashes="none")
    plant(data, "mpx-single", native.with_name("elsewhere"), "other.png", hashes="none")
    found = told(data)
    assert (found["unhashed"], found["together"]["images"]) == (["slake-vqa", "mpx-single"], 2)
    # Another task of the same folder has hashed the same files.
    plant(data, "slake-reg", native, "a.png")
    found = told(data)
    assert (found["unhashed"], found["together"]["images_by_tasks"]) == (["mpx-single"], {"1": 1, "2": 1})


def test_text_alone_shares_nothing(native: Path, tmp_path: Path) -> None:
    plant(tmp_path / "data", "pubmedqa", native, "", "")
    found = told(tmp_path / "data")
    assert found["together"]["tasks_per_image"] is None
    assert "None of the entries has an image" in found["meaning"]
    shown = CliRunner().invoke(data_group, ["profile", "--data-dir", str(tmp_path / "data")])
    assert "Entries without an image: pubmedqa 2." in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--data-dir"), (["--data-dir", "nothing"], "No task is prepared"),
        (["--data-dir", "DATA", "--tasks", "slake-vqq"], "slake-vqa"),
        (["--data-dir", "DATA", "--tasks", "path-vqa"], "not prepared"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_said(words: list[str], says: str, native: Path, tmp_path: Path) -> None:
    plant(tmp_path / "data", "slake-vqa", native, "a.png")
    done = CliRunner().invoke(
        data_group, ["profile", *(word.replace("DATA", str(tmp_path / "data")) for word in words)]
    )
    assert isinstance(done.exception, MedbenchError)
    assert says in f"{done.exception.problem} {done.exception.hint}"


def test_the_mini_suite_as_it_is_shown() -> None:
    data = prepare_mini_suite()
    shown = CliRunner().invoke(data_group, ["profile", "--data-dir", str(data)]).stdout
    assert "medqa-options" not in shown
    assert "Images by number of tasks: 2,929 of 1, 197 of 2, 100 of 3." in shown
    slake = {name: load_prepared(data, name).samples("train") for name in ("slake-vqa", "slake-rec", "slake-reg")}
    asked = {sample.images[0].path for samples in slake.values() for sample in samples}
    [row] = [line.split() for line in shown.splitlines() if line.startswith("slake ")]
    assert row[4:6] == [str(len(asked)), f"{sum(map(len, slake.values())):,}"]
    assert [line.split()[-4:-2] for line in shown.splitlines() if line.startswith("IMAX")] == [["4.10", "7.46"]]
