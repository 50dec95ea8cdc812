"""The way to a server: the `openai` SDK without its retries and its reading, and what the server tells of itself.

When a question is sent, and sent again, is the harness's to decide; what an answer means is read from its JSON, since
servers say more, and say it otherwise, than the SDK's records hold.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
from pydantic import SecretStr

from medbench.adapters.openai.entry import ENDPOINT, Address, json_or_none, without_key
from medbench.adapters.openai.failures import KEPT
from medbench.adapters.openai.reading import Reading, mapping
from medbench.adapters.remote import RetryableError
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError, UsageError

# No answer of a benchmark comes near it; a server that never stops must not fill the memory.
_MOST_BYTES = 16 * 2**20
_CONNECT_SECONDS = 10.0
_TELLING_SECONDS = 5.0
# Seconds between the questions whether a server is there.
_WAITS = (1.0, 2.0, 4.0)
_LOADING = 503
_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)


class Connection:
    """Connections to one server, as many as may be under way."""

    def __init__(self, sdk: openai.AsyncOpenAI, address: Address, key: SecretStr) -> None:
        self._sdk = sdk
        self._address = address
        self._key = key
        # The SDK takes no empty key.
        self._options: Any = {
            "headers": {"Authorization": f"Bearer {key.get_secret_value()}" if key else openai.Omit()}
        }

    async def post(self, content: bytes) -> httpx2.Response:
        """Return a server's answer to a question, whatever its status; RetryableError or RunError if there is none."""
        asking = self._sdk.post(ENDPOINT, cast_to=httpx2.Response, content=content, options=self._options)
        return await self._answer(asking)

    async def wait(self) -> None:
        """Wait a little for a server that is not there yet, or still loads its model; RunError if it stays away."""
        missing = ""
        for seconds in (*_WAITS, 0.0):
            try:
                if (await self._get("/models")).status_code != _LOADING:
                    return
                missing = f"{self._address.server} is not ready (HTTP {_LOADING})"
            except RetryableError as error:
                if error.trouble != "unreachable":
                    return
                missing = str(error).rstrip(".")
            except (SampleError, TimeoutError):
                return
            await asyncio.sleep(seconds)
        raise RunError(f"{missing}.", f"Is the server running, and is its address right? {KEPT}")

    async def mark(self, reading: Reading) -> str:
        """Return what the server tells of the model and of itself, as one short text; empty where it tells nothing.

        It is part of a run's identity, since a server may be given other weights under the same name, or be updated,
        and is written down with every answer too, so that answers tell which server gave them.
        """
        entries = (await self._told("/models")).get("data")
        named = map(mapping, entries if isinstance(entries, list) else ())
        entry = next((one for one in named if one.get("id") == self._address.model), {})
        found = [(name, entry.get(name)) for name in _TELLING] + sorted(mapping(entry.get("meta")).items())[:_MOST_META]
        parts = [f"{name}={value}" for name, value in found if value and isinstance(value, str | int)]
        if entry.get("owned_by") == "vllm":
            said = (await self._told("/version", self._address.base.removesuffix("/v1"))).get("version")
            parts += [f"vllm={said}"] if isinstance(said, str) else []
        return reading.name(" ".join(" ".join(parts).split()))

    async def _told(self, path: str, base: str = "") -> Mapping[str, Any]:
        with suppress(MedbenchError, RetryableError, TimeoutError):
            answer = await self._get(path, base)
            return mapping(json_or_none(answer.content)) if answer.is_success else {}
        return {}

    async def _get(self, path: str, base: str = "") -> httpx2.Response:
        """Return what stands at a path of the server, whatever its status; errors as for `post`, or a TimeoutError."""
        url = (base or self._address.base) + path
        async with asyncio.timeout(_TELLING_SECONDS):
            return await self._answer(self._sdk.get(url, cast_to=httpx2.Response, options=self._options))

    async def _answer(self, asking: Awaitable[httpx2.Response]) -> httpx2.Response:
        try:
            return await asking
        except openai.APIStatusError as error:
            return error.response
        except openai.APIConnectionError as error:
            raise self._trouble(error.__cause__ or error) from error

    def _trouble(self, error: BaseException) -> MedbenchError | RetryableError:
        found = _certificate_problem(error)
        if found is not None:
            return RunError(f"{self._address.server} cannot be asked: {found[0]}.", f"{found[1]} {KEPT}")
        # The server's words may be in the error's text, and the key in the server's words.
        said = without_key(self._key, " ".join(str(error).split())) or type(error).__name__
        if isinstance(error, _UNREACHABLE):
            return RetryableError("unreachable", f"{self._address.server} cannot be reached: {said}")
        if isinstance(error, httpx2.TimeoutException):
            return RetryableError("timeout", f"{self._address.server} did not answer in time.")
        maybe = "" if self._address.encrypted else ". If it always does, the server may want https://"
        return RetryableError("cut off", f"The connection to {self._address.server} broke: {said}{maybe}")


