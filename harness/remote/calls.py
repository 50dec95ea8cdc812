"""What the answers of a server took: one line for every question, in the order in which they came.

These are measurements, which no other run will find again (seconds, attempts, what the server remembered), so they
stay out of the generation records: those of a finished run are the same bytes whether it was interrupted or not. The
file only grows, and holds what all parts of an interrupted run took, failed questions included.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medbench.harness.records import append_lines, open_whole_lines
from medbench.harness.remote.asking import Finished
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import read_numbered_json_lines

CALLS_FILE = "calls.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one question took.

    Attributes:
        task: The task.
        sample_id: The sample.
        state: `answered` or `failed`.
        attempts: Requests.
        seconds: The last request, from its sending to its answer.
        prompt_tokens: Tokens read, as the server counted them.
        output_tokens: Tokens written, thoughts included.
        thought_tokens: Those of them that are thoughts.
        cached_tokens: Tokens read that the server remembered.
        cost: In the currency of the prices that were given; None where none were.
        model: The model that answered, in the server's words.
        fingerprint: The server's own mark of its software and settings.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    task: str
    sample_id: str
    state: str
    attempts: int
    seconds: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = None
    model: str = ""
    fingerprint: str = ""

    @classmethod
    def of(cls, finished: Finished) -> "Call":
        """Return what a question took."""
        return cls(
            task=finished.outcome.task, sample_id=finished.outcome.sample_id,
            state="failed" if finished.outcome.generation is None else "answered",
            attempts=finished.attempts, seconds=round(finished.seconds, 3), model=finished.served_by,
            **asdict(finished.usage),
        )  # fmt: skip


_VALIDATOR = TypeAdapter(Call)


class CallLog:
    """The calls of a run, those of its earlier parts included.

    Args:
        path: `calls.jsonl` of the run's folder.

    Raises:
        RunError: If a line of it is not what a run writes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls = list(_read(path)) if path.exists() else []
        self._stream = open_whole_lines(path)

    def append(self, finished: Iterable[Finished]) -> None:
        """Write what questions took."""
        calls = [Call.of(one) for one in finished]
        append_lines(self._stream, (asdict(call) for call in calls))
        self._calls += calls

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def summary(self) -> dict[str, Any]:
        """Return the sums over all parts of the run, as plain values; a sample's state is its last one."""
        calls = self._calls
        last = {(call.task, call.sample_id): call for call in calls}
        costs = [call.cost for call in calls if call.cost is not None]
        answered = [call for call in last.values() if call.state == "answered"]
        return {
            "answered": len(answered),
            "failed": len(last) - len(answered),
            "requests": sum(call.attempts for call in calls),
            "prompt_tokens": sum(call.prompt_tokens for call in calls),
            "output_tokens": sum(call.output_tokens for call in calls),
            "thought_tokens": sum(call.thought_tokens for call in calls),
            "cached_tokens": sum(call.cached_tokens for call in calls),
            **({"cost": round(math.fsum(costs), 6)} if costs else {}),
            "latency_seconds": _spread([call.seconds for call in answered]),
            "models": dict(sorted(Counter(call.model for call in answered if call.model).items())),
            "fingerprints": dict(sorted(Counter(call.fingerprint for call in answered if call.fingerprint).items())),
        }


def _read(path: Path) -> Iterable[Call]:
    for number, line in read_numbered_json_lines(path, torn_tail="drop"):
        try:
            yield _VALIDATOR.validate_python(line)
        except ValidationError as error:
            raise RunError(
                f"{path}, line {number} is no record of a call: {error.errors()[0]['msg']}.",
                "Delete the file: it only counts what the answers took.",
            ) from error


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)],
        "longest": ordered[-1],
    }
