"""The figures of an interpretation, after the paper's Figs. 2, 4 and 5: models side by side, chance drawn in."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medbench.harness.interpreted import PLACES, Document, Maps, Measured, Number, fisher
from medbench.leaderboard.interpretation.reading import ALL, beyond, told
from medbench.tasks.foundation.drawing import drawn, label, shades, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 6.9  # inches
MARKS: Mapping[str, str] = {
    "o": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0", "s": "M-3-3h6v6h-6z", "^": "M0-4l4 7h-8z", "D": "M0-4l4 4-4 4-4-4z",
    "v": "M0 4l4-7h-8z", "<": "M-4 0l7-4v8z", ">": "M4 0l-7-4v8z", "p": "M0-4L4-1 2 4h-4L-4-1z",
    "P": "M-1-4h2v3h3v2h-3v3h-2v-3h-3v-2h3z", "*": "M0-5l1 4h4L2 1 3 5 0 2-3 5-2 1-5-1h4z",
    "X": "M-2-4L0-2 2-4 4-2 2 0 4 2 2 4 0 2-2 4-4 2-2 0-4-2z", "d": "M0-5l3 5-3 5-3-5z",
    "h": "M0-4l3.5 2v4l-3.5 2-3.5-2v-4z",
}  # fmt: skip
"""Marks of tasks: matplotlib's, and the same as paths of SVG."""
_LETTERS, _ACROSS = 30, 120  # of a name on a line; on a line of a legend
_BEYOND = 0.75  # of the largest index, how far an interval is drawn beyond values
_NOTHING = 1e-12  # a share below is an error of rounding
_READABLE = 12  # tasks whose pairs have room for a number
_STRONG = 0.6  # from which the number in a cell of full colour is white
_PALE = 0.25  # opacity of a cell that cannot be told
Draw = Callable[["Figure"], None]


def draw_all(
    document: Document, maps: Sequence[Maps], spectra: fisher.FisherDocument | None, folder: Path
) -> dict[str, Path]:  # fmt: skip
    """Draw all figures as SVG and PDF into a folder; return the SVG of each by its name. Raises like `drawn`."""
    figures: dict[str, Draw] = {
        "direction": lambda figure: draw_direction(figure, document.models),
        "tug-of-war": lambda figure: draw_tug_of_war(figure, document.models),
        "statistics-scores": lambda figure: draw_scores(figure, document.models),
    }
    if any(model.routing for model in document.models):
        figures["routing"] = lambda figure: draw_routing(figure, [one for one in document.models if one.routing])
    if any(len(model.over_training) > 1 for model in document.models):
        trained = [one for one in document.models if len(one.over_training) > 1]
        figures["routing-over-training"] = lambda figure: draw_training(figure, trained)
    if maps:
        figures["maps"] = lambda figure: draw_maps(figure, maps)
        figures["maps-in-room"] = lambda figure: draw_maps(figure, maps, in_room=True)
    if spectra:
        figures["spectra"] = lambda figure: draw_spectra(figure, spectra)
    for name, draw in figures.items():
        for form in ("svg", "pdf"):
            with drawn(folder / f"{name}.{form}") as figure:
                draw(figure)
    return {name: folder / f"{name}.svg" for name in figures}


