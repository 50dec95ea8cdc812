"""Med-Flamingo's prompts: examples with their answers, then the question; one line, as in the authors' demonstration.

    You are a helpful medical assistant. ... <image>Question: Does the heart appear enlarged? Answer: yes.<|endofchunk|>
    <image>Question: Where is the largest mass located in the cerebellum? Answer:

Without examples the first sentences are those that others use for the model; its authors published none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from medbench.adapters.base import Answer
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

WITH_EXAMPLES = (
    "You are a helpful medical assistant. You are being provided with images, a question about the image and an "
    "answer. Follow the examples and answer the last question. "
)
WITHOUT_EXAMPLES = (
    "You are a helpful medical assistant. You are being provided with images and a question about the image, please "
    "answer the question. "
)
SHOTS = 6
LONGEST_VQA_ANSWER = 10
"""The authors' limit, in tokens."""
END_OF_CHUNK, IMAGE = "<|endofchunk|>", "<image>"
_STOPS = (END_OF_CHUNK, IMAGE, "Question", "Answer")
_UNKNOWN = "<unk>"


class Mark(Enum):
    """A token that stands between texts; its value is its place behind LLaMA's vocabulary."""

    END_OF_CHUNK = 0
    IMAGE = 1


NAMES = {Mark.END_OF_CHUNK: END_OF_CHUNK, Mark.IMAGE: IMAGE}
Part = str | Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A question with its answer, and how many images it is about."""

    question: str
    answer: str
    images: int = 1


def plain(text: str) -> str:
    """Return a text of a dataset on one line, without words that are marks to the model."""
    return " ".join(text.replace(IMAGE, " ").replace(END_OF_CHUNK, " ").split())


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the bare question of VQA, the task's instruction for others."""
    bare = spec.kind == "vqa" and "question" in sample.inputs
    return plain(sample.inputs["question"] if bare else spec.instruction(sample))


def example_parts(example: Words) -> tuple[Part, ...]:
    """Return an example."""
    answer = plain(example.answer).removesuffix(".")
    text = f"Question: {plain(example.question)} Answer: {answer}."
    return (*[Mark.IMAGE] * example.images, text, Mark.END_OF_CHUNK)


def prompt_parts(question: str, images: int, examples: Sequence[Words]) -> tuple[Part, ...]:
    """Return a whole prompt; the last `images` marks are the question's own."""
    shown = tuple(part for example in examples for part in example_parts(example))
    asked = f"Question: {question} Answer:"
    return (WITH_EXAMPLES if examples else WITHOUT_EXAMPLES, *shown, *[Mark.IMAGE] * images, asked)


def stops_of(kind: Kind) -> tuple[str, ...]:
    """Return the texts that end an answer.

    The mark that ends one in training has no trained row in the published head, so that the model cannot write it. The
    authors cut what follows an answer by these words instead; a report may have several lines.
    """
    return _STOPS if kind == "report" else (*_STOPS, "\n")


def answer_of(text: str, _sample: Sample, spec: TaskSpec) -> Answer:
    """Return the answer in a text of the model: what stands before the first stop."""
    ends: Iterator[int] = (text.find(stop) for stop in stops_of(spec.kind))
    cut = text[: min((end for end in ends if end >= 0), default=len(text))]
    return Answer(text=cut.replace(_UNKNOWN, "").strip())
