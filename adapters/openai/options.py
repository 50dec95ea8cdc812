"""`--model-arg` of served models: what may be chosen, and what was."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medbench.adapters.base import Argument
from medbench.adapters.openai.messages import BOXES, SPACES
from medbench.adapters.openai.profiles import AUTO, PROFILES, Profile
from medbench.adapters.remote import Patience, Usage
from medbench.tasks.foundation.errors import UsageError

_PATIENCE = Patience()
ARGUMENTS: Mapping[str, Argument] = {
    "profile": Argument(
        help="What the server understands; auto: `openai` for OpenAI's and Azure's hosts, `vllm` for all others.",
        default=AUTO,
        choices=(AUTO, *PROFILES),
    ),
    "key_env": Argument(
        help="Environment variable that holds the key.", default="OPENAI_API_KEY", changes_answers=False
    ),
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
    "ca_file": Argument(
        help="File or folder of the certificates to trust, for servers with one of their own; by default those of the "
        "machine, or of SSL_CERT_FILE. They are always checked.",
        changes_answers=False,
    ),
    "credentialed": Argument(
        help="Whether data under a signed agreement may be sent to another machine.",
        default="refuse",
        choices=("refuse", "send"),
        changes_answers=False,
    ),
    "price_in": Argument(help="Price of a million tokens of prompts.", changes_answers=False),
    "price_cached": Argument(
        help="Price of a million tokens of prompts that the server remembered; price_in if unset.",
        changes_answers=False,
    ),
    "price_out": Argument(help="Price of a million tokens of answers.", changes_answers=False),
    "concurrency": Argument(
        help="Requests under way at first.", default=str(_PATIENCE.concurrency), changes_answers=False
    ),
    "max_concurrency": Argument(
        help="Most requests under way, ever.", default=str(_PATIENCE.max_concurrency), changes_answers=False
    ),
    "attempts": Argument(help="Most requests for one sample.", default=str(_PATIENCE.attempts), changes_answers=False),
    "timeout": Argument(help="Most seconds for one request.", default=f"{_PATIENCE.timeout:g}", changes_answers=False),
    "deadline": Argument(
        help="Most seconds for one sample, waiting included.", default=f"{_PATIENCE.deadline:g}", changes_answers=False
    ),
    "backoff": Argument(
        help="Seconds before a sample's second request.", default=f"{_PATIENCE.backoff:g}", changes_answers=False
    ),
}
UNSET = "unset"
OWN_FIELDS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n"}
)
STREAM = "stream"
"""May be added, though the adapter sends it: some servers only stream, others know no such field (null: left out)."""
_SECRET = re.compile(r"api[-_]?key|authorization|secret|password|access[-_]?token|bearer", re.IGNORECASE)
_MILLION = 1_000_000
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    read: float
    cached: float
    written: float

    def of(self, usage: Usage) -> float:
        """Return what a reply cost."""
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        millions = fresh * self.read + usage.cached_tokens * self.cached + usage.output_tokens * self.written
        return millions / _MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose.

    Attributes:
        boxes: Name of the space that boxes are written in.
        system: System prompt, or empty.
        temperature: Of sampling; None is not sent.
        top_p: Sample within this probability; None is not sent.
        send_seed: Whether the run's seed is sent.
        max_tokens: Longest answer; None for the task's own limit.
        stop: Texts that end an answer.
        max_pixels: Most pixels of a picture; None for no limit.
        extra_body: Further fields of every request.
        ca_file: Certificates to trust; empty for the machine's.
        may_send_credentialed: Whether data under a signed agreement may be sent to another machine.
        prices: Prices, or None.
        patience: How hard the server is asked.
    """

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
    patience: Patience = _PATIENCE

    def changing_answers(self) -> dict[str, Any]:
        """Return what can change an answer, as plain values."""
        return {
            "boxes": self.boxes,
            "system": self.system,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "send_seed": self.send_seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "max_pixels": self.max_pixels,
            "extra_body": dict(self.extra_body),
        }


def with_defaults(arguments: Mapping[str, str]) -> dict[str, str]:
    """Return all arguments, those that were not given at their defaults."""
    return {name: arguments.get(name, argument.default) for name, argument in ARGUMENTS.items()}


