"""Exact resume, checkpoints that are whole, and errors that lose nothing: on tiny base weights, by command."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import COMMAND, medbench, medbench_process, start_medbench
from tiny_base import lora_overrides, make_base, trained_weights

from medbench.tasks.foundation.errors import RunError
from medbench.unimed.checkpoint import BaseWeights, load_checkpoint
from medbench.unimed.training.corpus import Mixture
from medbench.unimed.training.folder import _written_whole


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    return make_base(tmp_path_factory.mktemp("base"))


def words(base: BaseWeights, data: Path, output: Path, *more: str) -> list[str]:
    settings = [word for setting in lora_overrides(base, *more) for word in ("--set", setting)]
    return ["train", "--config", "official", *settings, "--data-dir", str(data), "--output", str(output)]


def losses_of(folder: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [(record["step"], record["mean_loss"]) for record in records]


@pytest.fixture(scope="module")
def uninterrupted(base: BaseWeights, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("training") / "whole"
    done = medbench(*words(base, small_data, output))
    assert done.returncode == 0, done.stderr
    return output


def test_only_what_was_trained_is_written_and_the_last_checkpoints_are_kept(uninterrupted: Path) -> None:
    names = set(trained_weights(uninterrupted))
    assert names
    assert all("lora_" in name or name.startswith("connector.") for name in names)
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    assert not (uninterrupted / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", "asked to stop"])
def test_a_stopped_training_ends_with_the_same_bits(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "stopped"
    process = start_medbench(*words(base, small_data, output))
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "step-00000002").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL if kind == "killed" else signal.SIGINT)
    _, told = process.communicate(timeout=120)
    if (output / "config.json").exists():
        pytest.fail("the training was through before it could be stopped; make it longer")
    if kind != "killed":
        assert process.returncode == 130
        assert "--resume" in told
    refused = medbench(*words(base, small_data, output))
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    resumed = medbench(*words(base, small_data, output), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected = trained_weights(uninterrupted)
    for name, tensor in trained_weights(output).items():
        assert torch.equal(tensor, expected[name]), name
    assert losses_of(output) == losses_of(uninterrupted)


def test_a_checkpoint_on_the_way_answers_questions(uninterrupted: Path, small_data: Path, tmp_path: Path) -> None:
    for folder in (uninterrupted, uninterrupted / "checkpoints" / "step-00000004"):
        result = medbench(
            "run", "--model", "uni-med", "--checkpoint", folder, "--data-dir", small_data, "--tasks", "slake-vqa",
            "--output-dir", tmp_path / "runs",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr


def test_another_recipe_cannot_resume(base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = copy_unfinished(uninterrupted, tmp_path / "copy")
    refused = medbench(*words(base, small_data, output, "seed=1"), "--resume")
    assert refused.returncode == 1
    assert "seed 42 became 1" in refused.stderr


def copy_unfinished(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    (target / "config.json").unlink()
    return target


def test_other_data_cannot_resume(base: BaseWeights, uninterrupted: Path, tmp_path: Path) -> None:
    output = copy_unfinished(uninterrupted, tmp_path / "copy")
    settings = [word for setting in lora_overrides(base) for word in ("--set", setting)]
    refused = medbench("train", "--config", "official", *settings, "--output", output, "--resume")
    assert refused.returncode == 1
    assert "another data" in refused.stderr


def test_another_recipe_cannot_resume_before_the_first_checkpoint(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output = copy_unfinished(uninterrupted, tmp_path / "copy")
    shutil.rmtree(output / "checkpoints")
    refused = medbench(*words(base, small_data, output, "steps=5"), "--resume")
    assert refused.returncode == 1
    assert "steps 6 became 5" in refused.stderr


@pytest.mark.slow
def test_what_learns_is_float32_and_frequencies_stay_so(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "full"
    more = ("precision=bf16", "model.unimed.language_tuning=full", "steps=3", "feature_cache_gb=0")
    done = medbench_process(*words(base, small_data, output, *more))
    assert done.returncode == 0, done.stderr
    assert all(tensor.dtype == torch.float32 for tensor in trained_weights(output).values())
    model = load_checkpoint(output, device="cpu", dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_limit_never_cuts_into_a_picture(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    done = medbench(*words(base, small_data, tmp_path / "short", "max_prompt_tokens=3", "steps=3"))
    assert done.returncode == 0, done.stderr


def test_nothing_to_resume_is_said(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    refused = medbench(*words(base, small_data, tmp_path / "new"), "--resume")
    assert refused.returncode == 2
    assert "no training" in refused.stderr


def test_a_torn_checkpoint_is_no_checkpoint(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output = copy_unfinished(uninterrupted, tmp_path / "copy")
    torn = output / "checkpoints" / ".step-00000006.partial"
    torn.mkdir()
    (torn / "trained.safetensors").write_bytes(b"half")
    (output / "checkpoints" / "step-00000004" / "training_state" / "progress.json").unlink()
    resumed = medbench(*words(base, small_data, output), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in trained_weights(output).items():
        assert torch.equal(tensor, trained_weights(uninterrupted)[name]), name


def test_what_is_missing_of_a_finished_training_is_made(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(uninterrupted, output)
    (output / "learning_curve.svg").unlink()
    (output / ".final.partial").mkdir()
    assert "--resume" in medbench(*words(base, small_data, output)).stderr
    resumed = medbench(*words(base, small_data, output), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    drawn, expected = ((folder / "learning_curve.svg").read_bytes() for folder in (output, uninterrupted))
    assert drawn == expected
    assert {path.name for path in output.iterdir()} == {path.name for path in uninterrupted.iterdir()}


@pytest.mark.parametrize(
    ("raised", "seen"), [(OSError("full"), RunError), (Exception("full"), RunError), (KeyError, KeyError)]
)
def test_what_cannot_be_written_is_gone_and_told(raised: Exception, seen: type[Exception], tmp_path: Path) -> None:
    """tokenizers raises a plain `Exception` where a disk is full; a mistake of ours is not called a full disk."""

    def write() -> None:
        with _written_whole(tmp_path / "partial", "It cannot be written", "") as partial:
            (partial / "half").touch()
            raise raised

    with pytest.raises(seen):
        write()
    assert not (tmp_path / "partial").exists()


@pytest.mark.slow
def test_a_full_disk_stops_with_an_error_and_keeps_what_was_whole(
    base: BaseWeights, small_data: Path, tmp_path: Path
) -> None:
    """Files may not grow beyond a limit, which is how a full disk looks to a writer."""
    output = tmp_path / "full"
    command = [*COMMAND, *words(base, small_data, output, "feature_cache_gb=0")]
    quoted = " ".join(f"'{word}'" for word in command)
    done = subprocess.run(["bash", "-c", f"ulimit -f 40; exec {quoted}"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (output / "config.json").exists()
    assert not list((output / "checkpoints").iterdir())
    resumed = medbench(*words(base, small_data, output, "feature_cache_gb=0"), "--resume")
    assert resumed.returncode == 0, resumed.stderr


def test_a_loss_that_is_no_number_stops_the_training(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "nan"
    done = medbench(
        *words(base, small_data, output, "schedule.peak=1e30", "schedule.floor=1e30", "schedule.warmup_steps=0")
    )
    assert done.returncode == 1
    assert "schedule.peak" in done.stderr
    assert "Traceback" not in done.stderr
    for folder in (output / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(tensor).all() for tensor in trained_weights(folder).values())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.language_model=no/such/folder", "no/such/folder"),
        ("model.vision_weights=nothing.pth", "nothing.pth"),
        ("model.unimed.router_type=noisy", "router_type"),
        ("model.unimed.rooter_type=soft", "rooter_type"),
        ("model.unimed={router_type: hard, num_experts: 3}", "hard router"),
        ("precision=fp16", "needs a GPU"),
        ("model.vision.hiden_size=99", "hiden_size"),
        ("model.vision.patch_size=0", "patch"),
        ("model.vision.num_attention_heads=3", "3 heads"),
        ("model.unimed.router_hidden_size=-1", "router_hidden_size"),
        ("mixture={medqa: 1, no-such: 1}", "no-such"),
    ],
)
def test_a_users_mistake_gets_an_answer_and_no_traceback(
    base: BaseWeights, small_data: Path, tmp_path: Path, setting: str, says: str
) -> None:
    done = medbench(*words(base, small_data, tmp_path / "wrong", setting), env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_other_base_weights_are_noticed(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(uninterrupted, copy)
    other = make_other_tower(base, tmp_path)
    document = json.loads((copy / "base_weights.json").read_text())
    document["paths"]["vision"] = str(other)
    (copy / "base_weights.json").write_text(json.dumps(document))
    done = medbench("run", "--model", "uni-med", "--checkpoint", copy, "--data-dir", small_data, "--tasks", "slake-vqa")
    assert done.returncode == 1
    assert "Other base weights" in done.stderr


def make_other_tower(base: BaseWeights, folder: Path) -> Path:
    tensors: dict[str, Any] = torch.load(base.vision, weights_only=True)
    tensors["cls_token"] = tensors["cls_token"] + 1
    torch.save(tensors, folder / "other.pth")
    return folder / "other.pth"


def test_cached_features_give_the_same_training(
    base: BaseWeights, small_data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "uncached"
    done = medbench(*words(base, small_data, output, "feature_cache_gb=0"))
    assert done.returncode == 0, done.stderr
    for (step, cached), (same, plain) in zip(losses_of(uninterrupted), losses_of(output), strict=True):
        assert step == same
        assert cached == pytest.approx(plain, abs=1e-3)


def test_what_a_step_sees_depends_on_the_step_alone() -> None:
    def mixture(rank: int, workers: int) -> Mixture:
        return Mixture({"a": 5, "b": 3}, {"a": 1, "b": 2}, micro_batch=2, seed=3, rank=rank, workers=workers)

    def first(count: int, from_step: int = 0, rank: int = 0, workers: int = 1) -> list[Any]:
        draws = mixture(rank, workers).draws(parts=2, first_step=from_step)
        return [next(draws) for _ in range(count)]

    whole = first(40)
    assert first(20, from_step=10) == whole[20:]
    dealt = [index for draw in whole if draw.name == "a" for index in draw.indices]
    assert len(dealt) > 10
    for epoch in range(len(dealt) // 5):
        assert sorted(dealt[epoch * 5 : epoch * 5 + 5]) == [0, 1, 2, 3, 4]
    turns = [
        {turn for draw in first(30, rank=rank, workers=2) if draw.name == "b" for turn in draw.turns} for rank in (0, 1)
    ]
    assert not turns[0] & turns[1]


@pytest.mark.slow
def test_bfloat16_trains_looks_at_answers_and_runs(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "bf16"
    more = ("precision=bf16", "validation={share: 0.3, every: 3, answers: 2}", "gradient_checkpointing=true", "steps=3")
    done = medbench_process(*words(base, small_data, output, *more))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (output / "train_log.jsonl").read_text().splitlines()]
    assert records[-1]["scores"]
    assert all(tensor.dtype == torch.float32 for tensor in trained_weights(output).values())
