"""Text from outside as it may be shown: nothing in it steers a terminal, hides what it says, or breaks a file."""

import re
from typing import Any

# Control characters but for line ends and tabs; those that turn the direction of what follows, that are not seen, or
# that end a line for some readers alone; halves of characters.
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return a text with each character that would steer what shows it in its place by number, as in `\x1b`."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_values(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return a document whose texts are all `printable`, names included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(name): printable_values(one) for name, one in value.items()}
    return [printable_values(one) for one in value] if isinstance(value, list | tuple) else value
