"""Keys, tokens and passwords in texts that are shown or kept: what they look like, and what this shell holds."""

import os
import re
from collections.abc import Mapping

SECRET = "[secret]"
SECRET_NAME = re.compile(
    r"(?:.*[_\- ])?(?:token|secret|password|passwd|api[_-]?key|key|authorization|bearer)", re.IGNORECASE
)
"""Matches, as a whole, the name of a field or variable whose value is a secret."""
KEYS = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b")
"""What is a secret by its looks."""
_BEGINNINGS = ("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "AKIA")
# What stands before a host, also where a path made one slash of two, and values in a query whose names are of secrets.
_IN_URL = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://|\bhttps?:/)[^\s/?#'\"<>]+(?=@)"
    r"|([?&;](?:[\w-]*[_-])?(?:token|secret|password|passwd|key|sig|signature)=)[^\s&#'\"<>]+",
    re.IGNORECASE,
)
# A shorter one is no secret, and may well be a word of any text.
_SHORTEST = 8


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose names say that they are secrets, the longest first."""
    found = {value.strip() for name, value in environment.items() if SECRET_NAME.fullmatch(name)}
    return tuple(sorted((one for one in found if len(one) >= _SHORTEST), key=lambda one: (-len(one), one)))


def holds_key(text: str) -> bool:
    """Return whether `KEYS` is found in a text, a hundred times faster where it has megabytes of images."""
    for beginning in _BEGINNINGS:
        at = text.find(beginning)
        while at >= 0:
            if KEYS.match(text, at):
                return True
            at = text.find(beginning, at + 1)
    return False


def masked(text: str) -> str:
    """Return a text without secrets: those of this process's environment, those in URLs, and those that look so."""
    for secret in secrets_of(os.environ):
        text = text.replace(secret, SECRET)
    return KEYS.sub(SECRET, _IN_URL.sub(lambda found: f"{found[1] or found[2]}{SECRET}", text))
