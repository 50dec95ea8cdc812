"""What a training tells: JSON lines, TensorBoard, and the mean of what happened between two lines."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import canonical_json

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
        every = [loss for losses in self._losses.values() for loss in losses]
        seconds = time.perf_counter() - self._started
        record: Record = {
            "stage": "language",
            "step": step,
            "mean_loss": _mean(every),
            "loss": {name: _mean(losses) for name, losses in sorted(self._losses.items())},
            "learning_rate": rate,
            "gradient_norm": round(norm, 4) if math.isfinite(norm) else None,
            "samples_per_second": round(self._samples / seconds, 1),
            "tokens_per_second": round(self._tokens / seconds, 1),
        }
        if self._experts:
            record["expert_use"] = {
                entry: [_mean(list(column)) for column in zip(*rows, strict=True)]
                for entry, rows in sorted(self._experts.items())
            }
        return record


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


class TrainingLog:
    """Writes each record to a JSON-lines file and as scalars for TensorBoard; a context manager.

    Args:
        path: The JSON-lines file; continued if it is there.
        board: Folder for TensorBoard's events.
        first_step: Step after which events are made anew.
    """

    def __init__(self, path: Path, board: Path, first_step: int = 0) -> None:
        try:
            self._stream = path.open("a", encoding="utf-8", newline="\n")
            self._board = SummaryWriter(str(board), purge_step=first_step)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        with suppress(OSError):
            self._stream.close()
            self._board.close()

    def write(self, record: Record) -> None:
        """Write one record; it is on its way to the disk when this returns.

        Raises:
            RunError: If the disk does not take it.
        """
        try:
            self._stream.write(canonical_json(record) + "\n")
            self._stream.flush()
            if "step" in record:
                for name, value in scalars(record):
                    self._board.add_scalar(name, value, record["step"])
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"The log {path} cannot be written: {error.strerror or error}.",
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
