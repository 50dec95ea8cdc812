"""Reading which class an answer names: choices that are words themselves, such as `melanoma` or `left kidney`.

A class may be named in another order or number (`kidney-left`, `vascular lesion`) and in the midst of a sentence, but
never as a part of something else (`left lung transplant`, `non-melanoma`), as a comparison or in a history.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from medbench.tasks.answers import wording
from medbench.tasks.answers.texts import plain_text
from medbench.tasks.answers.wording import phrase

_MARKS = " ,.:;!-\n"
_BEGINS = re.compile(r"(?:\A|(?<!\b\w)(?<!\b\w\w)[.!\n])[\s\"'(\[-]*\Z")
_LISTED = re.compile(r"\n[ \t]*(?:[-+]|\(?\w[.)])?[ \t]*\Z")
_REACH, _MANY = 120, 40
_PLURALS = (("ses", "sis"), ("i", "us"), ("ies", "y"), ("s", ""))


class _Place(NamedTuple):
    name: str
    start: int
    end: int


def read_class(text: str, classes: tuple[str, ...]) -> str | None:
    """Return which of the classes an answer (without thoughts) names, or None if it names none or more than one."""
    forms, pattern = _forms(classes)
    *earlier, last = wording.versions(plain_text(text))
    last = last.strip(_MARKS)
    if "no" not in map(str.lower, classes):
        last = phrase("class_no_longer").split(phrase("class_taken_back").sub("", last) if earlier else last)[-1]
    again = wording.afterthought(last)
    for said in [last] if again is None else [again.strip(_MARKS), last]:
        places = _places(said, forms, pattern)
        if found := _whole(said, forms) or _declared(said, places) or _only_one(said, places):
            return found
    return None


@lru_cache(maxsize=64)
def _forms(classes: tuple[str, ...]) -> tuple[Mapping[str, str], re.Pattern[str]]:
    """Return the forms in which an answer may name a class, with its name, and what finds them in a text."""
    forms = {form: name for name in reversed(classes) for form in _other_forms(_folded(name))}
    forms |= {_folded(name): name for name in classes}
    longest_first = sorted(forms, key=len, reverse=True)
    names = "|".join(re.escape(form).replace(r"\ ", r"[\s_-]+") for form in longest_first)
    return forms, re.compile(rf"(?<![\w-])(?=({names})(?![\w-]|'\w))", re.IGNORECASE)


def _folded(name: str) -> str:
    """Return a name in lower case, with single blanks for hyphens, underscores and marks."""
    return " ".join(re.sub(r"[\W_]+", " ", name.lower()).split())


def _other_forms(name: str) -> Iterator[str]:
    """Yield the other orders and numbers of a name: `kidney left`, `vascular lesion`."""
    yield from _numbers(name)
    first, _, rest = name.partition(" ")
    if rest and first in {"left", "right"}:
        yield from (f"{form} {first}" for form in (rest, *_numbers(rest)))


def _numbers(name: str) -> Iterator[str]:
    for plural, singular in _PLURALS:
        if name.endswith(plural) and not name.endswith("ss"):
            yield name.removesuffix(plural) + singular
    for plural, singular in _PLURALS[:2]:
        if name.endswith(singular):
            yield name.removesuffix(singular) + plural
    if not name.endswith("s"):
        yield f"{name}s"


def _places(text: str, forms: Mapping[str, str], pattern: re.Pattern[str]) -> list[_Place]:
    """Return where classes are named; a name inside a longer one (`lung` in `left lung`) is not."""
    found: list[_Place] = []
    for match in pattern.finditer(text):
        if not found or match.end(1) > found[-1].end:
            found.append(_Place(forms[_folded(match.group(1))], *match.span(1)))
    return found


def _whole(text: str, forms: Mapping[str, str]) -> str | None:
    """Return the class that a whole text is, a label or an article before it aside."""
    if "?" in (text[:1], text[-1:]):
        return None
    return forms.get(_folded(text)) or forms.get(_folded(phrase("class_label").sub("", text)))


def _declared(text: str, places: Sequence[_Place]) -> str | None:
    """Return the class that a text declares or begins with, unless it also declares or sets beside it another."""
    said = [place for place in places if _is_declared(text, place)]
    if len({place.name for place in said}) != 1:
        return None
    others = [place for place in places if place.name != said[0].name]
    told = wording.first_and_last(said, _MANY) if others else ()
    return None if any(_is_beside(text, place, others) for place in told) else said[0].name


def _is_declared(text: str, place: _Place) -> bool:
    _, start, end = place
    ahead = wording.before(text, start)
    declares = phrase("class_declares").search(ahead)
    if not phrase("class_ends").match(text, end) or not (declares or _BEGINS.search(ahead)):
        return False
    if wording.is_conditional(text, end) or wording.is_rejected(text, end):
        return False
    begun = start - len(ahead) + declares.start() if declares else start
    denied = wording.is_denied_before(text, begun) or wording.is_denied(text, start, end)
    return not denied and not wording.is_supposed(text, begun)


def _is_beside(text: str, place: _Place, different: Sequence[_Place]) -> bool:
    """Return whether the same sentence sets another class beside one: `melanoma or nevi`."""
    if any(_LISTED.search(wording.before(text, other.start)) for other in different):
        return True
    end = place.end + len(phrase("class_sentence_ends").split(text[place.end : place.end + _REACH], maxsplit=1)[0])
    others = (other for other in different if place.end <= other.start < end)
    return any(not wording.is_denied(text, other.start, other.end) for other in others)


def _only_one(text: str, places: Sequence[_Place]) -> str | None:
    """Return the only class that a text names, if it denies nothing and speaks of nothing else."""
    if len({place.name for place in places}) != 1 or _folded(places[0].name) == "no":
        return None
    ends = [0, *(place.end for place in places)]
    starts = [*(place.start for place in places), len(text)]
    rest = " | ".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    if phrase("class_denial").search(rest) or phrase("class_other_matter").search(rest):
        return None
    return places[0].name if all(_is_shown(text, place) for place in places) else None


def _is_shown(text: str, place: _Place) -> bool:
    """Return whether a picture is said to show a class: `consistent with melanoma`, `the liver is visible`."""
    ahead = wording.before(text, place.start)
    if not phrase("class_named_whole").match(text, place.end) or wording.is_supposed(text, place.start):
        return False
    if phrase("class_seen").match(text, place.end):
        return phrase("class_about").search(ahead) is None
    return phrase("class_shown").search(ahead) is not None and phrase("class_speaks_of").match(text, place.end) is None
