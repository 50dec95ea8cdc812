"""Many runs in one YAML file: models, and what they are run with; a list of values makes a run for each.

`models` has names, or tables with settings of one model; every other key is a setting of all. What may be said are the
fields of `Settings`, and `mean`. The command line's words go before the file's, a model's own before those of all.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import yaml

from medbench.harness.models import ModelOptions, chosen, shown
from medbench.harness.settings import EVERY_TASK, Settings
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError, unknown_name
from medbench.tasks.foundation.files import canonical_json, read_yaml_table, write_atomically

MODELS, MEAN = "models", "mean"
_TABLES = ("model_args", "max_new_tokens", "checkpoint_for")
_KNOWN = tuple(one.name for one in fields(Settings))
_WHOLE = ("tasks", "metrics")  # Lists that belong to each run.
_ONE_MODELS = ("checkpoint", "checkpoint_for", "lora")  # Weights of one are not those of others.
_MOST = 500  # runs of a file: a value too many in a few lists asks for more than anybody waits for
_HEAD = "# Runs of medbench: medbench run --config FILE. docs/sweeps.md says what may stand here.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run of several."""

    name: str  # The model, and what sets this run apart from others of it.
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All runs of a command, in their order."""

    runs: tuple[Planned, ...]
    mean: bool = False  # Whether runs of one model, which differ in their seed alone, become one column.

    @classmethod
    def of(cls, found: Sequence[Settings], *, mean: bool = False) -> "Sweep":
        """Return settings with a name for each; the same ones twice are one run."""
        plain = {canonical_json(one.as_yaml()): one for one in found}
        flat = [{key: _said(value) for key, value in _flat(one.as_yaml()).items()} for one in plain.values()]
        runs = []
        for settings, own in zip(plain.values(), flat, strict=True):
            others = [one for one in flat if one["model"] == own["model"]]
            keys = dict.fromkeys(key for one in others for key in one)
            apart = [f"{key}={own.get(key, '-')}" for key in keys if len({one.get(key) for one in others}) > 1]
            runs.append(Planned(name=" ".join([shown(settings.model), *apart]), settings=settings))
            if mean and any(not word.startswith("seed=") for word in apart):
                problem = f"`mean` is over seeds, and runs of {settings.model} differ in more: {', '.join(apart)}."
                raise UsageError(problem, "Leave out `mean`, or give each model one value of all else.")
        return cls(runs=tuple(runs), mean=mean)


def read_sweep(path: Path, said: Mapping[str, Any]) -> Sweep:
    """Return the runs of a file that names models, with what the command line `said` on top.

    UsageError, with the file and the place in it, if a key or a model is unknown, a value is not allowed, settings
    contradict one another, or none of the models takes one.
    """
    given = read_yaml_table(path)
    entries, mean = _entries(path, given.pop(MODELS)), given.pop(MEAN, False)
    if not isinstance(mean, bool):
        raise UsageError(f"{path}: mean is {mean!r}.", "Allowed: true, false.")
    _refuse_unknown(str(path), given, [name for name in _KNOWN if name not in {"model", *_ONE_MODELS}])
    said = {key: value for key, value in said.items() if value is not None}
    with _placed(str(path)):
        flat = _flat(given)
        arguments = {key.partition(".")[2]: one for key, one in flat.items() if key.startswith("model_args.")}
        names = tuple(dict.fromkeys(entry["model"] for entry in entries))
        common = ModelOptions(models=names, arguments=arguments, others={**given, **said})
        common.give(names)
    found: list[Settings] = []
    for number, entry in enumerate(entries):
        with _placed(f"{path}: models[{number}] ({shown(entry['model'])})"):
            own = _flat({key: one for key, one in entry.items() if key not in said})
            lists = {**_flat(common.own[entry["model"]]), **own}
            _refuse_too_many(len(found), lists)
            found += [chosen(Settings(**values)) for values in _products(lists)]
    for line in common.remarks():
        warn(line)
    with _placed(str(path)):
        return Sweep.of(found, mean=mean)


def save_sweep(path: Path, sweep: Sweep) -> None:
    """Write runs as a file that `read_sweep` reads as the same ones; UsageError if there is another file already."""
    defaults = Settings(model="").as_yaml()
    plain = [{key: one for key, one in run.settings.as_yaml().items() if one != defaults[key]} for run in sweep.runs]
    common = {
        key: one for key, one in plain[0].items()
        if key not in {"model", *_ONE_MODELS} and all(other.get(key) == one for other in plain)
    }  # fmt: skip
    own = [{key: one for key, one in run.items() if key not in common} for run in plain]
    models = [one["model"] if len(one) == 1 else one for one in own]
    text = _HEAD + yaml.safe_dump({MODELS: models, **common, **({MEAN: True} if sweep.mean else {})}, sort_keys=False)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"{path} is there already, and says something else.", "Give --save-config another name.")
    write_atomically(path, text)


def _entries(path: Path, given: object) -> list[dict[str, Any]]:
    """Return the table of each model; UsageError if one is none, names no model, or has an unknown key."""
    models: list[Any] = given if isinstance(given, list) else [given]
    entries = [{"model": one} if isinstance(one, str) else one for one in models]
    if not entries or not all(isinstance(one, dict) for one in entries):
        way_out = "Write a list of names, or of tables such as {model: NAME, seed: [0, 1]}."
        raise UsageError(f"{path}: models is {given!r}.", way_out)
    for number, entry in enumerate(entries):
        _refuse_unknown(f"{path}: models[{number}]", entry, _KNOWN)
        if not isinstance(entry.get("model"), str):
            way_out = "Write `model: NAME`; `medbench models` lists them."
            raise UsageError(f"{path}: models[{number}] names no model.", way_out)
    return entries


def _refuse_unknown(where: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for key in (key for key in given if key not in allowed):
        if key in _ONE_MODELS:
            raise UsageError(f"{where}: {key} is one model's.", "Move it into that model's table below `models`.")
        error = unknown_name("setting", str(key), allowed)
        raise UsageError(f"{where}: {error.problem}", error.hint)


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that say nothing; of a table each entry by itself, as `table.entry`."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key not in _TABLES or value is None:
            found |= {} if value is None else {key: value}
        elif isinstance(value, dict):
            found |= {f"{key}.{inner}": one for inner, one in value.items() if one is not None}
        elif key == "max_new_tokens":
            found[f"{key}.{EVERY_TASK}"] = value
        else:
            raise UsageError(f"{key} is {value!r}.", f"Write a table: {key}: {{name: value}}.")
    return found


def _refuse_too_many(before: int, flat: Mapping[str, Any]) -> None:
    asked = before + prod(len(one) for key, one in flat.items() if isinstance(one, list) and key not in _WHOLE)
    if asked > _MOST:
        lists = ", ".join(key for key, one in flat.items() if isinstance(one, list) and key not in _WHOLE)
        raise UsageError(f"Its lists ({lists}) make {asked:,} runs, at most {_MOST} stand in a file.", "Shorten some.")


def _products(flat: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield settings with one of each list of values, the last list changing fastest; of tasks a list is one value."""
    if empty := [key for key, value in flat.items() if value == []]:
        raise UsageError(f"{empty[0]} is an empty list.", "Give it a value, or leave it out.")
    for combination in product(
        *(one if isinstance(one, list) and key not in _WHOLE else [one] for key, one in flat.items())
    ):
        values: dict[str, Any] = {}
        for key, one in zip(flat, combination, strict=True):
            table, dot, inner = key.partition(".")
            if dot:
                values.setdefault(table, {})[inner] = _said(one) if table == "model_args" else one
            else:
                values[key] = one
        yield values


def _said(value: object) -> str:
    """Return a value as it is written on the command line, a table as JSON."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return canonical_json(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Name the place in the file of what a user is told of it."""
    try:
        yield
    except MedbenchError as error:
        raise type(error)(f"{where}: {error.problem}", error.hint) from error
