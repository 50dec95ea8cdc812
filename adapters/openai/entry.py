"""The catalogue's entry of served models: address, key and `--model-arg`; imports neither torch nor an HTTP library."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from medbench.adapters.base import AdapterEntry, Argument, LoadOptions, ModelCard, answer_with_box
from medbench.adapters.remote import RemoteAdapter, RetryPolicy, Usage
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.errors import UsageError

ENDPOINT = "/chat/completions"
STREAM = "stream"
"""May be added, though the adapter sends it: some servers only stream, others know no such field (null: left out)."""
SPACES: Mapping[str, BoxSpace] = {
    name: BOX_SPACES[name]
    for name in ("permille", "permille-yxyx", "fraction", "percent", "pixels", "pixels-xywh", "pixels-28")
}
BOXES = SPACES["permille"]
_EXAMPLE = "Write --model openai:MODEL@BASE-URL, for example openai:my-model@http://127.0.0.1:8000/v1."
_OWN_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n"}
)
_SECRET_FIELD = re.compile(r"api[-_]?key|authorization|secret|password|access[-_]?token|bearer", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# A shorter word is no secret, and may well be a word of an answer: servers without keys are given `EMPTY` or `x`.
_SHORTEST_SECRET = 8
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A model of a server.

    Attributes:
        model: The model's name, as the server knows it.
        base: Base URL without a slash at its end, e.g. `http://127.0.0.1:8000/v1`.
        host: Name of the server, in small letters, without the port.
        server: Name and port.
    """

    model: str
    base: str
    host: str
    server: str

    @property
    def url(self) -> str:
        """Where questions go."""
        return self.base + ENDPOINT

    @property
    def encrypted(self) -> bool:
        """Whether it is spoken to by https."""
        return self.base.startswith("https:")

    @property
    def on_this_machine(self) -> bool:
        """Whether it is a loopback address."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_address(variant: str) -> Address:
    """Return the address in `MODEL@BASE-URL`; a base URL without a path means its `/v1`.

    Raises:
        UsageError: If it is none, or carries credentials, a query or a fragment; what may be secret is not repeated.
    """
    model, mark, rest = variant.partition("@http")
    if not mark or not model:
        raise UsageError("The model 'openai' needs a model's name and a server's base URL.", _EXAMPLE)
    url = _split(f"http{rest}")
    path = url.path.rstrip("/") or "/v1"
    if path.endswith(ENDPOINT):
        raise UsageError(f"The base URL ends with {ENDPOINT}, which is added to it.", f"Leave {ENDPOINT} out.")
    host = url.hostname or ""
    server = f"[{host}]" if ":" in host else host
    server += "" if url.port is None else f":{url.port}"
    return Address(model=model, base=f"{url.scheme}://{server}{path}", host=host, server=server)


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        # A name that cannot be looked up (an empty part, one of 64 letters) is a UnicodeError, which is a ValueError.
        usable = bool((url.hostname or "").encode("idna")) and url.port != 0
    except ValueError:
        usable = False
    if not usable or url.scheme not in {"http", "https"} or not text.isprintable() or " " in text:
        raise UsageError("The base URL of the model 'openai' is no http or https URL.", _EXAMPLE)
    if "@" in url.netloc:
        raise UsageError(
            "The base URL carries credentials, which would be written into the run's files.",
            "Leave them out; name the environment variable that holds the key: --model-arg key_env=NAME",
        )
    if url.query or url.fragment:
        raise UsageError("The base URL has a query or a fragment.", f"Leave out what follows `?` or `#`. {_EXAMPLE}")
    return url


class Key:
    """A server's key; shows itself to nobody. An empty one is none.

    Raises:
        UsageError: If it cannot stand in a header; it is not repeated.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value.isascii() or not value.isprintable() or " " in value:
            raise UsageError(
                "The key in the environment variable has characters that no key has (spaces, control characters...).",
                "Set it again, without quotes and line ends.",
            )
        self._value = value

    def __repr__(self) -> str:
        return "Key(...)" if self._value else "Key()"

    def __bool__(self) -> bool:
        return bool(self._value)

    def headers(self) -> dict[str, str]:
        """Return what a request carries for it."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hidden_in(self, text: str) -> str:
        """Return `text` without the key: a server may echo it."""
        return text.replace(self._value, "[key]") if len(self._value) >= _SHORTEST_SECRET else text


def read_key(name: str, address: Address) -> Key:
    """Return the key in the environment variable `name`; a server on this machine needs none.

    Raises:
        UsageError: If `name` is no name of a variable (it may be the key itself, and is not repeated), or the variable
            is not set and the server is another machine.
    """
    if not _VARIABLE.fullmatch(name):
        raise UsageError(
            "key_env is not the name of an environment variable in capitals.",
            "Give the variable's name, never the key itself: --model-arg key_env=MY_SERVER_KEY",
        )
    value = os.environ.get(name, "").strip()
    if not value and not address.on_this_machine:
        raise UsageError(
            f"The environment variable {name} is not set, and {address.host} needs a key.",
            "Set it to the server's key (any word if the server asks for none), "
            "or name another one: --model-arg key_env=NAME",
        )
    return Key(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one kind of server understands beyond the common part of the protocol.

    Attributes:
        name: Name on the command line.
        length_field: The field that limits the answer's tokens.
        takes_stop: Whether stop strings may be sent; elsewhere the answer is cut when it is there.
        only: Names that `extra_body` may have; empty for any.
        never: Names that `extra_body` must not have.
    """

    name: str
    length_field: str = "max_tokens"
    takes_stop: bool = True
    only: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()


