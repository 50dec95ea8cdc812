"""A tokenizer that needs no training: one id per byte."""

from collections.abc import Sequence

BOS_ID = 256
EOS_ID = 257
PAD_ID = 258
VOCABULARY = 259


def encode(text: str) -> list[int]:
    """Return the UTF-8 bytes of `text` as ids, begun by BOS."""
    return [BOS_ID, *text.encode()]


def decode(ids: Sequence[int]) -> str:
    """Return the text of `ids` without special ids; broken UTF-8 becomes the replacement character."""
    return bytes(item for item in ids if item < BOS_ID).decode(errors="replace")
