"""How XrayGPT's authors put a question and its image into words.

Sources: `xraygpt/conversation/conversation.py` (the demo) and `test.py` with `prompts/alignment.txt` of XrayGPT. The
texts here are pinned, token by token, by the parity fixtures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TURN_END = "###"
"""Ends every turn, the model's own included."""
SPEAKER = "Doctor:"
IMAGES = ("<ImageHere>", "<image>")
"""What stands for an image in the authors' prompts; taken out of dataset texts."""
_IMAGE_TURN = "###Patient: <Img>"
_SYSTEM = (
    "You are an experienced Doctor, give the following medical scan: <Img>ImageContent</Img>. You will be able to see "
    "the medical scan once I provide it to you. Please answer my questions."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A question about one image.

    Attributes:
        opening: Text before the image.
        closing: Text behind the question.
    """

    opening: str
    closing: str

    def parts(self, question: str) -> tuple[str, str]:
        """Return the texts before and behind the image, each to be tokenised by itself."""
        return self.opening, f"</Img> {question}{self.closing}"


TEMPLATES: Mapping[str, Template] = {
    "demo": Template(opening=_SYSTEM + _IMAGE_TURN, closing=f"{TURN_END}{SPEAKER}"),
    "test": Template(opening=_IMAGE_TURN, closing=f" {TURN_END}{SPEAKER} "),
}


def question_of(instruction: str) -> str:
    """Return an instruction without anything that would pass for an image."""
    for mark in IMAGES:
        instruction = instruction.replace(mark, "")
    return instruction.strip()


def answer_in(text: str) -> str:
    """Return what the model says: its own turn, behind the last `Doctor:` in it, as both programs of the authors do.

    The demo also calls a `ChatDoctor` XrayGPT, and the test program deletes `Impression:`, newlines and rules; neither
    is done here.
    """
    turn = text.partition(TURN_END)[0]
    return turn.rpartition(SPEAKER)[2].strip()
