"""The folder of a training: checkpoints that are whole or absent, a log, and the finished model."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import (
    canonical_json,
    json_lines,
    read_json,
    read_numbered_json_lines,
    read_yaml_table,
    write_atomically,
)
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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be made: {error.strerror}.", "Give another folder with --output."
            ) from error
        checkpoints = self._checkpoints()
        if (self.path / "config.json").exists():
            raise RunError(f"{self.path} holds a finished training already.", "Give another folder with --output.")
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
            state = read_torch_file(folder / _STATE_FOLDER / _OPTIMIZER)
            return Resumed(folder=folder, step=step, optimizer=state)
        else:
            before = {"recipe": read_yaml_table(self.path / RECIPE_FILE)}
            _refuse_others(self.path, before, {"recipe": _plain(self.recipe)})
        return Resumed()

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Return the whole checkpoints by step, oldest first."""
        folders = (self.path / "checkpoints").glob("step-*")
        found = [(match, folder) for folder in folders if (match := _STEP.fullmatch(folder.name))]
        return sorted((int(match[1]), one) for match, one in found if (one / _STATE_FOLDER / _PROGRESS).is_file())

    def _conditions(self) -> dict[str, Any]:
        """Return all that a resumed training must share with the one it continues."""
        return {
            "recipe": _plain(self.recipe),
            "workers": self.workers,
            "data": dict(self.data),
            "base_weights": dict(self.base_weights),
        }

    def cut_log(self, step: int) -> None:
        """Drop what was logged after a step: it will be done, and logged, again."""
        if self.log.exists():
            records = [record for _, record in read_numbered_json_lines(self.log, torn_tail="drop")]
            kept = [record for record in records if record["stage"] == "vision" or record["step"] <= step]
            write_atomically(self.log, json_lines(kept if step else ()))

    def save_step(self, step: int, write_model: WriteModel, optimizer: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, then drop all but the last ones.

        RunError if it cannot be written; the checkpoints before it stay as they are.
        """
        target = self.path / "checkpoints" / f"step-{step:08d}"
        with _written_whole(
            target.with_name(f".{target.name}.partial"),
            f"The checkpoint of step {step} cannot be written to {target}",
            "Free some space and go on with --resume; the checkpoints before it are whole.",
        ) as partial:
            (partial / _STATE_FOLDER).mkdir()
            write_model(partial)
            self._write_recipe(partial)
            torch.save(dict(optimizer), partial / _STATE_FOLDER / _OPTIMIZER)
            progress = {"step": step, **self._conditions()}
            write_atomically(partial / _STATE_FOLDER / _PROGRESS, canonical_json(progress, indent=2) + "\n")
            _flush(partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
        for _, old in self._checkpoints()[: -self.recipe.checkpoints.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def finish(self, write_model: WriteModel) -> None:
        """Write the final model; its configuration comes last, since it says that all is there.

        RunError if it cannot be written; the checkpoints stay.
        """
        with _written_whole(
            self.path / ".final.partial",
            f"The final model cannot be written to {self.path}",
            "Free some space and go on with --resume; the last checkpoint is whole.",
        ) as partial:
            write_model(partial)
            _flush(partial)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
                file.replace(self.path / file.name)
            partial.rmdir()

    def _write_recipe(self, folder: Path) -> None:
        write_atomically(folder / RECIPE_FILE, yaml.safe_dump(_plain(self.recipe), sort_keys=False))


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


def _plain(recipe: Recipe) -> dict[str, Any]:
    values = asdict(recipe)
    values["optimizer"]["betas"] = list(recipe.optimizer.betas)
    return values


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for what, value in now.items():
        if before.get(what) != value:
            raise RunError(
                f"{folder} was made with another {what}: {_difference(before.get(what), value)}.",
                "Resume with the same recipe, data, base weights and processes, or start anew in another folder.",
            )


def _difference(before: object, now: object) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return ", ".join(f"{name} {before.get(name)!r} became {now.get(name)!r}" for name in names)
    return f"{before!r} became {now!r}"


def _flush(folder: Path) -> None:
    """Bring every file of a folder to the disk, so that the renaming after it promises whole files."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
