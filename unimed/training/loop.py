"""The training loop: mixture sampling, gradient steps, a held-out look, a log and a checkpoint."""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import torch
import yaml

from tasks.foundation.console import Meter, meter
from tasks.foundation.errors import RunError
from unimed.checkpoint import RECIPE_FILE
from unimed.configuration import UniMedConfig
from unimed.modeling import UniMedForConditionalGeneration
from unimed.processing import UniMedProcessor
from unimed.training.corpus import Corpus, distort_classified, load_corpus, make_batch
from unimed.training.recipe import Recipe
from unimed.training.tokenizer import train_tokenizer
from unimed.training.vision_stage import train_vision

LOG_EVERY = 20
LOG_FILE = "train_log.jsonl"


def train(recipe: Recipe, data_dir: Path, output: Path) -> Path:
    """Train a model from scratch and write a checkpoint that `medbench run --checkpoint` takes.

    Args:
        recipe: What to train.
        data_dir: Prepared tasks; only their train splits are read.
        output: New or empty folder for weights, tokenizer, recipe and log.

    Raises:
        RunError: If `output` holds a checkpoint already, or the loss is not a number any more.
    """
    if (output / "config.json").exists():
        raise RunError(f"{output} holds a checkpoint already.", "Give another folder with --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output} cannot be made: {error.strerror}.", "Give another folder with --output.") from error
    torch.manual_seed(recipe.seed)
    corpus = load_corpus(
        data_dir,
        recipe.mixture,
        image_size=int(recipe.model.vision["image_size"]),
        validation_share=recipe.validation_share,
    )
    empty = [name for name, examples in corpus.train.items() if not examples]
    if empty:
        raise RunError(f"No training samples: {', '.join(empty)}.", "Prepare the data, or lower validation_share.")
    model, processor = build(recipe, corpus)
    with (output / LOG_FILE).open("w", encoding="utf-8") as log:
        run_vision_stage(recipe, corpus, model, log)
        run_steps(recipe, corpus, model, processor, log)
    save(recipe, model, processor, output)
    return output


def build(recipe: Recipe, corpus: Corpus) -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    """Return an untrained model and its processor, with a tokenizer trained on the corpus."""
    tokenizer = train_tokenizer(corpus.texts(), recipe.vocabulary)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text: dict[str, Any] = {**recipe.model.text, **special, "pad_token_id": tokenizer.pad_token_id}
    config = UniMedConfig(
        vision_config=dict(recipe.model.vision),
        text_config={**text, "vocab_size": len(tokenizer)},
        image_token_id=None,
        **recipe.model.connector,  # type: ignore[arg-type]
    )
    processor = UniMedProcessor(tokenizer, image_size=int(recipe.model.vision["image_size"]))
    processor.visual_tokens = config.visual_tokens
    config.image_token_id = processor.image_token_id
    return UniMedForConditionalGeneration(config), processor


def run_vision_stage(recipe: Recipe, corpus: Corpus, model: UniMedForConditionalGeneration, log: TextIO) -> None:
    """Train the vision tower by itself and log how it does on held-out classes; freeze it if the recipe says so."""
    started = time.perf_counter()
    with meter("Training the vision tower", recipe.vision_stage.steps) as progress:
        accuracy = train_vision(
            model.vision_tower,
            corpus,
            model.config.grid,
            recipe.vision_stage,
            seed=recipe.seed,
            report=lambda _, loss: progress.advance(status=f"loss {loss:.3f}"),
        )
    model.vision_tower.requires_grad_(requires_grad=recipe.vision_stage.later_rate > 0)
    seconds = round(time.perf_counter() - started, 1)
    _log(log, {"stage": "vision", "held_out_accuracy": accuracy, "elapsed_seconds": seconds})


