"""A served model behind the adapter contract: one question, one request, one answer understood."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.adapters.base import ModelCard
from medbench.adapters.openai.address import Address
from medbench.adapters.openai.body import body_of, shown
from medbench.adapters.openai.certificates import problem_of, trusted
from medbench.adapters.openai.failures import KEPT, Refusal, failure_of, page_instead, words_of
from medbench.adapters.openai.hints import Asked, filtered, pictures_in, streams_only
from medbench.adapters.openai.messages import SPACES, messages_of
from medbench.adapters.openai.options import STREAM, Options
from medbench.adapters.openai.pictures import Pictures
from medbench.adapters.openai.profiles import Profile
from medbench.adapters.openai.reading import Reading
from medbench.adapters.openai.replies import Sent, parse_json, read_reply, withheld_reply
from medbench.adapters.openai.secret import Key
from medbench.adapters.openai.streams import assembled, is_stream
from medbench.adapters.openai.told import mark_of
from medbench.adapters.openai.within import status_within
from medbench.adapters.remote import Complete, RemoteAdapter, Reply, Scaled, TryAgainError
from medbench.adapters.wording import question_of
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError, UsageError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import httpx2

_SUCCESSES = range(200, 300)
_STREAMED = {STREAM: True, "stream_options": {"include_usage": True}}
# Statuses with which a filter refuses one question.
_FILTERS = frozenset({400, 403, 422, 451})
_CONNECT_SECONDS = 10.0
_TELLING_SECONDS = 5.0
_LOADING = 503
# Seconds between the questions whether a server is there.
_WAITS = (1.0, 2.0, 4.0)
_MOST_TOLD = 2**22
# No answer of a benchmark comes near it; a server that never stops must not fill the memory.
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One question ready to be sent.

    Attributes:
        body: The request's body; questions of one picture share its text.
        scaled: Pictures that were made smaller.
    """

    body: dict[str, Any]
    scaled: tuple[Scaled, ...]


