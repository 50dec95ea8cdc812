"""Figures by matplotlib, which is an extra: text stays text, and the same numbers give the same bytes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import replaced_when_whole
from medbench.tasks.foundation.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "svg": {"metadata": {"Date": None}}, "pdf": {"metadata": {"CreationDate": None}},
    "png": {"metadata": {"Software": None}, "dpi": 300},
}  # fmt: skip
_STYLE: Any = {
    "svg.hashsalt": "medbench", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 7,
    "axes.titlesize": 7, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.labelsize": 6, "ytick.labelsize": 6, "legend.fontsize": 6.5, "legend.frameon": False, "hatch.linewidth": 0.4,
}  # fmt: skip
_HATCHES = ("", "////", "....", r"\\\\", "xxxx", "----", "||||")


@contextmanager
def drawn(image: Path) -> Iterator["Figure"]:
    """Yield a figure to draw on; then write it whole, in the format of its name's end.

    Raises UsageError if matplotlib is not there or writes no such format; RunError if the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib, which draws, is not installed.", "pip install 'medbench[plot]'") from error
    form = image.suffix[1:]
    if form not in FORMATS:
        raise UsageError(f"{image.name} names no format.", f"It must end in {', '.join(f'.{one}' for one in FORMATS)}.")
    with mpl.rc_context(), warnings.catch_warnings(record=True) as caught:
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(layout="constrained")
        yield figure
        with replaced_when_whole(image) as partial:
            figure.savefig(partial, format=form, **FORMATS[form])
    if any("missing from" in str(one.message) for one in caught):
        warn(f"{image} lacks letters that the font does not have: give other names, or draw an SVG, which keeps them.")


def label(text: str) -> str:
    """Return text of strangers as matplotlib shows it: nothing steers, and no dollar begins a formula."""
    return printable(text).replace("$", r"\$")


def shades(count: int) -> list[Any]:
    """Return so many colours from dark to light, in an order that grey and colour-blind eyes see, too."""
    import matplotlib as mpl

    return [mpl.colormaps["cividis"](place / max(1, count - 1)) for place in range(count)]


def stack(axes: "Axes", rows: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Sequence[Any]) -> None:
    """Draw a bar for each row, the first on top, of parts that add up; each part differs in colour and hatching."""
    ends = [0.0] * len(rows)
    for place, (name, lengths) in enumerate(parts.items()):
        look = {"color": colours[place], "hatch": _HATCHES[place % len(_HATCHES)], "edgecolor": "white"}
        axes.barh(range(len(rows)), lengths, left=ends, height=0.78, label=name, linewidth=0.4, **look)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlim=(0, max([*ends, 0]) or 1))
    axes.set_ylim(len(rows) - 0.5, -0.5)
