"""The models of a command: whose each option is, which weights answer which tasks, and one run after the other."""

import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medbench.adapters.base import Adapter, LoadedFrom, LoadOptions, LocalAdapter, ModelCard
from medbench.adapters.catalog import OF_VLLM, ChosenModel, choose_model, find_adapter
from medbench.adapters.function import card_of
from medbench.adapters.guarding import named, plugin_faults
from medbench.harness.results import ModelInfo
from medbench.harness.settings import SAYS_NOTHING, Settings, load_settings
from medbench.harness.workload import Workload, tasks_named
from medbench.tasks.foundation.console import say, show_error, warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from medbench.tasks.foundation.files import (
    canonical_json,
    fingerprint,
    noting_sampled,
    read_json_object,
    write_atomically,
)
from medbench.tasks.foundation.last_resort import explained
from medbench.tasks.foundation.model_files import identity_of, room_for
from medbench.tasks.spec import Kind

WEIGHTS_FILE = "weights.json"
_LEAVE_OUT = "Leave the option out."


def declared_by(model: str, *, own: bool = False) -> ModelCard:
    """Return the card of `name[:variant]`, UsageError if there is none; a user's `own` model declares nothing."""
    if own:
        return card_of(model)
    entry, variant = find_adapter(model)
    return entry.card_for(variant)


def shown(*models: str) -> str:
    """Return models for people, without what an address may hold of a password."""
    return ", ".join(re.sub(r"://[^/\s]*@", "://", model) for model in models)


def settings_of(config: Path | None, said: "ModelOptions") -> list[Settings]:
    """Return the settings of each model's run; nothing is loaded, and what not all of several models take is said.

    UsageError if a model is named twice or is unknown, or something is said that none takes, or is not for several.
    """
    if twice := [model for model in said.models if said.models.count(model) > 1]:
        raise UsageError(f"--model {shown(twice[0])} was given twice.", "Give each model once.")
    # Without a model `load_settings` says what is missing.
    said.give(said.models or (load_settings(config, {}).model,))
    found = [load_settings(config, own) for own in said.own.values()]
    for line in said.remarks():
        warn(line)
    return [chosen(settings) for settings in found]


def chosen(settings: Settings) -> Settings:
    """Return settings whose model is there and takes their arguments; a UsageError otherwise."""
    choose_model(settings.model, settings.model_args)
    return settings


