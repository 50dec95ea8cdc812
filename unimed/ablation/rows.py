"""The rows of the paper's ablations, read from rows.yaml, and the recipe of each on a base recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter

from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import fingerprint, read_yaml_table
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.training.recipe import Recipe, Setting, load_recipe

_LETTERS_OF_KEY = 12


class _Strict:
    __pydantic_config__ = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class Row(_Strict):
    """One row of a table."""

    over: str = ""  # The row that its gain is counted over; empty for a baseline.
    change: dict[str, Setting] = field(default_factory=dict)  # Of `UniMedConfig`, against the paper's Uni-Med.


@dataclass(frozen=True, kw_only=True)
class AblationTable(_Strict):
    """One table; its rows stand in the paper's order, by their names among the published numbers."""

    title: str
    rows: Annotated[dict[str, Row], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class _Document(_Strict):
    uni_med: dict[str, Setting]
    tables: dict[str, AblationTable]


@cache
def _document() -> _Document:
    return TypeAdapter(_Document).validate_python(read_yaml_table(Path(__file__).with_name("rows.yaml")))


def ablation_tables() -> Mapping[str, AblationTable]:
    """Return the paper's tables by their names: `2a` to `2e`, and `5`."""
    return _document().tables


def chosen_rows(tables: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str, Row]]:
    """Return table, name and row of the wanted rows of tables and what they are counted over, in order.

    All rows for none wanted; UsageError if none of the tables has one of the wanted.
    """
    there = [(table, name, row) for table in tables for name, row in ablation_tables()[table].rows.items()]
    for name in wanted:
        if name not in (names := [name for _, name, _ in there]):
            raise unknown_name("row", name, names)
    kept = {pair for table, name, row in there if name in wanted for pair in ((table, name), (table, row.over))}
    return [one for one in there if not wanted or one[:2] in kept]


def settings_of(row: Row) -> dict[str, Setting]:
    """Return the settings of a row that may differ from another's."""
    return {**_document().uni_med, **row.change}


def base_recipe(config: str, overrides: Sequence[str], *, planned: bool = False) -> Recipe:
    """Return the recipe that all rows share; UsageError if it is not valid, or sets what the rows are to set."""
    ours = [f"model.unimed.{name}" for name in _document().uni_med]
    for given in overrides:
        if given.partition("=")[0].strip() in ours:
            raise UsageError(f"--set {given} is what the rows of a table set.", "Choose rows instead: --rows NAME.")
    return load_recipe(config, tuple(overrides), planned=planned)


def recipe_of_row(base: Recipe, row: Row, seed: int) -> Recipe:
    """Return the recipe of a row with a seed; UsageError if it adapts a language model that the base does not name."""
    if base.model.text and "language_tuning" in row.change:
        problem = f"The base {base.name} trains a language model from scratch; this table adapts a pretrained one."
        raise UsageError(problem, "Give a --base with model.language_model, such as mini-ablation or official.")
    unimed = {**base.model.unimed, **settings_of(row)}
    return replace(base, seed=seed, model=replace(base.model, unimed=unimed))


def key_of(recipe: Recipe, data: Mapping[str, str]) -> str:
    """Return what names a training: alike for rows of two tables that ask for the same on the same data.

    `data` are the fingerprints of the prepared tasks. A setting that says what is so anyway makes no difference.
    """
    plain = {name: one for name, one in recipe.model.unimed.items() if one != getattr(UniMedConfig, name, ...)}
    table = replace(recipe, model=replace(recipe.model, unimed=plain)).table()
    return fingerprint({"recipe": table, "data": dict(data)})[:_LETTERS_OF_KEY]
