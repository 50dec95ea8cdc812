"""Text from outside as it may be shown: nothing in it steers a terminal, hides what it says, or breaks a file."""

import re

# Control characters but for line ends and tabs, those that turn the direction of what follows, halves of characters.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with each character that would steer what shows it in its place by number, as in `\x1b`."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
