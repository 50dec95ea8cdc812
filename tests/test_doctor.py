"""`medbench doctor scorers`: the table, the verdict, and faults that it must find."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench

from medbench.harness.doctor import PSEUDO_MODELS, Diagnosis
from medbench.tasks.catalog import benchmark_names, get_task
from medbench.tasks.protocols import PROTOCOLS, metric_ids

pytestmark = pytest.mark.xdist_group("java")


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str, str], dict[str, float | None]]:
    """The whole examination of the mini suite."""
    result = medbench("doctor", "scorers", "--format", "json")
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return {(row["task"], row["protocol"], row["metric"]): row["values"] for row in rows}


Table = dict[tuple[str, str, str], dict[str, float | None]]


@pytest.mark.slow
def test_every_metric_of_every_task_is_examined(table: Table) -> None:
    assert set(table) == {
        (name, protocol, metric)
        for name in (*benchmark_names(), "medqa-options", "pubmedqa-context")
        for protocol in PROTOCOLS
        for metric in metric_ids(name, get_task(name).kind, protocol)
    }
    assert all(set(values) == set(PSEUDO_MODELS) for values in table.values())


def test_strict_gives_the_oracle_100_and_silence_0(table: Table) -> None:
    for (_, protocol, _), values in table.items():
        if protocol == "strict":
            assert values["oracle"] == pytest.approx(1, abs=1e-6)
            assert values["empty"] == values["refusal"] == 0


@pytest.mark.slow
def test_thinking_first_changes_nothing(table: Table) -> None:
    assert all(values["thinking"] == values["oracle"] for values in table.values())


def test_the_officials_take_a_refusal_for_a_no(table: Table) -> None:
    official = table["path-vqa", "paper", "closed_accuracy"]
    assert official["refusal"] == official["constant"] == pytest.approx(0.6415, abs=1e-4)
    assert table["path-vqa", "strict", "closed_accuracy"]["refusal"] == 0


def test_a_verbose_oracle_is_understood_where_the_list_of_answers_is_closed(table: Table) -> None:
    for task in ("pubmedqa", "dermamnist", "organsmnist"):
        assert table[task, "strict", "accuracy"]["verbose"] == 1
    assert table["dermamnist", "paper", "accuracy"]["verbose"] == 0
    assert table["slake-rec", "strict", "iou"]["verbose"] == pytest.approx(1)


def test_a_constant_model_gets_the_base_rate(table: Table) -> None:
    assert table["pubmedqa", "strict", "accuracy"]["constant"] == 0.55
    assert table["organsmnist", "strict", "accuracy"]["constant"] == pytest.approx(114 / 156)


def test_faults_are_found() -> None:
    values = {"oracle": 1.0, "thinking": 1.0, "empty": 0.0, "refusal": 0.0}
    sound = Diagnosis(task="t", protocol="strict", metric="f1", values=values)
    assert sound.fault == ""
    assert "oracle scores 99.00 %" in replace(sound, values={**values, "oracle": 0.99, "thinking": 0.99}).fault
    assert "`empty` scores 20.00 %" in replace(sound, values={**values, "empty": 0.2}).fault
    assert "`refusal` scores 20.00 %" in replace(sound, values={**values, "refusal": 0.2}).fault
    assert "20.00 % if it thinks first" in replace(sound, values={**values, "thinking": 0.2}).fault
    officially = {**values, "oracle": 0.5, "thinking": 0.5, "empty": 0.2}
    assert replace(sound, protocol="paper", values=officially).fault == ""


def test_variants_are_examined_when_named() -> None:
    result = medbench("doctor", "scorers", "--tasks", "medqa-options,pubmedqa-context")
    assert result.returncode == 0, result.stderr
    assert "medqa-options" in result.stdout
    assert "and silence 0" in result.stderr


def test_bad_input_is_an_error(tmp_path: Path) -> None:
    assert medbench("doctor", "scorers", "--tasks", "slak-vqa").returncode == 2
    assert medbench("doctor", "scorers", "--data-dir", tmp_path / "nothing").returncode == 1
