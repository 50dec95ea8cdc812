"""Reading yes, no and maybe: one reader for PubMedQA, closed questions about pictures, and options that say yes and no.

A bare `no` is a word of every second sentence (`No doubt there is a fracture.`), so a word counts only where it is an
answer: at the beginning of a clause or behind a declaration (`the answer is`), and with an end or a reason behind it,
never as the determiner of a noun. Whatever is denied, asked or set beside its opposite (`yes and no`) is unread; of an
answer that takes itself back, the last version counts.
"""

import re
from functools import lru_cache
from typing import Literal

from medbench.tasks.answers.wording import pattern
from medbench.tasks.answers.texts import plain_text
from medbench.tasks.answers.wording import afterthought, before, is_denied_before, is_supposed, versions

Polar = Literal["yes", "no", "maybe"]

POLAR_WORDS: frozenset[str] = frozenset({"yes", "no", "maybe"})
"""The answers that this module reads."""

_MEANINGS: dict[str, Polar] = {
    "yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no", "maybe": "maybe",
}  # fmt: skip
_ANY = pattern("{polar_words}")
_TOKEN = pattern(r"(?<![\w-])(?<!\w')({polar_words})(?!\w|'\w|-\w)")
# `yes or no`, `yes/no/maybe`, `yes, no`: a list, whoever made it. `Yes, no fracture` is none.
_LIST = pattern("{polar_list}")
_REPEATED = pattern(r"(?<![\w'-])({polar_words})(?: \1\b)+(?!\s*[-\w])")
_ENDS = r"\s*(?:\Z|[.,;:!)\]}\"'\n]|\s-+(?=\s|\Z)|-\s)"
_STANDS = pattern(_ENDS + r"| (?:{polar_reasons})\b|\s*(?:\([^()]*\)|\[[\d\s,-]+\])\s*(?:\Z|[.,;!\n])")
_MAYBE_STANDS = pattern(_ENDS + r"| (?:because|since|as|due|rather|instead|but)\b|\s*\(")
_QUALIFIED = pattern(r"\s+(?:for|on|in|at|if|when|otherwise)\b")
_IS_CLOSED = re.compile(_ENDS, re.IGNORECASE)
_IS_NUMBER = re.compile(r"\.\s*\d")
# Behind a `yes` at the very beginning nearly everything is an explanation: `yes fracture is visible`.
_YES_GOES_ON = pattern(r"\s+(?!(?:{yes_does_not_go_on})\b|\d+\s*(?:%|[.,;]|\Z))\w")
_BEGINS = pattern(r"""(?:\A|[.!?;:,\n(\[{"'>|=]|(?:\A|\s)-+)(?:\s*[:,]?\s*(?:{polar_surely}|actually))*\s*[,:]?\s*\Z""")
_DECLARED = pattern("{polar_declared}")
_THIS_IS = pattern(r"\b(?:it|this|that|which)(?:'s| is)\s*\Z")
# `Yes, if it is large`, `"Yes" is incorrect`, `P(yes)=0.4`: no answer, but what would make one.
_NOT_SAID = pattern("{polar_not_said}")
_WRONG = pattern(r"\b(?:{polar_wrong})\s*\Z")
_MANY = 400
_MAY_BE = pattern(r"\b(?:may|might|could) (?:also |well )?be\s*\Z")
_DOES_NOT_KNOW = pattern("{polar_does_not_know}")


def read_polar(text: str) -> Polar | None:
    """Return whether an answer (without thoughts) says yes, no or maybe; None if it says none, or more than one."""
    text = plain_text(text)
    *earlier, last = versions(text)
    found = _one_version(last)
    if found is None and earlier and not any(_one_version(version) for version in earlier):
        # Nothing was taken back that had been said.
        return _one_version(text)
    return found


def _one_version(text: str) -> Polar | None:
    again = afterthought(text)
    return (None if again is None else _agreed(again)) or _agreed(text)


def _agreed(text: str) -> Polar | None:
    """Return the word that a text answers with, if it answers with one only and mentions no other as one."""
    said = _LIST.sub(_shortened, _REPEATED.sub(r"\1", text))
    asserted: set[Polar] = set()
    mentioned: set[Polar] = set()
    tokens = list(_TOKEN.finditer(said))
    # Who says it a thousand times is told by the first and the last ones.
    for token in tokens if len(tokens) <= _MANY else tokens[: _MANY // 2] + tokens[-_MANY // 2 :]:
        meaning = _MEANINGS[token.group(1).lower()]
        if _is_asserted(said, token, meaning):
            asserted.add(meaning)
            if len(asserted) > 1:
                return None
        elif _is_mentioned(said, token):
            mentioned.add(meaning)
    return asserted.pop() if asserted and mentioned <= asserted else None


def _shortened(match: re.Match[str]) -> str:
    """Return a list of answers as a mark that answers nothing; the same word twice is that word."""
    words = {_MEANINGS[word.lower()] for word in _ANY.findall(match.group())}
    return words.pop() if len(words) == 1 else "/"


def _is_asserted(text: str, token: re.Match[str], meaning: Polar) -> bool:
    """Return whether a word stands alone as an answer: at an end, before a reason, or as the `yes` that begins one."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 120], before(text, start)
    stands = (_MAYBE_STANDS if meaning == "maybe" else _STANDS).match(behind)
    if meaning == "yes" and not text[:start].strip(" \t\n\"'([-"):
        stands = stands or _YES_GOES_ON.match(behind)
    # `It is no` may have been cut off.
    cut_off = not behind.strip() and _THIS_IS.search(ahead)
    if not stands or cut_off or _IS_NUMBER.match(behind) or _DOES_NOT_KNOW.match(behind) or _NOT_SAID.match(behind):
        return False
    declared = _begins(ahead)
    if declared is None or _WRONG.search(before(text, start - declared)):
        return False
    return not is_denied_before(text, start) and not is_supposed(text, start)


@lru_cache(maxsize=1024)
def _begins(ahead: str) -> int | None:
    """Return how far before a word its clause or declaration begins; None if it is in the midst of one."""
    if _BEGINS.search(ahead):
        return 0
    declared = _DECLARED.search(ahead)
    return len(ahead) - declared.start() if declared else None


def _is_mentioned(text: str, token: re.Match[str]) -> bool:
    """Return whether a word is said as an answer that is not claimed: `it may be no`, `no for the right`."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 12], before(text, start)
    aside = _QUALIFIED.match(behind) and _BEGINS.search(ahead)
    closed = _IS_CLOSED.match(behind) and not _IS_NUMBER.match(behind)
    if not (closed or aside) or is_denied_before(text, start):
        return False
    return _MAY_BE.search(ahead) is not None or not is_supposed(text, start)
