"""Two processes by `accelerate launch`: the same weights as one process that averages both workers' gradients."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_base import lora_overrides, make_base, trained_weights

from medbench.unimed.checkpoint import BaseWeights
from medbench.unimed.training.corpus import BatchMaker, Mixture, load_corpus
from medbench.unimed.training.plan import base_of, build, image_form
from medbench.unimed.training.recipe import Recipe, load_recipe
from medbench.unimed.training.trainer import (
    DECAY_RULES,
    gathered_weights,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
    set_rate,
)

WORKERS = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    return make_base(tmp_path_factory.mktemp("base"))


def overrides(base: BaseWeights) -> tuple[str, ...]:
    return lora_overrides(
        base, "steps=3", "schedule.warmup_steps=1", "feature_cache_gb=0", "model.unimed.lora_dropout=0.0",
        "optimizer.clip_norm=1.0",
    )  # fmt: skip


def launch(words: list[str]) -> None:
    """Run a Python program in two processes, as `accelerate launch` does it for GPUs."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORKERS), *words]
    path = os.pathsep.join(map(str, [Path(__file__).parent, Path(__file__).parent.parent]))
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_that_averages(base: BaseWeights, small_data: Path, tmp_path: Path) -> None:
    settings = [word for setting in overrides(base) for word in ("--set", setting)]
    arguments = ["train", "--config", "official", *settings, "--data-dir", str(small_data)]
    launch(["-m", "medbench.harness.cli", *arguments, "--output", str(tmp_path / "two")])
    [progress] = (tmp_path / "two").glob("checkpoints/step-00000002/training_state/progress.json")
    assert json.loads(progress.read_text())["workers"] == WORKERS
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "two", resumed)
    (resumed / "config.json").unlink()
    launch(["-m", "medbench.harness.cli", *arguments, "--output", str(resumed), "--resume"])
    for name, tensor in trained_weights(resumed).items():
        assert torch.equal(tensor, trained_weights(tmp_path / "two")[name]), name
    expected = averaged_training(load_recipe("official", overrides(base)), small_data)
    trained = trained_weights(tmp_path / "two")
    assert set(trained) == set(expected)
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-3, rtol=0)


def averaged_training(recipe: Recipe, data: Path) -> dict[str, torch.Tensor]:
    corpus = load_corpus(data, recipe, image_size=image_form(recipe.model, base := base_of(recipe.model))[0])
    model, processor = build(recipe, corpus, base, frozen_dtype=torch.float32)
    plan = recipe.optimizer
    optimizer = make_optimizer(
        model.trainable(), decays=DECAY_RULES[plan.decays], weight_decay=plan.weight_decay, betas=plan.betas
    )
    makers = [
        BatchMaker(recipe=recipe, corpus=corpus, processor=processor, cache=None, rank=rank) for rank in range(WORKERS)
    ]
    streams = [
        Mixture(
            corpus.sizes(), recipe.mixture, micro_batch=recipe.micro_batch, seed=recipe.seed, rank=rank, workers=WORKERS
        ).draws(parts=recipe.micro_batches)
        for rank in range(WORKERS)
    ]
    for step in range(recipe.steps):
        optimizer.zero_grad(set_to_none=True)
        for maker, stream in zip(makers, streams, strict=True):
            for _ in range(recipe.micro_batches):
                ready = maker.make(next(stream))
                inputs = dict(ready.texts)
                if ready.pixels is not None:
                    inputs["pixel_values"] = ready.pixels
                (model(**inputs).loss / recipe.micro_batches / WORKERS).backward()
        torch.nn.utils.clip_grad_norm_(model.trainable().values(), plan.clip_norm or torch.inf)
        set_rate(optimizer, recipe.learning_rate(step))
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.trainable().items()}


SHARDED = """
import os
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from medbench.unimed.training.trainer import gathered_weights, optimizer_state, restore_optimizer
from test_unimed_variants import inputs_of
from tiny_model import small

dist.init_process_group("gloo")


def sharded():
    model, processor = small(lora_dropout=0.0)
    model.train_what_is_tuned()
    inputs = inputs_of(processor)
    for layer in model.language_model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01), inputs


def step(model, optimizer, inputs):
    optimizer.zero_grad()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()


model, optimizer, inputs = sharded()
step(model, optimizer, inputs)
weights, state = gathered_weights(model, only_trained=True), optimizer_state(model, optimizer)
if dist.get_rank() == 0:
    torch.save({"weights": weights, "state": state}, sys.argv[1])
step(model, optimizer, inputs)
after = gathered_weights(model, only_trained=True)
if dist.get_rank() == 0:
    torch.save(after, sys.argv[1] + ".after")
# No worker leaves while another still talks to it, and none lets torch's threads abort it on its way out.
dist.barrier()
dist.destroy_process_group()
os._exit(0)
"""


@pytest.mark.slow
def test_sharded_weights_and_moments_are_gathered_under_the_names_of_one_process(tmp_path: Path) -> None:
    """FSDP2 itself, on two CPU processes; accelerate's own launcher of it wants GPUs."""
    from test_unimed_variants import inputs_of
    from tiny_model import small

    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    launch([str(script), str(tmp_path / "state.pt")])
    gathered = torch.load(tmp_path / "state.pt", weights_only=True)

    model, processor = small(lora_dropout=0.0)
    model.train_what_is_tuned()
    inputs = inputs_of(processor)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.01)
    one_step(model, optimizer, inputs)
    weights, state = gathered_weights(model, only_trained=True), optimizer_state(model, optimizer)
    assert set(gathered["weights"]) == set(weights)
    assert set(gathered["state"]["state"]) == set(state["state"])
    for name, tensor in weights.items():
        torch.testing.assert_close(gathered["weights"][name], tensor, atol=1e-3, rtol=0)
        # What was sharded goes on in one process.
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            parameter.copy_(gathered["weights"][name])
    fresh = torch.optim.AdamW(model.trainable().values(), lr=0.01)
    restore_optimizer(model, fresh, gathered["state"], model.config)
    one_step(model, fresh, inputs)
    after = torch.load(tmp_path / "state.pt.after", weights_only=True)
    for name, parameter in model.trainable().items():
        torch.testing.assert_close(parameter.detach(), after[name], atol=1e-3, rtol=0)


def one_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> None:
    optimizer.zero_grad()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()


def test_a_training_of_two_is_not_resumed_by_one(base: BaseWeights, tmp_path: Path) -> None:
    from medbench.tasks.foundation.errors import RunError
    from medbench.unimed.training.folder import TrainingFolder

    recipe = replace(load_recipe("official", overrides(base)), steps=3)
    folder = TrainingFolder(path=tmp_path / "training", recipe=recipe, workers=2)
    folder.open(resume=False)
    folder.save_step(2, lambda _: None, {"optimizer": {}, "scaler": None})
    with pytest.raises(RunError, match="workers: 2 became 1"):
        TrainingFolder(path=tmp_path / "training", recipe=recipe, workers=1).open(resume=True)
