"""The figure of a target: what probes tell along the depth of models, with controls, networks and answers."""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.harness.probing.document import Named, PlaceScores, Score, TargetFound
from medbench.harness.probing.places import Module
from medbench.tasks.foundation.drawing import drawn, label, shades

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Sequence[tuple[str, TargetFound]]
"""One target of several models, by what they are called."""
Spans = Mapping[Module, tuple[float, float]]
_LOOKS: Mapping[Module, tuple[str, float, str]] = {  # Title, width and shade of a module.
    "vision": ("vision", 1.0, "#f1f4f7"), "connector": ("connector", 0.4, "#dfe5eb"),
    "language": ("language model", 1.2, "#f1f4f7"),
}  # fmt: skip
_READOUTS = {"image": ("-", "image tokens"), "last": ("--", "last token of the prompt")}
_CONTROLS = {"random": ("-", "random weights"), "permuted": (":", "permuted answers")}
_GREY = "#87919a"
_MARKS, _NETWORK_MARKS = "os^Dv<>", "x+*1234"
_MARGIN = 0.03  # of a module, without a place
_TICKS = 9  # places of a module that have room for a name
_LONGEST = 60  # letters of a name
_LINE = 140  # letters across the legend


def draw_all(targets: Sequence[Curves], folder: Path) -> list[Path]:
    """Draw each target as SVG and PDF into a folder; return the SVGs. Raises like `drawn`."""
    names = [re.sub(r"[^A-Za-z0-9_-]+", "-", curves[0][1].name)[:_LONGEST] for curves in targets]
    images = [folder / f"{place}-{name}.svg" for place, name in enumerate(names, start=1)]
    for image, curves in zip(images, targets, strict=True):
        for path in (image, image.with_suffix(".pdf")):
            with drawn(path) as figure:
                draw_target(figure, curves)
    return images


