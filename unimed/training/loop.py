"""The training on one page: prepare, go on where it stopped, step, tell, look, keep, finish."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medbench.tasks.foundation.console import Meter, meter, say
from medbench.tasks.foundation.errors import StoppedError
from medbench.tasks.suite import medbench_home
from medbench.unimed.base_weights import BaseWeights
from medbench.unimed.checkpoint import write_checkpoint
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.training.accelerate_setup import frozen_dtype, is_sharded, make_accelerator
from medbench.unimed.training.build import base_of, build, image_size_of, restore_weights
from medbench.unimed.training.corpus import Corpus, Example, data_fingerprints, load_corpus
from medbench.unimed.training.curve import draw_curve
from medbench.unimed.training.features import FeatureCache, feature_folder
from medbench.unimed.training.feed import Kitchen, Ready, feed
from medbench.unimed.training.folder import CURVE_FILE, Resumed, TrainingFolder
from medbench.unimed.training.held_out import held_out_losses
from medbench.unimed.training.interrupt import StopRequest, stop_request
from medbench.unimed.training.log import Tally, TrainingLog
from medbench.unimed.training.mixture import Mixture
from medbench.unimed.training.optimizer import DECAY_RULES, make_optimizer
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.training.trainer import Trainer
from medbench.unimed.training.vision_stage import train_vision

Scores = dict[str, dict[str, float]]
Examine = Callable[[UniMedForConditionalGeneration, UniMedProcessor, Mapping[str, Sequence[Example]], Corpus], Scores]
"""Lets a model answer held-out examples and scores the answers; the harness brings it, since it is above this room."""
GIGABYTE = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Everything that a training holds in its hands."""

    recipe: Recipe
    folder: TrainingFolder
    corpus: Corpus
    base: BaseWeights | None
    processor: UniMedProcessor
    trainer: Trainer
    examine: Examine | None
    started: float

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return bool(self.trainer.accelerator.is_main_process)


def train(
    recipe: Recipe, data_dir: Path, output: Path, *, resume: bool = False, examine: Examine | None = None
) -> Path:
    """Train a model and write a checkpoint that `medbench run --checkpoint` takes.

    On a CPU the weights after any step do not depend on where the training was stopped and resumed.

    Args:
        recipe: What to train.
        data_dir: Prepared tasks; only their train splits are read.
        output: Folder for weights, tokenizer, recipe, log and checkpoints.
        resume: Go on from the last checkpoint in `output`.
        examine: Answers and scores held-out examples, if `recipe.validation.answers` asks for it.

    Raises:
        UsageError: If the recipe asks for something that is not there.
        DataError: If data or base weights do not fit.
        RunError: If `output` holds another training, a loss is not a number any more, or the disk is full.
        StoppedError: If the user stopped it; a checkpoint was written.
    """
    accelerator = make_accelerator(recipe)
    base = base_of(recipe.model)
    folder = TrainingFolder(
        path=output,
        recipe=recipe,
        workers=accelerator.num_processes,
        data=data_fingerprints(data_dir, recipe),
        base_weights=base.identity() if base else {},
    )
    start = _open(folder, accelerator, resume=resume)
    corpus = load_corpus(data_dir, recipe, image_size=image_size_of(recipe.model))
    model, processor = build(recipe, corpus, base, frozen_dtype=frozen_dtype(recipe, accelerator))
    if accelerator.is_main_process:
        folder.cut_log(start.step)
    with _log(folder, start.step, leads=accelerator.is_main_process) as log:
        if start.folder is None:
            _vision_stage(recipe, corpus, model, log)
        else:
            restore_weights(model, start.folder)
        trainer = _make_trainer(recipe, accelerator, model, start)
        session = Session(
            recipe=recipe, folder=folder, corpus=corpus, base=base, processor=processor, trainer=trainer,
            examine=examine, started=time.perf_counter(),
        )  # fmt: skip
        with stop_request() as stop:
            _run_steps(session, start.step, log, stop)
    _finish(session)
    if accelerator.num_processes > 1:
        # Workers leave together, or one that lingers is taken for failed.
        accelerator.end_training()
    return output


def _open(folder: TrainingFolder, accelerator: Any, *, resume: bool) -> Resumed:  # noqa: ANN401 - accelerate is untyped
    """Open the folder in every process; the first one makes what is missing before the others look."""
    with accelerator.main_process_first():
        if accelerator.is_main_process or resume:
            return folder.open(resume=resume)
    return Resumed()


@contextmanager
def _log(folder: TrainingFolder, first_step: int, *, leads: bool) -> Iterator[TrainingLog | None]:
    if not leads:
        yield None
        return
    with TrainingLog(folder.log, folder.path / "tensorboard", first_step) as log:
        yield log


def _vision_stage(
    recipe: Recipe, corpus: Corpus, model: UniMedForConditionalGeneration, log: TrainingLog | None
) -> None:
    """Train a tower from scratch by itself and log how it does on held-out classes."""
    stage = recipe.vision_stage
    if stage is None:
        return
    started = time.perf_counter()
    model.vision_tower.requires_grad_(requires_grad=True)
    with meter("Training the vision tower", stage.steps) as progress:
        accuracy = train_vision(
            model.vision_tower,
            corpus,
            model.config.grid,
            stage,
            seed=recipe.seed,
            report=lambda _, loss: progress.advance(status=f"loss {loss:.3f}"),
        )
    model.train_what_is_tuned(vision=recipe.tower_share > 0)
    if log is not None:
        seconds = round(time.perf_counter() - started, 1)
        log.write({"stage": "vision", "steps": stage.steps, "held_out_accuracy": accuracy, "elapsed_seconds": seconds})


