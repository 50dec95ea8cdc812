"""What all ways of batching have in common: the requests that wait, and what follows when memory runs out."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.images import AHEAD, Embedder, ImageEncoder, ImageLoader
from medbench.harness.engine.requests import Outcome, PrefixedRequest, SharedPrefix
from medbench.harness.engine.sampling import Row, outcome_of
from medbench.harness.phases import Phases


class RequestQueue:
    """Requests in their order; their images are read ahead, and who still needs a prefix is known."""

    def __init__(self, windows: Iterator[list[PrefixedRequest]], loader: ImageLoader | None) -> None:
        self._windows = windows
        self._loader = loader
        self._waiting: deque[PrefixedRequest] = deque()
        self._users: dict[SharedPrefix, set[PrefixedRequest]] = {}

    def peek(self) -> PrefixedRequest | None:
        """Return the next request, or None if there is none left."""
        while len(self._waiting) < AHEAD:
            window = next(self._windows, None)
            if window is None:
                break
            self._waiting.extend(window)
            if self._loader is not None:
                self._loader.expect([key for one in window for key in one.request.images])
            self._note_users(window)
        return self._waiting[0] if self._waiting else None

    def take(self) -> PrefixedRequest:
        """Return the next request and remove it."""
        return self._waiting.popleft()

    def put_back(self, requests: Sequence[PrefixedRequest]) -> None:
        """Let requests come again, first of all."""
        self._waiting.extendleft(reversed(requests))
        self._note_users(requests)

    def forget(self, requests: Sequence[PrefixedRequest]) -> list[SharedPrefix]:
        """Return the prefixes that nobody needs any more, now that these requests are answered or failed."""
        idle: list[SharedPrefix] = []
        for one in requests:
            if one.prefix is not None:
                users = self._users[one.prefix]
                users.discard(one)
                if not users:
                    del self._users[one.prefix]
                    idle.append(one.prefix)
        return idle

    def _note_users(self, requests: Sequence[PrefixedRequest]) -> None:
        for one in requests:
            if one.prefix is not None:
                self._users.setdefault(one.prefix, set()).add(one)


class Batching(ABC):
    """Answers the requests of a queue within a budget, which becomes smaller when memory runs out."""

    def __init__(
        self, adapter: LocalAdapter, encoder: ImageEncoder, queue: RequestQueue, budget: Budget, phases: Phases
    ) -> None:
        self._adapter = adapter
        self._encoder = encoder
        self._embedder = Embedder(adapter, encoder)
        self._queue = queue
        self._phases = phases
        self._first_budget = self.budget = budget

    def run(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as rows finish; their order is the engine's."""
        while self._queue.peek() is not None or self._holds_rows:
            requests = self._next()
            try:
                with torch.inference_mode():
                    outcomes = self._advance(requests)
            except torch.OutOfMemoryError:
                outcomes = self._shrink(requests)
            if outcomes:
                yield outcomes

    @property
    def _holds_rows(self) -> bool:
        """Whether rows are left that no request waits for."""
        return False

    @abstractmethod
    def _next(self) -> list[PrefixedRequest]:
        """Take the requests that are answered or begun next."""

    @abstractmethod
    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Answer or begin requests; return what is finished."""

    @abstractmethod
    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
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
