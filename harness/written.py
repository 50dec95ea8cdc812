"""How much a model wrote on a task, and how much of it was thought."""

from collections.abc import Sequence
from dataclasses import dataclass

from medbench.adapters.base import Generation
from medbench.harness.records import GenerationRecord
from medbench.harness.results import Written
from medbench.tasks.answers.thoughts import Said, take_apart, thought_end

_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Length:
    """One answer: whether it thinks, whether a thought was cut off, what it wrote and what of it is thought."""

    thinks: bool
    cut_off: bool
    written: float
    thought: float


def written_on(records: Sequence[GenerationRecord]) -> Written:
    """Return how much a model wrote on a task, over the samples that did not fail."""
    answers = [record for record in records if not record.error]
    lengths = [_length(record) for record in answers]
    written = sum(one.written for one in lengths)
    thinking = sum(one.thinks for one in lengths)
    return Written(
        answers=len(answers),
        at_limit=sum(record.stop == "length" for record in answers),
        thinking=thinking,
        cut_thoughts=sum(one.cut_off for one in lengths),
        thought_share=round(sum(one.thought for one in lengths) / written, _DIGITS) if thinking and written else None,
    )


def thinks(said: Said, one: Generation | GenerationRecord) -> bool:
    """Return whether an answer begins with a thought, in its text or filed apart by a server."""
    return said.unfinished or bool(said.thought or one.reasoning or one.thought_tokens)


def is_cut_off(said: Said, one: Generation | GenerationRecord) -> bool:
    """Return whether an answer, or the thought before it, was ended by the limit of tokens."""
    return said.unfinished or (one.stop == "length" and (bool(said.answer) or thinks(said, one)))


def _length(record: GenerationRecord) -> _Length:
    """Return the lengths in tokens; by characters where nobody counted the tokens of a thought."""
    said = take_apart(record.text)
    characters = len(record.text) + len(record.reasoning)
    by_characters = (thought_end(record.text) + len(record.reasoning)) / characters if characters else 0.0
    written = record.output_tokens or characters
    counted = min(record.thought_tokens, written)
    return _Length(
        thinks=thinks(said, record),
        cut_off=is_cut_off(said, record) and not said.answer,
        written=written,
        thought=counted or written * by_characters,
    )
