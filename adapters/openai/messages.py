"""What a served model is told: the task's own words, what its choices are, and how boxes are written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.answers.box_space import BOX_SPACES, BoxSpace, Order
from tasks.sample import Sample
from tasks.spec import TaskSpec

SPACES: Mapping[str, BoxSpace] = {
    name: BOX_SPACES[name]
    for name in ("permille", "permille-yxyx", "fraction", "percent", "pixels", "pixels-xywh", "pixels-28")
}
BOXES = SPACES["permille"]
_CORNERS: Mapping[Order, str] = {
    "xyxy": "[left, top, right, bottom]",
    "yxyx": "[top, left, bottom, right]",
    "xywh": "[left, top, width, height]",
    "cxcywh": "[horizontal centre, vertical centre, width, height]",
}
# Placeholders of images in many chat templates; in a dataset's text they would count as images of their own.
_PLACEHOLDER = "<image>"


def question_of(sample: Sample, spec: TaskSpec, space: BoxSpace = BOXES) -> str:
    """Return the user's words: the task's instruction, its choices if it lacks them, and how boxes are written."""
    box = "" if sample.box is None or sample.image_size is None else space.write(sample.box, sample.image_size)
    instruction = spec.instruction(sample, box=box).replace(_PLACEHOLDER, "").strip()
    return "\n".join(part for part in (instruction, _choices(sample, instruction), _note(sample, spec, space)) if part)


def _note(sample: Sample, spec: TaskSpec, space: BoxSpace) -> str:
    """Return how boxes are written: no model that answers many can be expected to know."""
    if spec.kind == "rec":
        return f"Answer with the bounding box alone, as {_form(sample, space)}."
    return f"The location is {_form(sample, space)}." if spec.kind == "reg" else ""


def _form(sample: Sample, space: BoxSpace) -> str:
    corners = _CORNERS[space.order]
    if space.units is None:
        width, height = sample.image_size or (0, 0)
        # Scaled to whole squares, the image has a size that only such a model knows.
        size = "" if space.multiple else f", which is {width} wide and {height} high"
        return f"{corners} in pixels of the image{size}, counted from its top left corner"
    numbers = "numbers" if space.digits else "whole numbers"
    return (
        f"{corners} in {numbers} from 0 to {space.units:g}, where {space.units:g} is the image's whole width or "
        "height, counted from its top left corner"
    )


def _choices(sample: Sample, instruction: str) -> str:
    """Return the sample's choices, or nothing where the instruction names them all."""
    told = instruction.lower()
    if all(_named(text or key, told) for key, text in sample.choices.items()):
        return ""
    if all(text in {"", key} for key, text in sample.choices.items()):
        return f"Choose one of: {', '.join(sample.choices)}."
    lines = [f"{key}. {text}" for key, text in sample.choices.items()]
    return "\n".join([*lines, "Answer with the letter of the right option."])


def _named(choice: str, told: str) -> bool:
    # `no` is not named by `known`.
    return re.search(rf"(?<!\w){re.escape(choice.lower())}(?!\w)", told) is not None


def messages_of(question: str, pictures: Sequence[str], system: str) -> list[dict[str, Any]]:
    """Return the chat: the system prompt if there is one, then the pictures before the text.

    So all questions about a picture begin alike, and a server that remembers beginnings reads it once.

    Args:
        question: The user's words.
        pictures: Data URIs.
        system: System prompt, or empty.
    """
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in pictures]
    # Text alone is sent as text: not every template of a text model takes a list of parts.
    content: Any = [*parts, {"type": "text", "text": question}] if parts else question
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": content}]
