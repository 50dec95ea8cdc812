"""Uni-Med's words: text identifiers and the instruction wrapping (paper appendix C, official code).

Its box strings are `medbench.tasks.answers.box_space.UNI_MED`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from medbench.tasks.answers.texts import first_words
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

PromptStyle = Literal["official", "clean"]
Purpose = Literal["train", "generate"]
CONNECTOR_TASK: dict[Kind, str] = {"vqa": "vqa", "rec": "refer", "reg": "identify", "report": "caption", "cls": "cls"}
IDENTIFIERS: dict[Kind, str] = {"qa": "[qa]", **{kind: f"[{task}]" for kind, task in CONNECTOR_TASK.items()}}
IMAGE_PLACEHOLDER = "<ImageHere>"
# Inputs that the official code writes into the instruction itself and therefore never cuts.
FIXED_INPUTS = frozenset({"subject", "classes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptForm:
    """How a model was taught to read its instructions."""

    # `official` gives the texts that the official code tokenises: two BOS and one space before the closing tag when
    # generating, one BOS and two spaces when training, and no text longer than 50 words. `clean` is the same for both
    # purposes: one BOS, one space, nothing cut.
    style: PromptStyle = "clean"
    identifiers: bool = True  # Whether `[vqa]`, `[refer]`, ... precede the instruction (Table 5).


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedPrompt:
    """A user turn, cut where the images go, to be tokenised part by part: no instruction passes for a placeholder."""

    parts: tuple[str, ...]  # Texts; between each two of them is an image.
    starts: int = 1  # BOS tokens before the first part.


def wrap(
    kind: Kind, instruction: str, *, images: int, form: PromptForm = PromptForm(), purpose: Purpose = "generate"
) -> WrappedPrompt:
    """Return the user turn around `instruction`."""
    text = f"{IDENTIFIERS[kind]} {instruction}" if form.identifiers else instruction
    if form.style == "official":
        # Of questions without an image the official data sets cut the finished instruction, not the question in it.
        text = first_words(text) if kind == "qa" else text
        text = f"{text} " if images and (purpose == "train" or kind == "report") else text
    starts = 2 if form.style == "official" and purpose == "generate" else 1
    opening, closing = "[INST] ", f"{text} [/INST]"
    between = ["</Img> <Img>"] * (images - 1)
    parts = (f"{opening}<Img>", *between, f"</Img> {closing}") if images else (opening + closing,)
    return WrappedPrompt(parts=parts, starts=starts)


def instruct(spec: TaskSpec, sample: Sample, form: PromptForm, *, box: str = "", template: str | None = None) -> str:
    """Return a sample's instruction, without identifier and tags; DataError if it lacks a field of the template."""
    if form.style == "official":
        inputs = {name: text if name in FIXED_INPUTS else first_words(text) for name, text in sample.inputs.items()}
        sample = replace(sample, inputs=inputs)
    return spec.instruction(sample, box=box, template=template)


def taught_answer(reference: str, form: PromptForm) -> str:
    """Return what the model is to learn to say; the official code teaches the first 50 words."""
    return first_words(reference) if form.style == "official" else reference
