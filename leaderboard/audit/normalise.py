"""The form in which an audit compares texts: versioned, and the same for a text wherever it stands.

The rules and their reasons: docs/design/0008-the-audit.md. A missing text is None and equals nothing.
"""

import math
import re
import unicodedata

NORM_VERSION = "norm_v1"
MIN_WORDS = 8

_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_DASH_IN_WORD = re.compile(r"(?<=[^\W_])-(?=[^\W\d_])|(?<=[^\W\d_])-(?=[^\W_])")
_PLAIN_DASHES = str.maketrans(dict.fromkeys(_DASHES, "-"))
# What pandas writes where there was no answer.
_NOT_A_NUMBER = "nan"


class _Marks(dict[int, str | None]):
    """What each character becomes: itself, a space, or nothing; filled as characters come."""

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        self[code] = chr(code) if category[0] in "LNM" else None if category == "Cf" else " "
        return self[code]


_MARKS = _Marks()
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")


def norm_v1(text: object) -> str | None:
    """Return a text, or what files hold in place of one, in the form in which it is compared: words, single spaces.

    A number stands for its digits. None for None, NaN, a text without letters and digits, and the text `nan`, which is
    what pandas makes of a missing one.
    """
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    plain = str(text)
    ascii_alone = plain.isascii()
    if ascii_alone:
        plain = plain.lower()
    else:
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _INVISIBLE.sub("", plain)).casefold())
        plain = plain.translate(_PLAIN_DASHES)
    spaced = (_DASH_IN_WORD.sub("", plain) if "-" in plain else plain).translate(_MARKS)
    found = " ".join((spaced if ascii_alone else unicodedata.normalize("NFKC", spaced)).split())
    return None if found in {"", _NOT_A_NUMBER} else found


def word_count(text: str | None) -> int:
    """Return the number of words of a text in this form."""
    return 0 if text is None else text.count(" ") + 1


def is_long(text: str | None, min_words: int = MIN_WORDS) -> bool:
    """Return whether a text in this form has so many words that two people hardly ever write it alike."""
    return word_count(text) >= min_words
