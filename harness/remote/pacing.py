"""How many requests are under way: as many as make the server faster, half as many when it is strained."""

import asyncio
from collections.abc import Callable
from typing import Literal

Sign = Literal["answered", "strained", "neutral"]
# Answers come in bursts: rounds that are long enough that one burst more or less matters little.
_ROUND = 2
_SMALLEST_ROUND = 8
# Of the gain that more requests could bring at best, the part that they must bring to stay.
_LEAST_GAIN = 0.25
_LONGEST_REST = 16


class RequestWindow:
    """The number of requests that may be under way, up to a ceiling: additive increase, multiplicative decrease.

    Answers are counted in rounds of twice as many as may be under way. After a round the number grows (it doubles
    until the first setback, then grows by what it started with) and the next round shows what that brought: if the
    answers do not come faster by a quarter of what they could, the server was busy before, the growth is taken back,
    and nothing is tried for a while, each time longer. A strained server (too many requests, overloaded, no answer in
    time) halves the number; of the requests that were sent before that (in an earlier `epoch`), no further one does.
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
        self._next_rest = 1
        self._count = 0
        self._since: float | None = None

    def answered(self, now: float, *, busy: bool) -> None:
        """Count an answer at `now` seconds; `busy`: as many requests as may be were under way, fewer show nothing."""
        if self._since is None or not busy:
            self._since, self._count = now, 0
            return
        self._count += 1
        if self._count >= max(_ROUND * self.limit, _SMALLEST_ROUND) and now > self._since:
            self._end_round(self._count / (now - self._since))
            self._since, self._count = now, 0

    def strained(self, epoch: int) -> bool:
        """Halve the number, unless the request belongs to an earlier `epoch`; return whether it was halved."""
        if epoch != self.epoch:
            return False
        self.epoch += 1
        self.limit = max(1, self.limit // 2)
        self._doubling, self._lower, self._since, self._rest = False, None, None, 1
        return True

    def _end_round(self, rate: float) -> None:
        if self._lower is not None:
            lower, rate_before = self._lower
            if rate < rate_before * (1 + _LEAST_GAIN * (self.limit / lower - 1)):
                self.limit = lower
                self._doubling, self._lower, self._rest = False, None, self._next_rest
                self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
                return
        if self._rest:
            self._rest -= 1
            return
        if self._lower is not None:
            self._next_rest = 1
        higher = min(self._ceiling, self.limit * 2 if self._doubling else self.limit + self._step)
        self._lower = (self.limit, rate) if higher > self.limit else None
        self.limit = higher
        self.highest = max(self.highest, higher)


class RequestGate:
    """Lets requests through while the window allows it; lives in one event loop.

    `backoff` gives the seconds to wait after the nth sign of strain in a row.
    """

    def __init__(self, window: RequestWindow, backoff: Callable[[int], float]) -> None:
        self.window = window
        self.under_way = 0
        self._backoff = backoff
        self._strained = 0
        self._waiting = 0
        self._returning = 0
        self._closed_until = 0.0
        self._news: asyncio.Future[None] | None = None

    async def enter(self, *, again: bool = False) -> int:
        """Wait for leave to send; questions that are asked `again` go first. Return the epoch of the window."""
        self._waiting += 1
        self._returning += again
        try:
            while not self._is_open(again=again):
                if self._news is None:
                    self._news = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._news)
        finally:
            self._waiting -= 1
            self._returning -= again
        self.under_way += 1
        self._tell()
        return self.window.epoch

    def leave(self, epoch: int, sign: Sign, *, wait: float = 0.0) -> None:
        """Say how a request ended that entered in an epoch; `wait`: seconds that the server asks everybody to wait."""
        loop = asyncio.get_running_loop()
        if sign == "answered":
            self._strained = 0
            self.window.answered(loop.time(), busy=self._waiting > 0 or self.under_way >= self.window.limit)
        elif sign == "strained" and self.window.strained(epoch):
            self._strained += 1
            wait = max(wait, self._backoff(self._strained))
        self.under_way -= 1
        if wait > 0 and loop.time() + wait > self._closed_until:
            self._closed_until = loop.time() + wait
            loop.call_at(self._closed_until, self._tell)
        self._tell()

    def _is_open(self, *, again: bool) -> bool:
        if asyncio.get_running_loop().time() < self._closed_until:
            return False
        return self.under_way < self.window.limit and (again or not self._returning)

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None