class ServedModel(RemoteAdapter):
    """A model of a server that speaks OpenAI's chat completions.

    Attributes:
        pictures: What was encoded.

    Args:
        card: What every served model is.
        address: Which model of which server.
        profile: What the server understands.
        options: What the user chose.
        key: The server's key.
        seed: Seed of the run.

    Raises:
        UsageError: If no request can be sent to the address.
    """

    def __init__(
        self, card: ModelCard, address: Address, profile: Profile, options: Options, *, key: Key, seed: int
    ) -> None:
        self.card = card
        self.host = address.server
        self.on_this_machine = address.on_this_machine
        self.may_send_credentialed = options.may_send_credentialed
        self.patience = options.patience
        self.notices = _notices(address)
        self.pictures = Pictures(options.max_pixels)
        _refuse_unusable(address)
        if options.ca_file and not address.encrypted:
            raise UsageError("ca_file is of no use with http://.", "Leave it out, or write https:// in the base URL.")
        self._certificates = trusted(options.ca_file) if address.encrypted else None
        self._address = address
        self._profile = profile
        self._options = options
        self._key = key
        self._seed = seed
        self._mark = ""
        self._streams = False
        self._reading = Reading(stop=options.stop, prices=options.prices, clean=key.hidden_in)
        self.weights_fingerprint = fingerprint(
            {
                "model": address.model,
                "server": address.base,
                "profile": profile.name,
                "seed": seed,
                **options.changing_answers(),
            }
        )

    @property
    def title(self) -> str:
        """Name of the model, without the folders before it, and its server."""
        name = self._address.model.rstrip("/").rpartition("/")[2] or self._address.model
        return f"{name} ({self.host})"

    def prepare(self, sample: Sample, spec: TaskSpec, source: Path) -> Envelope:
        """Return the request's body, the pictures encoded."""
        pictures = [self.pictures.picture(source, ref) for ref in sample.images]
        question = question_of(sample, spec, SPACES[self._options.boxes])
        body = body_of(
            self._address.model,
            messages_of(question, [picture.uri for picture in pictures], self._options.system),
            self._options, self._profile, length=self._options.max_tokens or spec.max_new_tokens, seed=self._seed,
        )  # fmt: skip
        return Envelope(body=body, scaled=tuple(picture.scaled for picture in pictures if picture.scaled))

    def readable(self, letter: Envelope) -> str:
        """Return the request's body, its pictures by their sizes."""
        return shown(letter.body)

    @cached_property
    def made_of(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the server tells of the model and of itself before the first question; nothing where it tells nothing.

        It is asked when a run looks for its folder, not for a dry run; in a thread, since a notebook has its own loop.

        Raises:
            RunError: If the server is not there: whether it tells something decides which run this is.
        """
        with ThreadPoolExecutor(1) as aside:
            mark = aside.submit(lambda: asyncio.run(self._told())).result()
        return {"server": mark} if mark else {}

    async def _told(self) -> str:
        async with self._connections() as client:
            await self._wait_for(client)
            return await mark_of(self._address, partial(_get, client), self._reading)

    async def _wait_for(self, client: "httpx2.AsyncClient") -> None:
        """Wait a little for a server that is not there yet, or still loads its model.

        Raises:
            RunError: If it stays away, or its certificate cannot be trusted.
        """
        for wait in (*_WAITS, None):
            missing = await self._missing(client)
            if not missing:
                return
            if wait is not None:
                await asyncio.sleep(wait)
        raise RunError(f"{missing}.", f"Is the server running, and is its address right? {KEPT}")

    async def _missing(self, client: "httpx2.AsyncClient") -> str:
        """Return why a server cannot be asked now; empty if it can, whatever it answers."""
        import httpx2

        try:
            async with (
                asyncio.timeout(_TELLING_SECONDS),
                client.stream("GET", f"{self._address.base}/models") as answer,
            ):
                return f"{self.host} is not ready (HTTP 503)" if answer.status_code == _LOADING else ""
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            found = self._trouble(error)
            if isinstance(found, RunError):
                raise found from error
            return str(found).rstrip(".")
        except (httpx2.HTTPError, TimeoutError):
            return ""

    def _connections(self) -> "httpx2.AsyncClient":
        import httpx2

        most = self.patience.max_concurrency
        return httpx2.AsyncClient(
            headers={"User-Agent": "medbench", **self._key.headers()},
            # The harness ends what takes too long; here only an unreachable server is noticed sooner.
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            follow_redirects=False,
            verify=self._certificates or True,
            trust_env=not self.on_this_machine,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Complete]:
        """Open connections to the server, as many as may be under way, and keep them."""
        async with self._connections() as client:
            known: Mapping[str, str] | None = self.__dict__.get("made_of")
            self._mark = (
                await mark_of(self._address, partial(_get, client), self._reading)
                if known is None
                else known.get("server", "")
            )

            async def complete(letter: Envelope) -> Reply:
                reply = await self._complete(client, letter)
                # Servers that mark no answer may have told at first what they are.
                return replace(reply, usage=replace(reply.usage, fingerprint=reply.usage.fingerprint or self._mark))

            yield complete

    async def _complete(self, client: "httpx2.AsyncClient", envelope: Envelope) -> Reply:
        import httpx2

        body = envelope.body | (_STREAMED if self._streams else {})
        try:
            answer = await _post(client, self._address.url, json.dumps(body).encode())
        except httpx2.HTTPError as error:
            raise self._trouble(error) from error
        if answer.status not in _SUCCESSES and body.get(STREAM) is False and STREAM not in self._options.extra_body:
            # The same answer comes as a stream from servers that give none otherwise.
            self._streams = self._streams or streams_only(words_of(answer, self._reading))
            if self._streams:
                return await self._complete(client, envelope)
        return self._understood(answer, envelope)

    def _understood(self, answer: Refusal, envelope: Envelope) -> Reply:
        """Return what a server's answer says."""
        sent = Sent(scaled=envelope.scaled, limit=envelope.body[self._profile.length_field])
        if answer.status not in _SUCCESSES:
            return self._filtered_or_raise(answer, sent, envelope)
        if answer.page:
            raise page_instead(answer, self._address, self._reading)
        streamed = is_stream(answer.content, answer.headers)
        document = assembled(answer.content) if streamed else parse_json(answer.content, self._reading.clean)
        within = status_within(document)
        if within is not None:
            return self._filtered_or_raise(replace(answer, status=within), sent, envelope, document)
        return read_reply(document, sent, self._reading)

    def _filtered_or_raise(self, answer: Refusal, sent: Sent, envelope: Envelope, document: object = None) -> Reply:
        """Return the reply of a filter that held a question back; raise what any other failure means."""
        is_within = document is not None
        if (is_within or answer.status in _FILTERS) and filtered(words_of(answer, self._reading, document)):
            return withheld_reply(sent)
        asked = Asked(
            length_field=self._profile.length_field,
            limit=sent.limit,
            pictures=pictures_in(envelope.body),
            fields=frozenset(self._options.extra_body),
            system=bool(self._options.system),
        )
        raise failure_of(answer, self._address, self._reading, asked=asked, document=document, within=is_within)

    def _trouble(self, error: "httpx2.HTTPError") -> MedbenchError | TryAgainError:
        import httpx2

        found = problem_of(error)
        if found is not None:
            return RunError(f"{self.host} cannot be asked: {found[0]}.", f"{found[1]} {KEPT}")
        # The server's words may be in the error's text, and the key in the server's words.
        said = self._key.hidden_in(" ".join(str(error).split())) or type(error).__name__
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            return TryAgainError("unreachable", f"{self.host} cannot be reached: {said}")
        if isinstance(error, httpx2.TimeoutException):
            return TryAgainError("timeout", f"{self.host} did not answer in time.")
        maybe = "" if self._address.encrypted else ". If it always does, the server may want https://"
        return TryAgainError("cut off", f"The connection to {self.host} broke: {said}{maybe}")


async def _post(client: "httpx2.AsyncClient", url: str, content: bytes) -> Refusal:
    """Return a server's answer.

    Raises:
        SampleError: If it is longer than any answer of a benchmark.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    async with client.stream("POST", url, content=content, headers=headers) as response:
        received = bytearray()
        async for chunk in response.aiter_bytes():
            received += chunk
            if len(received) > _MOST_BYTES:
                raise SampleError(f"The server's answer is longer than {_MOST_BYTES // 2**20} MiB.")
        names = {name.lower(): value for name, value in response.headers.items()}
        return Refusal(status=response.status_code, headers=names, content=bytes(received))


async def _get(client: "httpx2.AsyncClient", url: str) -> bytes:
    """Return what stands at a URL of the server, or nothing."""
    import httpx2

    received = bytearray()
    with suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(_TELLING_SECONDS), client.stream("GET", url) as response:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > _MOST_TOLD:
                    return b""
            return bytes(received) if response.status_code in _SUCCESSES else b""
    return b""


def _refuse_unusable(address: Address) -> None:
    import httpx2

    try:
        httpx2.URL(address.url)
    except httpx2.InvalidURL as error:
        raise UsageError(f"The base URL {address.base!r} is none: {error}.", "Check the server's name.") from error


def _notices(address: Address) -> tuple[str, ...]:
    if address.on_this_machine:
        return ()
    sent = f"SENT ELSEWHERE: the questions and pictures of this run go to {address.server}"
    return (f"{sent}." if address.encrypted else f"{sent}, and they and the key travel unencrypted.",)
