"""How much a model wrote on a task, and how much of it was thought."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import GenerationRecord
from harness.results import Written
from tasks.answers.thoughts import take_apart, thought_end

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


def _length(record: GenerationRecord) -> _Length:
    """Return the lengths in tokens; by characters where nobody counted the tokens of a thought."""
    said = take_apart(record.text)
    characters = len(record.text) + len(record.reasoning)
    by_characters = (thought_end(record.text) + len(record.reasoning)) / characters if characters else 0.0
    written = record.output_tokens or characters
    counted = min(record.thought_tokens, written)
    thinks = said.unfinished or bool(said.thought or record.reasoning or counted)
    return _Length(
        thinks=thinks,
        cut_off=said.unfinished or (thinks and record.stop == "length" and not said.answer),
        written=written,
        thought=counted or written * by_characters,
    )
