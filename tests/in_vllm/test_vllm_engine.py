"""vLLM writes what our engine writes, token for token in float32, and says it as surely as transformers does.

`make test-vllm` runs this in an environment with vLLM's build for CPUs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import Any, cast

import pytest
import torch
from command_line import medbench, medbench_process
from engine_helpers import Small, answer, make_requests, texts

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.vllm import (
    NEAR,
    VllmEngine,
    distances,
    references,
    refuse_far,
    start,
    why_not_vllm,
)
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.spec import Kind

BUDGET = Budget(rows=16, tokens=1 << 16)
# vLLM's kernels for CPUs take heads of 32 and more.
SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 512}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
}


class Wide(Small):
    """A small decoder with heads that vLLM takes."""

    def __init__(self, family: str) -> None:
        super().__init__(family, **SHAPE, **FAMILIES[family])
        self._eyes = torch.randn(6, 3, SHAPE["hidden_size"])
        self.device = "cpu"


@pytest.fixture(scope="module", params=FAMILIES)
def served(request: pytest.FixtureRequest) -> tuple[LocalAdapter, Any]:
    adapter = Wide(request.param)
    assert not why_not_vllm(adapter)
    return adapter, start(adapter, BUDGET, {})


def test_answers_are_those_of_our_engine(served: tuple[LocalAdapter, Any], picture_folder: Path) -> None:
    adapter, llm = served
    asked = make_requests(picture_folder, 48, seed=3)
    ours = texts(answer(adapter, asked, BUDGET))
    phases = Phases()
    outcomes = [one for some in VllmEngine(adapter, BUDGET, phases, llm).generate(asked) for one in some]
    assert texts({one.sample_id: one for one in outcomes}) == ours
    assert len(ours) == len(asked)
    assert phases.counts["images encoded"] == 4


def test_stop_strings_end_an_answer(served: tuple[LocalAdapter, Any], picture_folder: Path) -> None:
    adapter, llm = served
    longer = make_requests(picture_folder, 8, seed=4, max_new_tokens=40, end_ids=frozenset())
    free = texts(answer(adapter, longer, BUDGET))
    some = next(iter(free.values()))[5:7]
    asked = make_requests(picture_folder, 8, seed=4, max_new_tokens=40, end_ids=frozenset(), stop_strings=(some,))
    ours = answer(adapter, asked, BUDGET)
    outcomes = [one for group in VllmEngine(adapter, BUDGET, Phases(), llm).generate(asked) for one in group]
    assert {one.sample_id: one for one in outcomes} == ours
    assert any(one.generation is not None and one.generation.stop == "stop" for one in outcomes)


def test_log_probabilities_agree(served: tuple[LocalAdapter, Any], picture_folder: Path) -> None:
    adapter, llm = served
    wanted = references(adapter, make_requests(picture_folder, 8, seed=5))
    assert len(wanted) == 8
    assert refuse_far(adapter, distances(llm, wanted)) < NEAR["float32"] / 10


def test_memory_that_runs_out_on_images_asks_fewer_at_a_time(
    served: tuple[LocalAdapter, Any], picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, llm = served
    asked = make_requests(picture_folder, 24, seed=6)
    ours, project = texts(answer(adapter, asked, BUDGET)), adapter.project

    def small(features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        if len(features) > 2:
            raise torch.OutOfMemoryError
        return project(features, kind)

    monkeypatch.setattr(adapter, "project", small)
    outcomes = [one for some in VllmEngine(adapter, BUDGET, Phases(), llm).generate(asked) for one in some]
    assert len(outcomes) == len(asked)
    assert texts({one.sample_id: one for one in outcomes}) == ours


def test_prompts_that_are_too_long_are_not_compared(served: tuple[LocalAdapter, Any], picture_folder: Path) -> None:
    adapter, _ = served
    long = make_requests(picture_folder, 4, seed=7, max_new_tokens=600)
    with pytest.raises(RunError, match="No question could be prepared"):
        references(adapter, long)
    assert len(references(adapter, [*long, *make_requests(picture_folder, 3, seed=7)])) == 3


def test_another_model_is_refused_though_its_answers_may_be_equal(
    served: tuple[LocalAdapter, Any], picture_folder: Path
) -> None:
    adapter, llm = served
    head = cast("Any", adapter.decoder).get_output_embeddings()
    wanted = references(adapter, make_requests(picture_folder, 8, seed=5))
    own = head.weight
    head.weight = torch.nn.Parameter(own.detach().to_dense() * 1.01, requires_grad=False)
    try:
        other = references(adapter, make_requests(picture_folder, 8, seed=5))
    finally:
        head.weight = own
    assert [one.tokens for one in other] == [one.tokens for one in wanted]
    with pytest.raises(RunError, match="computes something else"):
        refuse_far(adapter, distances(llm, other))


@pytest.mark.parametrize("family", ["gemma2", "phi3"])
def test_decoders_that_were_not_compared_are_refused(family: str) -> None:
    assert "never compared" in why_not_vllm(Small(family))


def test_what_embeddings_cannot_carry_is_refused() -> None:
    adapter = Wide("llama")
    adapter.attention = "images"
    assert "read one another" in why_not_vllm(adapter)
    adapter.attention, adapter.has_row_states = "causal", True
    assert "cross-attention" in why_not_vllm(adapter)
    adapter.has_row_states = False
    adapter.decoder.model.layers[1].mlp.gate = torch.nn.Linear(2, 2)
    assert "other weights" in why_not_vllm(adapter)


def test_a_wrong_argument_of_vllm_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="does not start"):
        start(Wide("llama"), BUDGET, {"there_is_no_such_argument": 1})


def test_nothing_of_the_decoder_is_left_on_the_disk() -> None:
    assert not list(Path(gettempdir()).glob("medbench-decoder-*"))


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    found = dict[str, list[object]]()
    for more in ("--engine medbench", "--engine vllm --model-arg vllm.tensor_parallel_size=2"):
        runs = tmp_path / str(len(found))
        common = ["run", "--model", "uni-med", "--tasks", "slake-vqa", "--limit", "6", "--output-dir", runs]
        ran = medbench_process(*common, *more.split())
        assert ran.returncode == 0, ran.stderr
        [file] = runs.glob("*/generations/*.jsonl")
        found[more] = [{**json.loads(line), "run": ""} for line in file.open()]
    one, two = found.values()
    assert one == two
    assert len(one) == 6


def test_what_fails_inside_vllm_on_a_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="fails at its first step with pipeline_parallel_size"):
        start(Wide("llama"), BUDGET, {"pipeline_parallel_size": 2})


def test_a_run_by_vllm_has_the_answers_of_ours_and_is_another_run(tmp_path: Path) -> None:
    found = {}
    for engine in ("vllm", "medbench"):
        runs = tmp_path / engine
        ran = medbench(
            "run", "--model", "uni-med", "--tasks", "all", "--limit", "6", "--engine", engine, "--output-dir", runs
        )
        assert ran.returncode == 0, ran.stderr
        [folder] = [file.parent for file in runs.glob("*/results.json")]
        records = [json.loads(line) for file in sorted(folder.glob("generations/*.jsonl")) for line in file.open()]
        found[engine] = read_json(folder / "results.json")["run"], [{**one, "run": ""} for one in records]
    assert found["vllm"][0] != found["medbench"][0]
    assert found["vllm"][1] == found["medbench"][1]
    assert len(found["vllm"][1]) == 12 * 6
