"""Options of the engine through the real command: sampling, beams, budget, what a run notes of itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench

from medbench.adapters.base import LoadOptions
from medbench.adapters.mock import RandomMock
from medbench.harness import local
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.passes import COMPILED, compile_layers
from medbench.harness.engine.requests import Outcome, make_request
from medbench.harness.learned import Learned
from medbench.harness.local import Driver, SelfTest, sampling_of
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
from medbench.tasks.foundation.errors import UsageError


def run(output: Path, *options: object) -> tuple[Path, list[str], dict[str, Any]]:
    """Return the folder of a run of the random model, its answers and its env.json."""
    before = set(output.glob("*/run.yaml"))
    result = medbench("run", "--model", "mock", "--tasks", "slake-vqa", "--limit", 10, "--output-dir", output, *options)
    assert result.returncode == 0, result.stderr
    [made] = set(output.glob("*/run.yaml")) - before
    lines = (made.parent / "generations" / "slake-vqa.jsonl").read_text(encoding="utf-8").splitlines()
    environment = json.loads((made.parent / "env.json").read_text(encoding="utf-8"))
    return made.parent, [json.loads(line)["text"] for line in lines], environment


@pytest.mark.slow
def test_sampling_beams_and_penalties_make_other_runs(tmp_path: Path) -> None:
    _, greedy, environment = run(tmp_path)
    assert environment["engine"]["batching"] == "continuous"
    assert environment["engine"]["budget"]["rows"] > 1
    rate = environment["phases"]["tasks"]["slake-vqa"]
    assert rate["output_tokens"] > 0
    assert rate["output_tokens_per_second"] > 0
    _, hot, _ = run(tmp_path, "--temperature", 1.5, "--seed", 1)
    _, other_seed, _ = run(tmp_path, "--temperature", 1.5, "--seed", 2)
    _, few_rows, _ = run(tmp_path / "again", "--temperature", 1.5, "--seed", 1, "--batch-size", 2)
    assert greedy != hot != other_seed
    assert few_rows == hot
    folder, _, _ = run(tmp_path, "--beams", 3, "--repetition-penalty", 1.3)
    assert "beams: 3" in (folder / "run.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model", "blind", "--temperature", "0.5"], "does not take --temperature"),
        (["--model", "blind", "--compile"], "does not take --compile"),
        (["--model", "mock", "--top-p", "1.5"], "--top-p"),
        (["--model", "mock", "--top-p", "0.5"], "At temperature 0 nothing is sampled"),
        (["--model", "mock", "--temperature", "1", "--beams", "2"], "A beam search does not sample"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    result = medbench("run", "--tasks", "slake-vqa", "--output-dir", tmp_path, *options)
    assert result.returncode == 2
    assert told in result.stderr


def test_low_precision_notes_how_many_answers_depend_on_it(tmp_path: Path) -> None:
    result = medbench(
        "run", "--model", "uni-med", "--tasks", "slake-vqa", "--limit", 8, "--dtype", "bfloat16",
        "--output-dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [file] = tmp_path.glob("*/env.json")
    agreement = json.loads(file.read_text(encoding="utf-8"))["engine"]["agreement"]
    assert (agreement["dtype"], agreement["of"]) == ("bfloat16", 4)
    assert 0 <= agreement["equal"] <= 4
    assert f"{agreement['equal']} of 4 answers" in result.stderr


def test_a_run_remembers_what_its_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="mock", tasks=("slake-vqa",), limit=6)
    [load] = load_workload(settings).loads
    adapter = RandomMock(LoadOptions())
    directory = RunDirectory(path=tmp_path, identity="x")
    used: list[Budget] = []

    def learning(engine: Engine, _: object) -> Iterator[list[Outcome]]:
        used.append(engine.budget)
        engine.budget = engine.budget.halved(4)
        yield []

    monkeypatch.setattr(Engine, "generate", learning)
    monkeypatch.setattr(local, "self_test", lambda *_: SelfTest())
    requests = [make_request(adapter, sample, load.spec, load.prepared.source) for sample in load.samples]
    for _ in range(2):
        list(Driver(adapter, Phases(), settings, Learned(directory.path / "budget.json")).answer(iter(requests)))
    assert used[1].rows == used[0].halved(4).rows == 2
    (directory.path / "budget.json").write_text("cut sho", encoding="utf-8")
    list(Driver(adapter, Phases(), settings, Learned(directory.path / "budget.json")).answer(iter(requests)))
    assert used[2] == used[0]


def test_settings_become_choosing() -> None:
    settings = Settings(model="m", temperature=0.7, top_k=5, seed=9)
    assert settings.decoding() == {"temperature": 0.7, "top_k": 5}
    assert Settings(model="m").decoding() == {}
    adapter = RandomMock(LoadOptions())
    choosing = sampling_of(settings, adapter)
    assert (choosing.temperature, choosing.top_k, choosing.seed, choosing.greedy) == (0.7, 5, 9, False)
    adapter.decoding = {"temperature": 0.5}
    assert sampling_of(Settings(model="m"), adapter).temperature == 0.5
    assert sampling_of(settings, adapter).temperature == 0.7


def test_layers_are_given_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(module))
    decoder = RandomMock(LoadOptions()).decoder
    compile_layers(decoder)
    layers = decoder.get_decoder().layers  # type: ignore[no-untyped-call]
    assert compiled == [getattr(layer, name) for layer in layers[:-1] for name in COMPILED]


def test_a_machine_without_a_compiler_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def no_compiler(module: torch.nn.Module, **_: object) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

        module.forward = fail

    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    with pytest.raises(UsageError, match="does not work here: InvalidCxxCompiler: No working C") as raised:
        compile_layers(RandomMock(LoadOptions()).decoder)
    assert "CXX" in str(raised.value)