def draw_direction(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw GD between tasks (Eq. 2, ratio of means): a row is pulled by the columns; blue pulls against it.

    What is told has a frame and full colour, what lies beyond random signs a bold number.
    """
    from matplotlib.patches import Rectangle

    for axes, model in zip(_row(figure, len(models), 3.1, across=2), models, strict=True):
        one = model.groups[ALL]
        values, sure, outside = _array(one.direction.value), np.any([*told(one).values()], axis=0), beyond(one)
        axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, alpha=np.where(sure, 1.0, _PALE))
        axes.set_title(_named(model))
        ticks = range(len(model.tasks))
        axes.set_xticks(ticks, model.tasks, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, model.tasks)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, column in np.argwhere(sure):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=1.2))
        for (row, column), value in np.ndenumerate(values) if len(model.tasks) <= _READABLE else ():
            bold = bool(outside[row, column])
            ink = "white" if sure[row, column] and abs(value) > _STRONG else "black" if bold else "#4d4d4d"
            look: Any = {"ha": "center", "va": "center", "fontsize": 4.5, "color": ink}
            axes.text(column, row, f"{value:.2f}", fontweight="bold" if bold else "normal", **look)


def draw_tug_of_war(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the tug-of-war indexes (Eq. 4) by task, by the largest of each model as in Fig. 4a, with intervals."""
    tasks = list(dict.fromkeys(task for model in models for task in model.tasks))
    [axes] = _row(figure, 1, 2.8)
    width = 0.8 / len(models)
    for place, (model, colour) in enumerate(zip(models, shades(len(models)), strict=True)):
        found = model.groups[ALL].normalised
        at = [tasks.index(task) + (place - (len(models) - 1) / 2) * width for task in model.tasks]
        value, low, high = (_array(one) for one in (found.value, found.low, found.high))
        reach = np.maximum(0.0, np.stack([value - low, high - value]))
        axes.bar(at, value, width=width, color=colour, label=_named(model))
        axes.errorbar(at, value, yerr=reach, fmt="none", ecolor="black", elinewidth=0.6)
    # One wide interval would make all bars dots.
    low, high = axes.get_ylim()
    lowest = min(float(np.nanmin(_array(model.groups[ALL].normalised.value))) for model in models)
    axes.set_ylim(max(low, min(0.0, lowest) - _BEYOND), min(high, 1 + _BEYOND))
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("tug-of-war index / largest")
    _legend_below(figure)


def draw_scores(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw statistics scores (Eq. 5) in ten bins, with those of random signs and of copies of one task (Fig. 4b)."""
    for axes, model in zip(_row(figure, len(models), 2.3, share=True), models, strict=True):
        scores = model.scores[ALL]
        bins = len(scores.tasks.shared)
        edges = np.arange(bins) / bins
        axes.set(title=_named(model), xlabel="statistics score", ylabel="share of parameters")
        named = {"tasks": scores.tasks, "random signs": scores.flipped, "copies of one task": scores.copies}
        for (name, one), style in zip(named.items(), ("-", "--", ":"), strict=True):
            counts = np.asarray(one.shared, dtype=float)
            axes.stairs(counts / max(1.0, counts.sum()), [*edges, 1.0], label=name, linestyle=style)
    _legend_below(figure)


def draw_routing(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the mean weight of each expert by task (Fig. 4c)."""
    experts = max(len(weights) for model in models for weights in model.routing.values())
    for axes, model in zip(_row(figure, len(models), 2.4), models, strict=True):
        rows = [(task, weights) for task in model.tasks if (weights := model.routing.get(task))]
        most = max(len(weights) for _, weights in rows)
        parts = {f"expert {one + 1}": [_number(weights[one]) for _, weights in rows] for one in range(most)}
        stack(axes, [task for task, _ in rows], parts, shades(experts))
        axes.set(title=_named(model), xlabel="mean weight")
    _legend_below(figure)


def draw_training(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the weight of the expert that each task leans on most, over the steps of the training."""
    names = list(dict.fromkeys(task for model in models for one in model.over_training for task in one.weights))
    for axes, model in zip(_row(figure, len(models), 2.4, share=True), models, strict=True):
        for place, name in enumerate(names):
            weighed = [(one.step, one.weights.get(name)) for one in model.over_training]
            told = [(step, max(map(_number, weights))) for step, weights in weighed if weights]
            look: Any = {"marker": list(MARKS)[place % len(MARKS)], "markersize": 3, "linewidth": 0.9}
            if told:
                axes.plot(*zip(*told, strict=True), label=name, color=f"C{place}", **look)
        axes.set(title=_named(model), xlabel="step", ylabel="largest weight of an expert")
    _legend_below(figure)


def draw_maps(figure: "Figure", maps: Sequence[Maps], *, in_room: bool = False) -> None:
    """Draw each model's images before and after its connector (Fig. 5), in two dimensions or three."""
    figure.set_size_inches(_WIDE, 3.0 * len(maps))
    kind: dict[str, Any] = {"projection": "3d"} if in_room else {}
    tasks = list(dict.fromkeys(task for one in maps for task in one.tasks))
    for row, one in enumerate(maps):
        for column, place in enumerate(PLACES):
            axes: Any = figure.add_subplot(len(maps), 2, 2 * row + column + 1, **kind)
            space = one.before if place == "before" else one.after
            points = np.asarray(space.room if in_room else space.plane)
            for task, mark in zip(tasks, cycle(MARKS), strict=False):
                own = points[[name == task for name in one.tasks]]
                axes.scatter(*own.T, s=8, color=f"C{tasks.index(task)}", marker=mark, linewidths=0, label=task)
            axes.set(title=f"{_name(one.label)}\n{place} the connector", xticks=[], yticks=[])
    _legend_below(figure, markerscale=2)


def draw_spectra(figure: "Figure", spectra: fisher.FisherDocument) -> None:
    """Draw the shares of the eigenvalues of F from the largest, on a log scale; dotted where all would be the same."""
    panels = _row(figure, len(fisher.READINGS), 2.6, share=True)
    for axes, reading in zip(panels, reversed(fisher.READINGS), strict=True):
        for place, model in enumerate(spectra.models):
            shares = _array(model.groups[ALL].spectra[reading].shares)
            shares = shares[shares > _NOTHING]
            dashed = "--" if model.draws == "image_centric" else "-"
            name = _named(model) + (f" ({model.draws})" if model.draws else "")
            axes.plot(np.arange(len(shares)) + 1, shares, dashed, color=f"C{place}", linewidth=1, label=name)
        for count in sorted({len(model.tasks) * model.samples for model in spectra.models}):
            axes.axhline(1 / count, color="grey", linestyle=":", linewidth=0.8, label=f"all the same, n = {count}")
        axes.set(title=reading, xlabel="eigenvalue, the largest first", ylabel="share of the sum", yscale="log")
    _legend_below(figure)


def _row(figure: "Figure", count: int, height: float, *, share: bool = False, across: int = 3) -> "list[Axes]":
    """Return so many panels, `across` in a row at most, each of a height in inches."""
    across = min(across, count)
    down = ceil(count / across)
    figure.set_size_inches(_WIDE, height * down)
    panels = list(figure.subplots(down, across, squeeze=False, sharex=share, sharey=share).flat)
    for empty in panels[count:]:
        empty.set_axis_off()
    return panels[:count]


def _name(text: str) -> str:
    return textwrap.fill(label(text), _LETTERS)


def _named(model: Measured | fisher.FisherModel) -> str:
    """Return the label of a model and, on a line of its own, in a word what its connector is."""
    return f"{_name(model.label)}\n{_name(model.connector.partition(':')[0])}"


def _legend_below(figure: "Figure", **more: Any) -> None:
    """Draw one legend of what any panel has."""
    found = {name: one for axes in figure.axes for one, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    longest = max(len(line) for name in found for line in name.split("\n"))
    columns = max(1, min(5, len(found), _ACROSS // (longest + 6)))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, **more)


def _array(values: Sequence[Any]) -> Any:  # noqa: ANN401 - an array of as many dimensions as the values have
    return np.asarray(values, dtype=np.float64)


def _number(value: Number) -> float:
    return float("nan") if value is None else value
