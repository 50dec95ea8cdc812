"""How LLaVA-Med's authors put a question and its images into words.

Sources: `llava/conversation.py` and the evaluation scripts of LLaVA-Med, release 1.5 and tag v1.0.0. The texts here are
pinned, token by token, by the parity fixtures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

IMAGE = "<image>"
"""What stands for an image in the authors' prompts; it is taken out of dataset texts."""
TURN_END = "###"
"""Ends every turn of version 1.0, the model's own included."""
_GREETING = "###Human: Hi!###Assistant: Hi there!  How can I help you today?\n###Human: "
_WHO = (
    "You are LLaVA-Med, a large language and vision assistant trained by a group of researchers at Microsoft, based on "
    "the general domain LLaVA architecture.You are able to understand the visual content that the user provides, and "
    "assist the user with a variety of medical and clinical {} using natural language.Follow the instructions "
    "carefully and explain your answers in detail."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A question with images, as text.

    Attributes:
        opening: Text before the question and before images that precede it.
        closing: Text behind all.
        images_first: Whether images precede the question, a line each, as in version 1.5.
        stops: Texts that end an answer.
    """

    opening: str
    closing: str
    images_first: bool
    stops: tuple[str, ...] = ()

    def parts(self, question: str, images: int) -> tuple[str, ...]:
        """Return the texts between which the images stand; each is to be tokenised by itself.

        The tokenizer of version 1.0 (transformers 4.28) drops white space on both sides of an image, so it is not here.
        """
        if not images:
            return (f"{self.opening}{question}{self.closing}",)
        if self.images_first:
            return (self.opening, *["\n"] * (images - 1), f"\n{question}{self.closing}")
        return (f"{self.opening}{question}".rstrip(), *[""] * (images - 1), self.closing.lstrip())


V15: Mapping[str, Template] = {
    "mistral_instruct": Template(opening="[INST] ", closing=" [/INST]", images_first=True),
    "vicuna_v1": Template(
        opening="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: ",
        closing=" ASSISTANT:",
        images_first=True,
    ),
}
V10: Mapping[str, Template] = {
    "simple": Template(
        opening="A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the human's questions.{_GREETING}",
        closing=TURN_END,
        images_first=False,
        stops=(TURN_END,),
    ),
    "multimodal": Template(
        opening=_WHO.format("tasks") + _GREETING,
        closing=f"{TURN_END}Assistant:",
        images_first=False,
        stops=(TURN_END,),
    ),
    "llava_v1": Template(
        opening=_WHO.format("research tasks") + " USER: ",
        closing=" ASSISTANT:",
        images_first=False,
    ),
}
TEMPLATES: Mapping[str, Mapping[str, Template]] = {"v1.5": V15, "v1.0": V10}
"""By variant; the first one of each is what the authors evaluate with."""


def question_of(instruction: str) -> str:
    """Return an instruction without anything that would pass for an image."""
    return instruction.replace(IMAGE, "").strip()