@asynccontextmanager
async def connected(
    address: Address, key: SecretStr, certificates: ssl.SSLContext | None, most: int
) -> AsyncIterator[Connection]:
    """Open connections to a server, at most so many, and keep them."""
    client = _BoundedClient(
        # The harness ends what takes too long; here only an unreachable server is noticed sooner.
        timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        follow_redirects=False,
        verify=certificates or True,
        trust_env=not address.on_this_machine,
    )
    async with _Sdk(base_url=address.base, api_key="none", max_retries=0, http_client=client) as sdk:
        yield Connection(sdk, address, key)


class _Sdk(openai.AsyncOpenAI):
    """Sends what every server understands, and nothing of this machine or of the environment's variables."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept": "application/json", "Content-Type": "application/json", "User-Agent": "medbench"}


class _BoundedClient(httpx2.AsyncClient):
    """Reads every answer to its end, failures too, but no more than any answer of a benchmark has."""

    async def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
        response = await super().send(request, **{**how, "stream": True})
        received = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                received += chunk
                if len(received) > _MOST_BYTES:
                    raise SampleError(f"The server's answer is longer than {_MOST_BYTES // 2**20} MiB.")
        finally:
            await response.aclose()
        gone = {"content-encoding", "content-length", "transfer-encoding"}
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in gone]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(received), request=request)


def refuse_unusable(address: Address) -> None:
    """Raise UsageError if no request can be sent to an address."""
    try:
        httpx2.URL(address.url)
    except httpx2.InvalidURL as error:
        raise UsageError(f"The base URL {address.base!r} is none: {error}.", "Check the server's name.") from error


# What a server tells of a model at `/models`

# When it was made and who may use it change without the model.
_TELLING = (
    "root", "parent", "version", "revision", "sha", "hash", "digest", "quantization", "dtype", "max_model_len",
    "context_length",
)  # fmt: skip
_MOST_META = 12

# Whose certificates are trusted: the machine's, or those of a file that the user names. They are always checked.

# OpenSSL's own names, then those of widely used clients.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_MOST_CAUSES = 20
_OF_ONES_OWN = (
    "If the server has a certificate of its own, or one of your organisation: --model-arg ca_file=PATH names the file "
    "of it, or of the authority that signed it (the environment variable SSL_CERT_FILE does too). The name in the base "
    "URL must be one that the certificate has."
)


def trusted(ca_file: str) -> ssl.SSLContext | None:
    """Return whom to trust: the authorities in `ca_file`, or all that the environment names; None for the machine's."""
    told = {f"The environment variable {name}": os.environ.get(name, "") for name in _VARIABLES}
    named = {"--model-arg ca_file": ca_file} if ca_file else {who: path for who, path in told.items() if path}
    if not named:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for who, path in named.items():
        _trust(context, who, path)
    # A server's own certificate, named as such, is trusted though its authority is not known; forms that an authority
    # of one's own often lacks are not asked for. Its name, its dates and its signature are checked all the same.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


def _trust(context: ssl.SSLContext, who: str, path: str) -> None:
    # Variables of folders may name several.
    folders = [part for part in path.split(os.pathsep) if Path(part).is_dir()]
    try:
        for folder in folders:
            context.load_verify_locations(capath=folder)
        if not folders:
            context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{who} names {path!r}, which holds no certificates that can be read: {error}.",
            "Name a file in PEM format (-----BEGIN CERTIFICATE-----) with the certificate of the authority that signed "
            "the server's, or with the server's own.",
        ) from error


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
        return f"its certificate cannot be trusted: {said}", _OF_ONES_OWN
    if found.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return f"it does not speak https: {said}", "Write http:// in the base URL, or another port."
    return None
