"""Bringing an answer into the form in which answers are compared."""

import re
from functools import lru_cache

from medbench.tasks.answers.plain import plain_text

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})

_FULL_FORMS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:index] + word[index + 1 :] for index, mark in enumerate(word) if mark == "'"]


# The official table has this one entry the wrong way round, so the general rule cannot produce it.
_CONTRACTIONS = {short: full for full in _FULL_FORMS.split() for short in _without_one_apostrophe(full)} | {
    "somebody'd": "somebodyd"
}

_ANY_MARK = re.compile(f"[{re.escape(_MARKS)}]")
_MARK_BESIDE_SPACE = re.compile(f"(?<= )[{re.escape(_MARKS)}]|[{re.escape(_MARKS)}](?= )")
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OFFICIAL_PERIODS = 32
_CACHE = 1 << 15

_MARKS_DELETED: dict[int, str | None] = dict.fromkeys(map(ord, _MARKS))
_MARKS_SPACED: dict[int, str | None] = dict.fromkeys(map(ord, _MARKS), " ")
_STRICT_MARKS_SPACED: dict[int, str | None] = dict.fromkeys(map(ord, _MARKS + ":"), " ")


@lru_cache(maxsize=_CACHE)
def normalise_answer(text: str) -> str:
    """Return `text` as the official evaluation compares it, with all its oddities.

    A mark is deleted wherever it stands if it touches a space somewhere in the text (and all marks are, if
    the text has a comma between digits), otherwise it becomes a space; at most 32 periods go; an answer that
    is only an article or only punctuation becomes empty.

    Source: `normalize_word` of the official Uni-Med evaluation, which derives from the VQA evaluation.
    """
    unmarked = text.translate(_official_marks(text)) if _ANY_MARK.search(text) else text
    words = _PERIOD.sub("", unmarked, count=_OFFICIAL_PERIODS).lower().split()
    return " ".join(_CONTRACTIONS.get(word, word) for word in _numbered(words) if word not in _ARTICLES)


def _official_marks(text: str) -> dict[int, str | None]:
    if _DIGIT_COMMA_DIGIT.search(text):
        return _MARKS_DELETED
    return _MARKS_SPACED | dict.fromkeys(map(ord, _MARK_BESIDE_SPACE.findall(text)))


def _numbered(words: list[str]) -> list[str]:
    return [_NUMBERS.get(word, word) for word in words]


@lru_cache(maxsize=_CACHE)
def normalise_strictly(text: str) -> str:
    """Return `text` as the strict protocol compares it: the official rules without their accidents.

    Markup and typographic characters go first (`tasks.answers.plain`), so that `**T2\u2011weighted**` is `T2-weighted`.
    Every mark becomes a space wherever it stands, a comma that groups thousands and every period that is no
    decimal point go, and an answer never becomes empty: articles stay if there is nothing else, and so do
    marks. Hence every answer that is not blank equals itself, which the official form does not grant to the
    answer `A`.
    """
    text = plain_text(text) or text
    unmarked = _THOUSANDS.sub("", text).translate(_STRICT_MARKS_SPACED)
    words = _numbered(_PERIOD.sub("", unmarked).lower().split())
    content = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_CONTRACTIONS.get(word, word) for word in content) or " ".join(text.lower().split())
