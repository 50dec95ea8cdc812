"""Where the time of a run goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class TaskRate:
    """What was written for a task, and its share of the time of the passes, by tokens computed."""

    seconds: float = 0.0
    output_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers in a second of the task's own."""
        return self.output_tokens / self.seconds if self.seconds else 0.0


class Phases:
    """Seconds and counts by phase; phases do not nest, so that their sum is the time spent in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        # Seconds that passed beside the phases, in other threads.
        self.background: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.tasks: dict[str, TaskRate] = defaultdict(TaskRate)
        # What a device computes by itself: how to ask for its seconds once it is done, and whose they are.
        self._under_way: list[tuple[Callable[[], float], Mapping[str, int], Mapping[str, int]]] = []
        # What else a reader of the run should know of how it was answered.
        self.notes: dict[str, Any] = {}

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the time of the block to `phase`."""
        with self.share({phase: 1}, {}):
            yield

    @contextmanager
    def share(self, parts: Mapping[str, int], tasks: Mapping[str, int]) -> Iterator[None]:
        """Add the time of the block to several phases and tasks, by the tokens that each had in it."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - started, parts, tasks)

    def add(self, seconds: float, parts: Mapping[str, int], tasks: Mapping[str, int]) -> None:
        """Add time to phases and tasks, by the tokens that each had in it."""
        for phase, part in parts.items():
            self.seconds[phase] += seconds * part / max(1, sum(parts.values()))
        for task, part in tasks.items():
            self.tasks[task].seconds += seconds * part / max(1, sum(tasks.values()))

    def add_later(self, seconds: Callable[[], float], parts: Mapping[str, int], tasks: Mapping[str, int]) -> None:
        """Add what a device computes while the host goes on; `settle` asks it for its `seconds`."""
        self._under_way.append((seconds, parts, tasks))

    def settle(self, waited: str) -> None:
        """Ask for what was added later, now that it is done: so long the host did not need itself in phase `waited`."""
        for seconds, parts, tasks in self._under_way:
            self.add(found := seconds(), parts, tasks)
            self.seconds[waited] = max(0.0, self.seconds[waited] - found)
        self._under_way.clear()

    def include(self, written: Mapping[str, Any]) -> None:
        """Add what another process wrote of its phases by `as_json`; seconds of processes side by side add up, too."""
        for mine, name in ((self.seconds, "seconds"), (self.background, "background_seconds")):
            for phase, seconds in written[name].items():
                mine[phase] += seconds
        for what, number in written["counts"].items():
            self.counts[what] += number
        for task, rate in written["tasks"].items():
            self.tasks[task].seconds += rate["seconds"]
            self.tasks[task].output_tokens += rate["output_tokens"]

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] += number

    def efficiency(self) -> dict[str, float]:
        """Return how well the engine used its rows and tokens; empty if it did not run.

        `useful_row_share`: of the rows of decode steps, those whose token is part of an answer. `prefill_padding`: of
        the prompt tokens that were run, those that were padding. `shared_prompt_share`: of all prompt tokens, those
        whose keys came from another row. `output_tokens_per_second`: while prompts and answers were computed.
        """
        counts = defaultdict(int, self.counts)
        run, prompts = counts["prefill tokens run"], counts["prompt tokens"]
        if not run or not prompts:
            return {}
        seconds = self.seconds.get("prefill", 0.0) + self.seconds.get("decode", 0.0)
        written, rows = counts["output tokens"], counts["decode row steps"]
        return {
            "useful_row_share": round((written - counts["answers"]) / rows, 4) if rows else 1.0,
            "prefill_padding": round(1 - counts["prompt tokens computed"] / run, 4),
            "shared_prompt_share": round(counts["prompt tokens shared"] / prompts, 4),
            "output_tokens_per_second": round(written / seconds, 1) if seconds else 0.0,
        }

    def as_json(self) -> dict[str, Any]:
        """Return seconds by phase and counts, rounded for people."""
        tasks = {
            task: {
                "seconds": round(rate.seconds, 3), "output_tokens": rate.output_tokens,
                "output_tokens_per_second": round(rate.tokens_per_second, 1),
            }
            for task, rate in self.tasks.items()
        }  # fmt: skip
        return {
            "seconds": {phase: round(value, 3) for phase, value in self.seconds.items()},
            "background_seconds": {phase: round(value, 3) for phase, value in self.background.items()},
            "efficiency": self.efficiency(), "tasks": tasks, "counts": dict(self.counts),
        }  # fmt: skip
