"""The bundled suite is prepared once, whole, and for everybody at once."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from native_data import (
    write_json,
)
from task_helpers import suite

from medbench.tasks import suite as suites
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.home import medbench_home
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.suite import prepare_suite


def test_a_suite_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare_suite(suite(tmp_path / "suite"), tmp_path / "cache")
    assert data.parent == tmp_path / "cache"
    assert data.name.startswith("mini-")
    assert len(data.name) == len("mini-") + 12
    assert {path.name for path in data.iterdir()} == {"slake-vqa", "slake-rec", "organsmnist"}
    assert load_prepared(data, "organsmnist").manifest.options == {"flag": "breastmnist"}

    def fail(*_: object) -> Prepared:
        raise AssertionError("prepared again")

    monkeypatch.setattr(suites, "prepare_task", fail)
    assert prepare_suite(tmp_path / "suite", tmp_path / "cache") == data
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == [data.name]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: (data / "slake-rec" / "manifest.json").unlink(),
        lambda data: (data / "slake-rec" / "train.jsonl").unlink(),
        lambda data: (data / "slake-rec" / "train.jsonl").write_text("{}"),
        lambda data: (data / "slake-rec" / "manifest.json").write_text("{"),
        lambda data: (data / "slake-rec" / "images.sha256").write_text(""),
        lambda data: (data / "slake-rec" / "skipped.jsonl").unlink(),
    ],
)
def test_a_suite_that_is_not_whole_is_prepared_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    data = prepare_suite(suite(tmp_path / "suite"), tmp_path / "cache")
    spoil(data)
    assert prepare_suite(tmp_path / "suite", tmp_path / "cache") == data
    assert len(load_prepared(data, "slake-rec").samples("train")) == 4
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == [data.name]


def test_two_installations_do_not_take_a_suite_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [suite(tmp_path / name) for name in ("a", "b")]
    made = [prepare_suite(place, tmp_path / "cache") for place in places]
    assert [load_prepared(one, "slake-vqa").source for one in made] == [place / "slake" for place in places]
    monkeypatch.setattr(suites, "prepare_task", None)
    assert [prepare_suite(place, tmp_path / "cache") for place in places] == made


def test_a_suite_that_changed_is_prepared_again(tmp_path: Path) -> None:
    data = prepare_suite(suite(tmp_path / "b"), tmp_path / "cache")
    text = (tmp_path / "b" / "suite.json").read_text()
    (tmp_path / "b" / "suite.json").write_text(text.replace("mini", "mini2"))
    assert prepare_suite(tmp_path / "b", tmp_path / "cache") != data


def test_several_callers_at_once_get_one_whole_suite(tmp_path: Path) -> None:
    suite(tmp_path / "suite")
    found: list[Path] = []
    calls = [
        threading.Thread(target=lambda: found.append(prepare_suite(tmp_path / "suite", tmp_path / "cache")))
        for _ in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(load_prepared(found[0], "slake-rec").samples("test")) == 2
    assert [path.name for path in (tmp_path / "cache").glob("[!.]*")] == [found[0].name]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDBENCH_HOME", str(tmp_path / "home"))
    assert prepare_suite(suite(tmp_path / "suite")).parent == tmp_path / "home"
    monkeypatch.setenv("MEDBENCH_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    assert medbench_home() == tmp_path / "user" / ".cache" / "medbench"


@pytest.mark.parametrize(
    "tasks", [{"slake-vqa": {}}, {"slake-vqa": {"source": "../../elsewhere"}}, {"unknown": {"source": "slake"}}]
)
def test_a_malformed_suite_is_refused_and_leaves_nothing(tmp_path: Path, tasks: Mapping[str, object]) -> None:
    write_json(suite(tmp_path / "suite") / "suite.json", {"tasks": tasks})
    with pytest.raises(MedbenchError):
        prepare_suite(tmp_path / "suite", tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("*mini-*"))
