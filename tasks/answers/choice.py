"""Reading which choice an answer takes, without ever inventing one.

Peers fall back to the most similar option, to the first one or to a random letter, so that an empty answer or a
refusal scores. Here an answer takes a choice only if it says so in one of these ways:

1. it is a JSON object whose field `answer` (`answer_choice`, `correct_answer`, ...) says so, or it marks its answer as
   `<answer>...</answer>` or `\\boxed{...}`;
2. it declares it: `the answer is C`, `Answer: (C)`, `option C is correct`, `I think C`, `the diagnosis is warfarin`;
3. it is the choice: a key alone (`C`, `(C)`, `c.`), or the text of an option alone;
4. it begins with it: `C) warfarin`, `Option C: warfarin`; or its last line is a key alone;
5. it points to one option only: `warfarin (option C)`.

What stays unread (`B or C`, what is denied, asked or supposed, a letter that is an article), and that the last version
of an answer counts, stands in `docs/scoring.md`.
"""

from collections.abc import Mapping

from medbench.tasks.answers.closed import POLAR_WORDS, read_class, read_polar
from medbench.tasks.answers.letters import Keys, common, letters_reader
from medbench.tasks.answers.texts import plain_characters, standing_text
from medbench.tasks.answers.thoughts import answer_fields, final_answer
from medbench.tasks.answers.wording import phrase

_LOOKED_AT = 400


def read_choice(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the key of the choice that an answer takes, or None if it takes none or more than one.

    Choices are keys and texts: `{"A": "warfarin", ...}`, or words for themselves: `{"yes": "yes", ...}`; a text is
    empty where only the key is known.
    """
    taken = taken_choices(text, choices)
    return next(iter(taken)) if len(taken) == 1 else None


def choice_beside(text: str, choices: Mapping[str, str], reference: str) -> str:
    """Return the key that an answer takes, as it stands beside the right one; empty if it takes none.

    Where several options have one text, an answer that names that text says the same as any of their letters: if the
    right one is among them it is right, and otherwise it takes none of them.
    """
    taken = taken_choices(text, choices)
    return reference if reference in taken else next(iter(taken)) if len(taken) == 1 else ""


def taken_choices(text: str, choices: Mapping[str, str]) -> frozenset[str]:
    """Return the keys that an answer takes: several only if it names a text that several options share."""
    said = final_answer(text)
    if not said or not choices:
        return Keys()
    fields = answer_fields(said)
    if fields is None:
        return _taken(standing_text(said), choices)
    claims = [_taken(standing_text(value), choices, in_field=True) for value in fields[0] if value]
    # Where the text around JSON declares something else, nothing is taken.
    beside = standing_text(fields[1])
    if {key.lower() for key in choices} <= POLAR_WORDS:
        claims.append(_taken(beside, choices))
    elif all(len(key) == 1 for key in choices):
        claims += letters_reader(tuple(choices.items())).declared(beside)
    return common([keys for keys in claims if keys])


def _taken(text: str, choices: Mapping[str, str], *, in_field: bool = False) -> Keys:
    keys = {key.lower() for key in choices}
    words = all(key.lower() == text.lower() or not text.strip() for key, text in choices.items())
    if words and keys <= POLAR_WORDS:
        polar = read_polar(text)
        return Keys(key for key in choices if key.lower() == polar)
    if words and max(map(len, keys)) > 1:
        found = read_class(text, tuple(choices))
        return Keys() if found is None else Keys({found})
    return letters_reader(tuple(choices.items()), in_field=in_field).taken_by(text)


def is_refusal(text: str) -> bool:
    """Return whether an answer declines: it refuses, excuses itself, or says no more than that it does not know.

    Under `strict` a refusal counts as wrong like any other answer that is not right; the state only says why. So one
    that is not recognised costs nothing but a count, while a proper answer taken for one would cost its score: what is
    not plainly a refusal is none.
    """
    text = text.strip()
    opening = plain_characters(text[:_LOOKED_AT])
    whole = len(text) <= _LOOKED_AT and phrase("refuses_whole").match(opening) is not None
    return whole or phrase("refuses").match(opening) is not None
