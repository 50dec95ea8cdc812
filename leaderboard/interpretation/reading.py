"""An interpretation in words: what was measured, what chance would give, and what is not shown. Pure."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from medbench.harness.interpreted import Document, Interference, Maps, Measured, Number
from medbench.leaderboard.render import folded, markdown_table, markdown_text

ALL = "all"
"""The group of all parameters of a connector."""
_MOST_MODELS_TOLD_SINGLY = 2
_MOST_PAIRS_NAMED = 4
_BY_CHANCE = 0.05  # Share of pairs that an interval or a band of 95 % leaves out.


def headline(document: Document) -> str:
    """Return in a few sentences how many pairs of tasks disturb one another, and which do in all of several models."""
    models = document.models
    counts = _of_several(models) if len(models) > _MOST_MODELS_TOLD_SINGLY else " ".join(map(_of_model, models))
    return " ".join([counts, *(_in_all(models) if len(models) > 1 else [])])


def _of_several(models: Sequence[Measured]) -> str:
    against, along, neither = zip(*(pulls(model.groups[ALL]).values() for model in models), strict=True)
    pairs = _range([sum(counts) for counts in zip(against, along, neither, strict=True)])
    return (
        f"In each of {len(models)} models {_range(against)} of {pairs} ordered pairs of tasks pull against each other, "
        f"{_range(along)} together; the others cannot be told."
    )


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def _in_all(models: Sequence[Measured]) -> Iterator[str]:
    """Yield a sentence on the pairs that are told alike in all models, one for each way to pull."""
    each = [_pairs_told(model) for model in models]
    for way, does in (("against", "takes from"), ("together", "adds to")):
        found = [pair for pair in each[0][way] if all(pair in one[way] for one in each)]
        if found:
            named = [f"a step of {pulling} {does} {pulled}" for pulled, pulling in found[:_MOST_PAIRS_NAMED]]
            left = len(found) - len(named)
            yield f"In every model {', '.join(named)}{f', and so in {left} more pairs' if left else ''}."


def _pairs_told(model: Measured) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs, the task that is pulled first, that pull against each other or together."""
    return {
        way: [(model.tasks[pulled], model.tasks[pulling]) for pulled, pulling in np.argwhere(there)]
        for way, there in told(model.groups[ALL]).items()
    }


def _of_model(model: Measured) -> str:
    found = pulls(model.groups[ALL])
    pairs = sum(found.values())
    return (
        f"In {model.label} ({model.connector}) {found['against']} of {pairs} ordered pairs of tasks pull against each "
        f"other, {found['together']} together, {found['open']} cannot be told."
    )


def summary_table(document: Document) -> str:
    """Return a row a model: pairs, indexes, statistics scores beside what chance gives."""
    heads = (
        "model", "connector", "seed of batches", "parameters", "against / together / open",
        "beyond random signs (5 % of pairs)", "denominator not positive", "spread of indexes",
        "statistics score", "random signs", "copies of one task",
    )  # fmt: skip
    return markdown_table(heads, [_summary(model) for model in document.models])


def _summary(model: Measured) -> list[str]:
    one, scores = model.groups[ALL], model.scores[ALL]
    found = pulls(one)
    there = [share for share in one.non_positive if share is not None]
    return [
        markdown_text(model.label), markdown_text(model.connector), str(model.seed), f"{one.parameters:,}",
        " / ".join(map(str, found.values())), f"{beyond(one).sum()} ({_BY_CHANCE * sum(found.values()):.3g})",
        f"{100 * sum(there) / max(1, len(there)):.0f} %", number(spread(one.normalised.value)),
        number(scores.tasks.mean), number(scores.flipped.mean), number(scores.copies.mean),
    ]  # fmt: skip


