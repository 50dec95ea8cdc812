"""The figures of an interpretation, after the paper's Figs. 2, 4 and 5: models side by side, chance drawn in."""

from collections.abc import Callable, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medbench.harness.interpreted import PLACES, Document, Maps, Measured, Number
from medbench.tasks.foundation.drawing import drawn, label, shades, stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALL = "all"
"""The group of all parameters of a connector."""
_WIDE = 6.9  # inches
_MARKS = "os^Dv<>pP*Xdh"
_READABLE = 12  # tasks whose pairs have room for a number
_STRONG = 0.6  # from which a cell's number is white
Draw = Callable[["Figure"], None]


def draw_all(document: Document, maps: Sequence[Maps], folder: Path) -> dict[str, Path]:
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
    for name, draw in figures.items():
        for form in ("svg", "pdf"):
            with drawn(folder / f"{name}.{form}") as figure:
                draw(figure)
    return {name: folder / f"{name}.svg" for name in figures}


def draw_direction(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw GD between tasks (Eq. 2, ratio of means): a row is pulled by the columns; blue pulls against it."""
    for axes, model in zip(_row(figure, len(models), 3.1), models, strict=True):
        values = _array(model.groups[ALL].direction.value)
        axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(label(model.label))
        ticks = range(len(model.tasks))
        axes.set_xticks(ticks, model.tasks, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, model.tasks)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), value in np.ndenumerate(values) if len(model.tasks) <= _READABLE else ():
            ink = "white" if abs(value) > _STRONG else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=4.5, color=ink)


def draw_tug_of_war(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the tug-of-war indexes (Eq. 4) by task, by the largest of each model as in Fig. 4a, with intervals."""
    tasks = _tasks(models)
    [axes] = _row(figure, 1, 2.4)
    width = 0.8 / len(models)
    for place, (model, colour) in enumerate(zip(models, shades(len(models)), strict=True)):
        found = model.groups[ALL].normalised
        at = [tasks.index(task) + (place - (len(models) - 1) / 2) * width for task in model.tasks]
        value, low, high = (_array(one) for one in (found.value, found.low, found.high))
        reach = np.maximum(0.0, np.stack([value - low, high - value]))
        axes.bar(at, value, width=width, color=colour, label=label(model.label))
        axes.errorbar(at, value, yerr=reach, fmt="none", ecolor="black", elinewidth=0.6)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_ylabel("tug-of-war index / largest")
    axes.legend()


def draw_scores(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw statistics scores (Eq. 5) in ten bins, with those of random signs and of copies of one task (Fig. 4b)."""
    for axes, model in zip(_row(figure, len(models), 2.3, share=True), models, strict=True):
        scores = model.scores[ALL]
        bins = len(scores.tasks.shared)
        edges = np.arange(bins) / bins
        named = {"tasks": scores.tasks, "random signs": scores.flipped, "copies of one task": scores.copies}
        for (name, one), style in zip(named.items(), ("-", "--", ":"), strict=True):
            counts = np.asarray(one.shared, dtype=float)
            axes.stairs(counts / max(1.0, counts.sum()), [*edges, 1.0], label=name, linestyle=style)
        axes.set(title=label(model.label), xlabel="statistics score", ylabel="share of parameters")
        axes.legend()


def draw_routing(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the mean weight of each expert by task (Fig. 4c)."""
    for axes, model in zip(_row(figure, len(models), 2.4), models, strict=True):
        rows = [(task, weights) for task in model.tasks if (weights := model.routing.get(task))]
        experts = max(len(weights) for _, weights in rows)
        parts = {f"expert {one + 1}": [_number(weights[one]) for _, weights in rows] for one in range(experts)}
        stack(axes, [task for task, _ in rows], parts, shades(experts))
        axes.set(title=label(model.label), xlabel="mean weight")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=experts)


def draw_training(figure: "Figure", models: Sequence[Measured]) -> None:
    """Draw the weight of the expert that each task leans on most, over the steps of the training."""
    for axes, model in zip(_row(figure, len(models), 2.4, share=True), models, strict=True):
        names = list(dict.fromkeys(task for one in model.over_training for task in one.weights))
        for name, colour in zip(names, shades(len(names)), strict=True):
            told = [(one.step, one.weights[name]) for one in model.over_training if one.weights.get(name)]
            axes.plot([step for step, _ in told], [max(map(_number, row)) for _, row in told], color=colour, label=name)
        axes.set(title=label(model.label), xlabel="step", ylabel="largest weight of an expert")
        axes.legend(fontsize=4.5)


def draw_maps(figure: "Figure", maps: Sequence[Maps], *, in_room: bool = False) -> None:
    """Draw each model's images before and after its connector (Fig. 5), in two dimensions or three."""
    figure.set_size_inches(_WIDE, 3.0 * len(maps))
    kind: dict[str, Any] = {"projection": "3d"} if in_room else {}
    for row, one in enumerate(maps):
        tasks = list(dict.fromkeys(one.tasks))
        for column, place in enumerate(PLACES):
            axes: Any = figure.add_subplot(len(maps), 2, 2 * row + column + 1, **kind)
            space = one.before if place == "before" else one.after
            points = np.asarray(space.room if in_room else space.plane)
            for task, mark in zip(tasks, cycle(_MARKS), strict=False):
                own = points[[name == task for name in one.tasks]]
                axes.scatter(*own.T, s=8, color=f"C{tasks.index(task)}", marker=mark, linewidths=0, label=task)
            axes.set(title=f"{label(one.label)}, {place} the connector", xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2)


def _row(figure: "Figure", count: int, height: float, *, share: bool = False) -> "list[Axes]":
    """Return so many panels, three in a row at most, each of a height in inches."""
    across = min(3, count)
    down = ceil(count / across)
    figure.set_size_inches(_WIDE, height * down)
    panels = list(figure.subplots(down, across, squeeze=False, sharex=share, sharey=share).flat)
    for empty in panels[count:]:
        empty.set_axis_off()
    return panels[:count]


def _tasks(models: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(task for model in models for task in model.tasks))


def _array(values: Sequence[Any]) -> Any:  # noqa: ANN401 - an array of as many dimensions as the values have
    return np.asarray(values, dtype=np.float64)


def _number(value: Number) -> float:
    return float("nan") if value is None else value
