"""The forms in which texts are read and compared: without markup, and normalised as either protocol does.

Plain is a text without what only dresses its words: markup, typographic characters, composed letters.

`**B**`, a full-width B, `$\\text{B}$` and `B` say the same, and so does `T2-weighted` with a hyphen that does not
break. No word is ever taken away, and what looks like markup but is a part of a name stays: `x_1`, `T2*`, `a*b`,
`CD4+`, `<5 mm`.
"""

import re
import unicodedata
from functools import lru_cache

from medbench.tasks.answers.phrases import word_lists

REFERENCE_WORDS = 50
"""Words of a reference that the official evaluation keeps; the paper does not mention the cut."""
_CACHE = 1 << 15

_CHARACTERS: dict[int, str] = {
    ord(mark): plain for plain, marks in word_lists()["characters"].items() for mark in marks
}
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_LONG_DASH = re.compile("[ \t]*[\u2014\u2015\u2e3a\u2e3b\ufe31\ufe32]+[ \t]*")
# NFKC alone would make 105 of ten to the fifth, and 11/2 of one and a half.
_EXPONENT = re.compile("(?<=\\d)(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u207b])")
_FRACTION = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")

_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#39|#34|#x27|#x22);", re.IGNORECASE)
_ENTITIES: dict[str, str] = word_lists()["entities"]
_LINE_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|h[1-6]|tr)(?:\s+[\w-]+=[^<>]*)?\s*/?>", re.IGNORECASE)
_EXPONENT_TAG = re.compile(r"(?<=\d)<sup>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:b|i|u|s|em|strong|code|pre|sub|sup|span|mark|font|center|big|small)(?:\s+[\w-]+=[^<>]*)?\s*>", re.IGNORECASE
)

# Marks of emphasis, and what stands in their place, in the order in which they go.
_EMPHASIS = tuple(
    (re.compile(mark, re.MULTILINE), plain)
    for mark, plain in (
        (r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$", ""),
        (r"```(?:json|text|markdown|plaintext)?(?![\w])", ""),
        (r"(?<=[^\W\d_])`(?=[^\W\d_])", "'"),
        ("`", ""),
        (r"^[ \t]*#{1,6}[ \t]+", ""),
        (r"^[ \t]*[*•▪●◦][ \t]+", ""),
        (r"^[ \t]*>[ \t]+(?![\d.])", ""),
        (r"\*\*(?=[^\s*])([^*]+)(?<=[^\s*])\*\*", r"\1"),
        (r"(?<![\w*])\*{2,}|\*{2,}(?![\w*])", ""),
        (r"(?<![\w*)\]])\*(?=[^\s*])([^*\n]+)(?<=[^\s*])\*(?![\w*])", r"\1"),
        (r"(?<!\w)(_{1,3})(?=[^\s_])([^_\n]+)(?<=[^\s_])\1(?!\w)", r"\2"),
        ("~~", ""),
    )
)
_LATEX_TEXT = re.compile(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}")
_LATEX_LIMITS = re.compile(r"\\[()\[\]]")
_LATEX_MATHS = re.compile(r"(?<![\w\\$])\${1,2}(?=[^\s$])([^$\n]+)(?<=[^\s$])\${1,2}(?![\d$])")
_LATEX_INDEX = re.compile(r"([\^_])\{([^{}\s]*)\}")
_NESTED = 4
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
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OFFICIAL_PERIODS = 32

_MARKS_DELETED: dict[int, str | None] = dict.fromkeys(map(ord, _NORMAL_MARKS))
_MARKS_SPACED: dict[int, str | None] = dict.fromkeys(map(ord, _NORMAL_MARKS), " ")
_STRICT_MARKS_SPACED: dict[int, str | None] = dict.fromkeys(map(ord, _NORMAL_MARKS + ":"), " ")


def plain_text(text: str) -> str:
    """Return a text without markup, with composed letters (NFKC), plain dashes and quotes.

    No word is deleted, and names keep their marks: `x_1`, `T2*`, `CD4+`, `5-HT`, `p < 0.05`.
    """
    return _without_markup(plain_characters(text)).strip()


def standing_text(text: str) -> str:
    """Return a plain text without what was struck out."""
    return plain_text(_STRUCK_OUT.sub("", text))


def plain_characters(text: str) -> str:
    """Return a text in compatibility-composed letters, with plain dashes and quotes and nothing invisible."""
    if text.isascii():
        return text
    visible = _LONG_DASH.sub(" - ", _INVISIBLE.sub("", text))
    spaced = _FRACTION.sub(" ", _EXPONENT.sub("^", visible))
    # Twice: quotes that NFKC would take apart come first, fractions that it makes come last.
    return unicodedata.normalize("NFKC", spaced.translate(_CHARACTERS)).translate(_CHARACTERS)


def _without_markup(text: str) -> str:
    text = _ENTITY.sub(lambda match: _ENTITIES[match.group(1).lower()], text)
    if "<" in text:
        text = _TAG.sub("", _EXPONENT_TAG.sub("^", _LINE_TAG.sub("\n", text)))
    text = _without_latex(text)
    for mark, plain in _EMPHASIS:
        text = mark.sub(plain, text)
    return text


def _without_latex(text: str) -> str:
    if "\\" in text:
        for _ in range(_NESTED):
            text = _LATEX_TEXT.sub(r"\1", text)
        text = _LATEX_LIMITS.sub("", text).replace("\\%", "%").replace("\\_", "_").replace("\\*", "*")
    if "{" in text:
        text = _LATEX_INDEX.sub(r"\1\2", text)
    return _LATEX_MATHS.sub(r"\1", text)


@lru_cache(maxsize=_CACHE)
def first_words(text: str, limit: int = REFERENCE_WORDS) -> str:
    """Return `text` cut to its first `limit` words, as the text processor `blip_caption_new` does.

    Runs of white space become one space, a lone newline or tab stays, and only spaces separate words.

    Source: the official Uni-Med text processor, which is applied to questions and references alike.
    """
    tidy = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(tidy.split(" ")[:limit])


def clean_prediction(text: str) -> str:
    """Return a prediction as the official scripts clean text: lower case, without `<unk>`, stripped."""
    return text.lower().replace("<unk>", "").strip()


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

    Markup and typographic characters go first, so that `**T2\u2011weighted**` is `T2-weighted`.
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
