"""Recognising an answer that declines to answer, so that it can be counted as such.

Under `strict` a refusal counts as wrong like any other answer that is not right; the state only says why. So a refusal
that is not recognised costs nothing but a count, while a proper answer taken for a refusal would cost its score: what
is not plainly a refusal is none.
"""

import re

from medbench.tasks.answers.texts import plain_characters

_CANNOT = r"(?:can\s*not|can'?t|could\s*n[o']t|am\s+(?:not\s+able|unable)\s+to|'m\s+(?:not\s+able|unable)\s+to)"
_DO = (
    r"(?:help|assist|comply|fulfil\w*|provide|give|offer|make|generate|create|produce|answer|respond|process|analy[sz]e|interpret"
    r"|examine|evaluate|diagnose|describe|discuss|engage|do\s+that|tell|say|determine"
    # What a model sees or identifies is an observation, unless it is the picture itself.
    r"|(?:view|see|access|open|look\s+at|identify)\s+(?:the|this|that|your|any|an?)?\s*(?:medical\s+)?(?:images?|pictures?"
    r"|x-?rays?|scans?|files?|attachments?|photos?|people|persons?))"
)
# Said in the first person and at the start: `I cannot see the apex` in the midst of a report is an observation.
_DECLINES = re.compile(
    rf"""\A\W*(?:(?:i'?m|i\s+am)\s+(?:very\s+|so\s+)?sorry\b|sorry\b|apologies\b|i\s+apologi[sz]e\b|unfortunately\b)?
         [\s,.:;!-]*(?:but\b\s*|however\b\s*|that\b\s*|as\s+an?\s+(?:ai|artificial|language|large|medical\s+ai)\b[^.\n]{{0,80}}?){{0,2}}[\s,.:;-]*
         (?:i\s*{_CANNOT}\s+{_DO}\b|i\s+(?:do\s+not|don'?t)\s+(?:know|have\s+(?:access|the\s+ability|enough\s+information))\b
           |i\s+(?:won'?t|will\s+not|must\s+decline|decline|refuse)\b|i'?m\s+not\s+(?:sure|qualified|a\s+doctor)\b
           |i\s+am\s+not\s+(?:sure|qualified|a\s+doctor)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_ONLY_SORRY = re.compile(
    r"""\A\W*(?:(?:i'?m|i\s+am)\s+(?:very\s+|so\s+)?sorry|sorry|i\s+apologi[sz]e|as\s+an?\s+(?:ai|language\s+model)\b[^.\n]{0,80})
        [\s,.!]*(?:but\s+)?(?:i\s+(?:can(?:no|')t|cannot|am\s+unable)\b|this\s+(?:is\s+beyond|request)|\Z)""",
    re.IGNORECASE | re.VERBOSE,
)
_WHOLE = re.compile(
    r"""\A\W*(?:(?:it|this|that|the\s+answer)\s+)?(?:
          (?:can\s*not|can'?t|could\s+not)\s+be\s+(?:determined|answered|assessed|told|seen)\b[^.\n]{0,60}
         |(?:is\s+)?(?:not\s+possible|impossible)\s+to\s+(?:tell|say|determine|answer)\b[^.\n]{0,60}
         |(?:cannot|can'?t|unable\s+to)\s+(?:tell|say|determine|answer|assess)\b[^.\n]{0,60}
         |(?:i\s+)?(?:do\s+not|don'?t)\s+know|(?:i\s+am\s+|i'm\s+)?(?:not\s+sure|unsure|uncertain)|unknown|n/?a|unanswerable
         |no\s+(?:idea|answer)|insufficient\s+(?:information|data)\b[^.\n]{0,60}|not\s+enough\s+information\b[^.\n]{0,60}
        )[\s.!?]*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_LOOKED_AT = 400


def is_refusal(text: str) -> bool:
    """Return whether an answer declines: it refuses, excuses itself, or says no more than that it does not know."""
    text = text.strip()
    opening = plain_characters(text[:_LOOKED_AT])
    whole = len(text) <= _LOOKED_AT and _WHOLE.match(opening) is not None
    return whole or any(pattern.match(opening) is not None for pattern in (_DECLINES, _ONLY_SORRY))
