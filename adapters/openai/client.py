"""A served model behind the adapter contract: one question, one request, one answer understood."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import httpx2
from pydantic import SecretStr

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai import entry
from medbench.adapters.openai.connection import Connection, connected, refuse_unusable, trusted
from medbench.adapters.openai.failures import failure_of, page_in, page_instead, says, status_within, words_of
from medbench.adapters.openai.reading import Reading, assembled, is_stream, parse_json, read_reply, withheld_reply
from medbench.adapters.openai.requests import ChatRequest, ImageEncoder, make_request
from medbench.adapters.remote import Complete, RemoteAdapter, Reply
from medbench.adapters.wording import question_of
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

_STREAMED = {entry.STREAM: True, "stream_options": {"include_usage": True}}
# Statuses with which a filter refuses one question.
_FILTERS = frozenset({400, 403, 422, 451})


class ServedModel(RemoteAdapter):
    """A model of a server that speaks OpenAI's chat completions; UsageError if none can be sent to the address."""

    card = entry.CARD

    def __init__(self, address: entry.Address, options: entry.Options, *, key: SecretStr, seed: int) -> None:
        self.host = address.server
        self.on_this_machine = address.on_this_machine
        self.may_send_credentialed = options.credentialed == "send"
        self.retry_policy = options.retry_policy
        if not address.on_this_machine:
            end = "." if address.encrypted else ", and they and the key travel unencrypted."
            self.notices = (f"SENT ELSEWHERE: the questions and pictures of this run go to {address.server}{end}",)
        self.images = ImageEncoder(options.max_pixels)
        refuse_unusable(address)
        if options.ca_file and not address.encrypted:
            raise UsageError("ca_file is of no use with http://.", "Leave it out, or write https:// in the base URL.")
        self._certificates = trusted(options.ca_file) if address.encrypted else None
        self._address = address
        self._profile = entry.profile_of(options.profile, address)
        self._options = options
        self._key = key
        self._seed = seed
        self._streams = False
        self._reading = Reading(stop=options.stop, cost_of=options.cost_of, clean=partial(entry.without_key, key))
        self.weights_fingerprint = fingerprint(
            {"model": address.model, "server": address.base, "profile": self._profile.name, "seed": seed}
            | options.changing_answers()
        )

    @property
    def title(self) -> str:
        """Name of the model, without the folders before it, and its server."""
        name = self._address.model.rstrip("/").rpartition("/")[2] or self._address.model
        return f"{name} ({self.host})"

    def prepare(self, sample: Sample, spec: TaskSpec, source: Path) -> ChatRequest:
        """Return the request, its images encoded."""
        images = [self.images.encode(source, ref) for ref in sample.images]
        question = question_of(sample, spec, entry.SPACES[self._options.boxes])
        return make_request(
            self._address.model, question, images, self._options, self._profile,
            length=self._options.max_tokens or spec.max_new_tokens, seed=self._seed,
        )  # fmt: skip

    def readable(self, request: ChatRequest) -> str:
        """Return the request's body, its images by their sizes."""
        return request.readable()

    @cached_property
    def made_of(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the server tells of the model and of itself before the first question; nothing where it tells nothing.

        It is asked when a run looks for its folder, not for a dry run; in a thread, since a notebook has its own loop.
        RunError if the server is not there: whether it tells something decides which run this is.
        """
        with ThreadPoolExecutor(1) as aside:
            mark = aside.submit(lambda: asyncio.run(self._told())).result()
        return {"server": mark} if mark else {}

    async def _told(self) -> str:
        async with self._connected() as connection:
            await connection.wait()
            return await connection.mark(self._reading)

    def _connected(self) -> AbstractAsyncContextManager[Connection]:
        return connected(self._address, self._key, self._certificates, self.retry_policy.max_concurrency)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Complete]:
        """Open connections to the server, as many as may be under way, and keep them."""
        async with self._connected() as connection:
            known: Mapping[str, str] | None = self.__dict__.get("made_of")
            mark = await connection.mark(self._reading) if known is None else known.get("server", "")

            async def complete(request: ChatRequest) -> Reply:
                reply = await self._complete(connection, request)
                # Servers that mark no answer may have told at first what they are.
                return replace(reply, usage=replace(reply.usage, fingerprint=reply.usage.fingerprint or mark))

            yield complete

    async def _complete(self, connection: Connection, request: ChatRequest) -> Reply:
        body = request.body | (_STREAMED if self._streams else {})
        response = await connection.post(json.dumps(body).encode())
        if not response.is_success and body.get(entry.STREAM) is False and entry.STREAM not in self._options.extra_body:
            # The same answer comes as a stream from servers that give none otherwise.
            self._streams = self._streams or says("streams only", words_of(response, self._reading))
            if self._streams:
                return await self._complete(connection, request)
        return self._understood(response, request)

    def _understood(self, response: httpx2.Response, request: ChatRequest) -> Reply:
        """Return what a server's answer says."""
        if not response.is_success:
            return self._filtered_or_raise(response, request)
        page = page_in(response)
        if page:
            raise page_instead(page, self.host, self._reading)
        streamed = is_stream(response.content, response.headers.get("content-type", ""))
        document = assembled(response.content) if streamed else parse_json(response.content, self._reading)
        within = status_within(document)
        if within is not None:
            return self._filtered_or_raise(response, request, document, within)
        return read_reply(document, request, self._reading)

    def _filtered_or_raise(
        self, response: httpx2.Response, request: ChatRequest, document: object = None, within: int | None = None
    ) -> Reply:
        """Return the reply of a filter that held a question back; raise what any other failure means."""
        may_be_filter = within is not None or response.status_code in _FILTERS
        if may_be_filter and says("filtered", words_of(response, self._reading, document)):
            return withheld_reply(request)
        raise failure_of(response, self.host, self._reading, request, document=document, within=within)


def load_served(options: LoadOptions) -> ServedModel:
    """Return the model `MODEL@BASE-URL` of a server; nothing is sent yet."""
    address = entry.read_address(options.variant)
    chosen = entry.read_options(options.arguments, address)
    return ServedModel(address, chosen, key=entry.read_key(chosen.key_env, address), seed=options.seed)
