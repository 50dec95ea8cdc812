"""One process at a time: who comes second is refused before it loads weights, and again at the run's own folder.

The locks are the operating system's: what a killed process held is free at once.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from medbench.adapters.catalog import ChosenModel
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import fingerprint

# File systems allow 255 bytes; names of served models with their addresses may be longer.
_SLUG_CHARACTERS = 80
_KEY_DIGITS = 12
# What changes no answer (batch size: in float32; the type is not known yet), or is told better by data and model.
_NOT_IN_THE_KEY = frozenset({"output_dir", "batch_size", "data_dir", "tasks", "model_args"})


def slug(model: str) -> str:
    """Return the readable part of a folder's name; what makes it unique is the identity."""
    return re.sub(r"[^a-z0-9.]+", "-", model.lower())[:_SLUG_CHARACTERS].strip("-.")


@contextmanager
def held(lock: Path, problem: str) -> Iterator[None]:
    """Hold a lock file, or say `problem`.

    Raises:
        RunError: If another process holds it.
    """
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise RunError(problem, "Wait for it, or give another --output-dir.") from error


@contextmanager
def held_before_loading(settings: Settings, workload: Workload, model: ChosenModel) -> Iterator[None]:
    """Hold an output folder for these settings while the weights are loaded and answer.

    A run's identity is known only when its weights are; what was said of it is known at once. Nothing of it stays:
    neither the lock, whose name tells no address of a server, nor folders that were made for it and are empty.

    Raises:
        RunError: If another process runs the same settings into the same folder, or it cannot be written to.
    """
    folder = settings.output_dir.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / f".loading-{_key(settings, workload, model)}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        with held(lock, f"Another process is writing to {folder}, with this model and these settings."):
            try:
                yield
            finally:
                _remove(lock.unlink)
    finally:
        for path in made:
            _remove(path.rmdir)


def _remove(step: Callable[[], object]) -> None:
    # What is in use or not empty stays.
    with suppress(OSError):
        step()


def unwritable(folder: Path, error: OSError) -> RunError:
    """Return the error for an output folder that cannot be written to."""
    return RunError(
        f"The output folder {folder} cannot be written to: {error.strerror}.",
        "Give a folder that you may write to with --output-dir.",
    )


def _key(settings: Settings, workload: Workload, model: ChosenModel) -> str:
    said = {name: value for name, value in settings.as_yaml().items() if name not in _NOT_IN_THE_KEY}
    data = {load.spec.name: load.prepared.manifest.data_fingerprint for load in workload.loads}
    return fingerprint({"settings": said, "arguments": model.identity, "data": data})[:_KEY_DIGITS]