_OPEN_SERVERS_ALONE = frozenset(
    {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "chat_template_kwargs", "mm_processor_kwargs"}
)
PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        # The newer models refuse `max_tokens`; the older ones take both.
        Profile(name="openai", length_field="max_completion_tokens", never=_OPEN_SERVERS_ALONE),
        Profile(name="vllm"),
        Profile(name="sglang"),
        # `transformers serve` 5.23: `stop` is a 500 for models that see, other unknown fields are a 422.
        Profile(
            name="transformers",
            takes_stop=False,
            only=frozenset({"generation_config", "chat_template_kwargs", "frequency_penalty"}),
        ),
    )
}


def profile_of(name: str, address: Address) -> Profile:
    """Return a profile by name; `auto` is `openai` for OpenAI's and Azure's hosts and `vllm` for every other server.

    The server is not asked what it is: the same command must mean the same run whether it answers or not.
    """
    if name != "auto":
        return PROFILES[name]
    is_openai = any(f".{address.host}".endswith(host) for host in (".openai.com", ".openai.azure.com"))
    return PROFILES["openai" if is_openai else "vllm"]


_POLICY = RetryPolicy()
_no_answer = partial(Argument, changes_answers=False)
ARGUMENTS: Mapping[str, Argument] = {
    "profile": Argument(
        help="What the server understands; auto: `openai` for OpenAI's and Azure's hosts, `vllm` for all others.",
        default="auto",
        choices=("auto", *PROFILES),
    ),
    "key_env": _no_answer(help="Environment variable that holds the key.", default="OPENAI_API_KEY"),
    "boxes": Argument(
        help="How boxes are asked for and read; the model is told.", default=BOXES.name, choices=tuple(SPACES)
    ),
    "system": Argument(help="System prompt; none by default."),
    "temperature": Argument(help="Of sampling; `unset` sends none, for models that refuse it.", default="0"),
    "top_p": Argument(help="Sample within this probability; not sent by default."),
    "send_seed": Argument(help="Whether the run's seed is sent.", default="yes", choices=("yes", "no")),
    "max_tokens": Argument(
        help="Longest answer to any task, thoughts included; --max-new-tokens says the same of every model. The task's "
        "own limit by default."
    ),
    "stop": Argument(help="Text that ends an answer, or a JSON list of such texts."),
    "max_pixels": Argument(help="Larger pictures are scaled down to so many pixels; sent as they are by default."),
    "extra_body": Argument(help="JSON object of further fields of every request."),
    "ca_file": _no_answer(
        help="File or folder of the certificates to trust, for servers with one of their own; by default those of the "
        "machine, or of SSL_CERT_FILE. They are always checked.",
    ),
    "credentialed": _no_answer(
        help="Whether data under a signed agreement may be sent to another machine.",
        default="refuse",
        choices=("refuse", "send"),
    ),
    "price_in": _no_answer(help="Price of a million tokens of prompts."),
    "price_cached": _no_answer(
        help="Price of a million tokens of prompts that the server remembered; price_in if unset."
    ),
    "price_out": _no_answer(help="Price of a million tokens of answers."),
    "concurrency": _no_answer(help="Requests under way at first.", default=str(_POLICY.concurrency)),
    "max_concurrency": _no_answer(help="Most requests under way, ever.", default=str(_POLICY.max_concurrency)),
    "attempts": _no_answer(help="Most requests for one sample.", default=str(_POLICY.attempts)),
    "timeout": _no_answer(help="Most seconds for one request.", default=f"{_POLICY.timeout:g}"),
    "deadline": _no_answer(help="Most seconds for one sample, waiting included.", default=f"{_POLICY.deadline:g}"),
    "backoff": _no_answer(help="Seconds before a sample's second request.", default=f"{_POLICY.backoff:g}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a million tokens read, read again and written, in any currency."""

    read: float
    cached: float
    written: float

    def of(self, usage: Usage) -> float:
        """Return what a reply cost."""
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        millions = fresh * self.read + usage.cached_tokens * self.cached + usage.output_tokens * self.written
        return millions / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose, by the names of `ARGUMENTS`; None is not sent, or sets no limit."""

    boxes: str = BOXES.name
    system: str = ""
    temperature: float | None = 0.0
    top_p: float | None = None
    send_seed: bool = True
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    max_pixels: int | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    ca_file: str = ""
    may_send_credentialed: bool = False
    prices: Prices | None = None
    retry_policy: RetryPolicy = _POLICY

    def changing_answers(self) -> dict[str, Any]:
        """Return what can change an answer, as plain values; the profile, which is none of the options, left out."""
        names = (name for name, argument in ARGUMENTS.items() if argument.changes_answers and name != "profile")
        return {name: getattr(self, name) for name in names}


def with_defaults(arguments: Mapping[str, str]) -> dict[str, str]:
    """Return all arguments, those that were not given at their defaults."""
    return {name: arguments.get(name, argument.default) for name, argument in ARGUMENTS.items()}


def read_options(given: Mapping[str, str], profile: Profile) -> Options:
    """Return the choices in the values of `--model-arg`.

    Raises:
        UsageError: If a value is not allowed.
    """
    values = with_defaults(given)
    for name, argument in ARGUMENTS.items():
        if argument.choices and values[name] not in argument.choices:
            raise _not_allowed(name, values[name], f"Allowed: {', '.join(argument.choices)}.")
    if SPACES[values["boxes"]].units is None and values["max_pixels"]:
        raise UsageError(
            "Boxes in pixels mean those of the original picture, but max_pixels sends a smaller one.",
            "Choose boxes that do not depend on the size, e.g. --model-arg boxes=permille.",
        )
    return Options(
        boxes=values["boxes"],
        system=values["system"],
        temperature=None if values["temperature"] == "unset" else _number(values, "temperature", 0, 100),
        top_p=_number(values, "top_p", 0, 1) if values["top_p"] else None,
        send_seed=values["send_seed"] == "yes",
        max_tokens=_whole(values, "max_tokens") if values["max_tokens"] else None,
        stop=_texts(values["stop"]),
        max_pixels=_whole(values, "max_pixels") if values["max_pixels"] else None,
        extra_body=_extra_body(values["extra_body"], profile),
        ca_file=values["ca_file"],
        may_send_credentialed=values["credentialed"] == "send",
        prices=_prices(values),
        retry_policy=_retry_policy(values),
    )


def _number(values: Mapping[str, str], name: str, low: float, high: float = math.inf) -> float:
    try:
        number = float(values[name])
    except ValueError:
        number = math.nan
    if not (low <= number <= high and math.isfinite(number)):
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise _not_allowed(name, values[name], f"Give a number {limits}.")
    return number


def _whole(values: Mapping[str, str], name: str) -> int:
    text = values[name]
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) >= 1):
        raise _not_allowed(name, text, "Give a whole number of at least 1.")
    return int(text)


def _not_allowed(name: str, value: str, hint: str) -> UsageError:
    return UsageError(f"--model-arg {name} does not take {value!r}.", hint)


def _prices(values: Mapping[str, str]) -> Prices | None:
    names = ("price_in", "price_cached", "price_out")
    read, cached, written = (_number(values, name, 0) if values[name] else None for name in names)
    if read is None and written is None:
        return None
    return Prices(read=read or 0.0, cached=(read or 0.0) if cached is None else cached, written=written or 0.0)


def _retry_policy(values: Mapping[str, str]) -> RetryPolicy:
    ceiling = _whole(values, "max_concurrency")
    return RetryPolicy(
        concurrency=min(_whole(values, "concurrency"), ceiling),
        max_concurrency=ceiling,
        attempts=_whole(values, "attempts"),
        deadline=_number(values, "deadline", 0.001),
        timeout=_number(values, "timeout", 0.001),
        backoff=_number(values, "backoff", 0),
    )


def _json_of(text: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _texts(text: str) -> tuple[str, ...]:
    """Return a JSON list of texts, or the one text that is meant as it stands."""
    found = _json_of(text)
    if isinstance(found, list):
        if not all(isinstance(item, str) and item for item in found):
            raise _not_allowed("stop", text, """Give one text, or a JSON list of texts: '["###", "\\n"]'.""")
        return tuple(found)
    return (text,) if text else ()


def _extra_body(text: str, profile: Profile) -> dict[str, Any]:
    fields = _json_of(text or "{}")
    if not isinstance(fields, dict):
        raise _not_allowed("extra_body", text, """Give a JSON object, for example '{"top_k": 1}'.""")
    if any(_SECRET_FIELD.search(name) for name in fields):
        raise UsageError(
            "extra_body seems to hold a key or a password, and it would be written into the run's files.",
            "Name the environment variable that holds the key: --model-arg key_env=NAME",
        )
    own = sorted(_OWN_FIELDS & fields.keys())
    if own:
        raise UsageError(
            f"extra_body has {', '.join(own)}, which the adapter sends itself.",
            f"Use the options for that: {', '.join(sorted(ARGUMENTS))}.",
        )
    if not isinstance(fields.get(STREAM), bool | None):
        raise _not_allowed("extra_body", text, "`stream` is true, false, or null to leave it out.")
    added = fields.keys() - {STREAM, "stream_options"}
    unknown = sorted((profile.never & added) | (added - profile.only if profile.only else set()))
    if unknown:
        allowed = f" Allowed: {', '.join(sorted(profile.only))}." if profile.only else ""
        raise UsageError(
            f"A server of the profile {profile.name!r} does not take {', '.join(unknown)}.",
            f"Leave them out of extra_body, or choose another --model-arg profile.{allowed}",
        )
    return fields


CARD = ModelCard(
    name="openai",
    title="Served model",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="a server's own; nothing is loaded here",
    licence="of the served model",
)


def load(options: LoadOptions) -> RemoteAdapter:
    """Return the model `MODEL@BASE-URL` of a server; nothing is sent yet.

    Raises:
        UsageError: If the address, an argument or the key is not usable.
    """
    from medbench.adapters.openai.client import ServedModel

    address = read_address(options.variant)
    arguments = with_defaults(options.arguments)
    name = arguments["profile"]
    if name not in ARGUMENTS["profile"].choices:
        raise UsageError(f"There is no profile {name!r}.", f"Allowed: {', '.join(ARGUMENTS['profile'].choices)}.")
    profile = profile_of(name, address)
    chosen = read_options(arguments, profile)
    key = read_key(arguments["key_env"], address)
    return ServedModel(address, profile, chosen, key=key, seed=options.seed)


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=partial(answer_with_box, BOXES),
    boxes=BOXES,
    spaces=SPACES,
    variants={"*": "MODEL@BASE-URL, e.g. my-model@http://127.0.0.1:8000/v1"},
    arguments=ARGUMENTS,
)
