"""What a model that answers many is told: the task's own words, what its choices are, and how boxes are written."""

import re
from collections.abc import Sequence

from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

IMAGE_MARKS = ("<image>",)  # Placeholders of images in many prompts: in a dataset's text they would count as images.


def without_marks(text: str, marks: Sequence[str] = IMAGE_MARKS) -> str:
    """Return a text of a dataset without what would pass for an image of the prompt."""
    for mark in marks:
        text = text.replace(mark, "")
    return text.strip()


def bare_question(sample: Sample, spec: TaskSpec) -> str:
    """Return the question of VQA as the data set has it, the task's instruction for everything else."""
    return sample.inputs["question"] if spec.kind == "vqa" and "question" in sample.inputs else spec.instruction(sample)


def question_of(sample: Sample, spec: TaskSpec, space: BoxSpace, *, find: str = "") -> str:
    """Return the user's words: the task's instruction, its choices if it lacks them, and how boxes are written.

    `space` is how boxes are written in questions and answers. `find` are the words with which a model was taught to
    find an `{object}`: it knows then what to write and is told no more.
    """
    if find and spec.kind == "rec" and "object" in sample.inputs:
        return without_marks(find.format(object=sample.inputs["object"]))
    box = "" if sample.box is None or sample.image_size is None else space.write(sample.box, sample.image_size)
    instruction = without_marks(spec.instruction(sample, box=box))
    parts = [instruction, _choices(sample, instruction.lower())]
    if spec.kind == "rec":
        parts.append(f"Answer with the bounding box alone, as {space.in_words(sample.image_size)}.")
    elif spec.kind == "reg":
        parts.append(f"The location is {space.in_words(sample.image_size)}.")
    return "\n".join(filter(None, parts))


def _choices(sample: Sample, instruction: str) -> str:
    """Return the sample's choices, or nothing where the instruction, in small letters, names them all."""
    # `no` is not named by `known`.
    words = (re.escape((text or key).lower()) for key, text in sample.choices.items())
    if all(re.search(rf"(?<!\w){word}(?!\w)", instruction) for word in words):
        return ""
    if all(text in {"", key} for key, text in sample.choices.items()):
        return f"Choose one of: {', '.join(sample.choices)}."
    lines = [f"{key}. {text}" for key, text in sample.choices.items()]
    return "\n".join([*lines, "Answer with the letter of the right option."])
