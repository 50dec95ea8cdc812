"""`medbench doctor engine`: equal on a sound engine, and able to see one that is not."""

import pytest
from command_line import medbench

from medbench.harness.doctor import show_engine
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.trials import Agreement, EngineDiagnosis, examine_engine
from medbench.harness.workload import load_workload


def test_the_bundled_model_answers_alike_under_every_schedule() -> None:
    result = medbench("doctor", "engine", "--model", "uni-med", "--tasks", "slake-vqa,rec,mpx-single", "--samples", 12)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("12/12") == 4
    assert "All schedules give the same answers." in result.stderr


def test_a_model_without_the_engine_is_a_usage_error() -> None:
    result = medbench("doctor", "engine", "--model", "blind")
    assert result.returncode == 2
    assert "does not use the engine" in result.stderr


@pytest.mark.slow
def test_an_engine_that_mixes_rows_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.adapters.base import LoadOptions
    from medbench.adapters.mock import RandomMock
    from medbench.harness.engine.slots import KVSlots

    loads = load_workload(Settings(model="mock", tasks=("slake-vqa",), limit=12)).loads
    adapter = RandomMock(LoadOptions(seed=3))
    assert all(one.equal == one.total == 12 for one in examine_engine(adapter, loads, samples=12).agreements)
    monkeypatch.setattr(KVSlots, "move", lambda *_, **__: None)
    found = {one.schedule: one for one in examine_engine(adapter, loads, samples=12).agreements}
    assert found["engine, as a run uses it"].equal < 12
    assert found["engine, as a run uses it"].differing.startswith("slake-vqa/")
    assert found["static batches"].equal == 12


@pytest.mark.parametrize(("dtype", "code"), [("float32", 1), ("bfloat16", 0)])
def test_a_difference_fails_in_float32_alone(dtype: str, code: int) -> None:
    found = EngineDiagnosis(
        agreements=(Agreement(schedule="some", equal=1, total=2, differing="a/b"),), driven=False, unreadable=1
    )
    assert show_engine(found, dtype) == code


def test_efficiency_is_told_where_the_engine_ran() -> None:
    phases = Phases()
    assert phases.efficiency() == {}
    for what, number in {
        "prompt tokens": 100, "prompt tokens computed": 60, "prompt tokens shared": 50, "prefill tokens run": 80,
        "output tokens": 25, "answers": 5, "decode row steps": 40,
    }.items():  # fmt: skip
        phases.count(what, number)
    phases.seconds["decode"] = 2.0
    assert phases.efficiency() == {
        "useful_row_share": 0.5, "prefill_padding": 0.25, "shared_prompt_share": 0.5, "output_tokens_per_second": 12.5,
    }  # fmt: skip
    assert "useful_row_share" in phases.as_json()["efficiency"]
