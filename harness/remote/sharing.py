"""Several servers of one model: who asks what, and who goes on where one of them is gone.

Whoever is free takes the next picture with all of its questions, so that one server reads it once and has it in its
cache. A hash would share pictures out by count; servers, pictures and answers differ, and so does which servers a run
has when it goes on. Where no picture is left, the free take single questions from whom most are left to.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby
from typing import Any

from medbench.adapters.remote import RemoteAdapter
from medbench.harness.remote.asking import Asking, Finished, GoneError, Question, all_together
from medbench.tasks.foundation.console import warn


@dataclass(slots=True, eq=False)
class _Share:
    """What one server has: questions that it will take, and those that it took and did not answer yet."""

    waiting: deque[Question] = field(default_factory=deque)
    taken: list[Question] = field(default_factory=list)


class Board:
    """The questions of all servers, in groups that begin with the same pictures; every question is answered once."""

    def __init__(self, questions: Iterable[Question], servers: int) -> None:
        numbers = count()

        def picture(question: Question) -> Hashable:
            # Without pictures little is shared: each question goes to whoever is free.
            return (question.source, question.sample.images) if question.sample.images else next(numbers)

        self._groups = deque(deque(group) for _, group in groupby(questions, picture))
        self._shares = [_Share() for _ in range(servers)]
        self._news = asyncio.Event()

    def take(self, server: int) -> Question | None:
        """Return a server's next question; None if there is none now."""
        share = self._shares[server]
        if not share.waiting and self._groups:
            share.waiting = self._groups.popleft()
        richest = max(self._shares, key=lambda one: len(one.waiting))
        if share.waiting:
            question = share.waiting.popleft()
        elif richest.waiting:
            question = richest.waiting.pop()
        else:
            return None
        share.taken.append(question)
        return question

    def answered(self, server: int, question: Question) -> None:
        """Note that a server is done with a question."""
        self._shares[server].taken.remove(question)
        if not any(share.taken for share in self._shares):
            self._tell()

    def give_back(self, server: int) -> None:
        """Let others have what a server has."""
        share = self._shares[server]
        self._groups.appendleft(deque((*share.taken, *share.waiting)))
        share.taken.clear()
        share.waiting = deque()
        self._tell()

    async def more(self) -> bool:
        """Wait until some question is given back, or all are answered; return whether any is left."""
        while not self._groups and any(share.taken or share.waiting for share in self._shares):
            await self._news.wait()
        return bool(self._groups)

    def _tell(self) -> None:
        # All who wait look again.
        self._news.set()
        self._news.clear()


class Fleet:
    """All servers of a model, each asked at a pace of its own; one server is a fleet too.

    `report` is told of every question as soon as it is done; `how` goes to each `Asking`.
    """

    def __init__(self, servers: Sequence[RemoteAdapter], report: Callable[[Finished], None], **how: Any) -> None:
        self._servers = servers
        self._report = report
        self._left = set(range(len(servers)))
        self._board = Board((), len(servers))
        self.askings = [
            Asking(server, self._reporter(number), others=lambda: len(self._left) > 1, **how)
            for number, server in enumerate(servers)
        ]
        self._answered: Counter[int] = Counter()

    async def ask(self, questions: Iterable[Question]) -> None:
        """Ask all questions, each of one server; errors as those of `Asking.ask`, GoneError when the last is gone."""
        self._board = Board(questions, len(self._servers))
        async with all_together() as group:
            for number in self._left:
                group.create_task(self._see_through(number))

    async def _see_through(self, number: int) -> None:
        try:
            await self.askings[number].ask(partial(self._board.take, number), self._board.more)
        except GoneError as error:
            if self._left == {number}:
                raise
            self._left.remove(number)
            warn(f"GONE: {error.problem.rstrip('.')}. The other servers answer its questions.")
            self._board.give_back(number)

    def _reporter(self, number: int) -> Callable[[Finished], None]:
        def reported(finished: Finished) -> None:
            self._answered[number] += finished.reply.generation is not None
            self._board.answered(number, finished.question)
            self._report(finished)

        return reported

    @property
    def notes(self) -> dict[str, Any]:
        """How hard each server was asked, as plain values; of several, all together and each by itself."""
        each = [
            {
                "host": server.host,
                "concurrency": {
                    "start": server.retry_policy.concurrency,
                    "highest": asking.window.highest,
                    "last": asking.window.limit,
                },
                "retries": dict(sorted(asking.retries.items())),
            }
            for server, asking in zip(self._servers, self.askings, strict=True)
        ]
        if len(each) == 1:
            return each[0]
        told = [
            {**one, "answered": self._answered[number], "gone": number not in self._left}
            for number, one in enumerate(each)
        ]
        paces = [Counter(one["concurrency"]) for one in each]
        retries = [Counter(one["retries"]) for one in each]
        return {
            "host": each[0]["host"], "concurrency": dict(sum(paces, Counter())),
            "retries": dict(sorted(sum(retries, Counter()).items())), "servers": told,
        }  # fmt: skip
