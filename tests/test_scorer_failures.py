"""A scorer that fails for one task, which must not take the numbers of the others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medbench.harness import run as running
from medbench.harness.run import run
from medbench.harness.settings import Settings
from medbench.tasks import protocols
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.protocols import evaluate


def test_the_other_tasks_keep_their_numbers_and_the_next_try_scores_the_rest(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        model="mock:oracle", tasks=("slake-vqa", "dermamnist"), data_dir=small_data, output_dir=tmp_path, limit=2
    )

    def failing(name: str, *more: Any) -> Sequence[Any]:
        if name == "slake-vqa":
            raise MedbenchError("The scorer has no memory.", "Give it some.")
        return evaluate(name, *more)

    monkeypatch.setattr(protocols, "evaluate", failing)
    with pytest.raises(MedbenchError, match=r"slake-vqa could not be scored: The scorer has no memory") as raised:
        run(settings, lambda _: None)
    assert "Give it some" in raised.value.hint
    assert "the same command scores again" in raised.value.hint
    [results] = tmp_path.glob("*/results.json")
    document = json.loads(results.read_text())
    assert list(document["tasks"]) == ["dermamnist"]
    assert any("slake-vqa is not scored" in notice for notice in document["notices"])
    monkeypatch.undo()
    again = run(settings, lambda _: None)
    assert sorted(again.results.tasks) == ["dermamnist", "slake-vqa"]
    assert not any("not scored" in notice for notice in again.results.notices)


def test_where_no_task_is_scored_the_error_is_the_scorers(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Sequence[Any]:
        raise MedbenchError("The scorer has no memory.")

    monkeypatch.setattr(protocols, "evaluate", failing)
    settings = Settings(model="mock", tasks=("slake-vqa",), data_dir=small_data, output_dir=tmp_path, limit=2)
    with pytest.raises(MedbenchError, match="The scorer has no memory"):
        run(settings, lambda _: None)
    assert not list(tmp_path.glob("*/results.json"))


def test_a_scorer_that_does_not_start_early_is_no_reason_to_stop(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise MedbenchError("Java cannot start.")

    monkeypatch.setattr(running, "start_meteor", failing)
    monkeypatch.setattr(protocols, "tokenise_together", lambda _: failing())
    monkeypatch.setattr(protocols, "evaluate", lambda *given: failing() if given[1] == "report" else evaluate(*given))
    settings = Settings(
        model="mock", tasks=("slake-vqa", "mimic-cxr"), data_dir=small_data, output_dir=tmp_path, limit=2
    )
    with pytest.raises(MedbenchError, match=r"mimic-cxr could not be scored: Java cannot start"):
        run(settings, lambda _: None)
    assert list(tmp_path.glob("*/results.json"))
