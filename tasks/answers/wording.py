"""Phrases that the readers of answers look for, and how English takes a word back, denies it or only supposes it.

Phrases stand in `words.yaml`. There and here a blank is any white space, the break and the margin of a line are
nothing, and `{name}` is a list of words. All else is that of `re`; inside of a class of characters a blank is written
`\\x20`.

All questions are about a place in a text and look at a bounded stretch around it, so that asking them for every place
stays linear in the length of the text. They are cached, since a text that is long goes in circles.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from medbench.tasks.foundation.files import read_yaml_table

T = TypeVar("T")
_NAME = re.compile(r"\{([a-z_]+)\}")
_MANY, _REACH = 400, 120


@lru_cache(maxsize=1)
def word_lists() -> dict[str, Any]:
    """Return the lists of words by name."""
    return read_yaml_table(Path(__file__).with_name("words.yaml"))


def word_set(name: str) -> frozenset[str]:
    """Return a list of single words as a set."""
    return frozenset(word_lists()[name].split())


@lru_cache(maxsize=4096)
def phrase(name: str, key: str = "") -> re.Pattern[str]:
    """Return the pattern of a phrase by its name, in letters of either case; `{key}` in it is a pattern of its own."""
    return re.compile(_expanded(name, key), re.IGNORECASE)


@lru_cache
def exactly(name: str) -> re.Pattern[str]:
    """Return the pattern of a phrase in which a blank is a blank, for texts in plain typography and lower case."""
    return re.compile("".join(word_lists()[name].splitlines()))


def _expanded(name: str, key: str) -> str:
    joined = "".join(map(str.strip, word_lists()[name].splitlines())).replace(" ", r"\s+")
    return _NAME.sub(lambda inner: key if inner[1] == "key" else _expanded(inner[1], key), joined)


def substituted(text: str, table: str) -> str:
    """Return a text in which each pattern of a table of `words.yaml` is replaced by what stands beside it, in order."""
    for mark, plain in _substitutions(table):
        text = mark.sub(plain, text)
    return text


@lru_cache
def _substitutions(table: str) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(mark), plain) for mark, plain in word_lists()[table]]


_SENTENCE_ENDS = re.compile(r"[.!?\n](?=\s|\Z)|\n")


def versions(text: str) -> list[str]:
    """Return the versions of an answer that takes itself back (`A. Wait, no: B`); the last one is what it says."""
    found = list(phrase("takes_back").finditer(text))
    starts, ends = [0, *(match.end() for match in found)], [*(match.start() for match in found), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def afterthought(text: str) -> str | None:
    """Return what follows the last `actually` at the beginning of a clause; None if there is none."""
    found = list(phrase("says_anew").finditer(text))
    return text[found[-1].end() :] if found else None


def first_and_last(places: Sequence[T], most: int = _MANY) -> Sequence[T]:
    """Return so many of the places where a text says something: who says it a thousand times is told by those."""
    return places if len(places) <= most else [*places[: most // 2], *places[-most // 2 :]]


def before(text: str, place: int) -> str:
    """Return what stands right before a place."""
    return text[max(0, place - _REACH) : place]


def is_denied_before(text: str, place: int) -> bool:
    """Return whether the words before a place deny what follows: `it is not`, `rather than`, `I doubt that it is`."""
    return _denies(before(text, place))


def is_denied_behind(text: str, place: int) -> bool:
    """Return whether the words behind a place deny what stands there: `is wrong`, `can be excluded`."""
    return phrase("denied_behind").match(text[place : place + _REACH]) is not None


def is_denied(text: str, start: int, end: int) -> bool:
    """Return whether what stands between two places is denied before or behind."""
    return is_denied_before(text, start) or is_denied_behind(text, end)


def is_rejected(text: str, place: int) -> bool:
    """Return whether a verdict stands right behind a place: `A - wrong`, `(B): no`."""
    return phrase("rejected").match(text, place) is not None


def is_supposed(text: str, place: int) -> bool:
    """Return whether what follows a place is only supposed: `one might think that`, `at first`, `if it were acute,`."""
    return _supposes(before(text, place))


def is_conditional(text: str, place: int) -> bool:
    """Return whether what ends at a place is asked, turned, or holds if: `A?`, `A, but not really`, `A if acute`."""
    return phrase("condition").match(text[place : place + _REACH]) is not None


@lru_cache(maxsize=1024)
def _denies(stretch: str) -> bool:
    return phrase("denied_before").search(_SENTENCE_ENDS.split(stretch)[-1]) is not None


@lru_cache(maxsize=1024)
def _supposes(stretch: str) -> bool:
    claimed = phrase("forced").sub("", _SENTENCE_ENDS.split(stretch)[-1])
    return (
        phrase("supposed_clause").search(claimed) is not None or phrase("supposed_sentence").search(claimed) is not None
    )
