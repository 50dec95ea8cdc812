"""RadFM's prompts: a question with its images in it, and nothing around them.

The authors put the images before a question or, by a slip that the model was trained with, before its last character:
`Is the liver enlarged<image>...</image>?`. Chest X-rays always stood there; for the others a coin was tossed.
"""

from collections.abc import Sequence
from typing import Literal

from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

Position = Literal["start", "end", "auto"]
PLACEHOLDER = "<image>"
CHEST_TASKS = "mimic-cxr"
"""What the names of the tasks begin with whose pictures are chest X-rays with reports."""
CHEST_REPORT = "Can you provide a radiology report for this medical image?"
"""The first of the authors' published questions for reports."""
CHEST_IMPRESSION = "Could you provide an impression for this chest scan?"
"""From the authors' published answers; they asked so for an impression alone."""


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the words that RadFM was taught: the bare question, the authors' own for reports, else the task's."""
    if spec.kind == "vqa" and "question" in sample.inputs:
        text = sample.inputs["question"]
    elif spec.name.startswith(CHEST_TASKS):
        text = CHEST_IMPRESSION if spec.name.endswith("impression") else CHEST_REPORT
    else:
        text = spec.instruction(sample)
    return text.replace(PLACEHOLDER, "").strip()


def position_of(spec: TaskSpec, chosen: Position) -> Literal["start", "end"]:
    """Return where images stand: as chosen, or `auto`, which is before the last character for chest X-rays only."""
    if chosen != "auto":
        return chosen
    return "end" if spec.name.startswith(CHEST_TASKS) else "start"


def with_images(
    question: str, images: Sequence[ImageRef], position: Literal["start", "end"]
) -> tuple[str | ImageRef, ...]:
    """Return a question as texts and images; an empty text counts for nothing, and without images nothing is parted."""
    if not images:
        return (question,)
    place = 0 if position == "start" else max(0, len(question) - 1)
    return (question[:place], *images, question[place:])
