"""What a training tells: JSON lines, TensorBoard, the mean of what happened between two lines, and a picture of all."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
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
        self._samples = 0
        self._tokens = 0
        self._started = time.perf_counter()

    def add(self, entry: str, loss: float, *, samples: int, tokens: int) -> None:
        """Count one micro-batch."""
        self._losses.setdefault(entry, []).append(loss)
        self._samples += samples
        self._tokens += tokens

    def add_experts(self, entry: str, weights: list[float]) -> None:
        """Count the mean expert weights of one micro-batch of an entry."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
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


def scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Return the numbers of a record with their path, such as `loss/slake-vqa` or `expert_use/vqa/0`."""
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found += scalars(value, f"{path}/")
        elif isinstance(value, list):
            found += [(f"{path}/{index}", float(item)) for index, item in enumerate(value)]
        elif isinstance(value, int | float) and name != "step":
            found.append((path, float(value)))
    return found


# The picture


def draw_curve(log: Path, image: Path) -> str:
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
    _line(losses, [(record["step"], record["mean_loss"]) for record in records], "training", linewidth=1.5)
    looks = [(record["step"], record["held_out"]) for record in records if "held_out" in record]
    for task in sorted({task for _, of in looks for task in of}):
        _line(losses, [(step, of.get(task)) for step, of in looks], f"held out: {task}", linestyle="--")
    losses.set(xlabel="step", ylabel="cross-entropy per answer token", title="Loss", yscale="log")
    for entry in sorted({entry for record in records for entry in record["loss"]}):
        _line(entries, [(record["step"], record["loss"].get(entry)) for record in records], entry)
    entries.set(xlabel="step", title="Training loss per entry of the mixture", yscale="log")
    _draw_rate_and_gradient(rates, records)
    drawn = _draw_experts(experts, records)
    for axes in (losses, entries, *((experts,) if drawn else ())):
        axes.legend(fontsize=6, ncols=2)
        axes.grid(alpha=0.3)
    figure.savefig(image, metadata={"Date": None})
    return f"The learning curve is in {image}."


def _line(
    axes: "Axes", points: Iterable[tuple[int, float | None]], label: str, linewidth: float = 0.8, linestyle: str = "-"
) -> None:
    known = {step: value for step, value in points if value is not None}
    axes.plot(list(known), list(known.values()), label=label, linewidth=linewidth, linestyle=linestyle)


def _draw_rate_and_gradient(axes: "Axes", records: Sequence[Record]) -> None:
    steps = [record["step"] for record in records]
    # An overflow of fp16 has no norm: a gap in the line.
    norms = [math.nan if record["gradient_norm"] is None else record["gradient_norm"] for record in records]
    axes.plot(steps, norms, linewidth=0.8, label="norm of the gradient")
    axes.set(xlabel="step", title="Gradient and learning rate", yscale="log", ylabel="norm of the gradient")
    other = axes.twinx()
    other.plot(steps, [record["learning_rate"] for record in records], color="tab:orange", label="learning rate")
    other.set_ylabel("learning rate")
    axes.grid(alpha=0.3)


def _draw_experts(axes: "Axes", records: Sequence[Record]) -> bool:
    """Stack the mean weight of each expert over the last quarter of the training, by entry; return if there are any."""
    late = [record["expert_use"] for record in records[-max(1, len(records) // 4) :] if "expert_use" in record]
    entries = sorted({entry for use in late for entry in use})
    bottoms = [0.0] * len(entries)
    count = max((len(use[entry]) for use in late for entry in use), default=0)
    for expert in range(count):
        weights = [[use[entry][expert] for use in late if entry in use] for entry in entries]
        heights = [sum(values) / len(values) for values in weights]
        axes.bar(entries, heights, bottom=bottoms, label=f"expert {expert}")
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set(title="Mean routing weight, last quarter", ylim=(0, 1))
    return count > 0
