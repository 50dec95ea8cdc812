"""Which checkpoint answers which tasks: one for all, or one for each of some, loaded one after the other."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from medbench.adapters.base import Adapter, LoadOptions, LocalAdapter
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.guarding import named, plugin_faults
from medbench.harness.results import ModelInfo
from medbench.harness.settings import SAYS_NOTHING, Settings
from medbench.harness.workload import Workload, tasks_named
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, fingerprint, read_json, write_atomically
from medbench.tasks.foundation.model_files import identity_of, room_for
from medbench.tasks.spec import Kind

_LEAVE_OUT = "Leave the option out."


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The tasks, by name, that one folder of weights answers; None for the model's default."""

    checkpoint: Path | None
    tasks: tuple[str, ...]


def shares_of(settings: Settings, workload: Workload) -> tuple[Share, ...]:
    """Return the shares of a run, in the order of the tasks.

    UsageError if a task is named that is unknown or not in the run, or is named twice, or is left without a checkpoint.
    """
    names = workload.names
    own: dict[str, Path] = {}
    for word, folder in settings.checkpoint_for.items():
        if not folder.is_dir():
            raise UsageError(f"--checkpoint-for {word}: there is no folder {folder}.", "Name a folder of weights.")
        chosen = tasks_named(word, names, f"--checkpoint-for {word}")
        if twice := [name for name in chosen if own.get(name, folder) != folder]:
            raise UsageError(f"--checkpoint-for names two folders for {', '.join(twice)}.", "Name one for each task.")
        own |= dict.fromkeys(chosen, folder)
    left = [name for name in names if name not in own]
    if own and left and settings.checkpoint is None:
        way_out = "Give --checkpoint DIR for the other tasks, or name the tasks to run with --tasks."
        raise UsageError(f"--checkpoint-for names no weights for {', '.join(left)}.", way_out)
    folders = {name: own.get(name, settings.checkpoint) for name in names}
    return tuple(
        Share(checkpoint=folder, tasks=tuple(name for name in names if folders[name] == folder))
        for folder in dict.fromkeys(folders.values())
    )


def files_of(shares: Sequence[Share]) -> dict[str, str]:
    """Return the digest of each task's checkpoint, from samples of its files: nothing is loaded for it."""
    found: dict[str, str] = {}
    for share in shares:
        if share.checkpoint is not None:
            found |= dict.fromkeys(share.tasks, identity_of({"checkpoint": share.checkpoint}))
    return found


def refuse_other_weights(path: Path, share: Share, adapter: Adapter) -> None:
    """Note in a run's folder which weights answer a share; they may lie outside of its checkpoint.

    Raises RunError if others did in an earlier part of the run.
    """
    noted = read_json(path) if path.exists() else {}
    ours = dict.fromkeys(share.tasks, adapter.weights_fingerprint)
    if changed := [task for task, weights in ours.items() if noted.get(task, weights) != weights]:
        way_out = "Put the weights of the run back, or start afresh with --overwrite always."
        raise RunError(f"Other weights answered a part of {', '.join(changed)}.", way_out)
    write_atomically(path, canonical_json(noted | ours, indent=2) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is kept of a model when its weights are gone; `notices` must be shown loudly."""

    info: ModelInfo
    kinds: frozenset[Kind]
    notices: tuple[str, ...]

    @classmethod
    def of(cls, adapter: Adapter) -> "ModelFacts":
        """Return what is kept of a loaded model."""
        trained_on = adapter.trained_on
        info = ModelInfo(
            name=adapter.card.name, title=adapter.title, weights=adapter.weights_fingerprint,
            device=adapter.device.partition(":")[0], dtype=adapter.dtype, trained_on=tuple(sorted(trained_on or ())),
            declared=trained_on is not None,
        )  # fmt: skip
        return cls(info=info, kinds=adapter.card.kinds, notices=adapter.notices)


def merged(facts: Sequence[tuple[Share, ModelFacts]]) -> ModelFacts:
    """Return what is to be said of all shares; a task counts as trained on if its own checkpoint was."""
    [(_, first), *others] = facts
    if not others:
        return first
    trained_on = {task for share, one in facts for task in share.tasks if task in one.info.trained_on}
    weights = fingerprint({task: one.info.weights for share, one in facts for task in share.tasks})
    declared = all(one.info.declared for _, one in facts)
    info = replace(first.info, weights=weights, trained_on=tuple(sorted(trained_on)), declared=declared)
    notices = tuple(dict.fromkeys(notice for _, one in facts for notice in one.notices))
    return replace(first, info=info, notices=notices)


class LoadedModel:
    """Room for one loaded model: the last one leaves before the next is loaded, since two may not fit.

    A context manager: the last of all leaves at its end.
    """

    def __init__(self, load: Callable[[Share], Adapter]) -> None:
        self._load = load
        self._loaded: tuple[Share, Adapter] | None = None

    def adapter(self, share: Share) -> Adapter:
        """Return the model of a share. Keep no reference to it longer than it is used."""
        if self._loaded is None or self._loaded[0] != share:
            self._leave()
            gc.collect()
            self._loaded = (share, self._load(share))
        return self._loaded[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._loaded is not None:
            self._loaded[1].close()
        self._loaded = None


def load_share(settings: Settings, model: ChosenModel, workload: Workload, share: Share) -> Adapter:
    """Load the checkpoint of a share. Raises UsageError if an option was given that the model does not take."""
    name = model.entry.card.name
    given = [option for option, nothing in SAYS_NOTHING.items() if getattr(settings, option) not in nothing]
    given = ["checkpoint", *given] if settings.checkpoint_for and settings.checkpoint is None else given
    if ignored := [f"--{option}" for option in given if option not in model.entry.takes]:
        raise UsageError(f"The model {name!r} does not take {', '.join(ignored)}.", _LEAVE_OUT)
    options = LoadOptions(
        variant=model.variant, arguments=model.arguments, checkpoint=share.checkpoint, device=settings.device,
        dtype=settings.dtype, seed=settings.seed, train_samples=workload.train_samples, source_of=workload.source_of,
    )  # fmt: skip
    with plugin_faults(name, "load()"), room_for(f"The model {name!r}"):
        adapter = model.entry.load(options)
    if not isinstance(adapter, Adapter):
        raise RunError(f"{named(name)} returned from load() a {type(adapter).__name__}, which is no Adapter.", "")
    of_the_engine = [f"--{option.replace('_', '-')}" for option in settings.decoding()]
    of_the_engine += ["--compile"] * settings.compile
    if of_the_engine and not isinstance(adapter, LocalAdapter):
        words = ", ".join(of_the_engine)
        raise UsageError(f"The model {name!r} chooses its tokens itself and does not take {words}.", _LEAVE_OUT)
    return adapter
