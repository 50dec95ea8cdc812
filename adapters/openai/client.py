"""A served model behind the adapter contract: one question, one request of the `openai` SDK, one answer understood."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx2
import openai
from pydantic import SecretStr

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai import entry, failures, reading
from medbench.adapters.openai.failures import CERTIFICATE_HINT, KEPT, page_in, says
from medbench.adapters.openai.reading import Reading, mapping
from medbench.adapters.openai.requests import ChatRequest, ImageEncoder, make_request
from medbench.adapters.openai.several import Told, there_and_alike
from medbench.adapters.remote import Complete, RemoteAdapter, Reply, RetryableError
from medbench.adapters.wording import question_of
from medbench.tasks.foundation.confidential import masked
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError, UsageError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

_STREAMED = {entry.STREAM: True, "stream_options": {"include_usage": True}}
# Statuses with which a filter refuses one question.
_FILTERS = frozenset({400, 403, 422, 451})

# No answer of a benchmark comes near it; a server that never stops must not fill the memory.
_MOST_BYTES = 16 * 2**20
_CONNECT_SECONDS = 10.0
_TELLING_SECONDS = 5.0
# After a minute of silence it is asked three times, ten seconds apart.
_KEEP_ALIVE = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1), (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10), (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)  # fmt: skip
# Seconds between the questions whether a server is there.
_WAITS = (1.0, 2.0, 4.0)
_LOADING = 503
_MOST_META = 12
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)


class ServedModel(RemoteAdapter):
    """A model of a server that speaks OpenAI's chat completions; UsageError if none can be sent to the address."""

    card = entry.CARD
    telling = reading.TELLING  # What of a server's words about the model makes another run.

    def __init__(self, address: entry.Address, options: entry.Options, *, key: SecretStr, seed: int) -> None:
        self.host = address.server
        self._servers: tuple[ServedModel, ...] = (self,)
        self.on_this_machine = address.on_this_machine
        self.may_send_credentialed = options.credentialed == "send"
        self.retry_policy = options.retry_policy
        self.greedy = options.temperature == 0
        if not address.on_this_machine:
            end = "." if address.encrypted else ", and they and the key travel unencrypted."
            self.notices = (f"SENT ELSEWHERE: the questions and images of this run go to {address.server}{end}",)
        self.images = ImageEncoder(options.max_pixels)
        try:
            httpx2.URL(address.base)
        except httpx2.InvalidURL as error:
            raise UsageError(f"The base URL {address.base!r} is none: {error}.", "Check the server's name.") from error
        if options.ca_file and not address.encrypted:
            raise UsageError("ca_file is of no use with http://.", "Leave it out, or write https:// in the base URL.")
        self._certificates = trusted(options.ca_file) if address.encrypted else None
        self._address = address
        self._profile = entry.profile_of(options.profile, address)
        self._named = self._profile.name
        self._options = options
        self._key = key
        # The SDK takes no empty key.
        bearer = f"Bearer {key.get_secret_value()}" if key else openai.Omit()
        self._headers: Any = {"headers": {"Authorization": bearer}}
        self._seed = seed
        self._streams = False
        self._said: Told | None = None  # What the server said of itself before the first question.
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

    @property
    def servers(self) -> Sequence["ServedModel"]:
        """Those that answer: this server, which names the run, and others that serve the same."""
        return self._servers

    def join(self, others: Sequence["ServedModel"]) -> None:
        """Let others answer as well; each image is encoded once for all of them."""
        self._servers = (self, *others)
        for one in others:
            one.images = self.images
            self.notices = (*self.notices, *one.notices)

    @property
    def profile(self) -> str:
        """What kind of server it is, as far as is known."""
        return self._profile.name

    @property
    def uncached_hint(self) -> str:  # type: ignore[override]
        """What may be done where nothing of a prompt was in the cache; empty where it is not known."""
        return entry.PROFILES[self._servers[0].profile].uncached

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

    def wake(self) -> None:
        """Do what must be done before the server can be asked, where an interrupt is heard: nothing here."""

    @cached_property
    def made_of(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the server tells of the model and of itself before the first question; nothing where it tells nothing.

        It is asked when a run looks for its folder, not for a dry run; in a thread, since a notebook has its own loop.
        RunError if the server is not there: whether it tells something decides which run this is. Of several servers
        those that are there must tell the same; they alone are asked from then on.
        """
        self.wake()
        with ThreadPoolExecutor(1) as aside:
            self._servers, told = aside.submit(lambda: asyncio.run(there_and_alike(self.servers))).result()
        made = {"server": told.mark} if told.mark else {}
        return made if told.profile == self._named else {**made, "profile": told.profile}

    async def tell(self) -> Told:
        """Wait for the server, and return what it tells; RunError if it is not there."""
        async with self._connected() as sdk:
            await self._wait(sdk)
            return await self._tells(sdk)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[openai.AsyncOpenAI]:
        most = self.retry_policy.max_concurrency
        client = _BoundedClient(
            # The harness ends what takes too long; here only an unreachable server is noticed sooner.
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            follow_redirects=False, verify=self._certificates or True, trust_env=not self.on_this_machine,
        )  # fmt: skip
        async with _Sdk(base_url=self._address.base, api_key="none", max_retries=0, http_client=client) as sdk:
            yield sdk

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Complete]:
        """Open connections to the server, as many as may be under way, and keep them."""
        self.wake()
        async with self._connected() as sdk:
            mark = (self._said or await self._tells(sdk)).mark

            async def complete(request: ChatRequest) -> Reply:
                reply = await self._complete(sdk, request)
                # Servers that mark no answer may have told at first what they are.
                return replace(reply, usage=replace(reply.usage, fingerprint=reply.usage.fingerprint or mark))

            yield complete

    async def _complete(self, sdk: openai.AsyncOpenAI, request: ChatRequest) -> Reply:
        body = request.body | (_STREAMED if self._streams else {})
        asking = sdk.post(
            entry.ENDPOINT, cast_to=httpx2.Response, content=json.dumps(body).encode(), options=self._headers
        )
        response = await self._answer(asking)
        if not response.is_success and body.get(entry.STREAM) is False and entry.STREAM not in self._options.extra_body:
            # The same answer comes as a stream from servers that give none otherwise.
            self._streams = self._streams or says("streams only", failures.words_of(response, self._reading))
            if self._streams:
                return await self._complete(sdk, request)
        return self._understood(response, request)

    def _understood(self, response: httpx2.Response, request: ChatRequest) -> Reply:
        document, within = None, None
        if response.is_success:
            page = page_in(response)
            if page:
                raise failures.page_instead(page, self.host, self._reading)
            if reading.is_stream(response.content, response.headers.get("content-type", "")):
                document = reading.assembled(response.content)
            else:
                document = reading.parse_json(response.content, self._reading)
            within = failures.status_within(document)
            if within is None:
                return reading.read_reply(document, request, self._reading)
        may_be_filter = within is not None or response.status_code in _FILTERS
        if may_be_filter and says("filtered", failures.words_of(response, self._reading, document)):
            return reading.withheld_reply(request)
        raise failures.failure_of(response, self.host, self._reading, request, document=document, within=within)

    async def _wait(self, sdk: openai.AsyncOpenAI) -> None:
        """Wait a little for a server that is not there yet, or still loads its model; RunError if it stays away."""
        missing = ""
        for seconds in (*_WAITS, 0.0):
            try:
                if (await self._get(sdk, "/models")).status_code != _LOADING:
                    return
                missing = f"{self.host} is not ready (HTTP {_LOADING})"
            except RetryableError as error:
                if error.reason != "unreachable":
                    return
                missing = str(error).rstrip(".")
            except (SampleError, TimeoutError):
                return
            await asyncio.sleep(seconds)
        raise RunError(f"{missing}.", f"Is the server running, and is its address right? {KEPT}")

    async def _tells(self, sdk: openai.AsyncOpenAI) -> Told:
        """Return what the server tells of the model and of itself, and keep it.

        It is part of a run's identity, since a server may be given other weights under the same name, or be updated,
        and is written down with every answer too, so that answers tell which server gave them.
        """
        entries = (await self._told(sdk, "/models")).get("data")
        named = {one.get("id"): one for one in map(mapping, entries if isinstance(entries, list) else ())}
        told = named.get(self._address.model, {})
        if self._options.profile == "auto" and self._named == "compatible":
            self._profile = entry.PROFILES.get(str(told.get("owned_by")), self._profile)
        found = [(name, told.get(name)) for name in self.telling]
        found += sorted(mapping(told.get("meta")).items())[:_MOST_META]
        parts = [f"{name}={value}" for name, value in found if value and isinstance(value, str | int)]
        if told.get("owned_by") == "vllm":
            said = (await self._told(sdk, "/version", self._address.base.removesuffix("/v1"))).get("version")
            parts += [f"vllm={said}"] if isinstance(said, str) else []
        self._said = Told(
            mark=self._reading.name(" ".join(" ".join(parts).split())), profile=self._profile.name,
            lists=self._reading.name(self._address.model if told else ", ".join(sorted(str(one) for one in named))),
        )  # fmt: skip
        return self._said

    async def _told(self, sdk: openai.AsyncOpenAI, path: str, base: str = "") -> Mapping[str, Any]:
        with suppress(MedbenchError, RetryableError, TimeoutError):
            answer = await self._get(sdk, path, base)
            return mapping(entry.json_or_none(answer.content)) if answer.is_success else {}
        return {}

    async def _get(self, sdk: openai.AsyncOpenAI, path: str, base: str = "") -> httpx2.Response:
        """Return what stands at a path of the server, whatever its status; errors as for `post`, or a TimeoutError."""
        url = (base or self._address.base) + path
        async with asyncio.timeout(_TELLING_SECONDS):
            return await self._answer(sdk.get(url, cast_to=httpx2.Response, options=self._headers))

    async def _answer(self, asking: Awaitable[httpx2.Response]) -> httpx2.Response:
        try:
            return await asking
        except openai.APIStatusError as error:
            return error.response
        except openai.APIConnectionError as error:
            raise self._failure(error.__cause__ or error) from error

    def _failure(self, error: BaseException) -> MedbenchError | RetryableError:
        found = _certificate_problem(error)
        if found is not None:
            return RunError(f"{self.host} cannot be asked: {found[0]}.", f"{found[1]} {KEPT}")
        # The server's words may be in the error's text, and the key in the server's words.
        said = masked(entry.without_key(self._key, " ".join(str(error).split()))) or type(error).__name__
        if isinstance(error, _UNREACHABLE):
            return RetryableError("unreachable", f"{self.host} cannot be reached: {said}")
        if isinstance(error, httpx2.TimeoutException):
            return RetryableError("timeout", f"{self.host} did not answer in time.")
        maybe = "" if self._address.encrypted else ". If it always does, the server may want https://"
        return RetryableError("cut off", f"The connection to {self.host} broke: {said}{maybe}")


class _Sdk(openai.AsyncOpenAI):
    """Sends what every server understands, and nothing of this machine or of the environment's variables."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "medbench"}


async def _notice_its_end(event: str, told: Mapping[str, Any]) -> None:
    """Have the system ask whether the other machine is still there, where it is silent on a new connection.

    One that lost its power says nothing of it, and a long answer may be waited for for an hour.
    """
    if event == "connection.connect_tcp.complete":
        connection: socket.socket = told["return_value"].get_extra_info("socket")
        for level, name, value in _KEEP_ALIVE:
            if hasattr(socket, name):
                connection.setsockopt(level, getattr(socket, name), value)


class _BoundedClient(httpx2.AsyncClient):
    """Reads every answer to its end, failures too, but no more than any answer of a benchmark has."""

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        request.extensions = {**request.extensions, "trace": _notice_its_end}
        response = await super().send(request, **{**how, "stream": True})
        received = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > _MOST_BYTES:
                    raise SampleError(
                        f"The server's answer is longer than {_MOST_BYTES // 2**20} MiB.", kind="malformed"
                    )
        finally:
            await response.aclose()
        gone = {"content-encoding", "content-length", "transfer-encoding"}
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(received), request=request)


