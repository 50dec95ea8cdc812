"""The answer to an open question without the label before it: `Answer: liver`, `{"answer": "liver"}`.

A label is no part of an answer, no more than markup is. Words of a sentence are: `The answer is liver` stays as it is,
and so does a label in the midst of a text, behind which a model may go on with a question of its own. Only `Final
answer:` at the beginning of a line says that the answer comes now.
"""

import re

from medbench.tasks.answers.fields import answer_fields
from medbench.tasks.answers.texts import plain_text

_LABEL = r"(?:(?:the|my|your|final|correct|short|predicted|best)\s+)*(?:answer|ans|response|output|prediction)"
_AT_THE_START = re.compile(rf"\A\s*{_LABEL}\s*[:=]\s*(?=\S)", re.IGNORECASE)
_FINAL = re.compile(r"^\s*(?:the\s+|my\s+)?final\s+(?:answer|response)\s*:\s*(?=\S)", re.IGNORECASE | re.MULTILINE)
_MOST_LABELS = 3


def answer_itself(text: str) -> str:
    """Return an answer without markup and labels; of one that ends with a `Final answer:`, what stands behind it.

    Args:
        text: The answer, without thoughts.
    """
    fields = answer_fields(text)
    if fields is not None and len(set(fields.values)) == 1 and fields.values[0] and not plain_text(fields.beside):
        return plain_text(fields.values[0])
    plain = plain_text(text)
    final = [match.end() for match in _FINAL.finditer(plain)]
    plain = plain[final[-1] :] if final else plain
    for _ in range(_MOST_LABELS):
        plain = _AT_THE_START.sub("", plain)
    return plain.strip()
