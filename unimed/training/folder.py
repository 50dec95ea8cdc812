"""The folder of a training: checkpoints that are whole or absent, a log and its picture, and the finished model."""

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from tensorboardX import SummaryWriter

from medbench.tasks.foundation import files
from medbench.tasks.foundation.drawing import drawn, shades, stack
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, read_json, read_json_lines, write_atomically
from medbench.unimed.checkpoint import RECIPE_FILE
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.weights import read_torch_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FILE, CURVE_FILE = "train_log.jsonl", "learning_curve.svg"
_STEP = re.compile(r"step-(\d{8})")
_FINAL = ".final.partial"
_STATE_FOLDER, _OPTIMIZER, _PROGRESS = "training_state", "optimizer.pt", "progress.json"
WriteModel = Callable[[Path], None]
# Steps that were taken, the checkpoint's folder, and the state of the optimizer, by parameter, and of the loss scaler.
Checkpoint = tuple[int, Path | None, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFolder:
    """Where a training lives."""

    path: Path  # `medbench run --checkpoint` takes it when the training is through.
    recipe: Recipe
    workers: int = 1  # Processes that train together; the order of samples depends on it.
    data: Mapping[str, str] = field(default_factory=dict)  # Fingerprints of the prepared tasks, by name.
    base_weights: Mapping[str, str] = field(default_factory=dict)  # And of the frozen weights, by part.

    @property
    def log(self) -> Path:
        """The log, one JSON object per line."""
        return self.path / LOG_FILE

    def open(self, *, resume: bool) -> Checkpoint:
        """Return where to go on; makes the folder, and clears what a killed training had begun to write or to remove.

        UsageError if there is nothing to `resume`; RunError if there is something already and `resume` was not given,
        or it belongs to another recipe.
        """
        other = "Give another folder with --output."
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be made: {error.strerror}.", other) from error
        checkpoints = self._checkpoints()
        if self.is_finished() and not resume:
            way_out = f"{other} If something of it is missing, --resume makes it."
            raise RunError(f"{self.path} holds a finished training already.", way_out)
        begun = bool(checkpoints) or self.log.exists()
        if begun and not resume:
            problem = f"{self.path} holds a training that is not finished ({len(checkpoints)} checkpoints)."
            raise RunError(problem, "Go on with --resume, or give another folder with --output.")
        if resume and not begun:
            raise UsageError(f"There is no training in {self.path} to resume.", "Leave --resume out to start one.")
        self._clear()
        if not resume:
            self._write_recipe(self.path)
        elif checkpoints:
            step, folder = checkpoints[-1]
            _refuse_others(folder, read_json(folder / _STATE_FOLDER / _PROGRESS), self._conditions())
            return step, folder, read_torch_file(folder / _STATE_FOLDER / _OPTIMIZER)
        else:
            before = {"recipe": files.read_yaml_table(self.path / RECIPE_FILE)}
            _refuse_others(self.path, before, {"recipe": self.recipe.table()})
        return 0, None, None

    def is_finished(self) -> bool:
        """Return whether the final model is there."""
        return (self.path / "config.json").exists()

    def _clear(self) -> None:
        """Remove all checkpoints but the last ones, and what is no whole one."""
        kept = [folder for _, folder in self._checkpoints()[-self.recipe.checkpoints.keep :]]
        for folder in (*self.path.glob("checkpoints/*step-*"), self.path / _FINAL):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        folders = (self.path / "checkpoints").glob("step-*")
        found = [(match, folder) for folder in folders if (match := _STEP.fullmatch(folder.name))]
        return sorted((int(match[1]), one) for match, one in found if (one / _STATE_FOLDER / _PROGRESS).is_file())

    def _conditions(self) -> dict[str, Any]:
        told = {"workers": self.workers, "data": dict(self.data), "base_weights": dict(self.base_weights)}
        return {"recipe": self.recipe.table(), **told}

    def cut_log(self, step: int) -> None:
        """Drop what was logged after a step: it will be done, and logged, again."""
        if self.log.exists():
            records = [record for _, record in files.read_numbered_json_lines(self.log, torn_tail="drop")]
            kept = [record for record in records if record["stage"] == "vision" or record["step"] <= step]
            write_atomically(self.log, files.json_lines(kept if step else ()))

    def save_step(self, step: int, write_model: WriteModel, optimizer: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step and drop all but the last ones; RunError if it cannot be written."""
        target = self.path / "checkpoints" / f"step-{step:08d}"
        problem = f"The checkpoint of step {step} cannot be written to {target}"
        hint = "Free some space and go on with --resume; the checkpoints before it are whole."
        with _written_whole(target.with_name(f".{target.name}.partial"), problem, hint) as partial:
            state = partial / _STATE_FOLDER
            state.mkdir()
            write_model(partial)
            self._write_recipe(partial)
            torch.save(dict(optimizer), state / _OPTIMIZER)
            progress = {"step": step, **self._conditions()}
            write_atomically(state / _PROGRESS, files.canonical_json(progress, indent=2) + "\n")
            _flush(partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        self._clear()
        return target

    def finish(self, write_model: WriteModel) -> None:
        """Write the final model, its configuration last, which says that all is there; RunError if it cannot be."""
        problem = f"The final model cannot be written to {self.path}"
        hint = "Free some space and go on with --resume; the last checkpoint is whole."
        with _written_whole(self.path / _FINAL, problem, hint) as partial:
            write_model(partial)
            _flush(partial)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(self.path / file.name)
            partial.rmdir()

    def _write_recipe(self, folder: Path) -> None:
        write_atomically(folder / RECIPE_FILE, yaml.safe_dump(self.recipe.table(), sort_keys=False))


@contextmanager
def _written_whole(partial: Path, problem: str, hint: str) -> Iterator[Path]:
    """Make an empty folder that is gone again, with an error, if what is written into it fails."""
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        # tokenizers raises nothing narrower where it cannot write.
        if type(error) is Exception or isinstance(error, OSError | RuntimeError | SafetensorError):
            raise RunError(f"{problem}: {error}", hint) from error
        raise


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for what, value in now.items():
        was = before.get(what)
        if was != value:
            told = f"{was!r} became {value!r}"
            if isinstance(was, Mapping) and isinstance(value, Mapping):
                names = sorted(name for name in {*was, *value} if was.get(name) != value.get(name))
                told = ", ".join(f"{name} {was.get(name)!r} became {value.get(name)!r}" for name in names)
            hint = "Resume with the same recipe, data, base weights and processes, or start anew in another folder."
            raise RunError(f"{folder} was made with another {what}: {told}.", hint)


def _flush(folder: Path) -> None:
    """Bring every file of a folder to the disk, so that the renaming after it promises whole files."""
    for file in filter(Path.is_file, folder.rglob("*")):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


Record = dict[str, Any]


class Tally:
    """Sums what happens between two lines of the log."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._experts: dict[str, list[list[float]]] = {}
        self._samples, self._tokens, self._started = 0, 0, time.perf_counter()

    def add(self, entry: str, loss: float, *, samples: int, tokens: int) -> None:
        """Count one micro-batch."""
        self._losses.setdefault(entry, []).append(loss)
        self._samples += samples
        self._tokens += tokens

    def add_experts(self, entry: str, weights: list[float]) -> None:
        """Count the mean expert weights of one micro-batch."""
        self._experts.setdefault(entry, []).append(weights)

    def record(self, step: int, *, rate: float, norm: float) -> Record:
        """Return the line of a step."""
        seconds = time.perf_counter() - self._started
        record: Record = {
            "stage": "language", "step": step,
            "mean_loss": _mean([loss for losses in self._losses.values() for loss in losses]),
            "loss": {name: _mean(losses) for name, losses in sorted(self._losses.items())},
            "learning_rate": rate,
            "gradient_norm": round(norm, 4) if math.isfinite(norm) else None,
            "samples_per_second": round(self._samples / seconds, 1),
            "tokens_per_second": round(self._tokens / seconds, 1),
        }  # fmt: skip
        if self._experts:
            used = sorted(self._experts.items())
            record["expert_use"] = {entry: [_mean(of) for of in zip(*rows, strict=True)] for entry, rows in used}
        return record


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


class TrainingLog(AbstractContextManager["TrainingLog"]):
    """Writes each record to a JSON-lines file and as scalars for TensorBoard; a context manager."""

    def __init__(self, path: Path, board: Path, first_step: int = 0) -> None:
        self._path = path
        try:
            self._stream = path.open("a", encoding="utf-8", newline="\n")
            self._board = SummaryWriter(str(board), purge_step=first_step)
        except OSError as error:
            raise self._unwritable(error) from error

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._stream.close()
            self._board.close()

    def write(self, record: Record) -> None:
        """Write one record; it is on its way to the disk when this returns. RunError if the disk does not take it."""
        try:
            self._stream.write(canonical_json(record) + "\n")
            self._stream.flush()
            if "step" in record:
                for name, value in scalars(record):
                    self._board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        hint = "Free some space and go on with --resume; the last checkpoint is whole."
        return RunError(f"The log {self._path} cannot be written: {error.strerror or error}.", hint)


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record with their path, such as `loss/slake-vqa` or `expert_use/vqa/0`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from scalars({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{prefix}{name}", float(value)


def draw_curve(log: Path, image: Path) -> str:
    """Draw a log as an SVG if matplotlib is there (the `plot` extra); return a line that says what was done."""
    records = [record for record in read_json_lines(log) if record["stage"] == "language"]
    lines: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in scalars(record):
            lines.setdefault(name, {})[record["step"]] = value
    try:
        with drawn(image) as figure:
            _draw_records(figure, records, lines)
    except UsageError as error:
        return f"The learning curve was not drawn: {error.problem} {error.hint}"
    return f"The learning curve is in {image}."


def _draw_records(figure: "Figure", records: Sequence[Record], lines: Mapping[str, dict[int, float]]) -> None:
    figure.set_size_inches(9, 6)
    (losses, entries), (gradient, experts) = figure.subplots(2, 2)
    _draw(losses, [("training", lines["mean_loss"])], width=1.5)
    _draw(losses, ((f"held out: {task}", line) for task, line in _below("held_out", lines)), style="--")
    _draw(entries, _below("loss", lines))
    # An overflow of fp16 has no norm: a gap in the line.
    norms = {record["step"]: lines.get("gradient_norm", {}).get(record["step"], math.nan) for record in records}
    _draw(gradient, [("norm of the gradient", norms)])
    gradient.set(xlabel="step", title="Gradient and learning rate", yscale="log", ylabel="norm of the gradient")
    rate = gradient.twinx()
    _draw(rate, [("learning rate", lines["learning_rate"])], width=1.5, color="tab:orange")
    rate.set_ylabel("learning rate")
    drawn_experts = _draw_experts(experts, records[-max(1, len(records) // 4) :])
    losses.set(xlabel="step", ylabel="cross-entropy per answer token", title="Loss", yscale="log")
    entries.set(xlabel="step", title="Training loss per entry of the mixture", yscale="log")
    experts.set(title="Mean routing weight, last quarter")
    gradient.grid(alpha=0.3)
    for axes in (losses, entries, *((experts,) if drawn_experts else ())):
        axes.legend(fontsize=6, ncols=2, frameon=True)
        axes.grid(alpha=0.3)


def _below(name: str, lines: Mapping[str, dict[int, float]]) -> list[tuple[str, dict[int, float]]]:
    return [(path.removeprefix(f"{name}/"), lines[path]) for path in sorted(lines) if path.startswith(f"{name}/")]


def _draw(
    axes: "Axes", lines: Iterable[tuple[str, dict[int, float]]], *, width: float = 0.8, style: str = "-",
    color: str | None = None
) -> None:  # fmt: skip
    for label, line in lines:
        axes.plot(list(line), list(line.values()), label=label, linewidth=width, linestyle=style, color=color)


def _draw_experts(axes: "Axes", late: Sequence[Record]) -> bool:
    """Stack the mean weight of each expert over late records, by entry; return whether there are any."""
    uses: dict[str, list[list[float]]] = {}
    for record in late:
        for entry, weights in record.get("expert_use", {}).items():
            uses.setdefault(entry, []).append(weights)
    means = {entry: [sum(of) / len(of) for of in zip(*uses[entry], strict=True)] for entry in sorted(uses)}
    parts = {f"expert {place + 1}": list(of) for place, of in enumerate(zip(*means.values(), strict=True))}
    stack(axes, list(means), parts, shades(len(parts)))
    return bool(means)