def _log(log: TextIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


def run_steps(
    recipe: Recipe,
    corpus: Corpus,
    model: UniMedForConditionalGeneration,
    processor: UniMedProcessor,
    log: TextIO,
) -> None:
    """Take all steps of the recipe, one log record every twenty."""
    trainer = _Trainer(recipe, corpus, model, processor)
    started = time.perf_counter()
    tally = _Tally()
    with meter(f"Training {recipe.name}", recipe.steps) as progress:
        for step in range(recipe.steps):
            norm = trainer.step(step, tally)
            last = step + 1 == recipe.steps
            if (step + 1) % LOG_EVERY == 0 or last:
                record = {"stage": "language", **tally.record(step + 1, learning_rate(recipe, step), norm)}
                record["elapsed_seconds"] = round(time.perf_counter() - started, 1)
                if (step + 1) % recipe.validate_every < LOG_EVERY or last:
                    record["held_out"] = held_out_loss(corpus, model, processor)
                _log(log, record)
                tally = _Tally()
                _show(progress, record)
            progress.advance()


def _show(progress: Meter, record: dict[str, Any]) -> None:
    progress.advance(0, status=f"loss {record['mean_loss']:.3f} | {record['samples_per_second']:.0f} samples/s")


class _Trainer:
    """The model with everything that changes while it is trained."""

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        model: UniMedForConditionalGeneration,
        processor: UniMedProcessor,
    ) -> None:
        self._recipe, self._corpus, self._model, self._processor = recipe, corpus, model, processor
        self._optimizer = make_optimizer(recipe, model)
        self._draw = random.Random(recipe.seed)
        self._coin = torch.Generator().manual_seed(recipe.seed)
        self._decks = {name: Deck(examples, self._draw) for name, examples in corpus.train.items()}

    def step(self, step: int, tally: "_Tally") -> float:
        """Take one optimizer step; return the norm of the gradient before clipping."""
        recipe = self._recipe
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step) * group["share"]
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        names = list(recipe.mixture)
        for name in self._draw.choices(names, [recipe.mixture[name] for name in names], k=recipe.micro_batches):
            loss = self._loss(name)
            (loss / recipe.micro_batches).backward()
            tally.add(name, loss.item(), recipe.micro_batch)
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), recipe.clip_norm)
        self._optimizer.step()
        return float(norm)

    def _loss(self, name: str) -> torch.Tensor:
        examples = self._decks[name].deal(self._recipe.micro_batch)
        batch = make_batch(examples, self._corpus, self._processor, self._draw)
        if self._recipe.augment_classification:
            batch = distort_classified(batch, examples, self._coin)
        loss: torch.Tensor = self._model(**batch).loss
        if not torch.isfinite(loss):
            raise RunError(f"The loss of {name} is {loss.item()}.", "Lower peak_learning_rate or clip_norm.")
        return loss


def make_optimizer(recipe: Recipe, model: torch.nn.Module) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and leaves vectors (norms, biases, task tokens) alone.

    Each group's `share` is the part of the learning rate that it gets: the vision tower's is the recipe's own.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = recipe.vision_stage.later_rate if name.startswith("vision_tower.") else 1.0
            groups.setdefault((share, recipe.weight_decay if _decays(name, parameter) else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "share": share}
            for (share, decay), parameters in groups.items()
        ],
        lr=recipe.peak_learning_rate,
        betas=recipe.betas,
    )


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim >= 2 and "task_tokens" not in name and "embedding" not in name  # noqa: PLR2004


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the rate at a step, counted from 0: linear warm-up, then a cosine to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.peak_learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    swing = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.final_learning_rate + (recipe.peak_learning_rate - recipe.final_learning_rate) * swing


@torch.no_grad()
def held_out_loss(
    corpus: Corpus, model: UniMedForConditionalGeneration, processor: UniMedProcessor
) -> dict[str, float]:
    """Return the mean loss per task on up to 64 held-out examples of each."""
    model.eval()
    draw = random.Random(0)
    losses = {}
    for name, examples in corpus.held_out.items():
        if examples:
            loss = model(**make_batch(examples[:64], corpus, processor, draw)).loss
            losses[name] = round(float(loss), 4)
    return losses


T = TypeVar("T")


class Deck(Generic[T]):
    """Things in random order, each dealt once before any is dealt again."""

    def __init__(self, things: Sequence[T], draw: random.Random) -> None:
        self._things = list(things)
        self._draw = draw
        self._rest: list[T] = []

    def deal(self, count: int) -> list[T]:
        """Return the next `count` things, shuffling anew when the deck is through."""
        dealt: list[T] = []
        while len(dealt) < count:
            if not self._rest:
                self._rest = self._things.copy()
                self._draw.shuffle(self._rest)
            dealt.append(self._rest.pop())
        return dealt


class _Tally:
    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._samples = 0
        self._started = time.perf_counter()

    def add(self, name: str, loss: float, samples: int) -> None:
        self._losses.setdefault(name, []).append(loss)
        self._samples += samples

    def record(self, step: int, rate: float, norm: float) -> dict[str, Any]:
        every = [loss for losses in self._losses.values() for loss in losses]
        seconds = time.perf_counter() - self._started
        return {
            "step": step,
            "mean_loss": round(sum(every) / len(every), 4),
            "loss": {name: round(sum(losses) / len(losses), 4) for name, losses in sorted(self._losses.items())},
            "learning_rate": rate,
            "gradient_norm": round(norm, 4),
            "samples_per_second": round(self._samples / seconds, 1),
        }


def save(recipe: Recipe, model: UniMedForConditionalGeneration, processor: UniMedProcessor, output: Path) -> None:
    """Write weights, configuration, tokenizer and recipe; the weights in the recipe's type."""
    dtype = getattr(torch, recipe.save_dtype)
    model.to(dtype).save_pretrained(output)
    processor.tokenizer.save_pretrained(output)
    (output / RECIPE_FILE).write_text(yaml.safe_dump(asdict(recipe), sort_keys=False), encoding="utf-8")
