"""What all ways of batching have in common: the requests that wait, and what follows when memory runs out."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.images import AHEAD, Images
from medbench.harness.engine.requests import ImageKey, Outcome, PrefixedRequest, SharedPrefix, failed
from medbench.harness.engine.sampling import Row, outcome_of
from medbench.harness.phases import Phases


class RequestQueue:
    """Requests in their order; `expect` is told of their images ahead, and who still needs a prefix is known."""

    def __init__(self, windows: Iterator[list[PrefixedRequest]], expect: Callable[[Sequence[ImageKey]], None]) -> None:
        self._windows = windows
        self._expect = expect
        self._waiting: deque[PrefixedRequest] = deque()
        self._users: dict[SharedPrefix, set[PrefixedRequest]] = {}

    def peek(self) -> PrefixedRequest | None:
        """Return the next request, or None if there is none left."""
        while len(self._waiting) < AHEAD and (window := next(self._windows, None)) is not None:
            self._waiting.extend(window)
            self._expect([key for one in window for key in one.request.images])
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
        for one in requests:
            if one.prefix is not None:
                self._users[one.prefix].discard(one)
        idle = [
            prefix for prefix in dict.fromkeys(one.prefix for one in requests) if prefix and not self._users[prefix]
        ]
        for prefix in idle:
            del self._users[prefix]
        return idle

    def _note_users(self, requests: Sequence[PrefixedRequest]) -> None:
        for one in requests:
            if one.prefix is not None:
                self._users.setdefault(one.prefix, set()).add(one)


class Batching(ABC):
    """Answers the requests of a queue within a budget, which becomes smaller when memory runs out.

    Ways of batching differ in what enters when (`_next`) and in how it is answered (`_advance`).
    """

    # Whether memory is taken for as many rows as may be, however few there are.
    _makes_room = False

    def __init__(
        self, adapter: LocalAdapter, images: Images, queue: RequestQueue, budget: Budget, phases: Phases
    ) -> None:
        self._adapter = adapter
        self._images = images
        self._queue = queue
        self._phases = phases
        self._first_budget = self.budget = budget
        # The budget that holds again after a row that is tried alone.
        self._suspended: Budget | None = None

    def run(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as rows finish; their order is the engine's."""
        while self._queue.peek() is not None or self._under_way():
            requests = self._next()
            try:
                with torch.inference_mode():
                    outcomes = self._advance(requests)
            except torch.OutOfMemoryError:
                outcomes = self._shrink(requests)
            if outcomes:
                yield outcomes

    def _under_way(self) -> list[PrefixedRequest]:
        """Return the requests that are begun and not answered."""
        return []

    @abstractmethod
    def _next(self) -> list[PrefixedRequest]:
        """Take the requests that are answered or begun next."""

    @abstractmethod
    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Answer or begin requests; return what is finished."""

    def _rows_of(self, requests: Sequence[PrefixedRequest]) -> int | None:
        """Return the rows that requests take in one batch, or None if they cannot stand in one."""
        return len(requests)

    def _let_go(self) -> None:
        """Forget what is under way, and what it holds; what comes next has the budget of now."""
        torch.cuda.empty_cache()

    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Start again after memory ran out, half as many at a time; a row that was alone fails."""
        asked = list(dict.fromkeys([*self._under_way(), *requests]))
        self._phases.count("out of memory")
        outcomes: list[Outcome] = []
        if len(asked) > 1:
            self.budget = self.budget.halved(self._rows_of(asked) or 1)
        elif self._makes_room and self.budget.rows > 1:
            # The last of many rows: their slots took the memory. Alone in fresh ones it may well fit.
            self.budget, self._suspended = replace(self.budget, rows=1), self.budget
        else:
            # What was impossible alone is what took the memory: the others need no smaller budget for it.
            self.budget, self._suspended = self._suspended or self._first_budget, None
            request = asked.pop().request
            outcomes = [failed(request, f"Memory ran out on this sample alone ({request.length} tokens).")]
        self._queue.put_back(asked)
        self._let_go()
        return outcomes

    def _outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """Count finished rows and return what they say."""
        self._phases.count("prompt tokens", sum(row.request.length for row in rows))
        self._phases.count("output tokens", sum(len(row.written) for row in rows))
        self._phases.count("answers", len(rows))
        for row in rows:
            self._phases.tasks[row.request.spec.name].output_tokens += len(row.written)
        with self._phases.time("detokenise"):
            return [outcome_of(row, self._adapter) for row in rows]
