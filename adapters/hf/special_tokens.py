"""Which special tokens are left out of a model's text, and which are part of what it says."""

from adapters.hf.processors import Tokenizer
from tasks.answers.thoughts import MARKS


def dropped_ids(tokenizer: Tokenizer) -> frozenset[int] | None:
    """Return the special tokens that a text is written without, where some must stay; None where none must.

    Tokens that set thoughts and answers apart are special ones to some tokenizers: without them nobody can tell a
    thought from an answer.
    """
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    special |= set(tokenizer.all_special_ids)
    marks = {number for number in special if tokenizer.convert_ids_to_tokens(number) in MARKS}
    return frozenset(special - marks) if marks else None
