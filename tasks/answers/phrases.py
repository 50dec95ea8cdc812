"""Patterns of phrases: what a reader looks for, with its lists of words out of `words.yaml`.

In both, a blank is any white space, the break and the margin of a line are nothing, and `{name}` is a list of words.
All else is that of `re`; inside of a class of characters a blank is written `\\x20`.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.files import read_yaml_table

_NAME = re.compile(r"\{([a-z_]+)\}")


@lru_cache(maxsize=1)
def word_lists() -> dict[str, Any]:
    """Return the lists of words by name."""
    return read_yaml_table(Path(__file__).with_name("words.yaml"))


def word_set(name: str) -> frozenset[str]:
    """Return a list of single words as a set."""
    return frozenset(word_lists()[name].split())


def expanded(text: str, **more: str) -> str:
    """Return the pattern of a text, with each `{name}` replaced by `more` or by the list of words of that name."""
    joined = "".join(map(str.strip, text.splitlines())).replace(" ", r"\s+")
    return _NAME.sub(lambda name: more[name[1]] if name[1] in more else expanded(word_lists()[name[1]], **more), joined)


def pattern(text: str, flags: re.RegexFlag = re.IGNORECASE, **more: str) -> re.Pattern[str]:
    """Compile the pattern of a text; it matches letters of either case unless `flags` say otherwise."""
    return re.compile(expanded(text, **more), flags)
