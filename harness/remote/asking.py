"""Asks a server all questions, each until it is answered, refused or given up, so many at once as make it faster."""

import asyncio
import random
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

from medbench.adapters.guarding import one_sample
from medbench.adapters.remote import Complete, RemoteAdapter, Reply, RetryableError
from medbench.harness.engine.requests import Outcome
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

Take = Callable[[], "Question | None"]
"""Returns a server's next question; None if there is none now."""
Sign = Literal["answered", "strained", "neutral"]
# Answers come in bursts: rounds that are long enough that one burst more or less matters little.
_ROUND = 2
_SMALLEST_ROUND = 8
# Of the gain that more requests could bring at best, the part that they must bring to stay.
_LEAST_GAIN = 0.25
_LONGEST_REST = 16
_STRAIN = frozenset({"rate limit", "overloaded", "timeout", "unreachable"})
_LONGEST_WAIT = 60.0
_MOST_AHEAD = 32
# Signs of strain without an answer between them after which a server is not there. Each closes the gate for longer: so
# many take seconds, or two of the longest requests, not the deadline of a sample.
_GONE_AFTER: Mapping[str, int] = {"unreachable": 4, "timeout": 2}
_GIVEN_UP_IN_A_ROW = 5
# A server that was there may be started anew. When for so many seconds nothing but failures comes, it is gone, however
# patient its questions are; a lack of room (`rate limit`) is none, and what is slow (`timeout`) has a limit of its own.
_LONGEST_SILENCE = 300.0
_NO_SILENCE = frozenset({"rate limit", "timeout"})
# So many refusals in the same words, and never an answer: all others would be refused as well.
_SAME_REFUSALS = 5
_KEPT = "What was answered is on disk; the same command continues."
_NUMBERS = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One sample of a task; its image references start from the folder `source`."""

    sample: Sample
    spec: TaskSpec
    source: Path


class GoneError(RunError):
    """A server is not there, or answers no more: none of its questions is lost, others may answer them."""


def in_order(loads: Sequence[TaskLoad], missing: Mapping[str, Sequence[Sample]]) -> list[Question]:
    """Return the missing samples: reports, which take longest, first; all about the same images one after another.

    They begin alike, so a server that remembers beginnings reads the images once, also across tasks.
    """
    together: dict[tuple[object, ...], list[Question]] = {}
    for load in sorted(loads, key=lambda load: load.spec.kind != "report"):
        source = load.prepared.source
        for sample in missing[load.spec.name]:
            # Without images only the questions of one task begin alike.
            key = (source, *sample.images) if sample.images else (load.spec.name,)
            together.setdefault(key, []).append(Question(sample=sample, spec=load.spec, source=source))
    return [question for questions in together.values() for question in questions]


@dataclass(frozen=True, slots=True)
class Finished:
    """A question that is done, and the last reply to it."""

    question: Question
    reply: Reply
    attempts: int = 0  # Requests that it took; 0 if it was never sent.
    seconds: float = 0.0  # The last request, from its sending to its answer.
    key: str = ""  # In the cache of answers; empty where it has none.

    @property
    def outcome(self) -> Outcome:
        """What became of the sample."""
        task, name = self.question.spec.name, self.question.sample.sample_id
        reply = self.reply
        return Outcome(task=task, sample_id=name, generation=reply.generation, error=reply.error, kind=reply.kind)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A question that is ready to be sent, and its key in the cache of answers."""

    question: Question
    request: object
    key: str


def backoff(first: float, draw: Callable[[], float], failures: int) -> float:
    """Return the seconds to wait after so many failures in a row: `first`, doubled each time up to a minute.

    They are drawn from their upper half.
    """
    longest = min(_LONGEST_WAIT, first * 2.0 ** min(failures - 1, 30))
    return longest * (1 + draw()) / 2


