"""Uni-Med's words: text identifiers and the instruction wrapping (paper appendix C, official code).

Its box strings are `tasks.answers.box_space.UNI_MED`.
"""

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
