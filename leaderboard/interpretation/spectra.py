"""Spectra of the Fisher information in words and tables: what is shown of a difference, and what is not. Pure."""

from collections.abc import Iterator, Mapping
from math import log

from medbench.harness.interpreted import Number, fisher
from medbench.leaderboard.interpretation.reading import ALL
from medbench.leaderboard.render import folded, markdown_table, markdown_text, p_text

_LEVEL = 0.05
_ALONE = "One model was measured: its numbers say something beside those of another on the same samples only."
_NUMBERS = ("SE, directions", "largest share, directions", "SE, gradients", "largest share, gradients")
_CHANGED = ("model", "of", "number", "change [95 %]", "swapped at random, 95 %", "p", "shown")
_OTHERS = "No two models were measured on the same samples: nothing is compared."


def spectra_as_markdown(found: fisher.FisherDocument) -> str:
    """Return the spectra of whole connectors, what models differ in, and the parts below lines that unfold."""
    rows = []
    for one in found.models:
        count, named = len(one.tasks) * one.samples, map(markdown_text, (one.label, one.connector, one.draws or "n/a"))
        rows.append([*named, *_numbers(one, ALL), f"{count:,}", f"{log(count):.3f}"])
    changes = [row for pair in found.comparisons for row in _changes(pair.other, pair.groups[ALL])]
    against = f"Against {markdown_text(found.models[0].label)}, on the same samples:"
    table = f"{against}\n\n{markdown_table(_CHANGED, changes, merged=True)}"
    told = table if changes else _OTHERS if rows[1:] else _ALONE
    heads = ("model", "connector", "draws", *_NUMBERS, "samples n", "ln n")
    return "\n\n".join([markdown_table(heads, rows), told, *map(_parts, found.models)])


def _numbers(model: fisher.FisherModel, group: str) -> list[str]:
    spectra = [model.groups[group].spectra[reading] for reading in reversed(fisher.READINGS)]
    return [_bounds(one) for of in spectra for one in (of.entropy, of.ratio)]


def _parts(model: fisher.FisherModel) -> str:
    rows = [[name, f"{one.parameters:,}", *_numbers(model, name)] for name, one in model.groups.items()]
    return folded(f"By part of the connector: {model.label}", markdown_table(("part", "parameters", *_NUMBERS), rows))


def _changes(other: str, of: Mapping[fisher.Reading, fisher.Changes]) -> Iterator[list[str]]:
    for reading in reversed(fisher.READINGS):
        for name, one in (("SE", of[reading].entropy), ("largest share", of[reading].ratio)):
            chance = "n/a" if one.p is None else f"{_text(one.chance_low)} to {_text(one.chance_high)}"
            p = "n/a" if one.p is None else p_text(one.p)
            yield [markdown_text(other), reading, name, _bounds(one.difference), chance, p, shown(one)]


def shown(one: fisher.Change) -> str:
    """Return in words what a change shows: something if chance gives it seldom and other samples would, too."""
    value, low, high = one.difference.value, one.difference.low, one.difference.high
    if one.p is None or value is None or low is None or high is None:
        return "cannot be tested: other parameters"
    if one.p > _LEVEL or low <= 0 <= high:
        return "no difference"
    return "lower" if value < 0 else "higher"


def _bounds(one: fisher.Estimate) -> str:
    return f"{_text(one.value)} [{_text(one.low)}, {_text(one.high)}]"


def _text(value: Number) -> str:
    return "n/a" if value is None else f"{value:.3f}"
