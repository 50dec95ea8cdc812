"""The words of a text without what only dresses them: markup, typographic characters, composed letters.

`**B**`, a full-width B, `$\\text{B}$` and `B` say the same, and so does `T2-weighted` with a hyphen that does not
break. No word is ever taken away, and what looks like markup but is a part of a name stays: `x_1`, `T2*`, `a*b`,
`CD4+`, `<5 mm`.
"""

import re
import unicodedata

_DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d"
_SINGLE_QUOTES = "\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u00b4\u02bc\uff07"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u300c\u300d\u300e\u300f\uff02"
_CHARACTERS: dict[int, str] = {
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, _SINGLE_QUOTES), "'"),
    **dict.fromkeys(map(ord, _DOUBLE_QUOTES), '"'),
    **dict.fromkeys(map(ord, "\u2028\u2029\u0085"), "\n"),
    ord("\u2116"): "#",
    ord("\u3002"): ". ",
    ord("\u3001"): ", ",
    ord("\u3010"): "[",
    ord("\u3011"): "]",
    ord("\u2044"): "/",
}
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_LONG_DASH = re.compile("[ \t]*[\u2014\u2015\u2e3a\u2e3b\ufe31\ufe32]+[ \t]*")
# NFKC alone would make 105 of ten to the fifth, and 11/2 of one and a half.
_EXPONENT = re.compile("(?<=\\d)(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u207b])")
_FRACTION = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")

_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|nbsp|#39|#34|#x27|#x22);", re.IGNORECASE)
_ENTITIES = {
    "amp": "&",
    "lt": "<",
    "gt": ">",
    "quot": '"',
    "apos": "'",
    "nbsp": " ",
    "#39": "'",
    "#34": '"',
    "#x27": "'",
    "#x22": '"',
}
_LINE_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|h[1-6]|tr)(?:\s+[\w-]+=[^<>]*)?\s*/?>", re.IGNORECASE)
_EXPONENT_TAG = re.compile(r"(?<=\d)<sup>", re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:b|i|u|s|em|strong|code|pre|sub|sup|span|mark|font|center|big|small)(?:\s+[\w-]+=[^<>]*)?\s*>", re.IGNORECASE
)

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$", re.MULTILINE)
_INLINE_FENCE = re.compile(r"```(?:json|text|markdown|plaintext)?(?![\w])")
_INNER_BACKTICK = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[*\u2022\u25aa\u25cf\u25e6][ \t]+", re.MULTILINE)
_QUOTED = re.compile(r"^[ \t]*>[ \t]+(?![\d.])", re.MULTILINE)
_BOLD = re.compile(r"\*\*(?=[^\s*])([^*]+)(?<=[^\s*])\*\*")
_LOOSE_BOLD = re.compile(r"(?<![\w*])\*{2,}|\*{2,}(?![\w*])")
_ITALIC = re.compile(r"(?<![\w*)\]])\*(?=[^\s*])([^*\n]+)(?<=[^\s*])\*(?![\w*])")
_UNDERLINED = re.compile(r"(?<!\w)(_{1,3})(?=[^\s_])([^_\n]+)(?<=[^\s_])\1(?!\w)")
_STRUCK = re.compile(r"~~")
_LATEX_TEXT = re.compile(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}")
_LATEX_LIMITS = re.compile(r"\\[()\[\]]")
_LATEX_MATHS = re.compile(r"(?<![\w\\$])\${1,2}(?=[^\s$])([^$\n]+)(?<=[^\s$])\${1,2}(?![\d$])")
_LATEX_INDEX = re.compile(r"([\^_])\{([^{}\s]*)\}")
_NESTED = 4
_STRUCK_OUT = re.compile(r"~~[^~\n]{1,200}~~")


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
    return _without_emphasis(_without_latex(_without_tags(text)))


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    return _TAG.sub("", _EXPONENT_TAG.sub("^", _LINE_TAG.sub("\n", text)))


def _without_latex(text: str) -> str:
    if "\\" in text:
        for _ in range(_NESTED):
            text = _LATEX_TEXT.sub(r"\1", text)
        text = _LATEX_LIMITS.sub("", text).replace("\\%", "%").replace("\\_", "_").replace("\\*", "*")
    if "{" in text:
        text = _LATEX_INDEX.sub(r"\1\2", text)
    return _LATEX_MATHS.sub(r"\1", text)


def _without_emphasis(text: str) -> str:
    text = _INLINE_FENCE.sub("", _FENCE.sub("", text))
    text = _INNER_BACKTICK.sub("'", text).replace("`", "")
    text = _QUOTED.sub("", _BULLET.sub("", _HEADING.sub("", text)))
    text = _LOOSE_BOLD.sub("", _BOLD.sub(r"\1", text))
    return _STRUCK.sub("", _UNDERLINED.sub(r"\2", _ITALIC.sub(r"\1", text)))
