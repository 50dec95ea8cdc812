"""The answer behind its label: the value of a field of JSON that is called an answer, or what follows `Answer:`.

JSON is read also where it is cut off or not quite JSON. A label is no part of an answer, no more than markup is. Words
of a sentence are: `The answer is liver` stays as it is, and so does a label in the midst of a text, behind which a
model may go on with a question of its own. Only `Final answer:` at the beginning of a line says that the answer comes.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medbench.tasks.answers.wording import pattern
from medbench.tasks.answers.texts import plain_characters, plain_text

_IS_NAME = pattern(r"(?:(?:{field_qualifiers})[_\x20-]?)*(?:{field_names})(?:[_\x20-]?(?:{field_kinds}))?")
_NAMED = re.compile(rf"""["']{_IS_NAME.pattern}["']\s*:""", re.IGNORECASE)
_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.){0,2000})"|'((?:[^'\\]|\\.){0,2000})'|([^,}\n]{0,400}))""")

_AT_THE_START = pattern("{field_label}")
_FINAL = pattern(r"^\s*(?:the |my )?final (?:answer|response)\s*:\s*(?=\S)", re.IGNORECASE | re.MULTILINE)
_MOST_LABELS = 3

_Object = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """The values of all fields that are called an answer (no single value, as of a list, is empty), and the rest."""

    values: Sequence[str]
    beside: str


def answer_itself(text: str) -> str:
    """Return an answer without markup and labels; of one that ends with a `Final answer:`, what stands behind it."""
    fields = answer_fields(text)
    if fields is not None and len(set(fields.values)) == 1 and fields.values[0] and not plain_text(fields.beside):
        return plain_text(fields.values[0])
    plain = plain_text(text)
    for match in _FINAL.finditer(plain):
        plain = match.string[match.end() :]
    for _ in range(_MOST_LABELS):
        plain = _AT_THE_START.sub("", plain)
    return plain.strip()


def answer_fields(text: str) -> Fields | None:
    """Return the answers that a text gives as fields of JSON; None if it has no such field."""
    if "{" not in text:
        return None
    start, end = text.find("{"), text.rfind("}") + 1
    document = _document(text[start:end]) or _document(plain_characters(text[start:end]))
    if document is not None:
        values = _named(document)
        return Fields(values, f"{text[:start]}\n{text[end:]}") if values else None
    text = plain_characters(text)
    found = [_value_behind(text, match.end()) for match in _NAMED.finditer(text)]
    return Fields(found, "") if found else None


def _document(text: str) -> _Object | None:
    """Return an object of JSON as its pairs, also those of the same name; one that only wraps another is that."""
    try:
        # Arrays become lists, so that a tuple is an object.
        document = json.loads(text, strict=False, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, tuple):
        return None
    nested = [value for _, value in document if isinstance(value, tuple)]
    return nested[0] if len(nested) == 1 and not _named(document) else document


def _named(document: _Object) -> list[str]:
    """Return the values of the fields that are called an answer."""
    return [_single(value) for key, value in document if _IS_NAME.fullmatch(key)]


def _single(value: object) -> str:
    if isinstance(value, list) and len(value) == 1:
        return _single(value[0])
    if isinstance(value, tuple):
        inner = _named(value)
        return inner[0] if len(inner) == 1 else ""
    return str(value).strip() if isinstance(value, str | int) else ""


def _value_behind(text: str, place: int) -> str:
    match = _VALUE.match(text, place)
    value = (match[match.lastindex] if match and match.lastindex else "").strip()
    return "" if value.startswith(("[", "{")) and not value.endswith(("]", "}")) else value.strip("[]{}\"' ")
