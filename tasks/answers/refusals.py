"""Recognising an answer that declines to answer, so that it can be counted as such.

Under `strict` a refusal counts as wrong like any other answer that is not right; the state only says why. So a refusal
that is not recognised costs nothing but a count, while a proper answer taken for a refusal would cost its score: what
is not plainly a refusal is none.
"""

from medbench.tasks.answers.texts import plain_characters
from medbench.tasks.answers.wording import phrase

# Said in the first person and at the start: `I cannot see the apex` in the midst of a report is an observation.
_LOOKED_AT = 400


def is_refusal(text: str) -> bool:
    """Return whether an answer declines: it refuses, excuses itself, or says no more than that it does not know."""
    text = text.strip()
    opening = plain_characters(text[:_LOOKED_AT])
    patterns = (phrase("declines"), phrase("only_sorry"), *([phrase("whole")] if len(text) <= _LOOKED_AT else []))
    return any(pattern.match(opening) is not None for pattern in patterns)