@dataclass(slots=True, kw_only=True)
class ModelOptions:
    """What the command line says of models, and whose each option is."""

    models: Sequence[str]  # As given, none where a file of settings names it.
    arguments: Mapping[str, str] = field(default_factory=dict)  # Of `--model-arg`, by `NAME` or `MODEL:NAME`.
    checkpoints: Sequence[str] = ()  # Of `--checkpoint`, each `DIR` or `MODEL=DIR`.
    others: Mapping[str, Any]  # The other options, for all models.
    own: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)  # The options of each model.
    # Which models take what was said to all of several.
    going_to: list[tuple[str, Sequence[str]]] = field(init=False, default_factory=list)
    _takes: dict[str, frozenset[str]] = field(init=False, default_factory=dict)

    def give(self, models: Sequence[str]) -> None:
        """Give each model the options that are its own; raises UsageError like `settings_of`."""
        self.models = models
        self.own = {model: {**self.others, "model": model} for model in models}
        self._takes = {model: find_adapter(model)[0].takes for model in models}
        self._give_arguments()
        self._give_checkpoints()
        if len(models) > 1:
            self._give_others()

    def remarks(self) -> list[str]:
        """Return what must be said of options that do not go to all models."""
        return [
            f"{option} goes to {shown(*takers)}; {shown(*others)} cannot take it and runs without it."
            for option, takers in self.going_to
            if (others := [model for model in self.own if model not in takers])
        ]

    def _give_arguments(self) -> None:
        common, alone = ({model: dict[str, str]() for model in self.models} for _ in range(2))
        known = {model: find_adapter(model)[0].arguments for model in self.models}
        for name, value in self.arguments.items():
            if whose := self._whose(name, ":"):
                alone[whose][name.removeprefix(f"{whose}:")] = value
                continue
            takers = [one for one in self.models if len(self.models) == 1 or name in known[one]]
            if name.startswith(OF_VLLM):
                takers = [one for one in self.models if "device" in self._takes[one]]
            self._refuse_nobodys(f"--model-arg {name}", takers)
            for one in takers:
                common[one][name] = value
            self.going_to.append((f"--model-arg {name}={value}", takers))
        for model, own in self.own.items():
            # What is said to it alone goes before what is said to all that take it.
            own["model_args"] = common[model] | alone[model] or None

    def _give_checkpoints(self) -> None:
        able = [model for model in self.models if "checkpoint" in self._takes[model]]
        whose = {text: self._whose(text, "=") for text in self.checkpoints}
        named = {model: text.removeprefix(f"{model}=") for text, model in whose.items() if model}
        common = [text for text in self.checkpoints if not whose[text]]
        if len(common) > 1 or (common and named and len(self.models) == 1):
            way_out = "Leave it out, or say whose it is: --checkpoint MODEL=DIR."
            raise UsageError(f"--checkpoint {common[-1]} has no model left that would take it.", way_out)
        for model in named:
            self._refuse_nobodys("--checkpoint", [model] if model in able else [], model)
        if common:
            takers = [model for model in able if model not in named] if len(self.models) > 1 else self.models
            self._refuse_nobodys("--checkpoint", takers)
            if len(takers) > 1:
                hint = f"Say whose it is: {' '.join(f'--checkpoint {one}=DIR' for one in takers)}"
                raise UsageError(f"--checkpoint {common[0]} is one folder, and {shown(*takers)} take one each.", hint)
            named |= {takers[0]: common[0]}
            self.going_to.append(("--checkpoint", [model for model in self.models if model in named]))
        for model, own in self.own.items():
            own["checkpoint"] = Path(named[model]) if model in named else None

    def _give_others(self) -> None:
        for name in ("checkpoint_for", *SAYS_NOTHING):
            if self.others.get(name) is None or self.others[name] in SAYS_NOTHING.get(name, ()):
                continue
            option = f"--{name.replace('_', '-')}"
            takers = [model for model in self.models if name.removesuffix("_for") in self._takes[model]]
            self._refuse_nobodys(option, takers)
            if name in {"checkpoint_for", "lora"} and len(takers) > 1:
                raise UsageError(f"{option} names weights for {shown(*takers)} at once.", "Run them one by one.")
            self.going_to.append((option, takers))
            for model, own in self.own.items():
                own[name] = own[name] if model in takers else None

    def _whose(self, text: str, mark: str) -> str | None:
        """Return the model that a text begins with, the longest of those that fit."""
        return max((model for model in self.models if text.startswith(f"{model}{mark}")), key=len, default=None)

    def _refuse_nobodys(self, option: str, takers: Sequence[str], *models: str) -> None:
        if not takers:
            raise UsageError(f"None of {shown(*(models or self.models))} takes {option}.", "Leave the option out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The tasks, by name, that one folder of weights (None: the model's default) answers."""

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


def refuse_other_weights(folder: Path, ours: Mapping[str, str], others: Sequence[Path] = ()) -> None:
    """Note in a folder which weights, by task, answer its run: these may lie outside of a checkpoint.

    RunError if other weights did before, as the folder says, or `others` of the same run.
    """
    noted = dict(ours)
    for path in (one / WEIGHTS_FILE for one in (folder, *others)):
        before = read_json_object(path) if path.exists() else {}
        if not all(isinstance(weights, str) for weights in before.values()):
            raise DataError(
                f"{path} does not say which weights answered.", "Put back the file as it was, or remove it."
            )
        if changed := [task for task, weights in before.items() if noted.get(task, weights) != weights]:
            way_out = "Put the weights of the run back, or start afresh with --overwrite always."
            raise RunError(f"Other weights answered a part of {', '.join(changed)}.", way_out)
        noted |= before
    if noted:
        write_atomically(folder / WEIGHTS_FILE, canonical_json(noted, indent=2) + "\n")


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
        dtype = f"{adapter.dtype} (weights {adapter.quantised})" if adapter.quantised else adapter.dtype
        info = ModelInfo(
            name=adapter.card.name, title=adapter.title, weights=adapter.weights_fingerprint,
            device=adapter.device.partition(":")[0], dtype=dtype, trained_on=tuple(sorted(trained_on or ())),
            declared=trained_on is not None, parameters=_counted(adapter) or adapter.card.parameters,
            released=adapter.card.released, open_weights=adapter.card.open_weights,
        )  # fmt: skip
        return cls(info=info, kinds=adapter.card.kinds, notices=adapter.notices)


def _counted(adapter: Adapter) -> int:
    """Return how many parameters a loaded model has; 0 where torch holds none, or holds them rounded and packed."""
    torch = sys.modules.get("torch")
    if torch is None or adapter.quantised:
        return 0
    modules = (one for one in vars(adapter).values() if isinstance(one, torch.nn.Module))
    return sum({id(one): one.numel() for module in modules for one in module.parameters()}.values())


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


class LoadedModel(AbstractContextManager["LoadedModel"]):
    """Room for one loaded model: the last one leaves before the next is loaded, since two may not fit."""

    def __init__(self, load: Callable[[Share], Adapter]) -> None:
        self._load = load
        self._loaded: tuple[Share, Adapter] | None = None

    def __exit__(self, *_: object) -> None:
        self.leave()

    def adapter(self, share: Share) -> Adapter:
        """Return the model of a share. Keep no reference to it longer than it is used."""
        if self._loaded is None or self._loaded[0] != share:
            self.leave()
            gc.collect()
            self._loaded = (share, self._load(share))
        return self._loaded[1]

    def leave(self) -> None:
        """Let the model that is loaded go, if there is one."""
        if self._loaded is not None:
            self._loaded[1].close()
        self._loaded = None


def load_share(settings: Settings, model: ChosenModel, workload: Workload, share: Share) -> Adapter:
    """Load the checkpoint of a share. Raises UsageError if an option was given that the model does not take."""
    name = model.entry.card.name
    given = [option for option, nothing in SAYS_NOTHING.items() if getattr(settings, option) not in nothing]
    given = ["checkpoint", *given] if settings.checkpoint_for and settings.checkpoint is None else given
    if ignored := [f"--{option.replace('_', '-')}" for option in given if option not in model.entry.takes]:
        raise UsageError(f"The model {name!r} does not take {', '.join(ignored)}.", _LEAVE_OUT)
    asked: set[str] = set()

    def noted(of: Callable[[str], Any]) -> Callable[[str], Any]:
        def noting(task: str) -> Any:  # noqa: ANN401 - whatever it asks for
            asked.add(task)
            return of(task)

        return noting

    say(f"Loading {shown(settings.model)}{f' from {share.checkpoint}' if share.checkpoint else ''} ...")
    options = LoadOptions(
        variant=model.variant, arguments=model.arguments, checkpoint=share.checkpoint, device=settings.device,
        dtype=settings.dtype, device_map=settings.device_map, quantize=settings.quantize, lora=settings.lora,
        seed=settings.seed, train_samples=noted(workload.train_samples), source_of=noted(workload.source_of),
    )  # fmt: skip
    with plugin_faults(name, "load()"), room_for(f"The model {name!r}"), noting_sampled() as sampled:
        adapter = model.entry.load(options)
    if not isinstance(adapter, Adapter):
        raise RunError(f"{named(name)} returned from load() a {type(adapter).__name__}, which is no Adapter.", "")
    adapter.loaded_from = LoadedFrom(sampled=sampled, tasks=asked)
    of_the_engine = [f"--{option.replace('_', '-')}" for option in settings.decoding()]
    of_the_engine += ["--compile"] * settings.compile + ["--engine"] * (settings.engine != "auto")
    of_the_engine += [f"--model-arg {name}" for name in settings.model_args if name.startswith(OF_VLLM)]
    if of_the_engine and not isinstance(adapter, LocalAdapter):
        words = ", ".join(of_the_engine)
        raise UsageError(f"The model {name!r} chooses its tokens itself and does not take {words}.", _LEAVE_OUT)
    if isinstance(adapter, LocalAdapter):
        adapter.exclusive = True
    return adapter


class Attempt(AbstractContextManager["Attempt"]):
    """Tells how a run failed and takes no others along; keeps no error, whose frames would keep the model's weights."""

    def __init__(self, whose: str) -> None:
        self._whose = shown(whose)
        self.exit_code = 0

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, MedbenchError):
            error = explained(error)
        self.exit_code = error.exit_code
        show_error(MedbenchError(f"{self._whose}: {error.problem}", error.hint))
        return True


def release() -> None:
    """Give back what the last model held, before the next is loaded."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
