"""The forms in which texts are read and compared: without markup, and normalised as either protocol does.

`**B**`, a full-width B, `$\\text{B}$` and `B` say the same, and so does `T2-weighted` with a hyphen that does not
break. No word is ever taken away, and what looks like markup but is a part of a name stays: `x_1`, `T2*`, `a*b`,
`CD4+`, `<5 mm`.
"""

import re
import unicodedata
from functools import lru_cache

from medbench.tasks.answers.wording import substituted, word_lists

REFERENCE_WORDS = 50
"""Words of a reference that the official evaluation keeps; the paper does not mention the cut."""
_CACHE = 1 << 15
_CHARACTERS = {ord(mark): plain for plain, marks in word_lists()["characters"].items() for mark in marks}
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#39|#34|#x27|#x22);", re.IGNORECASE)
_ENTITIES: dict[str, str] = word_lists()["entities"]
_STRUCK_OUT = re.compile(r"~~[^~\n]{1,200}~~")
_NORMAL_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {word: str(number) for number, word in enumerate(word_lists()["number_words"].split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
# A word without one of its apostrophes is mended. The official table has one entry the wrong way round.
_CONTRACTIONS = {
    full[:place] + full[place + 1 :]: full
    for full in word_lists()["full_forms"].split()
    for place, mark in enumerate(full)
    if mark == "'"
} | {"somebody'd": "somebodyd"}
_ANY_MARK = re.compile(f"[{re.escape(_NORMAL_MARKS)}]")
_MARK_BESIDE_SPACE = re.compile(f"(?<= )[{re.escape(_NORMAL_MARKS)}]|[{re.escape(_NORMAL_MARKS)}](?= )")
_DIGIT_COMMA_DIGIT, _THOUSANDS = re.compile(r"\d,\d"), re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERIOD = re.compile(r"\.(?!\d)")
_OFFICIAL_PERIODS = 32
_MARKS_DELETED: dict[int, str | None] = dict.fromkeys(map(ord, _NORMAL_MARKS))
_MARKS_SPACED: dict[int, str | None] = dict.fromkeys(map(ord, _NORMAL_MARKS), " ")
_STRICT_MARKS_SPACED = _MARKS_SPACED | {ord(":"): " "}


def plain_text(text: str) -> str:
    """Return a text without what only dresses its words: markup, typographic characters, composed letters (NFKC).

    No word is deleted, and names keep their marks: `x_1`, `T2*`, `CD4+`, `5-HT`, `p < 0.05`.
    """
    unescaped = _ENTITY.sub(lambda match: _ENTITIES[match.group(1).lower()], plain_characters(text))
    return substituted(unescaped, "markup").strip()


def standing_text(text: str) -> str:
    """Return a plain text without what was struck out."""
    return plain_text(_STRUCK_OUT.sub("", text))


def plain_characters(text: str) -> str:
    """Return a text in compatibility-composed letters, with plain dashes and quotes and nothing invisible."""
    if text.isascii():
        return text
    # Twice: quotes that NFKC would take apart come first, fractions that it makes come last.
    visible = substituted(text, "invisible").translate(_CHARACTERS)
    return unicodedata.normalize("NFKC", visible).translate(_CHARACTERS)


@lru_cache(maxsize=_CACHE)
def first_words(text: str, limit: int = REFERENCE_WORDS) -> str:
    """Return `text` cut to its first `limit` words, as the text processor `blip_caption_new` does.

    Runs of white space become one space, a lone newline or tab stays, and only spaces separate words. Source: the
    official Uni-Med text processor, which is applied to questions and references alike.
    """
    tidy = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(tidy.split(" ")[:limit])


def clean_prediction(text: str) -> str:
    """Return a prediction as the official scripts clean text: lower case, without `<unk>`, stripped."""
    return text.lower().replace("<unk>", "").strip()


@lru_cache(maxsize=_CACHE)
def normalise_answer(text: str) -> str:
    """Return `text` as the official evaluation compares it, with all its oddities.

    A mark is deleted wherever it stands if it touches a space somewhere in the text (and all marks are, if the text has
    a comma between digits), otherwise it becomes a space; at most 32 periods go; an answer that is only an article or
    only punctuation becomes empty. Source: `normalize_word` of the official evaluation, from that of VQA.
    """
    marks = _MARKS_DELETED
    if _ANY_MARK.search(text) and not _DIGIT_COMMA_DIGIT.search(text):
        marks = _MARKS_SPACED | dict.fromkeys(map(ord, _MARK_BESIDE_SPACE.findall(text)))
    words = _words(_PERIOD.sub("", text.translate(marks), count=_OFFICIAL_PERIODS))
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=_CACHE)
def normalise_strictly(text: str) -> str:
    """Return `text` as the strict protocol compares it: the official rules without their accidents.

    Markup and typographic characters go first, so that `**T2\u2011weighted**` is `T2-weighted`. Every mark becomes a
    space, a comma that groups thousands and every period that is no decimal point go, and an answer never becomes
    empty: articles and marks stay if there is nothing else. Hence every answer that is not blank equals itself, which
    the official form does not grant to the answer `A`.
    """
    text = plain_text(text) or text
    words = _words(_PERIOD.sub("", _THOUSANDS.sub("", text).translate(_STRICT_MARKS_SPACED)))
    content = [word for word in words if word not in _ARTICLES] or words
    normal = " ".join(_CONTRACTIONS.get(word, word) for word in content) or " ".join(text.lower().split())
    # Where a mark went, what stands before may look like the bullet of a list: `*:0` is `0`, as `* 0` is.
    again = plain_text(normal)
    return normal if again in {"", normal} else normalise_strictly(again)


def _words(text: str) -> list[str]:
    return [_NUMBERS.get(word, word) for word in text.lower().split()]
