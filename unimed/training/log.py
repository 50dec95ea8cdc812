"""What a training tells: JSON lines, TensorBoard, the mean of what happened between two lines, and a picture of all."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX import SummaryWriter

from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import canonical_json, read_json_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]


class Tally:
    """Sums what happens between two lines of the log."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {}
        self._experts: dict[str, list[list[float]]] = {}
        self._samples, self._tokens, self._started = 0, 0, time.perf_counter()

    def add(self, entry: str, loss: float, *, samples: int, tokens: int) -> None:
        """Count one micro-batch."""
        self._losses.setdefault(entry, []).append(loss)
        self._samples += samples
        self._tokens += tokens

    def add_experts(self, entry: str, weights: list[float]) -> None:
        """Count the mean expert weights of one micro-batch."""
        self._experts.setdefault(entry, []).append(weights)

    def record(self, step: int, *, rate: float, norm: float) -> Record:
        """Return the line of a step."""
        seconds = time.perf_counter() - self._started
        record: Record = {
            "stage": "language",
            "step": step,
            "mean_loss": _mean([loss for losses in self._losses.values() for loss in losses]),
            "loss": {name: _mean(losses) for name, losses in sorted(self._losses.items())},
            "learning_rate": rate,
            "gradient_norm": round(norm, 4) if math.isfinite(norm) else None,
            "samples_per_second": round(self._samples / seconds, 1),
            "tokens_per_second": round(self._tokens / seconds, 1),
        }
        if self._experts:
            record["expert_use"] = {
                entry: [_mean(column) for column in zip(*rows, strict=True)]
                for entry, rows in sorted(self._experts.items())
            }
        return record


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


class TrainingLog(AbstractContextManager["TrainingLog"]):
    """Writes each record to a JSON-lines file and as scalars for TensorBoard; a context manager."""

    def __init__(self, path: Path, board: Path, first_step: int = 0) -> None:
        self._path = path
        try:
            self._stream = path.open("a", encoding="utf-8", newline="\n")
            self._board = SummaryWriter(str(board), purge_step=first_step)
        except OSError as error:
            raise self._unwritable(error) from error

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._stream.close()
            self._board.close()

    def write(self, record: Record) -> None:
        """Write one record; it is on its way to the disk when this returns. RunError if the disk does not take it."""
        try:
            self._stream.write(canonical_json(record) + "\n")
            self._stream.flush()
            if "step" in record:
                for name, value in scalars(record):
                    self._board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"The log {self._path} cannot be written: {error.strerror or error}.",
            "Free some space and go on with --resume; the last checkpoint is whole.",
        )


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record with their path, such as `loss/slake-vqa` or `expert_use/vqa/0`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from scalars({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield f"{prefix}{name}", float(value)


def draw_curve(log: Path, image: Path) -> str:
    """Draw a log as an SVG if matplotlib is there (the `plot` extra); return a line that says what was done."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return "The learning curve was not drawn: install the extra medbench[plot] for it."
    records = [record for record in read_json_lines(log) if record["stage"] == "language"]
    lines: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in scalars(record):
            lines.setdefault(name, {})[record["step"]] = value
    # An overflow of fp16 has no norm: a gap in the line.
    norms = {record["step"]: lines.get("gradient_norm", {}).get(record["step"], math.nan) for record in records}
    mpl.rcParams["svg.hashsalt"] = "medbench"
    figure = Figure(figsize=(11, 7), layout="constrained")
    (losses, entries), (gradient, experts) = figure.subplots(2, 2)
    _draw(losses, [("training", lines["mean_loss"])], linewidth=1.5)
    _draw(losses, ((f"held out: {task}", line) for task, line in _below("held_out", lines)), linestyle="--")
    _draw(entries, _below("loss", lines))
    _draw(gradient, [("norm of the gradient", norms)])
    gradient.set(xlabel="step", title="Gradient and learning rate", yscale="log", ylabel="norm of the gradient")
    rate = gradient.twinx()
    _draw(rate, [("learning rate", lines["learning_rate"])], linewidth=1.5, color="tab:orange")
    rate.set_ylabel("learning rate")
    drawn = _draw_experts(experts, records[-max(1, len(records) // 4) :])
    losses.set(xlabel="step", ylabel="cross-entropy per answer token", title="Loss", yscale="log")
    entries.set(xlabel="step", title="Training loss per entry of the mixture", yscale="log")
    experts.set(title="Mean routing weight, last quarter", ylim=(0, 1))
    gradient.grid(alpha=0.3)
    for axes in (losses, entries, *((experts,) if drawn else ())):
        axes.legend(fontsize=6, ncols=2)
        axes.grid(alpha=0.3)
    figure.savefig(image, metadata={"Date": None})
    return f"The learning curve is in {image}."


def _below(name: str, lines: Mapping[str, dict[int, float]]) -> list[tuple[str, dict[int, float]]]:
    return [(path.removeprefix(f"{name}/"), lines[path]) for path in sorted(lines) if path.startswith(f"{name}/")]


def _draw(axes: "Axes", lines: Iterable[tuple[str, dict[int, float]]], *, linewidth: float = 0.8, **look: str) -> None:
    for label, line in lines:
        axes.plot(list(line), list(line.values()), label=label, linewidth=linewidth, **look)


def _draw_experts(axes: "Axes", late: Sequence[Record]) -> bool:
    """Stack the mean weight of each expert over late records, by entry; return whether there are any."""
    uses: dict[str, list[list[float]]] = {}
    for record in late:
        for entry, weights in record.get("expert_use", {}).items():
            uses.setdefault(entry, []).append(weights)
    means = {entry: [sum(of) / len(of) for of in zip(*uses[entry], strict=True)] for entry in sorted(uses)}
    bottoms = [0.0] * len(means)
    for expert, heights in enumerate(zip(*means.values(), strict=True)):
        axes.bar(list(means), heights, bottom=bottoms, label=f"expert {expert}")
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    return bool(means)
