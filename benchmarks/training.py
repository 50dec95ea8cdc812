"""A training step as it is against the plain loop, one improvement after the other, with the same losses.

The model has the official configuration (frozen tower, Connector-MoE, LoRA 8, official prompts) at the mini weights'
size, whose tower and language model are its base. The plain loop does as the official code does: it encodes every
picture at every step, computes the logits of every position, shows the router the task token beside every visual
token, and steps PyTorch's AdamW as it comes. All loops take the same samples with the same dropout. Run it on a quiet
machine: `make bench`.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.suite import prepare_mini_suite
from medbench.unimed.checkpoint import BaseWeights, load_checkpoint
from medbench.unimed.connector import Router, soft_weights
from medbench.unimed.lora import lora_layers
from medbench.unimed.modeling import IGNORED_LABEL, UniMedForConditionalGeneration
from medbench.unimed.training.corpus import (
    Batch,
    BatchMaker,
    Corpus,
    FeatureCache,
    MicroBatch,
    Mixture,
    load_corpus,
    seed_of,
)
from medbench.unimed.training.folder import Tally
from medbench.unimed.training.plan import base_of, build, image_form
from medbench.unimed.training.recipe import Recipe, load_recipe
from medbench.unimed.training.trainer import DECAY_RULES, Trainer, make_accelerator, make_optimizer, set_rate
from medbench.unimed.vision import to_eva

STEPS = 40
REPEATS = 5
TASKS = ("slake-vqa", "path-vqa", "slake-rec", "slake-reg", "sa-med2d-rec", "sa-med2d-reg", "dermamnist", "organsmnist",
         "mimic-cxr", "mpx-single")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """One way to train.

    Attributes:
        name: What is new in it.
        cached: Whether features come from the cache.
        answers_only: Whether logits, and the last block's MLP, are computed where something is learned only.
        task_once: Whether the router's task half is computed once per task.
        cheap_masks: Whether dropout masks are ours.
        fused: Whether AdamW is one kernel.
        whole: Whether it is the trainer's own step.
    """

    name: str
    cached: bool = False
    answers_only: bool = False
    task_once: bool = False
    cheap_masks: bool = False
    fused: bool = False
    whole: bool = False


PLAIN = Loop(name="plain loop")
CACHED = replace(PLAIN, name="+ features from the cache", cached=True)
ANSWERS = replace(CACHED, name="+ last MLP and logits of answers only", answers_only=True)
TASK_ONCE = replace(ANSWERS, name="+ task half of the router once per task", task_once=True)
CHEAP_MASKS = replace(TASK_ONCE, name="+ dropout masks of sixteen bits", cheap_masks=True)
FUSED = replace(CHEAP_MASKS, name="+ fused AdamW", fused=True)
OURS = replace(FUSED, name="medbench's own step, norm and log included", whole=True)
FIRST_EPOCH = replace(OURS, name="the same, features computed and stored (first epoch)")
LOOPS = (PLAIN, CACHED, ANSWERS, TASK_ONCE, CHEAP_MASKS, FUSED, OURS)


def main() -> None:
    """Measure and print all loops."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        recipe = mini_sized_official(Path(scratch))
        size, _ = image_form(recipe.model, base_of(recipe.model))
        corpus = load_corpus(prepare_mini_suite(), recipe, image_size=size)
        cache = FeatureCache(folder=Path(scratch) / "features", shape=(16, 512), dtype=torch.float32, limit=10**9)
        cold = race(recipe, corpus, cache, (FIRST_EPOCH,))[FIRST_EPOCH.name].seconds
        rounds = [race(recipe, corpus, cache, LOOPS) for _ in range(REPEATS)]
        sure = mini_sized_official(Path(scratch), lora_dropout=0.0)
        losses = [lap.losses for lap in race(sure, corpus, cache, LOOPS).values()]
    least = {name: least_of([lap[name].seconds for lap in rounds]) for name in rounds[0]}
    report({**least, FIRST_EPOCH.name: sum(cold)}, losses)


def least_of(repeats: Sequence[Sequence[float]]) -> float:
    """Return the sum over the steps of the least time that a step took in any repeat."""
    return sum((min(times) for times in zip(*repeats, strict=True)), start=0.0)


def report(seconds: dict[str, float], losses: list[list[float]]) -> None:
    """Print the times, their ratios to the plain loop, and how far the losses are apart."""
    plain = seconds[PLAIN.name]
    say(f"{STEPS} steps of 4 samples, fp32, one thread, loops in lockstep; each step's least of {REPEATS} repeats")
    rows = [[name, f"{spent:.2f}", f"{plain / spent:.2f}"] for name, spent in seconds.items()]
    emit_table(["loop", "CPU seconds", "throughput ratio"], rows)
    first, *others = losses
    difference = max(abs(one - same) for other in others for one, same in zip(first, other, strict=True))
    say(f"Without dropout, largest difference of a loss from the plain loop's over the {STEPS} steps: {difference:.1e}")


