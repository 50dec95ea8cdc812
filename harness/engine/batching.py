"""What both ways of batching have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.choosing import Row, outcome_of
from medbench.harness.engine.grouping import Member
from medbench.harness.engine.prompts import Embedder
from medbench.harness.engine.request import Outcome
from medbench.harness.engine.upcoming import Upcoming
from medbench.harness.engine.vision import Vision
from medbench.harness.phases import Phases


class Batching(ABC):
    """Answers members of `Upcoming` within a budget.

    Args:
        adapter: The model.
        vision: Prepares images.
        upcoming: What is to be answered.
        budget: What may be held at once; made smaller when memory runs out.
        phases: Where time and counts are kept.
    """

    def __init__(
        self, adapter: LocalAdapter, vision: Vision, upcoming: Upcoming, budget: Budget, phases: Phases
    ) -> None:
        self._adapter = adapter
        self._vision = vision
        self._embedder = Embedder(adapter, vision)
        self._upcoming = upcoming
        self._phases = phases
        self._first_budget = self.budget = budget

    def run(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as rows finish; their order is the engine's."""
        while self._upcoming.peek() is not None or self._holds_rows:
            members = self._next()
            try:
                with torch.inference_mode():
                    outcomes = self._advance(members)
            except torch.OutOfMemoryError:
                outcomes = self._shrink(members)
            if outcomes:
                yield outcomes

    @property
    def _holds_rows(self) -> bool:
        """Whether rows are left that no member waits for."""
        return False

    @abstractmethod
    def _next(self) -> list[Member]:
        """Take the members that are answered or begun next."""

    @abstractmethod
    def _advance(self, members: Sequence[Member]) -> list[Outcome]:
        """Answer or begin members; return what is finished."""

    @abstractmethod
    def _shrink(self, members: Sequence[Member]) -> list[Outcome]:
        """Make the budget smaller after memory ran out, and give back what was not answered; return what failed."""

    def _outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """Count finished rows and return what they say."""
        self._phases.count("prompt tokens", sum(row.request.length for row in rows))
        self._phases.count("output tokens", sum(len(row.written) for row in rows))
        self._phases.count("answers", len(rows))
        for row in rows:
            self._phases.tasks[row.request.spec.name].output_tokens += len(row.written)
        with self._phases.time("detokenise"):
            return [outcome_of(row, self._adapter) for row in rows]
