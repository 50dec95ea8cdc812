"""Asks a server all questions, each until it is answered, refused or given up."""

import asyncio
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from medbench.adapters.guarding import one_sample
from medbench.adapters.remote import Complete, RemoteAdapter, Reply, RetryableError
from medbench.harness.engine.requests import Outcome
from medbench.harness.remote.pacing import RequestGate, RequestWindow
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

_STRAIN = frozenset({"rate limit", "overloaded", "timeout", "unreachable"})
_LONGEST_WAIT = 60.0
_MOST_AHEAD = 32
_FIRST_CONTACTS = 4
_GIVEN_UP_IN_A_ROW = 5
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


def in_order(loads: Sequence[TaskLoad], missing: Mapping[str, Sequence[Sample]]) -> list[Question]:
    """Return the missing samples: reports first, and all questions about the same images one after another.

    They begin alike, so a server that remembers beginnings reads the images once, also across tasks. Reports take the
    longest; begun early, they do not keep the others waiting at the end.
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

    @property
    def outcome(self) -> Outcome:
        """What became of the sample."""
        task, name = self.question.spec.name, self.question.sample.sample_id
        return Outcome(task=task, sample_id=name, generation=self.reply.generation, error=self.reply.error)


class Backoff:
    """Seconds to wait before asking again: `first`, doubled each time up to a minute, drawn from their upper half."""

    def __init__(self, first: float, draw: Callable[[], float] = random.random) -> None:
        self._first = first
        self._draw = draw

    def __call__(self, failures: int) -> float:
        """Return the seconds after so many failures in a row."""
        longest = min(_LONGEST_WAIT, self._first * 2.0 ** min(failures - 1, 30))
        return longest * (1 + self._draw()) / 2


class Asking:
    """Asks a served model; lives in one event loop.

    `report` is told of every question as soon as it is done. `draw` draws from 0 to 1, for waits that do not all end at
    once. `answered` says whether questions with images (True), or without (False), were answered in an earlier part.
    """

    def __init__(
        self, adapter: RemoteAdapter, report: Callable[[Finished], None], draw: Callable[[], float] = random.random,
        *, answered: Iterable[bool] = (),
    ) -> None:  # fmt: skip
        policy = adapter.retry_policy
        self._adapter = adapter
        self._report = report
        self._policy = policy
        self._backoff = Backoff(policy.backoff, draw)
        self.gate = RequestGate(RequestWindow(policy.concurrency, policy.max_concurrency), self._backoff)
        # Samples that wait to be asked again keep their images; so many may, beside those under way.
        self._begun = asyncio.Semaphore(2 * policy.max_concurrency)
        self._reached = False
        self._given_up = 0
        self._last_word = 0.0
        self._all_begun = False
        self._answered = set(answered)
        self._refused: dict[bool, tuple[str, int]] = {}
        self.troubles: Counter[str] = Counter()

    async def ask(self, questions: Iterable[Question]) -> None:
        """Ask all questions; each is reported once.

        Raises RunError if the server refuses everything, cannot be reached, or answers no more. What was not reported
        by then was not answered.
        """
        self._last_word = asyncio.get_running_loop().time()
        async with self._adapter.session() as complete:
            try:
                async with asyncio.TaskGroup() as group:
                    await self._begin_all(questions, complete, group)
            except ExceptionGroup as errors:
                raise _first_of(errors) from errors

    async def _begin_all(self, questions: Iterable[Question], complete: Complete, group: asyncio.TaskGroup) -> None:
        """Prepare questions some way ahead, and send them in their order."""
        ahead: deque[tuple[Question, asyncio.Task[Any]]] = deque()

        async def begin_next() -> None:
            question, preparing = ahead.popleft()
            prepared = await preparing
            if isinstance(prepared, SampleError):
                self._report(Finished(question, Reply(error=str(prepared))))
                return
            await self._begun.acquire()
            asking = self._see_through(question, prepared, complete, await self.gate.enter())
            group.create_task(asking).add_done_callback(lambda _: self._begun.release())

        for question in questions:
            ahead.append((question, group.create_task(self._prepare(question))))
            if len(ahead) > min(_MOST_AHEAD, self.gate.window.limit):
                await begin_next()
        while ahead:
            await begin_next()
        self._all_begun = True

    async def _prepare(self, question: Question) -> object:
        """Return a question ready to be sent, or the SampleError that says why it is not."""
        try:
            with one_sample(self._adapter, "prepare()", question.sample):
                return await asyncio.to_thread(self._adapter.prepare, question.sample, question.spec, question.source)
        except SampleError as error:
            return error

    async def _see_through(self, question: Question, prepared: object, complete: Complete, epoch: int) -> None:
        """Ask one question until it is answered, refused or given up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._policy.deadline
        for attempt in count(1):
            sent = loop.time()
            try:
                reply = await self._attempt(question, prepared, complete, epoch, deadline)
            except SampleError as error:
                self._done(Finished(question, Reply(error=str(error)), attempt, loop.time() - sent))
                self._refuse(question, error)
                return
            except RetryableError as error:
                seconds = loop.time() - sent
                again = await self._wait(error, attempt, deadline)
                if again is None:
                    times = f"{attempt} {'attempt' if attempt == 1 else 'attempts'}"
                    reply = Reply(error=f"No answer after {times}. The last time: {error}")
                    self._give_up(Finished(question, reply, attempt, seconds), error)
                    return
                epoch = again
            else:
                self._done(Finished(question, reply, attempt, loop.time() - sent))
                if reply.generation is None:
                    problem, _, hint = reply.error.partition("\n")
                    self._refuse(question, SampleError(problem, hint))
                elif not reply.generation.served.withheld:
                    self._answered.add(bool(question.sample.images))
                return

    async def _attempt(
        self, question: Question, prepared: object, complete: Complete, epoch: int, deadline: float
    ) -> Reply:
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(now + self._policy.timeout, deadline)):
                with one_sample(self._adapter, "its reply", question.sample):
                    reply = await complete(prepared)
        except TimeoutError:
            error = RetryableError("timeout", f"{self._adapter.host} did not answer in time.")
            self._note(error, epoch)
            raise error from None
        except RetryableError as error:
            self._note(error, epoch)
            raise
        except SampleError:
            self.gate.leave(epoch, "neutral")
            raise
        self.gate.leave(epoch, "answered")
        return reply

    def _note(self, error: RetryableError, epoch: int) -> None:
        self.troubles[error.trouble] += 1
        self.gate.leave(epoch, "strained" if error.trouble in _STRAIN else "neutral", wait=error.retry_after or 0.0)
        self._reached = self._reached or error.trouble not in {"timeout", "unreachable"}
        never = error.trouble == "unreachable" and not self._reached
        # Every sign of strain closes the gate for longer: so many take some seconds, not the deadline of a sample.
        if never and self.gate.window.epoch >= min(_FIRST_CONTACTS, self._policy.attempts):
            raise RunError(str(error), f"Is the server running, and is its address right? {_KEPT}")

    async def _wait(self, error: RetryableError, attempt: int, deadline: float) -> int | None:
        """Return the epoch of leave to ask once more, or None if attempts or time are used up."""
        loop = asyncio.get_running_loop()
        wait = max(self._backoff(attempt), error.retry_after or 0.0)
        attempts = min(self._policy.attempts, error.most or self._policy.attempts)
        if attempt >= attempts or loop.time() + wait >= deadline:
            return None
        await asyncio.sleep(wait)
        try:
            async with asyncio.timeout_at(deadline):
                return await self.gate.enter(again=True)
        except TimeoutError:
            return None

    def _done(self, finished: Finished) -> None:
        self._reached, self._given_up = True, 0
        self._last_word = asyncio.get_running_loop().time()
        self._report(finished)

    def _refuse(self, question: Question, error: SampleError) -> None:
        """End the run if the server refuses every question with images, or every one without, in the same words."""
        has_images, words = bool(question.sample.images), _NUMBERS.sub("#", error.problem)
        before, times = self._refused.get(has_images, ("", 0))
        times = times + 1 if words == before else 1
        self._refused[has_images] = (words, times)
        if has_images not in self._answered and times >= _SAME_REFUSALS:
            what = "with pictures" if has_images else "without pictures"
            raise RunError(
                f"{self._adapter.host} refuses every question {what}, the first {_SAME_REFUSALS} in the same words: "
                f"{error.problem}",
                f"{error.hint} {_KEPT}".strip(),
            )

    def _give_up(self, finished: Finished, error: RetryableError) -> None:
        self._report(finished)
        self._given_up += 1
        deadline = self._policy.deadline
        if error.retry_after is not None and error.retry_after >= deadline:
            raise RunError(
                f"{self._adapter.host} asks to wait {error.retry_after:.0f} s, longer than a sample may take.",
                f"Wait, then give the same command again, or raise --model-arg deadline={deadline:g}.",
            )
        silent = asyncio.get_running_loop().time() - self._last_word
        if self._given_up >= _GIVEN_UP_IN_A_ROW and silent >= deadline and not self._all_begun:
            raise RunError(
                f"{self._adapter.host} has answered nothing for {silent:.0f} s. The last: {finished.outcome.error}",
                f"It seems to be down or too slow. {_KEPT}",
            )


def _first_of(errors: BaseException) -> BaseException:
    """Return the error that a person should read: one of ours, if there is one."""
    while isinstance(errors, BaseExceptionGroup):
        errors = (errors.subgroup(MedbenchError) or errors).exceptions[0]
    return errors
