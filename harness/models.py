"""The models that a command names: whose each option is, what their cards declare, and one run after the other."""

import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any, Self

from medbench.adapters.catalog import choose_model, find_adapter
from medbench.harness.settings import Settings, load_settings
from medbench.tasks.foundation.console import say, show_error, warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError

_SAYS_NOTHING = {"device": {"auto", "cpu"}, "dtype": {"auto", "float32"}}
"""Options that not every model takes, with the values that say nothing to one that does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The part of a model's card that an audit of provenance reads; `trained_on` is None if nobody has said."""

    name: str
    variant: str
    title: str
    trained_on: frozenset[str] | None


def declared_by(model: str) -> Declared:
    """Return what the card of `name` or `name:variant` declares, before anything is loaded.

    Raises UsageError if there is no such model or variant.
    """
    entry, variant = find_adapter(model)
    card = entry.card_for(variant)
    return Declared(name=entry.card.name, variant=variant, title=card.title, trained_on=card.trained_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What the command line says of models."""

    models: Sequence[str]  # As given, none where a file of settings names it.
    arguments: Mapping[str, str] = field(default_factory=dict)  # Of `--model-arg`, by `NAME` or `MODEL:NAME`.
    checkpoints: Sequence[str] = ()  # Of `--checkpoint`, each `DIR` or `MODEL=DIR`.
    others: Mapping[str, Any]  # The other options, for all models.


def shown(*models: str) -> str:
    """Return models for people, without what an address may hold of a password."""
    return ", ".join(re.sub(r"://[^/\s]*@", "://", model) for model in models)


def settings_of(config: Path | None, said: ModelOptions) -> list[Settings]:
    """Return the settings of each model's run; nothing is loaded, and whatever does not fit is refused here.

    Raises UsageError if a model is named twice or is unknown, or something is said that no model takes, or that cannot
    be meant for several.
    """
    twice = [model for model in said.models if said.models.count(model) > 1]
    if twice:
        raise UsageError(f"--model {shown(twice[0])} was given twice.", "Give each model once.")
    # Without a model `load_settings` says what is missing.
    models = said.models or (load_settings(config, {}).model,)
    found = [load_settings(config, {**_own(model, models, said), "model": model}) for model in models]
    for settings in found:
        choose_model(settings.model, settings.model_args)
    return found


def _own(model: str, models: Sequence[str], said: ModelOptions) -> dict[str, Any]:
    """Return the options of one of several models."""
    entries = {one: find_adapter(one)[0] for one in models}
    common: dict[str, str] = {}
    alone: dict[str, str] = {}
    for name, value in said.arguments.items():
        whose = _whose(name, ":", models)
        if whose == model:
            alone[name.removeprefix(f"{model}:")] = value
        elif whose is None and (len(models) == 1 or name in entries[model].arguments):
            common[name] = value
    # What is said to it alone goes before what is said to all that take it.
    own = {**said.others, "model_args": common | alone or None, "checkpoint": _checkpoint(model, models, said)}
    if len(models) == 1:
        return own
    for name in ("device", "dtype", "checkpoint_for"):
        if own.get(name) is not None and own[name] not in _SAYS_NOTHING.get(name, ()):
            takers = [one for one in models if name.removesuffix("_for") in entries[one].takes]
            option = f"--{name.replace('_', '-')}"
            _refuse_nobodys(option, takers, models)
            if name == "checkpoint_for" and len(takers) > 1:
                raise UsageError(f"{option} names weights for {shown(*takers)} at once.", "Run them one by one.")
            own[name] = own[name] if model in takers else None
    return own


def _refuse_nobodys(option: str, takers: Sequence[str], models: Sequence[str]) -> None:
    if not takers:
        raise UsageError(f"None of {shown(*models)} takes {option}.", "Leave the option out.")


def _whose(text: str, mark: str, models: Sequence[str]) -> str | None:
    """Return the model that a text begins with, the longest of those that fit."""
    return max((model for model in models if text.startswith(f"{model}{mark}")), key=len, default=None)


def _checkpoint(model: str, models: Sequence[str], said: ModelOptions) -> Path | None:
    own = {whose: text for text in said.checkpoints if (whose := _whose(text, "=", models)) is not None}
    common = [text for text in said.checkpoints if _whose(text, "=", models) is None]
    if len(common) > 1 or (common and own and len(models) == 1):
        raise UsageError(
            f"--checkpoint {common[-1]} has no model left that would take it.",
            "Leave it out, or say whose it is: --checkpoint MODEL=DIR.",
        )
    entries = {one: find_adapter(one)[0] for one in models}
    if model in own:
        _refuse_nobodys("--checkpoint", [model] if "checkpoint" in entries[model].takes else [], [model])
        return Path(own[model].removeprefix(f"{model}="))
    if not common:
        return None
    if len(models) == 1:
        return Path(common[0])
    takers = [one for one in models if "checkpoint" in entries[one].takes and one not in own]
    _refuse_nobodys("--checkpoint", takers, models)
    if len(takers) > 1:
        raise UsageError(
            f"--checkpoint {common[0]} is one folder, and {shown(*takers)} take one each.",
            f"Say whose it is: {' '.join(f'--checkpoint {one}=DIR' for one in takers)}",
        )
    return Path(common[0]) if model in takers else None


def tell_whose(said: ModelOptions, found: Sequence[Settings]) -> None:
    """Say which of several models an option goes to that not all of them take.

    Raises UsageError if none takes an argument.
    """
    if len(found) == 1:
        return
    models = [settings.model for settings in found]
    entries = {one: find_adapter(one)[0] for one in models}
    for name, value in said.arguments.items():
        if _whose(name, ":", models) is None:
            takers = [model for model in models if name in entries[model].arguments]
            _refuse_nobodys(f"--model-arg {name}", takers, models)
            _tell(f"--model-arg {name}={value}", takers, models)
    default = Settings(model="")
    for name in ("checkpoint", "checkpoint_for", "device", "dtype"):
        takers = [one.model for one in found if getattr(one, name) != getattr(default, name)]
        if takers and not (name == "checkpoint" and all(_whose(text, "=", models) for text in said.checkpoints)):
            _tell(f"--{name.replace('_', '-')}", takers, models)


def _tell(option: str, takers: Sequence[str], models: Sequence[str]) -> None:
    others = [model for model in models if model not in takers]
    if others:
        warn(f"{option} goes to {shown(*takers)}; {shown(*others)} cannot take it and runs without it.")


class Attempt:
    """A run of somebody that may fail without taking others along: a context manager that tells what happened.

    Nothing of the error is kept, since its frames would keep the weights of the model that failed.
    """

    def __init__(self, whose: str) -> None:
        self._whose = shown(whose)
        self.exit_code = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        del kind, trace
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, MedbenchError):
            say("".join(format_exception(error)))
            error = MedbenchError(f"A fault of medbench ended the run: {type(error).__name__}.", "Report it, please.")
        self.exit_code = error.exit_code
        show_error(MedbenchError(f"{self._whose}: {error.problem}", error.hint))
        return True


def one_by_one(found: Sequence[Settings], run_one: Callable[[Settings], None]) -> None:
    """Run models one after the other; whatever `run_one` raises is told and does not keep the others from running."""
    for number, settings in enumerate(found, start=1):
        say(f"Model {number} of {len(found)}: {shown(settings.model)}")
        with Attempt(settings.model):
            run_one(settings)
        # What the last model held is given back before the next is loaded.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