def read_options(given: Mapping[str, str], profile: Profile) -> Options:
    """Return the choices in the values of `--model-arg`.

    Raises:
        UsageError: If a value is not allowed.
    """
    values = _Values(with_defaults(given))
    _refuse_moving_pixels(values)
    return Options(
        boxes=values.text("boxes"),
        system=values.text("system"),
        temperature=None if values.text("temperature") == UNSET else values.number("temperature", 0, 100),
        top_p=values.maybe("top_p", 0, 1),
        send_seed=values.text("send_seed") == "yes",
        max_tokens=values.maybe_whole("max_tokens", 1),
        stop=_texts(values.text("stop")),
        max_pixels=values.maybe_whole("max_pixels", 1),
        extra_body=_extra_body(values.text("extra_body"), profile),
        ca_file=values.text("ca_file"),
        may_send_credentialed=values.text("credentialed") == "send",
        prices=_prices(values),
        patience=_patience(values),
    )


class _Values:
    """Values by name, read as numbers within limits."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        for name, argument in ARGUMENTS.items():
            if argument.choices and values[name] not in argument.choices:
                raise _not_allowed(name, values[name], f"Allowed: {', '.join(argument.choices)}.")

    def text(self, name: str) -> str:
        return self._values[name]

    def number(self, name: str, low: float, high: float = math.inf) -> float:
        text = self._values[name]
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (low <= number <= high and math.isfinite(number)):
            limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise _not_allowed(name, text, f"Give a number {limits}.")
        return number

    def maybe(self, name: str, low: float, high: float = math.inf) -> float | None:
        return self.number(name, low, high) if self._values[name] else None

    def whole(self, name: str, low: int) -> int:
        text = self._values[name]
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) >= low):
            raise _not_allowed(name, text, f"Give a whole number of at least {low}.")
        return int(text)

    def maybe_whole(self, name: str, low: int) -> int | None:
        return self.whole(name, low) if self._values[name] else None


def _refuse_moving_pixels(values: _Values) -> None:
    if SPACES[values.text("boxes")].units is None and values.text("max_pixels"):
        raise UsageError(
            "Boxes in pixels mean those of the original picture, but max_pixels sends a smaller one.",
            "Choose boxes that do not depend on the size, e.g. --model-arg boxes=permille.",
        )


def _not_allowed(name: str, value: str, hint: str) -> UsageError:
    return UsageError(f"--model-arg {name} does not take {value!r}.", hint)


def _prices(values: _Values) -> Prices | None:
    read, written = values.maybe("price_in", 0), values.maybe("price_out", 0)
    cached = values.maybe("price_cached", 0)
    if read is None and written is None:
        return None
    return Prices(read=read or 0.0, cached=(read or 0.0) if cached is None else cached, written=written or 0.0)


def _patience(values: _Values) -> Patience:
    ceiling = values.whole("max_concurrency", 1)
    return Patience(
        concurrency=min(values.whole("concurrency", 1), ceiling),
        max_concurrency=ceiling,
        attempts=values.whole("attempts", 1),
        deadline=values.number("deadline", 0.001),
        timeout=values.number("timeout", 0.001),
        backoff=values.number("backoff", 0),
    )


def _texts(text: str) -> tuple[str, ...]:
    """Return a JSON list of texts, or the one text that is meant as it stands."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        if not all(isinstance(item, str) and item for item in found):
            raise _not_allowed("stop", text, """Give one text, or a JSON list of texts: '["###", "\\n"]'.""")
        return tuple(found)
    return (text,) if text else ()


def _extra_body(text: str, profile: Profile) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise _not_allowed("extra_body", text, """Give a JSON object, for example '{"top_k": 1}'.""")
    _refuse_secrets(fields)
    own = sorted(OWN_FIELDS & fields.keys())
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


def _refuse_secrets(fields: Mapping[str, Any]) -> None:
    if any(_SECRET.search(name) for name in fields):
        raise UsageError(
            "extra_body seems to hold a key or a password, and it would be written into the run's files.",
            "Name the environment variable that holds the key: --model-arg key_env=NAME",
        )
