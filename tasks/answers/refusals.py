"""Recognising an answer that declines to answer, so that it can be counted as such.

Under `strict` a refusal counts as wrong like any other answer that is not right; the state only says why. So a refusal
that is not recognised costs nothing but a count, while a proper answer taken for a refusal would cost its score: what
is not plainly a refusal is none.
"""

from medbench.tasks.answers.phrases import pattern
from medbench.tasks.answers.texts import plain_characters

# Said in the first person and at the start: `I cannot see the apex` in the midst of a report is an observation.
_DECLINES = pattern(r"""
    \A\W*(?:(?:i'?m|i am) (?:very |so )?sorry\b|sorry\b|apologies\b|i apologi[sz]e\b|unfortunately\b)?[\s,.:;!-]*
    (?:but\b\s*|however\b\s*|that\b\s*|as an? (?:ai|artificial|language|large|medical ai)\b[^.\n]{0,80}?){0,2}[\s,.:;-]*
    (?:i\s*(?:{not_able}) (?:{refusing_to}|{refused_pictures})\b
    |i (?:do not|don'?t) (?:know|have (?:access|the ability|enough information))\b
    |i (?:won'?t|will not|must decline|decline|refuse)\b|i'?m not (?:sure|qualified|a doctor)\b
    |i am not (?:sure|qualified|a doctor)\b)""")
_ONLY_SORRY = pattern(r"""
    \A\W*(?:(?:i'?m|i am) (?:very |so )?sorry|sorry|i apologi[sz]e|as an? (?:ai|language model)\b[^.\n]{0,80})
    [\s,.!]*(?:but )?(?:i (?:can(?:no|')t|cannot|am unable)\b|this (?:is beyond|request)|\Z)""")
_WHOLE = pattern(r"\A\W*(?:(?:it|this|that|the answer) )?(?:{only_unknown})[\s.!?]*\Z")
_LOOKED_AT = 400


def is_refusal(text: str) -> bool:
    """Return whether an answer declines: it refuses, excuses itself, or says no more than that it does not know."""
    text = text.strip()
    opening = plain_characters(text[:_LOOKED_AT])
    whole = len(text) <= _LOOKED_AT and _WHOLE.match(opening) is not None
    return whole or any(pattern.match(opening) is not None for pattern in (_DECLINES, _ONLY_SORRY))
