"""A served model that does as a function says, in virtual time."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from task_helpers import question

from medbench.adapters.base import ModelCard
from medbench.adapters.remote import (
    Complete,
    RemoteAdapter,
    Reply,
    Request,
    RetryableError,
    RetryPolicy,
    RetryReason,
    Served,
    ServedGeneration,
    Usage,
)
from medbench.harness.remote.asking import Question
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

FULL_DRAW = 1.0
Server = Callable[[str, int], object]


class Scripted(RemoteAdapter):
    """A model whose server is a function of the sample's id and of how often it was asked."""

    card = ModelCard(name="scripted", title="Scripted", kinds=frozenset({"vqa"}), weights="none", licence="none")
    weights_fingerprint = "scripted"
    host = "somewhere"

    def __init__(self, server: Server, **patience: Any) -> None:
        self.server = server
        self.retry_policy = RetryPolicy(**patience)
        self.asked: dict[str, list[float]] = {}
        self.order: list[str] = []
        self.under_way = self.most = 0

    def prepare(self, sample: Sample, spec: TaskSpec, source: Path) -> Request:
        del spec, source
        if sample.sample_id.startswith("broken"):
            raise SampleError("The picture is broken.")
        return sample.sample_id

    def readable(self, request: Request) -> str:
        return f"to the server: {request}"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Complete]:
        yield self.complete

    async def complete(self, request: Request) -> Reply:
        times = self.asked.setdefault(request, [])
        times.append(asyncio.get_running_loop().time())
        self.order.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            result = self.server(request, len(times))
            if isinstance(result, Exception):
                raise result
            await asyncio.sleep(cast("float", result))
        finally:
            self.under_way -= 1
        return replied(request)


def replied(text: str) -> Reply:
    served = Served(model="m", finish_reason="stop")
    return Reply(generation=ServedGeneration(text=text, served=served), usage=Usage(prompt_tokens=3, output_tokens=2))


def questions(*names: str) -> list[Question]:
    spec = get_task("slake-vqa")
    samples = (dataclasses.replace(question(1), sample_id=name) for name in names)
    return [Question(sample=sample, spec=spec, source=Path()) for sample in samples]


def numbered(count: int) -> list[Question]:
    return questions(*(f"q{number:03d}" for number in range(count)))


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparation takes real threads; in virtual time it happens at once."""

    async def at_once(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)

    monkeypatch.setattr("medbench.harness.remote.asking.asyncio.to_thread", at_once)


def try_again(reason: RetryReason, retry_after: float | None = None) -> RetryableError:
    return RetryableError(reason, f"It was: {reason}.", retry_after)
