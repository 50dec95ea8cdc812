"""One prediction of a model that medbench did not run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answer beside its reference.

    Attributes:
        where: File and line or row, for messages.
        prediction: What the model said; None if it failed, which is the state `error`.
        reference: The right answer as text; for REC the name of the object, or empty.
        box: The right box in pixels, for REC; otherwise None.
        image_size: Width and height in pixels of the image that `box` refers to.
        answer_type: `OPEN` or `CLOSED` for VQA, otherwise empty.
        group: What ties predictions together (the image, the patient); a prediction of its own by default.
        choices: The choices by key (`A`, `B`, ...) where the question showed some.
        predicted_box: The model's box in pixels, where the format stores boxes that were read already.
    """

    where: str
    prediction: str | None
    reference: str
    box: Box | None = None
    image_size: tuple[int, int] | None = None
    answer_type: str = ""
    group: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    predicted_box: Box | None = None


Importer = Callable[[Path, TaskSpec, Path | None], Iterator[Prediction]]
"""Reads a file of predictions for a task; the last argument is a file of references, where the format needs one.

Raises:
    UsageError: If the format does not hold predictions of this kind of task, or the references are missing.
    DataError: If the file is missing or not in the format; the message names the line or row.
"""
