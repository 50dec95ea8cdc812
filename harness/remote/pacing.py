"""How many requests are under way: as many as make the server faster, half as many when it is strained."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Sign = Literal["answered", "strained", "neutral"]
# Answers come in bursts: rounds that are long enough that one burst more or less matters little.
_ROUND = 2
_SMALLEST_ROUND = 8
# Of the gain that more requests could bring at best, the part that they must bring to stay.
_LEAST_GAIN = 0.25
_LONGEST_REST = 16


class Window:
    """The number of requests that may be under way: additive increase, multiplicative decrease.

    Answers are counted in rounds of twice as many as may be under way. After a round the number grows (it doubles
    until the first setback, then grows by what it started with) and the next round shows what that brought: if the
    answers do not come faster by a quarter of what they could, the server was busy before, the growth is taken back,
    and nothing is tried for a while, each time longer. A strained server (too many requests, overloaded, no answer in
    time) halves the number; of the requests that were sent before that, no further one does.

    Args:
        start: The number at first.
        ceiling: The highest number.
    """

    def __init__(self, start: int, ceiling: int) -> None:
        self.limit = min(start, ceiling)
        self.epoch = 0
        self.highest = self.limit
        self._ceiling = ceiling
        self._step = self.limit
        self._doubling = True
        self._lower: tuple[int, float] | None = None
        self._rest = 0
        self._patience = 1
        self._count = 0
        self._since: float | None = None

    def answered(self, now: float, *, busy: bool) -> None:
        """Count an answer.

        Args:
            now: Seconds on any clock.
            busy: Whether as many requests were under way as may be; fewer show nothing.
        """
        if self._since is None or not busy:
            self._begin_round(now)
            return
        self._count += 1
        if self._count >= max(_ROUND * self.limit, _SMALLEST_ROUND) and now > self._since:
            self._end_round(self._count / (now - self._since))
            self._begin_round(now)

    def strained(self, epoch: int) -> bool:
        """Halve the number, unless the request belongs to an earlier `epoch`; return whether it was halved."""
        if epoch != self.epoch:
            return False
        self.epoch += 1
        self.limit = max(1, self.limit // 2)
        self._doubling, self._lower, self._since, self._rest = False, None, None, 1
        return True

    def _begin_round(self, now: float) -> None:
        self._since, self._count = now, 0

    def _end_round(self, rate: float) -> None:
        if self._lower is not None and not self._brought_enough(rate, *self._lower):
            self.limit = self._lower[0]
            self._doubling, self._lower, self._rest = False, None, self._patience
            self._patience = min(2 * self._patience, _LONGEST_REST)
        elif self._rest:
            self._rest -= 1
        else:
            self._grow(rate)

    def _brought_enough(self, rate: float, lower: int, rate_before: float) -> bool:
        return rate >= rate_before * (1 + _LEAST_GAIN * (self.limit / lower - 1))

    def _grow(self, rate: float) -> None:
        if self._lower is not None:
            self._patience = 1
        higher = min(self._ceiling, self.limit * 2 if self._doubling else self.limit + self._step)
        self._lower = (self.limit, rate) if higher > self.limit else None
        self.limit = higher
        self.highest = max(self.highest, higher)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Leave to send one request, given in an epoch of the window."""

    epoch: int


class Gate:
    """Lets requests through while the window allows it; lives in one event loop.

    Args:
        window: How many may be under way.
        backoff: Seconds to wait after the nth sign of strain in a row.
    """

    def __init__(self, window: Window, backoff: Callable[[int], float]) -> None:
        self.window = window
        self.under_way = 0
        self._backoff = backoff
        self._strained = 0
        self._waiting = 0
        self._returning = 0
        self._closed_until = 0.0
        self._news: asyncio.Future[None] | None = None

    async def enter(self, *, again: bool = False) -> Ticket:
        """Wait for leave to send; questions that are asked `again` go first."""
        self._waiting += 1
        self._returning += again
        try:
            while not self._is_open(again=again):
                await self._change()
        finally:
            self._waiting -= 1
            self._returning -= again
        self.under_way += 1
        self._tell()
        return Ticket(epoch=self.window.epoch)

    def leave(self, ticket: Ticket, sign: Sign, *, wait: float = 0.0) -> None:
        """Give back a ticket, saying how the request ended.

        Args:
            ticket: What `enter` returned.
            sign: Whether it was answered, or the server is strained.
            wait: Seconds that the server asks everybody to wait.
        """
        now = asyncio.get_running_loop().time()
        if sign == "answered":
            self._strained = 0
            self.window.answered(now, busy=self._waiting > 0 or self.under_way >= self.window.limit)
        elif sign == "strained" and self.window.strained(ticket.epoch):
            self._strained += 1
            wait = max(wait, self._backoff(self._strained))
        self.under_way -= 1
        if wait > 0:
            self._close(now + wait)
        self._tell()

    def _close(self, until: float) -> None:
        if until > self._closed_until:
            self._closed_until = until
            asyncio.get_running_loop().call_at(until, self._tell)

    def _is_open(self, *, again: bool) -> bool:
        if asyncio.get_running_loop().time() < self._closed_until:
            return False
        return self.under_way < self.window.limit and (again or not self._returning)

    async def _change(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None
