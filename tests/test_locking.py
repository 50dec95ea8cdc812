"""Who comes second is refused before any weights are loaded."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from medbench.adapters import blind
from medbench.adapters.base import Adapter, LoadOptions
from medbench.adapters.catalog import choose_model
from medbench.harness.run import run
from medbench.harness.rundir import held_before_loading
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
from medbench.tasks.foundation.errors import RunError, UsageError

HOLDER = """
import sys, time
from pathlib import Path
from medbench.adapters.catalog import choose_model
from medbench.harness.rundir import held_before_loading
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
settings = Settings(model="blind", tasks=("cls",), data_dir=Path(sys.argv[1]), output_dir=Path(sys.argv[2]))
with held_before_loading(settings, load_workload(settings), choose_model("blind", {})):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded."""
    names: list[str] = []
    before = blind.ENTRY

    def load(options: LoadOptions) -> Adapter:
        names.append("blind")
        return before.load(options)

    monkeypatch.setattr(blind, "ENTRY", replace(before, load=load))
    return names


def test_a_second_process_is_refused_before_it_loads_and_a_killed_one_leaves_nothing(
    small_data: Path, tmp_path: Path, loaded: list[str]
) -> None:
    settings = Settings(model="blind", tasks=("cls",), data_dir=small_data, output_dir=tmp_path)
    first = Popen([sys.executable, "-c", HOLDER, str(small_data), str(tmp_path)], stdout=PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"Another process is writing to .*, with this model and these settings"):
            run(replace(settings, batch_size=3), lambda _: None)
        assert loaded == []
        run(replace(settings, limit=1), lambda _: None)
        assert loaded == ["blind"]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    run(settings, lambda _: None)
    assert loaded == ["blind"] * 2
    assert not list(tmp_path.glob(".loading-*"))


def test_what_cannot_be_loaded_leaves_nothing(small_data: Path, tmp_path: Path) -> None:
    settings = Settings(model="radfm", tasks=("cls",), data_dir=small_data, output_dir=tmp_path / "made" / "runs")
    with pytest.raises(UsageError):
        run(settings, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_held_as_long_as_the_run(small_data: Path, tmp_path: Path, loaded: list[str]) -> None:
    settings = Settings(model="blind", tasks=("cls",), data_dir=small_data, output_dir=tmp_path)
    refused = []

    def publish(_: Path) -> None:
        with pytest.raises(RunError, match="Another process"):
            run(settings, lambda _: None)
        refused.append(len(loaded))

    run(settings, publish)
    assert refused == [1]


def test_an_output_folder_that_cannot_be_written_to_is_told_before_loading(
    small_data: Path, tmp_path: Path, loaded: list[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        settings = Settings(model="blind", tasks=("cls",), data_dir=small_data, output_dir=output)
        with pytest.raises(RunError, match="cannot be written to"):
            run(settings, lambda _: None)
    assert loaded == []


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"batch_size": 2}, True),
        ({"tasks": ("dermamnist,organsmnist",)}, True),
        ({"limit": 2}, False),
        ({"seed": 1}, False),
        ({"temperature": 1.0}, False),
        ({"checkpoint": Path("elsewhere")}, False),
        ({"tasks": ("dermamnist",)}, False),
    ],
)
def test_only_what_changes_answers_makes_another_lock(
    change: dict[str, object], same: bool, small_data: Path, tmp_path: Path
) -> None:
    model = choose_model("blind", {})
    settings = Settings(model="blind", tasks=("cls",), data_dir=small_data, output_dir=tmp_path)
    other = replace(settings, **change)  # type: ignore[arg-type]
    workload = load_workload(settings)
    settings, other = replace(settings, tasks=workload.names), replace(other, tasks=load_workload(other).names)
    with held_before_loading(settings, workload, model):
        if same:
            with pytest.raises(RunError), held_before_loading(other, load_workload(other), model):
                pass
        else:
            with held_before_loading(other, load_workload(other), model):
                pass
