"""The body of a request: what all servers understand, and what the user adds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from medbench.adapters.openai.options import STREAM, Options
from medbench.adapters.openai.profiles import Profile


def body_of(
    model: str, messages: Sequence[dict[str, Any]], options: Options, profile: Profile, *, length: int, seed: int
) -> dict[str, Any]:
    """Return the body of a request for one answer.

    Args:
        model: Name of the model.
        messages: The chat.
        options: What the user chose.
        profile: What the server understands.
        length: Longest answer in tokens.
        seed: Seed of the run.
    """
    # Some servers stream unless they are told not to.
    body: dict[str, Any] = {
        "model": model, "messages": list(messages), profile.length_field: length, STREAM: False,
    }  # fmt: skip
    if options.temperature is not None:
        body["temperature"] = _plain(options.temperature)
    if options.top_p is not None:
        body["top_p"] = _plain(options.top_p)
    if options.send_seed:
        body["seed"] = seed
    if options.stop and profile.takes_stop:
        body["stop"] = list(options.stop)
    body |= options.extra_body
    return {name: value for name, value in body.items() if name != STREAM or value is not None}


def shown(body: Mapping[str, Any]) -> str:
    """Return a body for people: JSON, with the kind and size of a picture in its place."""
    return json.dumps(_without_pictures(body), ensure_ascii=False, indent=2)


def _without_pictures(part: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(part, Mapping):
        return {name: _without_pictures(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_without_pictures(value) for value in part]
    if isinstance(part, str) and part.startswith("data:"):
        kind, _, content = part.partition(",")
        return f"{kind},⟨{len(content):,} characters⟩"
    return part


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number