def task_table(model: Measured) -> str:
    """Return a row a task: its index by both readings, and what its own halves say of the noise."""
    one = model.groups[ALL]
    columns = (one.index.value, one.index.low, one.index.high, one.paper_index, one.non_positive, one.halves)
    heads = ("task", "loss", "index", "95 %", "index, paper's reading", "denominator not positive", "own halves")
    rows = []
    for task, value, low, high, paper, share, halves in zip(model.tasks, *columns, strict=True):
        shown = "n/a" if share is None else f"{100 * share:.0f} %"
        loss, between = number(model.losses[task]), f"{number(low)} to {number(high)}"
        rows.append([task, loss, number(value), between, number(paper), shown, number(halves)])
    return markdown_table(heads, rows)


def group_table(model: Measured) -> str:
    """Return a row for each part of the connector."""
    rows = [
        [group, f"{one.parameters:,}", *(str(count) for count in pulls(one).values()),
         number(model.scores[group].tasks.mean), f"{model.scores[group].tasks.single:,}"]
        for group, one in model.groups.items()
    ]  # fmt: skip
    heads = ("part", "parameters", "against", "together", "open", "statistics score", "reached by one task alone")
    return markdown_table(heads, rows)


def map_table(maps: Sequence[Maps]) -> str:
    """Return a row for each space: how far tasks lie apart there."""
    rows = []
    for one in maps:
        for place, space in (("before", one.before), ("after", one.after)):
            apart, points = space.apart, f"{len(one.tasks):,} ({one.pictures:,} pictures)"
            shares = [f"{100 * share:.1f} %" for share in (apart.purity or 0, apart.chance)]
            rows.append([markdown_text(one.label), place, str(space.width), points, number(apart.silhouette), *shares])
    heads = ("model", "connector", "width", "points", "silhouette", "purity of 10 neighbours", "by chance")
    return markdown_table(heads, rows, merged=True)


def how_measured(document: Document) -> str:
    """Return what was measured of each model, and what was left out."""
    lines = []
    for model in document.models:
        name = f"{markdown_text(model.label)} ({markdown_text(model.connector)})"
        out = markdown_text("; ".join(f"{task}: {why}" for task, why in model.left_out.items()))
        lines.append(
            f"- {name}: {model.batches} batches of {model.batch_size} training samples of each task, "
            f"{model.precision}, seed {model.seed}, weights `{model.fingerprint[:12]}`."
            + (f" Left out: {out}." if out else "")
        )
    return "\n".join(lines)


def by_model(title: str, found: Document, table: Callable[[Measured], str]) -> str:
    """Return a table of each model below a line that unfolds it."""
    return "\n\n".join(folded(f"{title}: {model.label} ({model.connector})", table(model)) for model in found.models)


def number(value: Number) -> str:
    """Return a number with three digits; `n/a` where there is none."""
    return "n/a" if value is None else f"{value:.3g}"


def pulls(one: Interference) -> dict[str, int]:
    """Return how many ordered pairs of tasks pull against each other, together, or neither as far as can be told."""
    counts = {way: int(there.sum()) for way, there in told(one).items()}
    others = len(one.non_positive) * (len(one.non_positive) - 1)
    return {**counts, "open": others - sum(counts.values())}


def told(one: Interference) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which pairs of two tasks pull against each other, and which together [T, T]."""
    low, high = (np.asarray(side, dtype=np.float64) for side in (one.direction.low, one.direction.high))
    others = ~np.eye(len(low), dtype=bool)
    return {"against": (high < 0) & others, "together": (low > 0) & others}


def beyond(one: Interference) -> npt.NDArray[np.bool_]:
    """Return which pairs of two tasks [T, T] have a larger |GD| than 95 % of draws with random signs."""
    value, band = (np.asarray(side, dtype=np.float64) for side in (one.direction.value, one.flipped))
    return np.asarray((np.abs(value) > band) & ~np.eye(len(band), dtype=bool))


def spread(values: Sequence[Number]) -> float:
    """Return the standard deviation of what is a number."""
    there = [value for value in values if value is not None]
    return float(np.std(there)) if there else float("nan")
