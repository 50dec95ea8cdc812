"""Med-Flamingo behind the adapter contract: its card, what may be chosen, and its prompts.

A prompt is examples with their answers, then the question; one line, as in the authors' demonstration. Without examples
the first sentences are those that others use for the model; its authors published none.
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
AUTHORS: list[tuple[str, str, str]] = [(image, question, answer) for image, question, answer in _TOLD["authors"]]
"""Image, question and answer of the authors' demonstration, in their order."""


class Special(Enum):
    """A token that stands between texts; its value is its place behind LLaMA's vocabulary."""

    END_OF_CHUNK = 0
    IMAGE = 1


Parts = tuple[str | Special, ...]
SPECIAL_TEXTS = {Special.END_OF_CHUNK: "<|endofchunk|>", Special.IMAGE: "<image>"}


def one_line(text: str) -> str:
    """Return a text of a dataset on one line, without words that are special tokens to the model."""
    for word in SPECIAL_TEXTS.values():
        text = text.replace(word, " ")
    return " ".join(text.split())


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the bare question of VQA, the task's instruction for others, on one line."""
    return one_line(bare_question(sample, spec))


def example_parts(question: str, answer: str, images: int = 1) -> Parts:
    """Return an example as texts and special tokens."""
    text = f"Question: {one_line(question)} Answer: {one_line(answer).removesuffix('.')}."
    return (*[Special.IMAGE] * images, text, Special.END_OF_CHUNK)


def prompt_parts(question: str, images: int, examples: Sequence[str | Special]) -> Parts:
    """Return a whole prompt: the parts of all examples, and a question about some images."""
    opening: str = _TOLD["with examples" if examples else "without examples"]
    return (opening, *examples, *[Special.IMAGE] * images, f"Question: {question} Answer:")


def stops_of(kind: Kind) -> tuple[str, ...]:
    """Return the texts that end an answer, as the authors cut it: the mark of training's ends cannot be written."""
    return (*SPECIAL_TEXTS.values(), "Question", "Answer", *(() if kind == "report" else ("\n",)))


def parse(text: str, _sample: Sample, spec: TaskSpec) -> Answer:
    """Return the answer in a text of the model: what stands before the first stop."""
    ends = [end for stop in stops_of(spec.kind) if (end := text.find(stop)) >= 0]
    return Answer(text=text[: min(ends, default=len(text))].replace("<unk>", "").strip())


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.med_flamingo.model:load_med_flamingo"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}), arguments=ARGUMENTS,
)  # fmt: skip
