"""The models that a command names: whose each option is, what their cards declare, and one run after the other."""

import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import Any, Self

from medbench.adapters.base import ModelCard
from medbench.adapters.catalog import choose_model, find_adapter
from medbench.adapters.function import card_of
from medbench.harness.settings import SAYS_NOTHING, Settings, load_settings
from medbench.tasks.foundation.console import say, show_error, warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError


def declared_by(model: str, *, own: bool = False) -> ModelCard:
    """Return the card of `name` or `name:variant`, before anything is loaded; a user's `own` model declares nothing.

    Raises UsageError if there is no such model or variant.
    """
    if own:
        return card_of(model)
    entry, variant = find_adapter(model)
    return entry.card_for(variant)


def shown(*models: str) -> str:
    """Return models for people, without what an address may hold of a password."""
    return ", ".join(re.sub(r"://[^/\s]*@", "://", model) for model in models)


def settings_of(config: Path | None, said: "ModelOptions") -> list[Settings]:
    """Return the settings of each model's run; nothing is loaded, and whatever does not fit is refused here.

    What not all of several models take is said. Raises UsageError if a model is named twice or is unknown, or something
    is said that no model takes, or that cannot be meant for several.
    """
    if twice := [model for model in said.models if said.models.count(model) > 1]:
        raise UsageError(f"--model {shown(twice[0])} was given twice.", "Give each model once.")
    # Without a model `load_settings` says what is missing.
    said.give(said.models or (load_settings(config, {}).model,))
    found = [load_settings(config, own) for own in said.own.values()]
    for settings in found:
        choose_model(settings.model, settings.model_args)
    for option, takers in said.going_to:
        if others := [model for model in said.own if model not in takers]:
            warn(f"{option} goes to {shown(*takers)}; {shown(*others)} cannot take it and runs without it.")
    return found


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

    def _give_arguments(self) -> None:
        common, alone = ({model: dict[str, str]() for model in self.models} for _ in range(2))
        known = {model: find_adapter(model)[0].arguments for model in self.models}
        for name, value in self.arguments.items():
            if whose := self._whose(name, ":"):
                alone[whose][name.removeprefix(f"{whose}:")] = value
                continue
            takers = [one for one in self.models if len(self.models) == 1 or name in known[one]]
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
            raise UsageError(
                f"--checkpoint {common[-1]} has no model left that would take it.",
                "Leave it out, or say whose it is: --checkpoint MODEL=DIR.",
            )
        for model in named:
            self._refuse_nobodys("--checkpoint", [model] if model in able else [], model)
        if common:
            takers = [model for model in able if model not in named] if len(self.models) > 1 else self.models
            self._refuse_nobodys("--checkpoint", takers)
            if len(takers) > 1:
                raise UsageError(
                    f"--checkpoint {common[0]} is one folder, and {shown(*takers)} take one each.",
                    f"Say whose it is: {' '.join(f'--checkpoint {one}=DIR' for one in takers)}",
                )
            named |= {takers[0]: common[0]}
            self.going_to.append(("--checkpoint", [model for model in self.models if model in named]))
        for model, own in self.own.items():
            own["checkpoint"] = Path(named[model]) if model in named else None

    def _give_others(self) -> None:
        for name in ("checkpoint_for", "device", "dtype"):
            if self.others.get(name) is None or self.others[name] in SAYS_NOTHING.get(name, ()):
                continue
            option = f"--{name.replace('_', '-')}"
            takers = [model for model in self.models if name.removesuffix("_for") in self._takes[model]]
            self._refuse_nobodys(option, takers)
            if name == "checkpoint_for" and len(takers) > 1:
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


class Attempt:
    """A run of somebody that may fail without taking others along: a context manager that tells what happened.

    Nothing of the error is kept, since its frames would keep the weights of the model that failed.
    """

    def __init__(self, whose: str) -> None:
        self._whose = shown(whose)
        self.exit_code = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
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
