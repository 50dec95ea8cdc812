"""A run's folder: what it holds, who may write to it, and when it is done."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medbench.adapters.catalog import ChosenModel
from medbench.harness.locking import held, slug, unwritable
from medbench.harness.model_info import ModelInfo
from medbench.harness.records import RecordFile
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import fingerprint, write_atomically
from medbench.tasks.foundation.yaml_tables import read_yaml_table

_IDENTITY_DIGITS = 12
_ROUNDED = frozenset({"bfloat16", "float16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The folder of one run.

    Attributes:
        path: The folder.
        identity: Hash over everything that can change an answer, see `run_identity`.
    """

    path: Path
    identity: str

    @property
    def done(self) -> bool:
        """Whether every sample was answered without failure and everything was written."""
        return (self.path / "done").exists()

    def generations(self, task: str, sample_ids: Sequence[str]) -> RecordFile:
        """Return the generation records of a task."""
        return RecordFile(self.path / "generations" / f"{task}.jsonl", self.identity, sample_ids)

    def scores(self, task: str) -> Path:
        """Return the file of a task's per-sample scores."""
        return self.path / "scores" / f"{task}.jsonl"

    @property
    def budget(self) -> Path:
        """What the engine learned to hold at once, after memory ran out."""
        return self.path / "budget.json"

    @property
    def weights(self) -> Path:
        """Which weights answered which task, where there is more than one checkpoint."""
        return self.path / "weights.json"

    @property
    def results(self) -> Path:
        """The aggregate file."""
        return self.path / "results.json"

    def finish(self) -> None:
        """Mark the run as done: every sample is answered, scored and published."""
        write_atomically(self.path / "done", f"{self.identity}\n")


def run_identity(
    settings: Settings,
    workload: Workload,
    told: ModelInfo,
    model: ChosenModel,
    *,
    weights: object,
    made_of: Mapping[str, object],
) -> dict[str, object]:
    """Return everything that can change an answer, and nothing else; output folder and data folder cannot.

    In 16 bits sums in another order decide close calls, so there the rows that are computed together are part of it.
    """
    return {
        **made_of,
        "model": _portable(settings.model),
        **({"arguments": model.identity} if model.identity else {}),
        "weights": weights,
        "dtype": told.dtype,
        "device": told.device,
        **({"batch size": settings.batch_size or "auto"} if told.dtype in _ROUNDED else {}),
        "limit": settings.limit,
        "seed": settings.seed,
        **({"decoding": settings.decoding()} if settings.decoding() else {}),
        **({"compile": True} if settings.compile else {}),
        **({"probe": settings.probe} if settings.probe else {}),
        "suite": workload.suite,
        "tasks": {
            load.spec.name: {
                "version": load.spec.version,
                "spec": load.spec.fingerprint(),
                "data": load.prepared.manifest.data_fingerprint,
                # The declaration's own limit may give way to one of the model's authors; a user's does not.
                **({"max_new_tokens": load.spec.max_new_tokens} if load.spec.limit_chosen else {}),
            }
            for load in workload.loads
        },
    }


def _portable(model: str) -> str:
    """Return a model's name; of one that is a folder without the path to it, which changes no answer."""
    name, _, variant = model.partition(":")
    folder = Path(variant).expanduser()
    return f"{name}:{folder.resolve().name}" if variant and folder.is_dir() else model


@contextmanager
def open_run(
    settings: Settings,
    workload: Workload,
    told: ModelInfo,
    model: ChosenModel,
    *,
    weights: object,
    made_of: Mapping[str, object],
    overwrite: str,
) -> Iterator[RunDirectory]:
    """Make or reopen the folder of the run that these settings name, and hold it against other processes.

    Args:
        settings: What the user asked for.
        workload: Tasks and data.
        told: What is known of the loaded model.
        model: What the user chose of it.
        weights: What identifies them.
        made_of: What else answers depend on: code, libraries, parts of the model.
        overwrite: `never`, or `always` to throw away what an earlier run of the same identity left.

    Raises:
        RunError: If the folder cannot be written to, is in use, or holds another run.
    """
    parts = run_identity(settings, workload, told, model, weights=weights, made_of=made_of)
    identity = fingerprint(parts)[:_IDENTITY_DIGITS]
    probe = f"-{settings.probe}" if settings.probe else ""
    path = settings.output_dir.absolute() / f"{slug(_portable(settings.model))}-{workload.suite}{probe}-{identity}"
    directory = RunDirectory(path=path, identity=identity)
    _make_folder(path)
    with held(path.with_name(f".{path.name}.lock"), f"Another process is writing to {path}."):
        if overwrite == "always":
            _empty(path)
        _write_or_check_settings(directory, settings, parts)
        yield directory


def _empty(path: Path) -> None:
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise unwritable(path.parent, error) from error


def _write_or_check_settings(directory: RunDirectory, settings: Settings, parts: dict[str, object]) -> None:
    path = directory.path / "run.yaml"
    if path.exists():
        if read_run(directory.path)["identity"] != directory.identity:
            raise RunError(f"{path} belongs to another run.", "Give another --output-dir, or --overwrite always.")
        return
    document = {"identity": directory.identity, "settings": settings.as_yaml(), "identity_of": parts}
    write_atomically(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of a run's `run.yaml`.

    Raises:
        RunError: If the folder is no run, or the file is not the one that the run wrote.
    """
    file = path / "run.yaml"
    if not file.is_file():
        raise RunError(f"{path} is no run: it has no run.yaml.", "Give a folder that `medbench run` made.")
    document = read_yaml_table(file)
    parts = document.get("identity_of")
    if not isinstance(parts, dict) or document.get("identity") != fingerprint(parts)[:_IDENTITY_DIGITS]:
        raise RunError(f"{file} was changed: its identity is not that of its parts.", "Restore the file or run again.")
    return document
