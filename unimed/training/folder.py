"""The folder of a training: checkpoints that are whole or absent, a log, and the finished model."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from medbench.tasks.foundation import files
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import read_json, write_atomically
from medbench.unimed.checkpoint import RECIPE_FILE
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.weight_files import read_torch_file

LOG_FILE, CURVE_FILE = "train_log.jsonl", "learning_curve.svg"
_STEP = re.compile(r"step-(\d{8})")
_STATE_FOLDER, _OPTIMIZER, _PROGRESS = "training_state", "optimizer.pt", "progress.json"
WriteModel = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Where a training goes on."""

    folder: Path | None = None  # The checkpoint; None at the very start.
    step: int = 0  # Steps that were taken.
    # State of the optimizer, of each parameter by name, and of the loss scaler.
    optimizer: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFolder:
    """Where a training lives."""

    path: Path  # `medbench run --checkpoint` takes it when the training is through.
    recipe: Recipe
    workers: int = 1  # Processes that train together; the order of samples depends on it.
    data: Mapping[str, str] = field(default_factory=dict)  # Fingerprints of the prepared tasks, by name.
    # Fingerprints of the frozen weights, by part; empty for a model from scratch.
    base_weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The log, one JSON object per line."""
        return self.path / LOG_FILE

    def open(self, *, resume: bool) -> Resumed:
        """Return where to go on; makes the folder.

        RunError if there is something already and `resume` was not given, or it belongs to another recipe; UsageError
        if there is nothing to resume.
        """
        other = "Give another folder with --output."
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be made: {error.strerror}.", other) from error
        checkpoints = self._checkpoints()
        if (self.path / "config.json").exists():
            raise RunError(f"{self.path} holds a finished training already.", other)
        begun = bool(checkpoints) or self.log.exists()
        if begun and not resume:
            raise RunError(
                f"{self.path} holds a training that is not finished ({len(checkpoints)} checkpoints).",
                "Go on with --resume, or give another folder with --output.",
            )
        if resume and not begun:
            raise UsageError(f"There is no training in {self.path} to resume.", "Leave --resume out to start one.")
        if not resume:
            self._write_recipe(self.path)
        elif checkpoints:
            step, folder = checkpoints[-1]
            _refuse_others(folder, read_json(folder / _STATE_FOLDER / _PROGRESS), self._conditions())
            return Resumed(folder=folder, step=step, optimizer=read_torch_file(folder / _STATE_FOLDER / _OPTIMIZER))
        else:
            before = {"recipe": files.read_yaml_table(self.path / RECIPE_FILE)}
            _refuse_others(self.path, before, {"recipe": self.recipe.table()})
        return Resumed()

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Return the whole checkpoints by step, oldest first."""
        folders = (self.path / "checkpoints").glob("step-*")
        found = [(match, folder) for folder in folders if (match := _STEP.fullmatch(folder.name))]
        return sorted((int(match[1]), one) for match, one in found if (one / _STATE_FOLDER / _PROGRESS).is_file())

    def _conditions(self) -> dict[str, Any]:
        """Return all that a resumed training must share with the one it continues."""
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
        for _, old in self._checkpoints()[: -self.recipe.checkpoints.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def finish(self, write_model: WriteModel) -> None:
        """Write the final model, its configuration last, which says that all is there; RunError if it cannot be."""
        problem = f"The final model cannot be written to {self.path}"
        hint = "Free some space and go on with --resume; the last checkpoint is whole."
        with _written_whole(self.path / ".final.partial", problem, hint) as partial:
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
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{problem}: {error}", hint) from error


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for what, value in now.items():
        was = before.get(what)
        if was != value:
            told = f"{was!r} became {value!r}"
            if isinstance(was, Mapping) and isinstance(value, Mapping):
                names = sorted(name for name in {*was, *value} if was.get(name) != value.get(name))
                told = ", ".join(f"{name} {was.get(name)!r} became {value.get(name)!r}" for name in names)
            raise RunError(
                f"{folder} was made with another {what}: {told}.",
                "Resume with the same recipe, data, base weights and processes, or start anew in another folder.",
            )


def _flush(folder: Path) -> None:
    """Bring every file of a folder to the disk, so that the renaming after it promises whole files."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
