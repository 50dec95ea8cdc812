"""The body of a request: what all servers understand, and what the user adds."""

from collections.abc import Sequence
from typing import Any

from adapters.openai.options import Options
from adapters.openai.profiles import Profile


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
    body: dict[str, Any] = {"model": model, "messages": list(messages), profile.length_field: length}
    if options.temperature is not None:
        body["temperature"] = _plain(options.temperature)
    if options.top_p is not None:
        body["top_p"] = _plain(options.top_p)
    if options.send_seed:
        body["seed"] = seed
    if options.stop and profile.takes_stop:
        body["stop"] = list(options.stop)
    return body | dict(options.extra_body)


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number
