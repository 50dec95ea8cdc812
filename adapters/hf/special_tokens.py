"""Which special tokens are left out of a model's text, and which are part of what it says."""

from medbench.adapters.hf.processors import Tokenizer
from medbench.tasks.answers.thoughts import MARKS


def dropped_ids(tokenizer: Tokenizer) -> frozenset[int] | None:
    """Return the special tokens that a text is written without, where some must stay; None where none must.

    Tokens that set thoughts and answers apart are special ones to some tokenizers: without them nobody can tell a
    thought from an answer.
    """
    special = _special(tokenizer)
    marks = _marks(tokenizer)
    return frozenset(special - marks.keys()) if marks else None


def kept_marks(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens that stay in texts, as a part of what a model is made of; nothing if there are none."""
    marks = _marks(tokenizer)
    return {"special tokens kept": " ".join(sorted(marks.values()))} if marks else {}


def _marks(tokenizer: Tokenizer) -> dict[int, str]:
    named = {number: str(tokenizer.convert_ids_to_tokens(number)) for number in _special(tokenizer)}
    return {number: token for number, token in named.items() if token in MARKS}


def _special(tokenizer: Tokenizer) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    return special | set(tokenizer.all_special_ids)
