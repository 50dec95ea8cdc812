"""The training on one page: prepare, go on where it stopped, step, tell, look, keep, finish."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType

import torch
from filelock import FileLock
from safetensors.torch import save_file

from medbench.tasks.foundation.console import Silent, meter, say
from medbench.tasks.foundation.errors import StoppedError
from medbench.tasks.foundation.files import replaced_when_whole
from medbench.tasks.prepared import load_prepared
from medbench.unimed.checkpoint import BaseWeights, restore_weights, write_checkpoint
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.training import folder as records
from medbench.unimed.training import trainer as trainers
from medbench.unimed.training.by_image import ImageMixture, mixture_of
from medbench.unimed.training.corpus import BatchMaker, Corpus, Example, Mixture, load_corpus
from medbench.unimed.training.folder import Tally, TrainingFolder, TrainingLog
from medbench.unimed.training.plan import base_of, build, image_form
from medbench.unimed.training.recipe import Recipe, VisionStage
from medbench.unimed.training.trainer import Trainer
from medbench.unimed.training.vision_stage import train_vision
from medbench.unimed.weights import copy_into, read_tensors

Scores = dict[str, dict[str, float]]
# Lets a model answer held-out examples and scores the answers; the harness brings it, since it is above this room.
Examine = Callable[[UniMedForConditionalGeneration, UniMedProcessor, Mapping[str, Sequence[Example]], Corpus], Scores]


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that a training holds in its hands; `log` is None in a process that does not write and speak."""

    folder: TrainingFolder
    corpus: Corpus
    base: BaseWeights | None
    processor: UniMedProcessor
    trainer: Trainer
    mixture: Mixture | ImageMixture
    examine: Examine | None
    log: TrainingLog | None
    started: float

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that a checkpoint holds; every process has to ask."""
        return trainers.gathered_weights(self.trainer.wrapped, only_trained=self.base is not None)

    def write(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        """Write a checkpoint folder."""
        write_checkpoint(self.trainer.model, self.processor, folder, base=self.base, state=weights)


def train(
    recipe: Recipe, data_dir: Path, output: Path, *, resume: bool = False, examine: Examine | None = None,
    tower: Path | None = None,
) -> Path:  # fmt: skip
    """Train a model and write a checkpoint that `medbench run --checkpoint` takes.

    Only the train splits in `data_dir` are read; `resume` goes on from the last checkpoint, on a CPU to the same bits.
    `tower` is a file of the vision stage's result that trainings share which differ behind it: the first one makes it.

    UsageError if the recipe asks for something that is not there; DataError if data or base weights do not fit;
    RunError if `output` holds another training, a loss is no number any more, or the disk is full; StoppedError if the
    user stopped it, and a checkpoint was written.
    """
    accelerator = trainers.make_accelerator(recipe)
    base = base_of(recipe.model)
    data = {name: load_prepared(data_dir, name).manifest.data_fingerprint for name in recipe.tasks()}
    frozen, workers = base.identity() if base else {}, accelerator.num_processes
    folder = TrainingFolder(path=output, recipe=recipe, workers=workers, data=data, base_weights=frozen)
    start: records.Checkpoint = (0, None, None)
    leads = bool(accelerator.is_main_process)
    # The first process makes what is missing before the others look.
    with accelerator.main_process_first():
        if leads or resume:
            start = folder.open(resume=resume)
    if folder.is_finished():
        return _with_curve(folder, leads=leads)
    first, kept, state = start
    size, scale = image_form(recipe.model, base)
    corpus = load_corpus(data_dir, recipe, image_size=size, scale=scale)
    mixture = mixture_of(
        recipe, corpus, rank=accelerator.process_index, workers=workers, together=trainers.is_sharded(accelerator)
    )
    model, processor = build(recipe, corpus, base, frozen_dtype=trainers.frozen_dtype(recipe, accelerator))
    if leads:
        folder.cut_log(first)
    with TrainingLog(folder.log, output / "tensorboard", first) if leads else nullcontext() as log:
        if kept is None:
            _vision_stage(recipe, corpus, model, log, tower)
        else:
            restore_weights(model, kept)
        trainer = trainers.make_trainer(recipe, accelerator, model)
        if state is not None:
            trainer.restore(state)
        session = Session(folder, corpus, base, processor, trainer, mixture, examine, log, started=time.perf_counter())
        with stop_request() as stop:
            _run_steps(session, first, stop)
        _finish(session)
    if accelerator.num_processes > 1:
        # Workers leave together, or one that lingers is taken for failed.
        accelerator.end_training()
    return output


def _vision_stage(
    recipe: Recipe, corpus: Corpus, model: UniMedForConditionalGeneration, log: TrainingLog | None, tower: Path | None
) -> None:
    """Train the tower, or take the one of a file that another training made; the first one writes it."""
    if (stage := recipe.vision_stage) is None:
        return
    learn = partial(_train_tower, stage, recipe.seed, corpus, model, log)
    if tower is None:
        learn()
    else:
        tower.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(tower.with_name(f".{tower.name}.lock")):
            weights = model.vision_tower.vit.state_dict()
            if tower.is_file():
                copy_into(weights, read_tensors(tower, "Delete it: it is made again."), str(tower))
            else:
                learn()
                with replaced_when_whole(tower) as unfinished:
                    save_file(weights, unfinished)
    model.train_what_is_tuned(vision=recipe.tower_share > 0)


def _train_tower(
    stage: VisionStage, seed: int, corpus: Corpus, model: UniMedForConditionalGeneration, log: TrainingLog | None
) -> None:
    started = time.perf_counter()
    model.vision_tower.requires_grad_(requires_grad=True)
    with meter("Training the vision tower", stage.steps) as progress:
        accuracy = train_vision(
            model.vision_tower, corpus, model.config.grid, stage, seed=seed,
            report=lambda _, loss: progress.advance(status=f"loss {loss:.3f}"),
        )  # fmt: skip
    if log is not None:
        seconds = round(time.perf_counter() - started, 1)
        log.write({"stage": "vision", "steps": stage.steps, "held_out_accuracy": accuracy, "elapsed_seconds": seconds})


@contextmanager
def stop_request() -> Iterator[Event]:
    """Let Ctrl-C and a polite kill end the training after a step, its state whole; the second stops at once."""
    asked = Event()

    def remember(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()

    asking = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    heard = [number for number in asking if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_steps(session: Session, first: int, stop: Event) -> None:
    trainer = session.trainer
    recipe, accelerator = trainer.recipe, trainer.accelerator
    maker = BatchMaker(
        recipe=recipe, corpus=session.corpus, processor=session.processor, cache=trainer.cache,
        rank=accelerator.process_index,
    )  # fmt: skip
    batches = maker.ahead(session.mixture.draws(parts=recipe.micro_batches, first_step=first))
    tally, logged = Tally(), first
    show = meter if session.log else Silent().meter
    with show(f"Training {recipe.name}", recipe.steps, done=first) as progress:
        for done in range(first + 1, recipe.steps + 1):
            norm = trainer.step(done - 1, batches, tally)
            last, kept = done == recipe.steps, done % recipe.checkpoints.every == 0
            # A line at every checkpoint: what is resumed from there then has the same log.
            if done % recipe.log_every == 0 or kept or last:
                looked = last or done // recipe.validation.every > logged // recipe.validation.every
                record = tally.record(done, rate=recipe.learning_rate(done - 1), norm=norm)
                _tell(session, record, look=looked)
                status = f"loss {record['mean_loss']:.3f} | {record['tokens_per_second']:.0f} tokens/s"
                progress.advance(0, status=status)
                tally, logged = Tally(), done
            progress.advance()
            stopping = trainer.agreed(stop.is_set())
            if (kept and not last) or stopping:
                saved = _checkpoint(session, done)
                if stopping:
                    raise StoppedError(f"Step {done} is kept in {saved}. Go on with the same command and --resume.")


def _tell(session: Session, record: records.Record, *, look: bool) -> None:
    """Log a record, with the held-out losses and the scores of held-out answers if it is time to look at them."""
    record["elapsed_seconds"] = round(time.perf_counter() - session.started, 1)
    if look:
        record["held_out"] = session.trainer.held_out_losses(session.corpus, session.processor)
        wanted = session.trainer.recipe.validation.answers
        if wanted and session.examine is not None:
            held_out = {name: examples[:wanted] for name, examples in session.corpus.held_out.items() if examples}
            model = session.trainer.model.eval()
            with torch.random.fork_rng(devices=[]), session.trainer.accelerator.autocast():
                record["scores"] = session.examine(model, session.processor, held_out, session.corpus)
    if session.log is not None:
        session.log.write(record)


def _checkpoint(session: Session, step: int) -> Path:
    weights, state, saved = session.weights(), session.trainer.state(), session.folder.path
    if session.log is not None:
        saved = session.folder.save_step(step, partial(session.write, weights), state)
    session.trainer.accelerator.wait_for_everyone()
    return saved


def _finish(session: Session) -> None:
    weights, folder = session.weights(), session.folder
    if session.log is None:
        return
    dtype = getattr(torch, folder.recipe.checkpoints.dtype)
    final = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    session.trainer.model.config.dtype = dtype
    folder.finish(partial(session.write, final))
    _with_curve(folder, leads=True)


def _with_curve(folder: TrainingFolder, *, leads: bool) -> Path:
    """Draw the curve of a training that is through, if it is not there; return the folder."""
    image = folder.path / records.CURVE_FILE
    if leads and not image.exists():
        say(records.draw_curve(folder.log, image))
    return folder.path
