"""How English takes a word back, denies it or only supposes it: what every reader of answers has to respect.

All questions here are about a place in a text and look at a bounded stretch around it, so that asking them for every
place stays linear in the length of the text. They are cached, since a text that is long goes in circles.
"""

import re
from functools import lru_cache

from medbench.tasks.answers.phrases import pattern

_REACH = 120

_TAKES_BACK = pattern("{takes_back}")
_SAYS_ANEW = pattern(r"(?:^|[.!?;\n,]|\.\.\.|\s-)\s*(?:(?:actually|hmm+|rather(?! than\b)|well)\b[\s,:.]*)+")
_DENIED_BEFORE = pattern(r"""
    (?:\b(?:{denying})\b|n't\b)(?:(?!\b(?:{concluding})\b)[^.;:,!?\n]){0,40}\Z
    |\b(?:{doubting})\b(?:(?!\bbut\b)[^.;:!?\n]){0,80}\Z
    |\b(?:{of_others})\s*(?:(?:that|to)\s*)?\Z""")
_DENIED_BEHIND = pattern(r"""
    (?:\s*,\s*which\b)?(?:(?!\b(?:because|since|as|due|given|based|while|whereas|but|and|so)\b)[^.,;:!?\n(]){0,80}?
    \b(?:(?:is|are|was|were|be|being|seems?|looks?) (?:(?:{surely}) ){0,2}(?:{denied_as})\b
    |(?:is|are|was|were|does|do|did|would|should|can|could)n't\b|(?:can|could|does|do|did|would|should)\s*not\b|cannot\b)""")
_SUPPOSED_CLAUSE = pattern(r"\b(?:{supposing})\b(?:(?!\b(?:but|so|therefore|thus|hence)\b)[^.;:,!?\n])*\Z")
_SUPPOSED_SENTENCE = pattern(r"{supposing_all}|\b(?:{at_first})\b(?:(?!\b(?:but|however|now)\b).)*\Z")
_FORCED = pattern(
    r"\bif (?:i (?:had|have|were|was) (?:forced )?to \w+(?: (?:one|an answer))?|forced(?: to \w+)?|pressed|in doubt)\b"
)
_REJECTED = pattern(
    r"""[)\].:,;\s("'-]*(?:(?:is|are|was) )?(?:(?:{rejected_as})\b|(?:no|negative|absent)\s*(?:\Z|[.,;!\n]))"""
)
_SENTENCE_ENDS = re.compile(r"[.!?\n](?=\s|\Z)|\n")
_CONDITION = pattern(r"""
    [\s,)\]"']*(?:(?:but )?only )?(?:{conditions})\b
    |(?: than [^.,;\n]{1,30})?[\s,;]*(?:or so it (?:seems|looks)
    |(?:but|yet|though|although|however)\b[\s,]*(?:(?:it|this|that)\s*)?(?:(?:is|was|'s|does|would be) )?
    (?:actually |in fact |really |still )?
    (?:not\b(?! (?:option )?\W?\w\b)|(?:is|was|does|ca|wo)n't|wrong|incorrect|false|neither|unlikely)\b)
    |\s*[.)\]"']{0,2}\s*\?""")


def versions(text: str) -> list[str]:
    """Return the versions of an answer that takes itself back (`A. Wait, no: B`); the last one is what it says."""
    return [text[start:end] for start, end in _between(_TAKES_BACK, text)]


def afterthought(text: str) -> str | None:
    """Return what follows the last `actually` at the beginning of a clause; None if there is none."""
    parts = _between(_SAYS_ANEW, text)
    return text[parts[-1][0] :] if len(parts) > 1 else None


def _between(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    found = list(pattern.finditer(text))
    starts = [0, *(match.end() for match in found)]
    return list(zip(starts, [*(match.start() for match in found), len(text)], strict=True))


def before(text: str, place: int) -> str:
    """Return what stands right before a place."""
    return text[max(0, place - _REACH) : place]


def is_denied_before(text: str, place: int) -> bool:
    """Return whether the words before a place deny what follows: `it is not`, `rather than`, `I doubt that it is`."""
    return _denies(_within_sentence(before(text, place)))


def is_denied_behind(text: str, place: int) -> bool:
    """Return whether the words behind a place deny what stands there: `is wrong`, `can be excluded`."""
    return _DENIED_BEHIND.match(text[place : place + _REACH]) is not None


def is_denied(text: str, start: int, end: int) -> bool:
    """Return whether what stands between two places is denied before or behind."""
    return is_denied_before(text, start) or is_denied_behind(text, end)


def is_rejected(text: str, place: int) -> bool:
    """Return whether a verdict stands right behind a place: `A - wrong`, `(B): no`."""
    return _REJECTED.match(text, place) is not None


def is_supposed(text: str, place: int) -> bool:
    """Return whether what follows a place is only supposed: `one might think that`, `at first`, `if it were acute,`."""
    return _supposes(_within_sentence(before(text, place)))


@lru_cache(maxsize=1024)
def _within_sentence(stretch: str) -> str:
    """Return what belongs to the sentence that a stretch ends in."""
    return _SENTENCE_ENDS.split(stretch)[-1]


@lru_cache(maxsize=1024)
def _denies(sentence: str) -> bool:
    return _DENIED_BEFORE.search(sentence) is not None


@lru_cache(maxsize=1024)
def _supposes(sentence: str) -> bool:
    claimed = _FORCED.sub("", sentence)
    return _SUPPOSED_CLAUSE.search(claimed) is not None or _SUPPOSED_SENTENCE.search(claimed) is not None


def is_conditional(text: str, place: int) -> bool:
    """Return whether what ends at a place is asked, turned, or holds if: `A?`, `A, but not really`, `A if acute`."""
    return _CONDITION.match(text[place : place + _REACH]) is not None
