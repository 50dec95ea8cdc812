"""The catalogue's entry of served models: address, key and `--model-arg`; imports neither torch nor an HTTP library."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError

from medbench.adapters.base import AdapterEntry, Argument, answer_with_box
from medbench.adapters.described import described
from medbench.adapters.remote import RetryPolicy, Usage
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.confidential import SECRET_NAME
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import json_value
from medbench.tasks.foundation.registry import imported_when_called

ENDPOINT = "/chat/completions"
STREAM = "stream"
"""May be added, though the adapter sends it: some servers only stream, others know no such field (null: left out)."""
_EXAMPLE = "Write --model openai:MODEL@BASE-URL, for example openai:my-model@http://127.0.0.1:8000/v1."
_OWN_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n"}
)
_SECRET_FIELD = re.compile(r"api[-_]?key|authorization|secret|password|access[-_]?token|bearer", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# A shorter word is no secret, and may well be a word of an answer: servers without keys are given `EMPTY` or `x`.
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A model of a server, whose `base` URL has no slash at its end; `server` is `host` and port."""

    model: str
    base: str
    host: str
    server: str

    @property
    def encrypted(self) -> bool:
        """Whether it is spoken to by https."""
        return self.base.startswith("https:")

    @property
    def on_this_machine(self) -> bool:
        """Whether it is a loopback address."""
        with suppress(ValueError):
            return ip_address(self.host).is_loopback
        return f".{self.host}".endswith(".localhost")


def read_address(variant: str) -> Address:
    """Return the address in `MODEL@BASE-URL`; a base URL without a path means its `/v1`.

    UsageError if it is none, or carries credentials, a query or a fragment; what may be secret is not repeated.
    """
    model, mark, rest = variant.partition("@http")
    if not mark or not model:
        raise UsageError("The model 'openai' needs a model's name and a server's base URL.", _EXAMPLE)
    text = f"http{rest}"
    if ",http" in text:
        first, _, more = text.partition(",")
        raise UsageError(
            "The model 'openai' takes one base URL, which names the run.",
            f"Give the other servers apart, they may change: --model openai:{model}@{first} --model-arg servers={more}",
        )
    try:
        url = urlsplit(text)
        # A name that cannot be looked up (an empty part, one of 64 letters) is a UnicodeError, which is a ValueError.
        usable = bool((url.hostname or "").encode("idna")) and url.port != 0
    except ValueError:
        usable = False
    if not usable or url.scheme not in {"http", "https"} or not text.isprintable() or " " in text:
        raise UsageError("The base URL of the model 'openai' is no http or https URL.", _EXAMPLE)
    if "@" in url.netloc:
        hint = "Leave them out; name the environment variable that holds the key: --model-arg key_env=NAME"
        raise UsageError("The base URL carries credentials, which would be written into the run's files.", hint)
    if url.query or url.fragment:
        raise UsageError("The base URL has a query or a fragment.", f"Leave out what follows `?` or `#`. {_EXAMPLE}")
    path, host = url.path.rstrip("/") or "/v1", url.hostname or ""
    if path.endswith(ENDPOINT):
        raise UsageError(f"The base URL ends with {ENDPOINT}, which is added to it.", f"Leave {ENDPOINT} out.")
    server = (f"[{host}]" if ":" in host else host) + ("" if url.port is None else f":{url.port}")
    return Address(model=model, base=f"{url.scheme}://{server}{path}", host=host, server=server)


def read_addresses(first: Address, more: Sequence[str]) -> tuple[Address, ...]:
    """Return a model's addresses: the first and those of other servers; UsageError if one is none, or given twice."""
    found = (first, *(read_address(f"{first.model}@{base.strip()}") for base in more))
    bases = [address.base for address in found]
    twice = next((base for base in bases if bases.count(base) > 1), "")
    if twice:
        raise UsageError(f"The server {twice} is named twice.", "Leave it out of --model-arg servers=...")
    return found