def load_served(options: LoadOptions) -> ServedModel:
    """Return the model `MODEL@BASE-URL` of a server, and of others that serve the same; nothing is sent yet."""
    first = entry.read_address(options.variant)
    chosen = entry.read_options(options.arguments, first)
    addresses = entry.read_addresses(first, chosen.servers)
    served = [ServedModel(one, chosen, key=entry.read_key(chosen.key_env, one), seed=options.seed) for one in addresses]
    served[0].join(served[1:])
    return served[0]


# Whose certificates are trusted: the machine's, or those of a file that the user names. They are always checked.

# OpenSSL's own names, then those of widely used clients.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_MOST_CAUSES = 20


def trusted(ca_file: str) -> ssl.SSLContext | None:
    """Return whom to trust: the authorities in `ca_file`, or all that the environment names; None for the machine's."""
    told = {f"The environment variable {name}": os.environ.get(name, "") for name in _VARIABLES}
    named = {"--model-arg ca_file": ca_file} if ca_file else {who: path for who, path in told.items() if path}
    if not named:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for who, path in named.items():
        # Variables of folders may name several.
        places = [part for part in path.split(os.pathsep) if Path(part).is_dir()] or [path]
        try:
            for place in places:
                is_file = not Path(place).is_dir()
                context.load_verify_locations(cafile=place if is_file else None, capath=None if is_file else place)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{who} names {path!r}, which holds no certificates that can be read: {error}.",
                "Name a file in PEM format (-----BEGIN CERTIFICATE-----) with the certificate of the authority that "
                "signed the server's, or with the server's own.",
            ) from error
    # A server's own certificate, named as such, is trusted though its authority is not known; forms that an authority
    # of one's own often lacks are not asked for. Its name, its dates and its signature are checked all the same.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


def _certificate_problem(error: BaseException) -> tuple[str, str] | None:
    """Return what is wrong with a server's certificate and what to do, if an error in the chain of causes says so."""
    found: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if found is not None and not isinstance(found, ssl.SSLError):
            found = found.__cause__ or found.__context__
    if not isinstance(found, ssl.SSLError):
        return None
    said = getattr(found, "verify_message", "") or found.reason or found
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted: {said}", CERTIFICATE_HINT
    if found.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return f"it does not speak https: {said}", "Write http:// in the base URL, or another port."
    return None
