"""The log of a training as a picture: losses, learning rate and gradient, and who uses which expert."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.tasks.foundation.files import read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Records = Sequence[dict[str, Any]]


def draw_curve(log: Path, picture: Path) -> str:
    """Draw a log as an SVG; return a line that says what was done.

    Without matplotlib (the `plot` extra) nothing is drawn, and the line says so.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return "The learning curve was not drawn: install the extra medbench[plot] for it."
    records = [record for record in read_json_lines(log) if record["stage"] == "language"]
    mpl.rcParams["svg.hashsalt"] = "medbench"
    figure = Figure(figsize=(11, 7), layout="constrained")
    (losses, entries), (rates, experts) = figure.subplots(2, 2)
    _draw_losses(losses, records)
    _draw_entries(entries, records)
    _draw_rate_and_gradient(rates, records)
    _draw_experts(experts, records)
    figure.savefig(picture, metadata={"Date": None})
    return f"The learning curve is in {picture}."


def _draw_losses(axes: "Axes", records: Records) -> None:
    axes.plot([record["step"] for record in records], [record["mean_loss"] for record in records], label="training")
    looks = [record for record in records if "held_out" in record]
    for task in sorted({task for record in looks for task in record["held_out"]}):
        points = [(record["step"], loss) for record in looks if (loss := record["held_out"].get(task)) is not None]
        axes.plot(
            [step for step, _ in points],
            [loss for _, loss in points],
            linewidth=0.8,
            linestyle="--",
            label=f"held out: {task}",
        )
    axes.set(xlabel="step", ylabel="cross-entropy per answer token", title="Loss", yscale="log")
    _finish(axes)


def _draw_entries(axes: "Axes", records: Records) -> None:
    for entry in sorted({entry for record in records for entry in record["loss"]}):
        points = [(record["step"], record["loss"][entry]) for record in records if entry in record["loss"]]
        axes.plot(*zip(*points, strict=True), linewidth=0.8, label=entry)
    axes.set(xlabel="step", title="Training loss per entry of the mixture", yscale="log")
    _finish(axes)


def _draw_rate_and_gradient(axes: "Axes", records: Records) -> None:
    steps = [record["step"] for record in records]
    # An overflow of fp16 has no norm: a gap in the line.
    norms = [math.nan if record["gradient_norm"] is None else record["gradient_norm"] for record in records]
    axes.plot(steps, norms, linewidth=0.8, label="norm of the gradient")
    axes.set(xlabel="step", title="Gradient and learning rate", yscale="log")
    other = axes.twinx()
    other.plot(steps, [record["learning_rate"] for record in records], color="tab:orange", label="learning rate")
    other.set_ylabel("learning rate")
    axes.set_ylabel("norm of the gradient")
    axes.grid(alpha=0.3)


def _draw_experts(axes: "Axes", records: Records) -> None:
    """Stack the mean weight of each expert over the last quarter of the training, by entry."""
    late = [record["expert_use"] for record in records[-max(1, len(records) // 4) :] if "expert_use" in record]
    kinds = sorted({kind for use in late for kind in use})
    bottoms = [0.0] * len(kinds)
    count = max((len(use[kind]) for use in late for kind in use), default=0)
    for expert in range(count):
        heights = []
        for kind in kinds:
            values = [use[kind][expert] for use in late if kind in use]
            heights.append(sum(values) / len(values))
        axes.bar(kinds, heights, bottom=bottoms, label=f"expert {expert}")
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set(title="Mean routing weight, last quarter", ylim=(0, 1))
    if count:
        _finish(axes)


def _finish(axes: "Axes") -> None:
    axes.legend(fontsize=6, ncols=2)
    axes.grid(alpha=0.3)
