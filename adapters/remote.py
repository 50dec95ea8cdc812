"""What a remote adapter is: the code that lets a served model answer a sample. Imports no torch and no HTTP library.

The harness (`harness.remote`) decides when and how often a question is sent; the adapter what is sent, and what the
server's answer means.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medbench.adapters.base import Adapter, Generation, Size
from medbench.tasks.foundation.errors import FailureKind
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

Request = Any  # One question ready to be sent, as its adapter wants it; kept until it is answered.
Withheld = Literal["", "refusal", "content filter", "tool call"]
"""What stands in the place of an answer, by the model's or its service's own decision; empty where an answer stands."""
RetryReason = Literal["rate limit", "overloaded", "timeout", "unreachable", "cut off", "server error", "malformed"]
"""Why a question must be asked again. The first four say that the server has too much to do, or is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """An image that was sent smaller than it is: its own size and the size as sent."""

    original: Size
    sent: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server said of an answer, as far as the same question would bring it again."""

    model: str  # The model that answered, in the server's own words; a name such as `latest` may come back more exact.
    finish_reason: str  # Why it ended, in the server's own words.
    scaled: tuple[Scaled, ...] = ()  # Images that were sent smaller than they are, in the order of the sample's images.
    withheld: Withheld = ""  # What stands in the place of an answer: the model's behaviour, which counts as refused.


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedGeneration(Generation):
    """What a served model said."""

    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a reply took, as the server counted it; it may differ when the same question is asked again."""

    prompt_tokens: int = 0  # Tokens of the prompt, visual ones included.
    output_tokens: int = 0  # Tokens written, thoughts included; `thought_tokens` are thoughts.
    thought_tokens: int = 0
    cached_tokens: int = 0  # Those of the prompt that the server remembered from an earlier one.
    cost: float | None = None  # Price in the currency of the prices that the user gave; None where none were given.
    fingerprint: str = ""  # The server's own mark of its software, its settings or the weights it serves, or empty.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A server's last word on a question: a generation, or the error why it gave none (it lost the answer, say)."""

    generation: ServedGeneration | None = None
    error: str = ""
    kind: FailureKind | Literal[""] = ""  # Of the error.
    usage: Usage = field(default_factory=Usage)


class RetryableError(Exception):
    """The question was not answered, and may be when it is asked again, `retry_after` seconds later if that was asked.

    After `most` requests it is known not to pass; None where the retry policy decides.
    """

    def __init__(
        self, reason: RetryReason, problem: str, retry_after: float | None = None, *, most: int | None = None
    ) -> None:
        super().__init__(problem)
        self.reason: RetryReason = reason
        self.retry_after = retry_after
        self.most = most


Complete = Callable[[Request], Awaitable[Reply]]
"""Asks the server once. Raises RetryableError, SampleError (this question is refused) or RunError (all would be)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How hard a server is asked; changes no answer."""

    concurrency: int = 4  # Requests under way at first; `max_concurrency` ever.
    max_concurrency: int = 64
    attempts: int = 8  # Most requests for one sample.
    deadline: float = 900.0  # Most seconds for one sample, waiting included; `timeout` for one request.
    timeout: float = 300.0
    backoff: float = 1.0  # Seconds before the second request for a sample; doubled for each further one.


class RemoteAdapter(Adapter):
    """A model behind a server: it prepares a question, asks once, and understands the answer; it schedules nothing."""

    device = "remote"
    dtype = "unknown"
    host: str  # The server, for people.
    on_this_machine: bool = False  # Whether what is sent stays on this machine.
    may_send_credentialed: bool = False  # Whether data under a signed agreement may go to this server.
    retry_policy: RetryPolicy = RetryPolicy()  # How hard it is asked.
    # Whether it asks for the likeliest tokens, and `prepare` returns all that a question is made of, as plain values
    # and records. The cache of answers then keeps answers by it.
    greedy: bool = False
    uncached_hint: str = ""  # What may be done where the server had no token of a prompt in its cache.

    @property
    def servers(self) -> Sequence["RemoteAdapter"]:
        """Those who answer, this one first: each prepares and asks its own questions, at a pace of its own."""
        return (self,)

    @abstractmethod
    def prepare(self, sample: Sample, spec: TaskSpec, source: Path) -> Request:
        """Return a question ready to be sent, images from `source`; in threads, ahead. SampleError if it cannot be."""

    @abstractmethod
    def readable(self, request: Request) -> str:
        """Return a question as it would be sent, for people: images named instead of shown, no secrets."""

    @abstractmethod
    def session(self) -> AbstractAsyncContextManager[Complete]:
        """Return a connection to the server, to be opened in the event loop that asks through it."""
