"""Med-Flamingo behind the adapter contract: its card, what may be chosen, and its prompts.

A prompt is examples with their answers, then the question; one line, as in the authors' demonstration:

    You are a helpful medical assistant. ... <image>Question: Does the heart appear enlarged? Answer: yes.<|endofchunk|>
    <image>Question: Where is the largest mass located in the cerebellum? Answer:

Without examples the first sentences are those that others use for the model; its authors published none.

In bfloat16 the language model takes 15.7 GB (LLaMA-7B with 1.1 G parameters of gated blocks), vision in float32 1.5 GB;
the keys and values of one token 0.5 MB, those of one image 1 MB. A GPU of 24 GB is enough.
"""

from collections.abc import Sequence
from enum import Enum

from medbench.adapters.base import AdapterEntry, Answer
from medbench.adapters.described import described
from medbench.adapters.wording import bare_question
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

CARD, ARGUMENTS, _TOLD = described(__file__)
WITH_EXAMPLES: str = _TOLD["with examples"]
WITHOUT_EXAMPLES: str = _TOLD["without examples"]
AUTHORS: list[tuple[str, str, str]] = [(image, question, answer) for image, question, answer in _TOLD["authors"]]
"""Image, question and answer of the authors' demonstration, in their order."""
LONGEST_VQA_ANSWER = 10
"""The authors' limit, in tokens."""


class Special(Enum):
    """A token that stands between texts; its value is its place behind LLaMA's vocabulary."""

    END_OF_CHUNK = 0
    IMAGE = 1


SPECIAL_TEXTS = {Special.END_OF_CHUNK: "<|endofchunk|>", Special.IMAGE: "<image>"}
_STOPS = (*SPECIAL_TEXTS.values(), "Question", "Answer")
_UNKNOWN = "<unk>"


def one_line(text: str) -> str:
    """Return a text of a dataset on one line, without words that are special tokens to the model."""
    for word in SPECIAL_TEXTS.values():
        text = text.replace(word, " ")
    return " ".join(text.split())


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the bare question of VQA, the task's instruction for others, on one line."""
    return one_line(bare_question(sample, spec))


def example_parts(question: str, answer: str, images: int = 1) -> tuple[str | Special, ...]:
    """Return an example as texts and special tokens."""
    text = f"Question: {one_line(question)} Answer: {one_line(answer).removesuffix('.')}."
    return (*[Special.IMAGE] * images, text, Special.END_OF_CHUNK)


def prompt_parts(question: str, images: int, examples: Sequence[str | Special]) -> tuple[str | Special, ...]:
    """Return a whole prompt: the parts of all examples, and a question about some images."""
    asked = f"Question: {question} Answer:"
    return (WITH_EXAMPLES if examples else WITHOUT_EXAMPLES, *examples, *[Special.IMAGE] * images, asked)


def stops_of(kind: Kind) -> tuple[str, ...]:
    """Return the texts that end an answer.

    The mark that ends one in training has no trained row in the published head, so that the model cannot write it. The
    authors cut what follows an answer by these words instead; a report may have several lines.
    """
    return _STOPS if kind == "report" else (*_STOPS, "\n")


def parse(text: str, _sample: Sample, spec: TaskSpec) -> Answer:
    """Return the answer in a text of the model: what stands before the first stop."""
    ends = [end for stop in stops_of(spec.kind) if (end := text.find(stop)) >= 0]
    return Answer(text=text[: min(ends, default=len(text))].replace(_UNKNOWN, "").strip())


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.med_flamingo.model:load_med_flamingo"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}), arguments=ARGUMENTS,
)  # fmt: skip
