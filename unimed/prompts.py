"""Uni-Med's words: text identifiers, the instruction wrapping and box strings (paper appendix C, official code)."""

import re

from tasks.sample import Box
from tasks.spec import Kind

IDENTIFIERS: dict[Kind, str] = {
    "qa": "[qa]",
    "vqa": "[vqa]",
    "report": "[caption]",
    "rec": "[refer]",
    "reg": "[identify]",
    "cls": "[cls]",
}
CONNECTOR_TASK: dict[Kind, str] = {
    "vqa": "vqa",
    "rec": "refer",
    "reg": "identify",
    "report": "caption",
    "cls": "cls",
}
IMAGE_PLACEHOLDER = "<ImageHere>"
BOX_UNITS = 100
"""Boxes are whole numbers from 0 to 100, fractions of the image's width and height."""

_BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")


def wrap(kind: Kind, instruction: str, *, images: int) -> tuple[str, ...]:
    """Return the user turn around `instruction`, cut where the images go.

    The parts are to be tokenised one by one, as the official code does; so nothing in the instruction can pass
    for an image placeholder.
    """
    opening, closing = "[INST] ", f"{IDENTIFIERS[kind]} {instruction} [/INST]"
    if images == 0:
        return (opening + closing,)
    between = ["</Img> <Img>"] * (images - 1)
    return (f"{opening}<Img>", *between, f"</Img> {closing}")


def box_text(box: Box, image_size: tuple[int, int]) -> str:
    """Return the box as `{<x1><y1><x2><y2>}`, truncated to whole hundredths of the image's size, as official."""
    width, height = image_size
    corners = box.scaled(BOX_UNITS / width, BOX_UNITS / height)
    return "{" + "".join(f"<{int(value)}>" for value in corners) + "}"


def parse_box(text: str, image_size: tuple[int, int]) -> Box | None:
    """Return the box that an answer starts with, in pixels, or None.

    The official evaluation removes `<unk>` and every space and then demands the box at the very start; what
    follows it is ignored (`eval_ref.py`).
    """
    match = _BOX.match(text.replace("<unk>", "").replace(" ", ""))
    if match is None:
        return None
    left, top, right, bottom = (float(number) for number in match.groups())
    width, height = image_size
    return Box(left, top, right, bottom).scaled(width / BOX_UNITS, height / BOX_UNITS)