def _make_trainer(recipe: Recipe, accelerator: Any, model: UniMedForConditionalGeneration, start: Resumed) -> Trainer:  # noqa: ANN401
    plan = recipe.optimizer
    optimizer = make_optimizer(
        model.trainable(),
        decays=DECAY_RULES[plan.decays],
        weight_decay=plan.weight_decay,
        betas=plan.betas,
        shares={"vision_tower.": recipe.tower_share},
    )
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    cache = _feature_cache(recipe, model, accelerator.num_processes)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    trainer = Trainer(
        recipe=recipe, accelerator=accelerator, model=accelerator.unwrap_model(wrapped), wrapped=wrapped,
        optimizer=prepared, cache=cache,
    )  # fmt: skip
    if start.optimizer is not None:
        trainer.restore(start.optimizer)
    return trainer


def _feature_cache(recipe: Recipe, model: UniMedForConditionalGeneration, workers: int) -> FeatureCache | None:
    if not recipe.feature_cache_gb:
        return None
    config, dtype = model.config, model.vision_tower.vit.dtype
    settings = {
        "size": config.image_size,
        "method": config.resample_method,
        "rate": config.resample_rate,
        "dtype": str(dtype),
    }
    return FeatureCache(
        folder=feature_folder(medbench_home(), model.vision_tower, settings),
        shape=(config.visual_tokens, config.connector_width),
        dtype=dtype,
        limit=int(recipe.feature_cache_gb * GIGABYTE / workers),
    )


def _run_steps(session: Session, first: int, log: TrainingLog | None, stop: StopRequest) -> None:
    """Take all steps that are left, with a line of log, a look and a checkpoint where they are due."""
    recipe, trainer = session.recipe, session.trainer
    tally, logged = Tally(), first
    ready = _feed(session, first)
    with meter(f"Training {recipe.name}", recipe.steps, done=first) if session.leads else _silent() as progress:
        for done in range(first + 1, recipe.steps + 1):
            norm = trainer.step(done - 1, ready, tally)
            last, kept = done == recipe.steps, done % recipe.checkpoints.every == 0
            # A line at every checkpoint: what is resumed from there then has the same log.
            if done % recipe.log_every == 0 or kept or last:
                record = tally.record(done, rate=recipe.learning_rates().rate(done - 1), norm=norm)
                record["elapsed_seconds"] = round(time.perf_counter() - session.started, 1)
                if done // recipe.validation.every > logged // recipe.validation.every or last:
                    record |= _look(session)
                if log is not None:
                    log.write(record)
                tally, logged = Tally(), done
                progress.advance(0, status=_status(record))
            progress.advance()
            stopping = trainer.agreed(stop.given)
            if (kept and not last) or stopping:
                saved = _checkpoint(session, done)
                if stopping:
                    raise StoppedError(f"Step {done} is kept in {saved}. Go on with the same command and --resume.")


def _status(record: Mapping[str, Any]) -> str:
    return f"loss {record['mean_loss']:.3f} | {record['tokens_per_second']:.0f} tokens/s"


@contextmanager
def _silent() -> Iterator[Meter]:
    yield _SilentMeter()


class _SilentMeter(Meter):
    """The meter of a process that does not speak."""

    def __init__(self) -> None:
        pass

    def advance(self, count: int = 1, *, label: str | None = None, status: str | None = None) -> None:
        """Show nothing."""


def _feed(session: Session, first: int) -> Iterator[Ready]:
    recipe, accelerator = session.recipe, session.trainer.accelerator
    mixture = Mixture(
        session.corpus.sizes(), recipe.mixture, micro_batch=recipe.micro_batch, seed=recipe.seed,
        rank=accelerator.process_index, workers=accelerator.num_processes, together=is_sharded(accelerator),
    )  # fmt: skip
    kitchen = Kitchen(
        recipe=recipe, corpus=session.corpus, processor=session.processor, cache=session.trainer.cache,
        rank=accelerator.process_index,
    )  # fmt: skip
    return feed(kitchen, mixture.draws(parts=recipe.micro_batches, first_step=first))


def _look(session: Session) -> dict[str, Any]:
    """Return the held-out losses, and the scores of held-out answers if the recipe asks for them."""
    look: dict[str, Any] = {"held_out": held_out_losses(session.corpus, session.trainer, session.processor)}
    wanted = session.recipe.validation.answers
    if wanted and session.examine is not None:
        held_out = {name: examples[:wanted] for name, examples in session.corpus.held_out.items() if examples}
        with torch.random.fork_rng(devices=[]), session.trainer.accelerator.autocast():
            look["scores"] = session.examine(session.trainer.model.eval(), session.processor, held_out, session.corpus)
    return look


def _checkpoint(session: Session, step: int) -> Path:
    """Keep the weights after a step in float32, with the optimizer's state."""
    weights = session.trainer.weights(only_trained=session.base is not None)
    state = session.trainer.state()
    saved = session.folder.path
    if session.leads:
        saved = session.folder.save_step(step, lambda folder: _write(session, folder, weights), state)
    session.trainer.accelerator.wait_for_everyone()
    return saved


def _write(session: Session, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    write_checkpoint(session.trainer.model, session.processor, folder, base=session.base, state=weights)


def _finish(session: Session) -> None:
    """Write the model in the recipe's type, and draw what was logged."""
    weights = session.trainer.weights(only_trained=session.base is not None)
    if not session.leads:
        return
    dtype = getattr(torch, session.recipe.checkpoints.dtype)
    final = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    session.trainer.model.config.dtype = dtype
    session.folder.finish(lambda folder: _write(session, folder, final))
    say(draw_curve(session.folder.log, session.folder.path / CURVE_FILE))
