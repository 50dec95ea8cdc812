"""`--max-new-tokens`: how long answers may be, for every model, and a loud word where that decided the numbers."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import yaml
from command_line import medbench

from medbench.harness.results import TaskResult, Written, felt_limits
from medbench.harness.settings import load_settings, read_limits
from medbench.harness.workload import with_limits
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError


def limits_of(*words: str, tasks: tuple[str, ...] = ("slake-vqa", "path-vqa", "mimic-cxr")) -> dict[str, int]:
    specs = with_limits([get_task(name) for name in tasks], read_limits(words))
    return {spec.name: spec.max_new_tokens for spec in specs if spec.limit_chosen}


def test_the_most_special_word_decides() -> None:
    assert limits_of("512") == {"slake-vqa": 512, "path-vqa": 512, "mimic-cxr": 512}
    assert limits_of("report=512,vqa=2048") == {"slake-vqa": 2048, "path-vqa": 2048, "mimic-cxr": 512}
    assert limits_of("slake-vqa=7", "vqa=9", "*-vqa=8", "5") == {"slake-vqa": 7, "path-vqa": 9, "mimic-cxr": 5}
    assert limits_of("64", tasks=("medqa-options",)) == {"medqa-options": 64}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["many"], "no number of tokens"),
        (["vqa="], "no number of tokens"),
        (["0"], "no number of tokens"),
        (["vqa=5,vqa=6"], "names vqa twice"),
        (["5", "6"], "names all twice"),
        (["cls=5"], "no task of this run"),
        (["slake-vqq=5"], "slake-vqa"),
    ],
)
def test_what_is_no_limit_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        limits_of(*words)


def test_two_ways_of_saying_it_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        load_settings(None, {"model": "openai:x@y", "max_new_tokens": {"all": 5}, "model_args": {"max_tokens": "9"}})


@pytest.mark.slow
def test_a_limit_makes_another_run_and_is_said_aloud_where_it_is_felt(small_data: Path, tmp_path: Path) -> None:
    words = ("run", "--model", "mock", "--tasks", "slake-vqa", "--data-dir", small_data, "--output-dir", tmp_path)
    short = medbench(*words, "--max-new-tokens", "vqa=3")
    assert short.returncode == 0, short.stderr
    assert "cut off by the limit of tokens" in " ".join(short.stderr.split())
    assert "--max-new-tokens slake-vqa=N" in " ".join(short.stderr.split())
    [folder] = tmp_path.glob("*/")
    records = [json.loads(line) for line in (folder / "generations" / "slake-vqa.jsonl").read_text().splitlines()]
    assert records
    assert max(record["output_tokens"] for record in records) == 3
    assert yaml.safe_load((folder / "run.yaml").read_text())["settings"]["max_new_tokens"] == {"vqa": 3}
    again = medbench("run", "--config", folder / "run.yaml")
    assert "is complete; nothing to do" in again.stderr
    assert medbench(*words, "--max-new-tokens", "4").returncode == 0
    assert len(list(tmp_path.glob("*/run.yaml"))) == 2


def test_all_tasks_whose_answers_were_cut_are_one_line() -> None:
    written = Written(answers=100, at_limit=60, thinking=0, cut_thoughts=2, thought_share=None)
    few = replace(written, at_limit=0)
    tasks = {name: SimpleNamespace(written=one) for name, one in (("a", written), ("b", few), ("c", written))}
    [line] = felt_limits(cast("Mapping[str, TaskResult]", tasks))
    assert "a 60 of 100 (60 %), 2 of them in the midst of a thought; c 60 of 100" in line
    assert "b 0" not in line