def read_key(name: str, address: Address) -> SecretStr:
    """Return the key in the environment variable `name`; it is empty where a server on this machine needs none.

    UsageError if `name` is no name of a variable (it may be the key itself, and is not repeated), or the variable is
    not set and the server is another machine, or holds what cannot stand in a header.
    """
    if not _VARIABLE.fullmatch(name):
        problem = "key_env is not the name of an environment variable in capitals."
        raise UsageError(problem, "Give the variable's name, never the key itself: --model-arg key_env=MY_SERVER_KEY")
    value = os.environ.get(name, "").strip()
    if not value and not address.on_this_machine:
        raise UsageError(
            f"The environment variable {name} is not set, and {address.host} needs a key.",
            "Set it to the server's key (any word if the server asks for none), "
            "or name another one: --model-arg key_env=NAME",
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        problem = "The key in the environment variable has characters that no key has (spaces, control characters...)."
        raise UsageError(problem, "Set it again, without quotes and line ends.")
    return SecretStr(value)


def without_key(key: SecretStr, text: str) -> str:
    """Return `text` without the key: a server may echo it."""
    value = key.get_secret_value()
    return text.replace(value, "[key]") if len(value) >= _SHORTEST_SECRET else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one kind of server understands beyond the common part of the protocol."""

    name: str
    length_field: str = "max_tokens"  # The field that limits the answer's tokens.
    takes_stop: bool = True  # Whether stop strings may be sent; elsewhere the answer is cut when it is there.
    only: frozenset[str] = frozenset()  # Names that `extra_body` may have; empty for any.
    never: frozenset[str] = frozenset()  # Names that `extra_body` must not have.
    uncached: str = ""  # What to do where it has no token of a prompt in its cache.
    # What leaves no choice of tokens to a file beside the served weights; `extra_body` goes before it.
    neutral: Mapping[str, int] = field(default_factory=dict)


CARD, _, _TOLD = described(__file__)
PROFILES = TypeAdapter(dict[str, Profile]).validate_python(
    {name: {"name": name, **told} for name, told in _TOLD["profiles"].items()}
)


def profile_of(name: str, address: Address) -> Profile:
    """Return a profile by name; `auto` is `openai` for OpenAI's and Azure's hosts and `compatible` for every other.

    What a server tells of itself before the first question may make more of the latter: see `ServedModel.made_of`.
    """
    if name != "auto":
        return PROFILES[name]
    is_openai = any(f".{address.host}".endswith(host) for host in (".openai.com", ".openai.azure.com"))
    return PROFILES["openai" if is_openai else "compatible"]


_POLICY = RetryPolicy()
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SomeSeconds = Annotated[float, Field(ge=0.001, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=10**12)]
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
BoxName = Literal["permille", "permille-yxyx", "fraction", "percent", "pixels", "pixels-xywh", "pixels-28"]
SPACES: Mapping[str, BoxSpace] = {name: BOX_SPACES[name] for name in get_args(BoxName)}
BOXES = SPACES["permille"]


class Options(BaseModel, frozen=True):
    """What the user chose with `--model-arg`: the type and the default of every argument; its help is in entry.yaml.

    None is not sent, or sets no limit.
    """

    servers: tuple[str, ...] = ()
    profile: Literal["auto", "openai", "vllm", "sglang", "transformers", "compatible"] = "auto"
    key_env: str = "OPENAI_API_KEY"
    boxes: BoxName = "permille"
    system: str = ""
    temperature: float | None = Field(0.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    send_seed: Literal["yes", "no"] = "yes"
    max_tokens: _Count | None = None
    stop: tuple[str, ...] = ()
    max_pixels: _Count | None = None
    extra_body: dict[str, Any] = {}
    ca_file: str = ""
    credentialed: Literal["refuse", "send"] = "refuse"
    price_in: _Price = None
    price_cached: _Price = None
    price_out: _Price = None
    concurrency: _Count = _POLICY.concurrency
    max_concurrency: _Count = _POLICY.max_concurrency
    attempts: _Count = _POLICY.attempts
    timeout: _SomeSeconds = _POLICY.timeout
    deadline: _SomeSeconds = _POLICY.deadline
    backoff: _Seconds = _POLICY.backoff

    @property
    def retry_policy(self) -> RetryPolicy:
        """How hard the server is asked."""
        policy = self.model_dump(include=_PACE)
        return RetryPolicy(**policy | {"concurrency": min(self.concurrency, self.max_concurrency)})

    def cost_of(self, usage: Usage) -> float | None:
        """Return what a reply cost; None where no prices were given."""
        if self.price_in is None and self.price_out is None:
            return None
        read, written = self.price_in or 0.0, self.price_out or 0.0
        again = read if self.price_cached is None else self.price_cached
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        return (fresh * read + usage.cached_tokens * again + usage.output_tokens * written) / 1_000_000

    def changing_answers(self) -> dict[str, Any]:
        """Return what can change an answer, but for the profile's name, which may be `auto`."""
        return self.model_dump(exclude={"profile", *_NO_ANSWER})


_PACE = {field.name for field in fields(RetryPolicy)}
_NO_ANSWER = _PACE | {"servers", "key_env", "ca_file", "credentialed", "price_in", "price_cached", "price_out"}
ARGUMENTS: Mapping[str, Argument] = {
    name: Argument(
        help=_TOLD["help"][name],
        default=f"{field.default:g}" if isinstance(field.default, float | int) else str(field.default or ""),
        choices=get_args(field.annotation) if get_origin(field.annotation) is Literal else (),
        changes_answers=name not in _NO_ANSWER,
    )
    for name, field in Options.model_fields.items()
}


def read_options(given: Mapping[str, str], address: Address) -> Options:
    """Return the choices in the values of `--model-arg`; UsageError if a value is not allowed."""
    # An empty value is none, where that is the default.
    values: dict[str, Any] = {name: text for name, text in given.items() if text or ARGUMENTS[name].default}
    if values.get("temperature") == "unset":
        values["temperature"] = None
    values["servers"] = tuple(one for one in given.get("servers", "").split(",") if one.strip())
    values["stop"] = _texts(values.get("stop", ""))
    values["extra_body"] = _fields(values.get("extra_body", "{}"))
    try:
        options = Options(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise _not_allowed(name, given[name], f"{first['msg']}.") from None
    profile, added = profile_of(options.profile, address), options.extra_body.keys() - {STREAM, "stream_options"}
    unknown = sorted((profile.never & added) | (added - profile.only if profile.only else set()))
    if unknown:
        allowed = f" Allowed: {', '.join(sorted(profile.only))}." if profile.only else ""
        problem = f"A server of the profile {profile.name!r} does not take {', '.join(unknown)}."
        raise UsageError(problem, f"Leave them out of extra_body, or choose another --model-arg profile.{allowed}")
    if SPACES[options.boxes].units is None and options.max_pixels:
        problem = "Boxes in pixels mean those of the original image, but max_pixels sends a smaller one."
        raise UsageError(problem, "Choose boxes that do not depend on the size, e.g. --model-arg boxes=permille.")
    return options


def _not_allowed(name: str, value: str, hint: str) -> UsageError:
    return UsageError(f"--model-arg {name} does not take {value!r}.", hint)


def json_or_none(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return what JSON says, or None if it is none."""
    try:
        return json_value(text)
    except ValueError:
        return None


def _texts(text: str) -> tuple[str, ...]:
    found = json_or_none(text)
    if isinstance(found, list):
        if not all(isinstance(item, str) and item for item in found):
            raise _not_allowed("stop", text, """Give one text, or a JSON list of texts: '["###", "\\n"]'.""")
        return tuple(found)
    return (text,) if text else ()


def _holds_secret(value: object) -> bool:
    if isinstance(value, Mapping):
        named = any(_SECRET_FIELD.search(name) or SECRET_NAME.fullmatch(name) for name in value)
        return named or any(map(_holds_secret, value.values()))
    return isinstance(value, list) and any(map(_holds_secret, value))


def _fields(text: str) -> dict[str, Any]:
    fields = json_or_none(text)
    if not isinstance(fields, dict):
        raise _not_allowed("extra_body", text, """Give a JSON object, for example '{"top_k": 1}'.""")
    if _holds_secret(fields):
        problem = "extra_body seems to hold a key or a password, and it would be written into the run's files."
        raise UsageError(problem, "Name the environment variable that holds the key: --model-arg key_env=NAME")
    own = sorted(_OWN_FIELDS & fields.keys())
    if own:
        problem = f"extra_body has {', '.join(own)}, which the adapter sends itself."
        raise UsageError(problem, f"Use the options for that: {', '.join(sorted(ARGUMENTS))}.")
    if not isinstance(fields.get(STREAM), bool | None):
        raise _not_allowed("extra_body", text, "`stream` is true, false, or null to leave it out.")
    return fields


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.openai.client:load_served"),
    parse=partial(answer_with_box, BOXES), boxes=BOXES, spaces=SPACES,
    variants={"*": "MODEL@BASE-URL, e.g. my-model@http://127.0.0.1:8000/v1"}, arguments=ARGUMENTS,
)  # fmt: skip
