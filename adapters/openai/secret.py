"""The key of a server: read from the environment, sent to the server, and kept out of everything else."""

import os
import re

from medbench.adapters.openai.address import Address
from medbench.tasks.foundation.errors import UsageError

HIDDEN = "[key]"
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
# A shorter word is no secret, and may well be a word of an answer: servers without keys are given `EMPTY` or `x`.
_LEAST_SECRET = 8


class Key:
    """A server's key; shows itself to nobody. An empty one is none.

    Args:
        value: The key.

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
        return text.replace(self._value, HIDDEN) if len(self._value) >= _LEAST_SECRET else text


def read_key(name: str, address: Address) -> Key:
    """Return the key in the environment variable `name`; a server on this machine needs none.

    Raises:
        UsageError: If `name` is no name of a variable (it may be the key itself, and is not repeated), or the variable
            is not set and the server is another machine.
    """
    if not _NAME.fullmatch(name):
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
