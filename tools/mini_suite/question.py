"""One question about a picture, before it takes the form of a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its answer.

    Attributes:
        text: The question.
        answer: The answer, stripped; a number is its digits.
        closed: Whether the answers are few and known beforehand.
        kind: What is asked, in the words of VQA-RAD: `PRES`, `POS`, `POS, PRES`.
        phrase: `freeform`, `para` or `frame` as in VQA-RAD, or `composed` by us.
    """

    text: str
    answer: str
    closed: bool
    kind: str
    phrase: str
