"""A run's folder: what it holds, who may write to it, and when it is done.

One process at a time: who comes second is refused before it loads weights, and again at the run's own folder. The locks
are the operating system's: what a killed process held is free at once.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from medbench.adapters.catalog import ChosenModel
from medbench.harness.records import RecordFile
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, Workload
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import fingerprint, read_yaml_table, write_atomically

# File systems allow 255 bytes; names of served models with their addresses may be longer.
_SLUG_CHARACTERS = 80
_DIGITS = 12
# What changes no answer (batch size: in float32; the type is not known yet), or is told better by data and model.
_NOT_IN_THE_KEY = frozenset({"output_dir", "batch_size", "data_dir", "tasks", "model_args"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The folder of one run; `identity` is a hash over everything that can change an answer."""

    path: Path
    identity: str

    @property
    def done(self) -> Path:
        """The mark that every sample was answered without failure and everything was written."""
        return self.path / "done"

    def generations(self, task: str, sample_ids: Sequence[str]) -> RecordFile:
        """Return the generation records of a task."""
        return RecordFile(self.path / "generations" / f"{task}.jsonl", self.identity, sample_ids)

    def of_task(self, load: TaskLoad) -> RecordFile:
        """Return the generation records of a run's task."""
        return self.generations(load.spec.name, [sample.sample_id for sample in load.samples])

    def scores(self, task: str) -> Path:
        """Return the file of a task's per-sample scores."""
        return self.path / "scores" / f"{task}.jsonl"

    @property
    def results(self) -> Path:
        """The aggregate file."""
        return self.path / "results.json"


@contextmanager
def open_run(settings: Settings, suite: str, parts: Mapping[str, object], *, overwrite: str) -> Iterator[RunDirectory]:
    """Make or reopen the folder of a run, and hold it against other processes.

    `parts` is everything that can change an answer, see `medbench.harness.identity`. To overwrite `always` throws away
    what an earlier run of the same identity left. Raises RunError if the folder cannot be written to, is in use, or
    holds another run.
    """
    identity = fingerprint(parts)[:_DIGITS]
    probe = f"-{settings.probe}" if settings.probe else ""
    path = settings.output_dir.absolute() / f"{slug(str(parts['model']))}-{suite}{probe}-{identity}"
    directory = RunDirectory(path=path, identity=identity)
    with _written_to(path.parent):
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    with _held(path.with_name(f".{path.name}.lock"), f"Another process is writing to {path}."):
        if overwrite == "always":
            for item in path.iterdir():
                (shutil.rmtree if item.is_dir() and not item.is_symlink() else Path.unlink)(item)
        if not (path / "run.yaml").exists():
            document = {"identity": identity, "settings": settings.as_yaml(), "identity_of": dict(parts)}
            write_atomically(path / "run.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        elif read_run(path)["identity"] != identity:
            hint = "Give another --output-dir, or --overwrite always."
            raise RunError(f"{path / 'run.yaml'} belongs to another run.", hint)
        yield directory


def slug(model: str) -> str:
    """Return the readable part of a folder's name; what makes it unique is the identity."""
    return re.sub(r"[^a-z0-9.]+", "-", model.lower())[:_SLUG_CHARACTERS].strip("-.")


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of a run's `run.yaml`.

    Raises RunError if the folder is no run, or the file is not the one that the run wrote.
    """
    file = path / "run.yaml"
    if not file.is_file():
        raise RunError(f"{path} is no run: it has no run.yaml.", "Give a folder that `medbench run` made.")
    document = read_yaml_table(file)
    parts = document.get("identity_of")
    if not isinstance(parts, dict) or document.get("identity") != fingerprint(parts)[:_DIGITS]:
        raise RunError(f"{file} was changed: its identity is not that of its parts.", "Restore the file or run again.")
    return document


@contextmanager
def _held(lock: Path, problem: str) -> Iterator[None]:
    """Hold a lock file, or raise a RunError that says `problem`."""
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise RunError(problem, "Wait for it, or give another --output-dir.") from error


@contextmanager
def held_before_loading(settings: Settings, workload: Workload, model: ChosenModel) -> Iterator[None]:
    """Hold an output folder for these settings while the weights are loaded and answer.

    A run's identity is known only when its weights are; what was said of it is known at once. Nothing of it stays:
    neither the lock, whose name tells no address of a server, nor folders that were made for it and are empty. Raises
    RunError if another process runs the same settings into the same folder, or it cannot be written to.
    """
    folder = settings.output_dir.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    said = {name: value for name, value in settings.as_yaml().items() if name not in _NOT_IN_THE_KEY}
    data = {load.spec.name: load.prepared.manifest.data_fingerprint for load in workload.loads}
    key = fingerprint({"settings": said, "arguments": model.identity, "data": data})[:_DIGITS]
    lock = folder / f".loading-{key}.lock"
    with _written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    try:
        with _held(lock, f"Another process is writing to {folder}, with this model and these settings."):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()
    finally:
        for path in made:
            # What is in use or not empty stays.
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"The output folder {folder} cannot be written to: {error.strerror}."
        raise RunError(problem, "Give a folder that you may write to with --output-dir.") from error