def draw_target(figure: "Figure", curves: Curves) -> None:
    """Draw one target of models: 0 is chance, 1 all right; modules are as wide for a model of few blocks as of many."""
    axes = figure.subplots()
    spans = spans_of([one for _, found in curves for one in found.places])
    end = max((high for _, high in spans.values()), default=0.0)
    for module, (low, high) in spans.items():
        title, _, shade = _LOOKS[module]
        axes.axvspan(low, high, color=shade, linewidth=0, zorder=0)
        axes.text((low + high) / 2, 1.01, title, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
    axes.axhline(0, color="black", linewidth=0.5)
    for place, (name, found) in enumerate(curves):
        colour, mark = shades(len(curves) + 1)[place], _MARKS[place % len(_MARKS)]
        _draw_curves(axes, found.places, spans, colour, mark)
        axes.plot([], [], color=colour, marker=mark, markersize=3, label=_called(name))
        if found.answers:
            at = end + 0.42 + 0.05 * (place - (len(curves) - 1) / 2)
            _draw_mark(axes, at, found.answers.score, color=colour, marker=mark, fillstyle="none")
    _draw_networks(axes, [one for _, found in curves for one in found.references], end + 0.2)
    for style, text in _READOUTS.values():
        axes.plot([], [], color="black", linestyle=style, label=text)
    for style, text in _CONTROLS.values():
        axes.plot([], [], color=_GREY, linestyle=style, linewidth=0.7, label=text)
    _name_places(axes, curves, spans, end)
    axes.set(ylabel="score (0 chance, 1 all right)", ylim=(min(-0.1, _lowest(curves)), 1.0), xlim=(-0.03, end + 0.6))
    handles, texts = axes.get_legend_handles_labels()
    across = max(1, min(4, _LINE // (max(map(len, texts)) + 8)))
    figure.set_size_inches(6.9, 3.1 + 0.14 * ceil(len(texts) / across))
    figure.legend(handles, texts, loc="outside lower center", ncols=across)


def spans_of(places: Sequence[PlaceScores]) -> Spans:
    """Return from where to where each module lies that has a place, side by side."""
    there, start, spans = {one.module for one in places}, 0.0, dict[Module, tuple[float, float]]()
    for module, (_, width, _) in _LOOKS.items():
        if module in there:
            spans[module] = (start, start + width)
            start += width
    return spans


def depths(places: Sequence[PlaceScores], spans: Spans) -> dict[tuple[Module, str], float]:
    """Return where each place lies within its module, evenly by order; both readouts of one lie above each other."""
    found = {}
    for module, (low, high) in spans.items():
        names = list(dict.fromkeys(one.name for one in places if one.module == module))
        for number, name in enumerate(names):
            share = number / (len(names) - 1) if len(names) > 1 else 0.5
            found[module, name] = low + _MARGIN + (high - low - 2 * _MARGIN) * share
    return found


def _draw_curves(axes: "Axes", places: Sequence[PlaceScores], spans: Spans, colour: Any, mark: str) -> None:  # noqa: ANN401 - a colour of matplotlib
    where = depths(places, spans)
    for readout, (style, _) in _READOUTS.items():
        own = [one for one in places if one.readout == readout]
        at = [where[one.module, one.name] for one in own]
        for control, (grey, _) in _CONTROLS.items():
            values = [nan if (value := getattr(one, control)) is None else value for one in own]
            axes.plot(at, values, color=_GREY, linestyle=grey, linewidth=0.7, zorder=1)
        scores = [one.score for one in own]
        bounds = ([one.low for one in scores], [one.high for one in scores])
        low, high = ([nan if one is None else one for one in side] for side in bounds)
        axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
        axes.plot(
            at, [one.value for one in scores], color=colour, linestyle=style, linewidth=1.1, marker=mark,
            markersize=3, markevery=max(1, len(own) // 12), fillstyle="full" if readout == "image" else "none",
        )  # fmt: skip


def _draw_networks(axes: "Axes", networks: Sequence[Named], at: float) -> None:
    """Draw each reference network once, though several models have it."""
    once = {(one.name, one.score): one for one in networks}
    for place, (one, mark) in enumerate(zip(once.values(), cycle(_NETWORK_MARKS), strict=False)):
        across = at + 0.06 * (place - (len(once) - 1) / 2)
        _draw_mark(axes, across, one.score, color="black", marker=mark)
        axes.plot([], [], "k", marker=mark, markersize=4, linestyle="", label=_called(one.name))


def _draw_mark(axes: "Axes", at: float, score: Score, **look: Any) -> None:
    """Draw a horizontal mark at a score, with its interval."""
    axes.hlines(score.value, at - 0.04, at + 0.04, color=look["color"], linewidth=1.2)
    if score.low is not None and score.high is not None:
        axes.vlines(at, score.low, score.high, color=look["color"], linewidth=0.7)
    axes.plot([at], [score.value], markersize=4, linestyle="", **look)


def _name_places(axes: "Axes", curves: Curves, spans: Spans, end: float) -> None:
    """Name places below the axis, or only the ends of modules where models have unlike places."""
    named = [(end + 0.2, "networks"), (end + 0.42, "answers")]
    alike = len({tuple((one.module, one.name) for one in found.places) for _, found in curves}) == 1
    for module, (low, high) in spans.items():
        own = [(at, name) for (of, name), at in depths(curves[0][1].places, spans).items() if of == module]
        if alike:
            step = ceil(len(own) / _TICKS)
            named += [(at, name.removeprefix(module).strip(", ")) for at, name in own[::-step]]
        elif module != "connector":
            named += [(low + _MARGIN, "first"), (high - _MARGIN, "last")]
    axes.set_xticks([at for at, _ in named], [label(name) for _, name in named], rotation=40, ha="right",
                    rotation_mode="anchor")  # fmt: skip


def _called(name: str) -> str:
    """Return a name as the legend has room for it: of a long one both ends, in which models differ."""
    return label(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 20]}…{name[-19:]}")


def _lowest(curves: Curves) -> float:
    """Return the lowest number that is drawn, with some room."""
    found, lowest = [one for _, one in curves], [0.0]
    scores = [one.score for every in found for one in every.places]
    scores += [one.score for every in found for one in (*every.references, every.answers) if one]
    lowest += [score.value if score.low is None else score.low for score in scores]
    for one in (place for every in found for place in every.places):
        lowest += [value for value in (one.random, one.permuted) if value is not None]
    return min(lowest) - 0.03