class RequestWindow:
    """The number of requests that may be under way, up to a ceiling: additive increase, multiplicative decrease.

    It grows after each round of answers, and takes back what made the server no faster. A strained server halves it,
    once for all that were sent before (in an earlier `epoch`). docs/design/0006 tells more.
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


@asynccontextmanager
async def all_together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run tasks as a group whose error is the one that a person should read: one of ours, if there is one."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = (first.subgroup(MedbenchError) or first).exceptions[0]
        raise first from errors


class Asking:
    """Asks a served model; lives in one event loop.

    `report` is told of every question as soon as it is done. `draw` draws from 0 to 1, for waits that do not all end at
    once. `answered` says whether questions with images (True), or without (False), were answered in an earlier part.
    A server that goes away is waited for, unless `others` says that others would answer in its place. `recall` returns
    the key of what would be sent, and the reply to it if it is known: then nothing is.
    """

    def __init__(
        self, adapter: RemoteAdapter, report: Callable[[Finished], None], draw: Callable[[], float] = random.random,
        *, answered: Iterable[bool] = (), others: Callable[[], bool] = lambda: False,
        recall: Callable[[object], tuple[str, Reply | None]] = lambda _: ("", None),
    ) -> None:  # fmt: skip
        policy = adapter.retry_policy
        self._recall = recall
        self._adapter = adapter
        self._report = report
        self._policy = policy
        self._others = others
        self._backoff = partial(backoff, policy.backoff, draw)
        self.window = RequestWindow(policy.concurrency, policy.max_concurrency)
        self._under_way = self._strained = self._silent = self._waiting = self._returning = 0
        self._closed_until = 0.0
        self._news: asyncio.Future[None] | None = None
        # Samples that wait to be asked again keep their images; so many may, beside those under way.
        self._begun = asyncio.Semaphore(2 * policy.max_concurrency)
        self._reached = False
        self._given_up = 0
        self._last_word = 0.0
        self._failing_since: float | None = None
        self._sent: list[float] = []
        self._all_begun = False
        self._answered = set(answered)
        self._refused: dict[bool, tuple[str, int]] = {}
        self.retries: Counter[str] = Counter()

    async def ask(self, take: Take, more: Callable[[], Awaitable[bool]]) -> None:
        """Ask all questions, each reported once; `more` waits until there may be some after all, or says no.

        Raises RunError if the server refuses everything, GoneError if it cannot be reached, or answers no more. What
        was not reported by then was not answered.
        """
        self._last_word = asyncio.get_running_loop().time()
        async with self._adapter.session() as complete, all_together() as group:
            await self._begin_all(take, more, complete, group)

    async def _begin_all(
        self, take: Take, more: Callable[[], Awaitable[bool]], complete: Complete, group: asyncio.TaskGroup
    ) -> None:
        """Prepare questions some way ahead, and send them in their order."""
        ahead: deque[asyncio.Task[Finished | _Prepared]] = deque()

        async def begin_next() -> None:
            ready = await ahead.popleft()
            if isinstance(ready, Finished):
                self._report(ready)
                return
            await self._begun.acquire()
            asking = self._see_through(ready, complete, await self._enter())
            group.create_task(asking).add_done_callback(lambda _: self._begun.release())

        while True:
            question = take()
            if question is not None:
                ahead.append(group.create_task(asyncio.to_thread(self._prepare, question)))
            if ahead and (question is None or len(ahead) > min(_MOST_AHEAD, self.window.limit)):
                await begin_next()
            elif question is None:
                self._all_begun = True
                if not await more():
                    return
                self._all_begun = False

    def _prepare(self, question: Question) -> "Finished | _Prepared":
        try:
            with one_sample(self._adapter, "prepare()", question.sample):
                request = self._adapter.prepare(question.sample, question.spec, question.source)
        except SampleError as error:
            return Finished(question, Reply(error=str(error), kind=error.kind))
        key, known = self._recall(request)
        return _Prepared(question, request, key) if known is None else Finished(question, known, key=key)

    async def _see_through(self, prepared: "_Prepared", complete: Complete, epoch: int) -> None:
        question = prepared.question
        loop = asyncio.get_running_loop()
        deadline, unread = loop.time() + self._policy.deadline, 0
        for attempt in count(1):
            sent = loop.time()
            try:
                reply = await self._attempt(question, prepared.request, complete, epoch, deadline)
            except RetryableError as error:
                seconds, lost = loop.time() - sent, error.reason == "unreachable"
                # Nobody read what could not be sent: it costs the sample neither an attempt nor its time.
                unread += lost
                again = await self._wait(error, attempt, attempt - unread, None if lost else deadline)
                deadline = loop.time() + self._policy.deadline if lost else deadline
                if again is None:
                    times = f"{attempt} {'attempt' if attempt == 1 else 'attempts'}"
                    reply = Reply(error=f"No answer after {times}. The last time: {error}", kind=error.reason)
                    self._give_up(Finished(question, reply, attempt, seconds), error)
                    return
                epoch = again
                continue
            self._reached, self._given_up, self._last_word, self._failing_since = True, 0, loop.time(), None
            self._report(Finished(question, reply, attempt, loop.time() - sent, prepared.key))
            if reply.generation is None:
                self._refuse(question, *reply.error.split("\n", 1))
            elif not reply.generation.served.withheld:
                self._answered.add(bool(question.sample.images))
            return

    async def _attempt(
        self, question: Question, prepared: object, complete: Complete, epoch: int, deadline: float
    ) -> Reply:
        """Ask once; raises RetryableError, or RunError if no question would be answered."""
        try:
            reply = await self._reply(question, prepared, complete, deadline)
        except (RetryableError, TimeoutError) as raised:
            late = RetryableError("timeout", f"{self._adapter.host} did not answer in time.")
            error = raised if isinstance(raised, RetryableError) else late
            self.retries[error.reason] += 1
            strained = error.reason in _STRAIN
            new = self._leave(epoch, "strained" if strained else "neutral", wait=error.retry_after or 0.0)
            self._silent = self._silent + new if error.reason in _GONE_AFTER else 0
            self._reached = self._reached or error.reason not in {"timeout", "unreachable"}
            if self._is_gone(error.reason):
                raise GoneError(str(error), f"Is the server running, and is its address right? {_KEPT}") from raised
            if self._stays_away(error.reason):
                raise self._silence(str(error)) from raised
            raise error from raised.__cause__
        except SampleError as error:
            self._leave(epoch, "neutral")
            return Reply(error=str(error), kind=error.kind)
        self._leave(epoch, "answered")
        return reply

    async def _reply(self, question: Question, prepared: object, complete: Complete, deadline: float) -> Reply:
        now = asyncio.get_running_loop().time()
        self._sent.append(now)
        try:
            async with asyncio.timeout_at(min(now + self._policy.timeout, deadline)):
                with one_sample(self._adapter, "its reply", question.sample):
                    return await complete(prepared)
        finally:
            self._sent.remove(now)

    def _stays_away(self, reason: str) -> bool:
        """Note a failure, and say whether for too long nothing else came, from what was sent before as well."""
        now = asyncio.get_running_loop().time()
        if reason in _NO_SILENCE:
            self._failing_since = None if reason == "rate limit" else self._failing_since
            return False
        since = self._failing_since = now if self._failing_since is None else self._failing_since
        # Where nothing else is left to ask, failures may lie in the last questions.
        may_be = reason == "unreachable" or not self._all_begun
        too_long = now - since >= min(self._policy.deadline, _LONGEST_SILENCE)
        return may_be and too_long and all(sent >= since for sent in self._sent)

    def _silence(self, last: str | None) -> GoneError:
        seconds = asyncio.get_running_loop().time() - self._last_word
        problem = f"{self._adapter.host} has answered nothing for {seconds:.0f} s. The last: {last}"
        return GoneError(problem, f"It seems to be down or too slow. {_KEPT}")

    def _is_gone(self, reason: str) -> bool:
        """Say whether nobody is there: nobody ever was, or others are, so that there is nothing to wait for."""
        most = min(_GONE_AFTER.get(reason, self._policy.attempts), self._policy.attempts)
        may_be = reason in _GONE_AFTER if self._others() else reason == "unreachable" and not self._reached
        return may_be and self._silent >= most

    async def _wait(self, error: RetryableError, attempt: int, read: int, deadline: float | None) -> int | None:
        """Return the epoch of leave to ask once more, or None if attempts or time are used up."""
        loop = asyncio.get_running_loop()
        wait = max(self._backoff(attempt), error.retry_after or 0.0)
        attempts = min(self._policy.attempts, error.most or self._policy.attempts)
        if read >= attempts or (deadline is not None and loop.time() + wait >= deadline):
            return None
        await asyncio.sleep(wait)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._enter(again=True)
        except TimeoutError:
            return None

    def _refuse(self, question: Question, problem: str, hint: str = "") -> None:
        """End the run if the server refuses every question with images, or every one without, in the same words."""
        has_images, words = bool(question.sample.images), _NUMBERS.sub("#", problem)
        before, times = self._refused.get(has_images, ("", 0))
        times = times + 1 if words == before else 1
        self._refused[has_images] = (words, times)
        if has_images not in self._answered and times >= _SAME_REFUSALS:
            what = "with images" if has_images else "without images"
            raise RunError(
                f"{self._adapter.host} refuses every question {what}, the first {_SAME_REFUSALS} in the same words: "
                f"{problem}",
                f"{hint} {_KEPT}".strip(),
            )

    def _give_up(self, finished: Finished, error: RetryableError) -> None:
        self._report(finished)
        self._given_up += 1
        deadline = self._policy.deadline
        if error.retry_after is not None and error.retry_after >= deadline:
            raise GoneError(
                f"{self._adapter.host} asks to wait {error.retry_after:.0f} s, longer than a sample may take.",
                f"Wait, then give the same command again, or raise --model-arg deadline={deadline:g}.",
            )
        silent = asyncio.get_running_loop().time() - self._last_word
        if self._given_up >= _GIVEN_UP_IN_A_ROW and silent >= deadline and not self._all_begun:
            raise self._silence(finished.outcome.error)

    async def _enter(self, *, again: bool = False) -> int:
        """Wait for leave to send; questions that are asked `again` go first. Return the epoch of the window."""
        self._waiting += 1
        self._returning += again
        try:
            while (
                asyncio.get_running_loop().time() < self._closed_until
                or self._under_way >= self.window.limit
                or (self._returning and not again)
            ):
                self._news = self._news or asyncio.get_running_loop().create_future()
                await asyncio.shield(self._news)
        finally:
            self._waiting -= 1
            self._returning -= again
        self._under_way += 1
        self._tell()
        return self.window.epoch

    def _leave(self, epoch: int, sign: Sign, *, wait: float = 0.0) -> bool:
        """Say how a request ended that entered in an epoch; `wait`: seconds that the server asks everybody to wait.

        Return whether it is a new sign of strain.
        """
        loop, new = asyncio.get_running_loop(), False
        if sign == "answered":
            self._strained = self._silent = 0
            self.window.answered(loop.time(), busy=self._waiting > 0 or self._under_way >= self.window.limit)
        elif sign == "strained" and self.window.strained(epoch):
            new = True
            self._strained += 1
            wait = max(wait, self._backoff(self._strained))
        self._under_way -= 1
        if wait > 0 and loop.time() + wait > self._closed_until:
            self._closed_until = loop.time() + wait
            loop.call_at(self._closed_until, self._tell)
        self._tell()
        return new

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None