def mini_sized_official(folder: Path, *, lora_dropout: float = 0.05) -> Recipe:
    """Return the official recipe on the mini weights' tower and language model, written to `folder` as base weights."""
    mini = load_checkpoint(MINI_WEIGHTS, device="cpu")
    language, vision = folder / "language_model", folder / "eva.pth"
    mini.model.language_model.save_pretrained(language)
    mini.processor.tokenizer.save_pretrained(language)
    torch.save(to_eva(dict(mini.model.vision_tower.vit.state_dict())), vision)
    base = BaseWeights(language_model=str(language), vision=str(vision))
    vit = mini.model.config.vision
    sizes = {
        name: getattr(vit, name)
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "image_size",
            "patch_size",
        )
    }
    overrides = (
        f"model.language_model={base.language_model}", f"model.vision_weights={base.vision}", f"model.vision={sizes}",
        "precision=fp32", f"steps={STEPS}", "schedule.warmup_steps=5", "schedule.peak=1e-3",
        f"mixture={dict.fromkeys(TASKS, 1)}", f"model.unimed.lora_dropout={lora_dropout}",
    )  # fmt: skip
    return load_recipe("official", overrides)


class Losses(Tally):
    """A tally that remembers every loss."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def add(self, entry: str, loss: float, *, samples: int, tokens: int) -> None:
        """Count one micro-batch."""
        super().add(entry, loss, samples=samples, tokens=tokens)
        self.losses.append(loss)


@dataclass(frozen=True, slots=True)
class Lap:
    """CPU seconds and loss of every step of a loop."""

    seconds: list[float]
    losses: list[float]


def race(recipe: Recipe, corpus: Corpus, cache: FeatureCache, loops: Sequence[Loop]) -> dict[str, Lap]:
    """Take all steps from the same start, every loop its first step, then every loop its second.

    A machine that is slower for a while is so for all loops.
    """
    runners = [start(recipe, corpus, cache if loop.cached else None, loop) for loop in loops]
    seconds: list[list[float]] = [[] for _ in loops]
    for step in range(recipe.steps):
        for (trainer, ready, tally), loop, spent in zip(runners, loops, seconds, strict=True):
            started = time.process_time()
            if loop.whole:
                trainer.step(step, ready, tally)
            else:
                tally.losses.append(plain_step(trainer, step, next(ready), answers_only=loop.answers_only))
            spent.append(time.process_time() - started)
    return {
        loop.name: Lap(spent, tally.losses) for loop, spent, (_, _, tally) in zip(loops, seconds, runners, strict=True)
    }


def plain_step(trainer: Trainer, step: int, ready: MicroBatch, *, answers_only: bool) -> float:
    """Take one step and do nothing else; return its loss."""
    torch.manual_seed(seed_of(trainer.recipe.seed, step, 0))
    set_rate(trainer.optimizer, trainer.recipe.learning_rate(step))
    trainer.optimizer.zero_grad(set_to_none=True)
    batch = trainer.inputs(ready)
    loss = trainer.model(**batch).loss if answers_only else loss_over_all_logits(trainer.model, batch)
    torch.autograd.backward(loss)
    trainer.optimizer.step()
    return float(loss.detach())


def start(
    recipe: Recipe, corpus: Corpus, cache: FeatureCache | None, loop: Loop
) -> tuple[Trainer, Iterator[MicroBatch], Losses]:
    """Return a fresh model with its optimizer, what it will see, and where its losses go."""
    model, processor = build(recipe, corpus, base_of(recipe.model), frozen_dtype=torch.float32)
    model.train()
    if not loop.task_once:
        router = model.connector.router
        router.__dict__["forward"] = partial(route_all_together, router)
    if not loop.cheap_masks:
        for _, _, layer in lora_layers(model):
            layer.lora_dropout["default"] = torch.nn.Dropout(model.config.lora_dropout)
    plan = recipe.optimizer
    optimizer = make_optimizer(
        model.trainable(), decays=DECAY_RULES[plan.decays], weight_decay=plan.weight_decay, betas=plan.betas
    )
    for group in optimizer.param_groups:
        group["fused"] = loop.fused
    trainer = Trainer(
        recipe=recipe,
        accelerator=make_accelerator(recipe),
        model=model,
        wrapped=model,
        optimizer=optimizer,
        cache=cache,
    )
    maker = BatchMaker(recipe=recipe, corpus=corpus, processor=processor, cache=cache, rank=0)
    mixture = Mixture(corpus.sizes(), recipe.mixture, micro_batch=recipe.micro_batch, seed=recipe.seed)
    return trainer, map(maker.make, mixture.draws(parts=1)), Losses()


def loss_over_all_logits(model: UniMedForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy with logits of all positions, those without a label ignored."""
    labels = batch.pop("labels")
    logits = model(**batch).logits.float()
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL
    )


def route_all_together(
    router: Router, tokens: torch.Tensor, task_tokens: torch.Tensor, task_rows: torch.Tensor
) -> torch.Tensor:
    """Return the expert weights from `[task token, visual token]` of every visual token, as the official code does."""
    if router.fc1_task is None or router.fc1_token is None:
        raise RunError("The official router reads tasks and tokens.")
    beside = task_tokens[task_rows].expand(-1, tokens.shape[1], -1)
    linear = torch.nn.functional.linear
    hidden = linear(beside, router.fc1_task, router.fc1_bias) + linear(tokens, router.fc1_token)
    return soft_weights(router.fc2(torch.nn.functional.gelu(hidden)))


if __name__ == "__main__":
    main()
