"""What the official evaluation does to texts before any metric sees them."""

import re
from functools import lru_cache

REFERENCE_WORDS = 50
"""Words of a reference that the official evaluation keeps; the paper does not mention the cut."""

_SPACES = re.compile(r"\s{2,}")


@lru_cache(maxsize=1 << 15)
def first_words(text: str, limit: int = REFERENCE_WORDS) -> str:
    """Return `text` cut to its first `limit` words, as the text processor `blip_caption_new` does.

    Runs of white space become one space, a lone newline or tab stays, and only spaces separate words.

    Source: the official Uni-Med text processor, which is applied to questions and references alike.
    """
    tidy = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    return " ".join(tidy.split(" ")[:limit])


def clean_prediction(text: str) -> str:
    """Return a prediction as the official scripts clean text: lower case, without `<unk>`, stripped."""
    return text.lower().replace("<unk>", "").strip()
