"""The learning curve of a training as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.files import read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curve(log: Path, picture: Path) -> str:
    """Draw training and held-out loss over the steps as an SVG; return a line that says what was done.

    Without matplotlib (the `plot` extra) nothing is drawn, and the line says so.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return "The learning curve was not drawn: install the extra medbench[plot] for it."
    records = [record for record in read_json_lines(log) if record["stage"] == "language"]
    mpl.rcParams["svg.hashsalt"] = "medbench"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([record["step"] for record in records], [record["mean_loss"] for record in records], label="training")
    _draw_held_out(axes, [record for record in records if "held_out" in record])
    axes.set(xlabel="step", ylabel="cross-entropy per answer token", title="Learning curve", yscale="log")
    axes.legend(fontsize=7, ncols=2)
    axes.grid(alpha=0.3)
    figure.savefig(picture, metadata={"Date": None})
    return f"The learning curve is in {picture}."


def _draw_held_out(axes: "Axes", records: list[dict[str, Any]]) -> None:
    for task in sorted({task for record in records for task in record["held_out"]}):
        points = [(record["step"], record["held_out"][task]) for record in records if task in record["held_out"]]
        axes.plot(*zip(*points, strict=True), linewidth=0.8, linestyle="--", label=f"held out: {task}")
