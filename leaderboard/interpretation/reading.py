"""An interpretation in words: what was measured, what chance would give, and what is not shown. Pure."""

from collections.abc import Callable, Sequence

import numpy as np

from medbench.harness.interpreted import Document, Interference, Maps, Measured, Number
from medbench.leaderboard.interpretation.figures import ALL
from medbench.leaderboard.render import markdown_table, markdown_text


def headline(document: Document) -> str:
    """Return in a sentence or two what the first model and the others differ in."""
    return " ".join(map(_of_model, document.models))


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
        "model", "parameters", "against / together / open", "denominator not positive", "spread of indexes",
        "statistics score", "random signs", "copies of one task",
    )  # fmt: skip
    return markdown_table(heads, [_summary(model) for model in document.models])


def _summary(model: Measured) -> list[str]:
    one, scores = model.groups[ALL], model.scores[ALL]
    found = pulls(one)
    there = [share for share in one.non_positive if share is not None]
    return [
        markdown_text(model.label), f"{one.parameters:,}", " / ".join(map(str, found.values())),
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
        told = "n/a" if share is None else f"{100 * share:.0f} %"
        rows.append([
            task, number(model.losses[task]), number(value), f"{number(low)} to {number(high)}", number(paper), told,
            number(halves),
        ])  # fmt: skip
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
    rows = [
        [
            markdown_text(one.label), place, str(space.width), f"{len(one.tasks):,} ({one.pictures:,} pictures)",
            number(space.apart.silhouette), f"{100 * (space.apart.purity or 0):.1f} %",
            f"{100 * space.apart.chance:.1f} %",
        ]
        for one in maps
        for place, space in (("before", one.before), ("after", one.after))
    ]  # fmt: skip
    heads = ("model", "connector", "width", "points", "silhouette", "purity of 10 neighbours", "by chance")
    return markdown_table(heads, rows, merged=True)


def how_measured(document: Document) -> str:
    """Return what was measured of each model, and what was left out."""
    lines = []
    for model in document.models:
        name = markdown_text(model.label)
        out = markdown_text("; ".join(f"{task}: {why}" for task, why in model.left_out.items()))
        lines.append(
            f"- {name}: {model.batches} batches of {model.batch_size} training samples of each task, "
            f"{model.precision}, seed {model.seed}, weights `{model.fingerprint[:12]}`."
            + (f" Left out: {out}." if out else "")
        )
    return "\n".join(lines)


def folded(title: str, found: Document, table: Callable[[Measured], str]) -> str:
    """Return a table of each model below a line that unfolds it."""
    parts = [(markdown_text(model.label), table(model)) for model in found.models]
    return "\n\n".join(f"<details><summary>{title}: {name}</summary>\n\n{one}\n\n</details>" for name, one in parts)


def number(value: Number) -> str:
    """Return a number with three digits; `n/a` where there is none."""
    return "n/a" if value is None else f"{value:.3g}"


def pulls(one: Interference) -> dict[str, int]:
    """Return how many ordered pairs of tasks pull against each other, together, or neither as far as can be told."""
    low, high = (np.asarray(side, dtype=np.float64) for side in (one.direction.low, one.direction.high))
    others = ~np.eye(len(low), dtype=bool)
    against, along = int(((high < 0) & others).sum()), int(((low > 0) & others).sum())
    return {"against": against, "together": along, "open": int(others.sum()) - against - along}


def spread(values: Sequence[Number]) -> float:
    """Return the standard deviation of what is a number."""
    there = [value for value in values if value is not None]
    return float(np.std(there)) if there else float("nan")
