"""What an adapter is: the code that lets one model family answer a sample. Imports no torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.answers.box_space import BoxSpace
from tasks.foundation.errors import UsageError
from tasks.sample import Box, ImageRef, Sample
from tasks.spec import Kind, TaskSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel

StopReason = Literal["eos", "stop", "length"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a user must know of a model before running it.

    Attributes:
        name: Name on the command line.
        title: Name in tables.
        kinds: Task kinds that it can answer; others are empty cells, never zeros.
        weights: Which weights are needed and where they come from.
        licence: Licence of the weights.
        trained_on: Names of the tasks whose train splits the model has seen.
        blind: Whether it never looks at an image.
    """

    name: str
    title: str
    kinds: frozenset[Kind]
    weights: str
    licence: str
    trained_on: frozenset[str] = frozenset()
    blind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model's text means: the answer as text, and for REC the box in pixels, None if there is none."""

    text: str
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a model said.

    Attributes:
        text: The raw text, special tokens removed, nothing else.
        stop: Why it ended: `eos`, a `stop` string, or `length`.
        prompt_tokens: Tokens of the prompt, visual ones included; 0 where nobody counts.
        output_tokens: Tokens of the answer, the end token included.
    """

    text: str
    stop: StopReason = "eos"
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSegment:
    """Token ids of a stretch of text."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSlot:
    """The place of one image in a prompt."""

    image: ImageRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt: text and images in the order in which the model reads them."""

    segments: tuple[TextSegment | ImageSlot, ...]

    def images(self) -> tuple[ImageRef, ...]:
        """Return the images in order."""
        return tuple(segment.image for segment in self.segments if isinstance(segment, ImageSlot))

    def text_tokens(self) -> int:
        """Return the number of text tokens."""
        return sum(len(segment.ids) for segment in self.segments if isinstance(segment, TextSegment))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a loader gets.

    Attributes:
        variant: What followed the colon in `--model name:variant`, or empty.
        checkpoint: Folder of weights given by the user, or None for the model's default.
        device: Where to run.
        dtype: Type of the weights.
        seed: Seed of everything random.
        train_samples: Train split of a task by name, for models that are made from it.
    """

    variant: str = ""
    checkpoint: Path | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    seed: int = 0
    train_samples: Callable[[str], Sequence[Sample]] = lambda _: ()


class Adapter(ABC):
    """A loaded model.

    Attributes:
        card: What it is.
        weights_fingerprint: Identity of the weights; records of other weights are refused.
        device: Where it runs.
        dtype: Type of its weights.
        notices: Lines that the run must show loudly (mini weights, stand-ins).
    """

    card: ModelCard
    weights_fingerprint: str
    device: str = "cpu"
    dtype: str = "float32"
    notices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of this very model in tables."""
        return self.card.title

    @property
    def trained_on(self) -> frozenset[str]:
        """Names of the tasks whose train splits these very weights have seen."""
        return self.card.trained_on


class DirectAdapter(Adapter):
    """A model that answers one sample at a time without the engine: baselines and test doubles."""

    @abstractmethod
    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the answer to `sample`.

        Raises:
            SampleError: If this sample cannot be answered; the run goes on without it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStates:
    """What the rows of a forward pass read besides their tokens, for a decoder with cross-attention.

    Attributes:
        states: Of every row, as `LocalAdapter.row_state` made them.
        rows: Row of every token [N] of a packed pass [1, N]; None if the rows of the batch are the rows.
    """

    states: tuple[Any, ...]
    rows: "torch.Tensor | None" = None


class LocalAdapter(Adapter):
    """A torch model that the generation engine drives; it renders, encodes and embeds, and schedules nothing.

    Attributes:
        decoder: A causal language model of transformers that takes `inputs_embeds` and a cache.
        end_ids: Token ids that end an answer.
        image_tokens: Visual tokens of one image in the decoder's input.
        shares_beginnings: Whether the keys of a prompt's beginning depend on nothing behind it, so that questions of
            one image may share them. Not so with bidirectional attention among visual tokens or vision that reads
            the question.
        has_row_states: Whether the decoder reads images by cross-attention. Then every forward pass gets
            `row_states=RowStates(...)`, and no beginnings are shared.
    """

    decoder: "PreTrainedModel"
    end_ids: frozenset[int]
    image_tokens: int
    shares_beginnings: bool = True
    has_row_states: bool = False

    @abstractmethod
    def render(self, sample: Sample, spec: TaskSpec) -> Prompt:
        """Return the prompt of `sample`; pure."""

    @abstractmethod
    def pixels(self, image: "Image.Image") -> "torch.Tensor":
        """Return one picture as the vision tower wants it, on the CPU."""

    @abstractmethod
    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Return features [B, ...] of stacked pixels [B, ...]; must not depend on the task."""

    @abstractmethod
    def project(self, features: "torch.Tensor", kind: Kind) -> "torch.Tensor":
        """Return visual tokens [B, V, D] of features [B, ...] for a kind of task."""

    def row_state(self, features: "Sequence[torch.Tensor]", kind: Kind) -> object:
        """Return what a row reads by cross-attention, of the features [...] of its images in order.

        It stays with the row: keys and values of the cross-attention are computed here, once for all tokens.
        """
        del features, kind
        raise NotImplementedError(f"{type(self).__name__} says that it has row states, and makes none.")

    @abstractmethod
    def embed_tokens(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Return embeddings [L, D] of token ids [L]."""

    @abstractmethod
    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens."""

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return texts that end an answer to a task, beside the end tokens; none unless the authors used some."""
        del spec
        return ()


Parser = Callable[[str, Sample, TaskSpec], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """One line of the model catalogue.

    `parse` is kept apart from the loaded model so that `medbench score` needs no weights.

    Attributes:
        card: What the model is.
        load: Loads it; imports torch only when called.
        parse: What a text of the model means; pure.
        takes: Which of `checkpoint`, `device` and `dtype` the loader heeds; giving another is a usage error.
        variants: Allowed words after the colon, with their meaning; `*` allows any.
        boxes: How the model writes boxes; None if it draws none. What its notation cannot express, even a perfect
            model cannot score: that ceiling stands beside its numbers.
    """

    card: ModelCard
    load: Callable[[LoadOptions], Adapter]
    parse: Parser
    takes: frozenset[str] = frozenset()
    variants: Mapping[str, str] = field(default_factory=dict)
    boxes: BoxSpace | None = None


def plain_answer(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return the stripped text as the answer; the parser of models that draw no boxes."""
    return Answer(text=text.strip())


def answer_with_box(space: BoxSpace, text: str, sample: Sample, spec: TaskSpec) -> Answer:
    """Return the stripped text and, for REC, its box read in `space`; `functools.partial` makes it a parser."""
    answer = text.strip()
    if spec.kind != "rec" or sample.image_size is None:
        return Answer(text=answer)
    return Answer(text=answer, box=space.read(answer, sample.image_size))


def split_model_name(model: str) -> tuple[str, str]:
    """Return name and variant of `name` or `name:variant`.

    Raises:
        UsageError: If the name is empty.
    """
    name, _, variant = model.partition(":")
    if not name:
        raise UsageError(f"{model!r} names no model.", "Write --model NAME; `medbench models` lists them.")
    return name, variant
