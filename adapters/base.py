"""What an adapter is: the code that lets one model family answer a sample. Imports no torch.

A plugin imports these names from `medbench.adapters`: an `AdapterEntry` describes a model, and its `load` returns a
`LocalAdapter` (the engine drives a decoder), a `DirectAdapter` (answers by itself) or a `RemoteAdapter` (a server).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import StringConstraints

from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import Stamp
from medbench.tasks.sample import Box, ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from transformers import PreTrainedModel

StopReason = Literal["eos", "stop", "length"]
Size = tuple[int, int]
"""Width and height in pixels."""
SizeOf = Callable[[ImageRef], Size]
"""Reads an image's size from its header; raises SampleError if it is missing or broken."""
Pixels = Any
"""One image as a vision tower wants it: a tensor, or a mapping of tensors by name."""
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
Device = Annotated[str, StringConstraints(pattern=rf"^({DEVICE.pattern})$")]
"""`cuda:1` is one of several GPUs."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = Literal["auto"]
Quantization = Literal["4bit", "8bit"]
NO_TOKEN = -1
"""Stands among the ids of an answer where the logits were no numbers; the answer is an error then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a user must know of a model before running it."""

    name: str  # Name on the command line; `title` is the one in tables.
    title: str
    kinds: frozenset[Kind]  # Task kinds that it can answer; others are empty cells, never zeros.
    weights: str  # Which weights are needed and where they come from; `licence` is theirs.
    licence: str
    memory: str = ""  # What the published weights take in bfloat16; empty where nothing of the like exists.
    trained_on: frozenset[str] | None = None  # Tasks whose train splits it has seen; None if nobody has said.
    constant: bool = False  # Whether it is a baseline, of which one answer for all samples is no surprise.
    # What a board is filtered by, where somebody has said it: how many (loaded weights are counted instead), a year,
    # month or day such as `2024-05`, whether everybody can get the weights.
    parameters: int | None = None
    released: str = ""
    open_weights: bool | None = None

    def as_chosen(self, arguments: "Mapping[str, Argument]", chosen: Mapping[str, str]) -> "ModelCard":
        """Return the card with a title that names every choice from a closed list that is not the default."""
        closed = {name: argument.default for name, argument in arguments.items() if argument.choices}
        others = ", ".join(f"{name}={chosen[name]}" for name, default in closed.items() if chosen[name] != default)
        return replace(self, title=f"{self.title} ({others})") if others else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model's text means: the answer as text, and for REC the box in pixels, None if there is none."""

    text: str
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a model said."""

    text: str  # The raw text: special tokens removed but for those that set thoughts apart, nothing else.
    stop: StopReason = "eos"  # Why it ended: `eos`, a `stop` string, or `length`.
    prompt_tokens: int = 0  # Tokens of the prompt, visual ones included; 0 where nobody counts.
    output_tokens: int = 0  # Tokens of the answer, end token and thoughts included; `thought_tokens` are thoughts.
    thought_tokens: int = 0
    reasoning: str = ""  # Thoughts that a server files apart from the text; others stand in `text`.


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSegment:
    """Token ids of a stretch of text."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSlot:
    """The place of one image, or of a stretch of its visual tokens, in a prompt."""

    image: ImageRef
    tokens: int  # Visual tokens that stand here; 0 where the decoder reads images by cross-attention.
    first: int = 0  # The first of them among the image's visual tokens.
    # Frames, rows and columns of the tokens for decoders with positions in three dimensions; such a slot takes as many
    # positions as its longest side. None where every token takes a position.
    grid: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered prompt: text and images in the order in which the model reads them."""

    segments: tuple[TextSegment | ImageSlot, ...]

    @classmethod
    def between(cls, texts: Sequence[Sequence[int]], images: Sequence[ImageRef], tokens: int) -> "Prompt":
        """Return ids of texts with images between them, each of so many visual tokens; there is one text more."""
        segments: list[TextSegment | ImageSlot] = [TextSegment(ids=tuple(texts[0]))]
        for image, ids in zip(images, texts[1:], strict=True):
            segments += [ImageSlot(image=image, tokens=tokens), TextSegment(ids=tuple(ids))]
        return cls(segments=tuple(segments))

    def images(self) -> tuple[ImageRef, ...]:
        """Return the images in order."""
        return tuple(one.image for one in self.segments if isinstance(one, ImageSlot) and one.first == 0)

    @property
    def length(self) -> int:
        """Tokens, visual ones included."""
        return sum(map(tokens_of, self.segments))


def tokens_of(segment: TextSegment | ImageSlot) -> int:
    """Return the tokens of a part of a prompt."""
    return segment.tokens if isinstance(segment, ImageSlot) else len(segment.ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What a loader gets."""

    variant: str = ""  # What followed the colon in `--model name:variant`, or empty.
    checkpoint: Path | None = None  # Folder of weights given by the user, or None for the model's default.
    device: Device = "auto"
    dtype: Dtype = "auto"
    device_map: DeviceMap | None = None  # Lays layers on all devices that there are, instead of on `device`.
    quantize: Quantization | None = None  # How the decoder's weights are rounded while they are loaded.
    lora: Path | None = None  # Folder of a LoRA in peft's format that goes onto the decoder.
    seed: int = 0
    train_samples: Callable[[str], Sequence[Sample]] = lambda _: ()  # Train split of a task by its name.
    source_of: Callable[[str], Path] = lambda _: Path()  # Folder that a task's images start from, by its name.
    arguments: Mapping[str, str] = field(default_factory=dict)  # Of `--model-arg`, one for each that is declared.

    def folder_of(self, card: ModelCard) -> Path:
        """Return the checkpoint of a model that runs on nothing else; UsageError if none was given, or no folder."""
        if self.checkpoint is not None and self.checkpoint.is_dir():
            return self.checkpoint
        problem = f"{self.checkpoint} is no folder." if self.checkpoint else f"{card.title} needs weights."
        raise UsageError(problem, f"Give {card.weights}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFrom:
    """What a model was made of that its fingerprint may not tell, noted by whoever loaded it."""

    sampled: Mapping[Path, Stamp] = field(default_factory=dict)  # Files of which the fingerprint knows samples.
    tasks: Collection[str] = ()  # Tasks whose train samples or folder its loader asks for; it may ask later, too.


class Adapter(ABC):
    """A loaded model."""

    card: ModelCard
    weights_fingerprint: str  # Identity of the weights; records of other weights are refused.
    device: str = "cpu"
    dtype: str = "float32"  # In which it computes.
    quantised: str = ""  # The type in which the decoder's weights are held, if that is another one.
    notices: tuple[str, ...] = ()  # Lines that the run must show loudly (mini weights, stand-ins).
    # What else an answer depends on beside the weights' files, by name; part of the run's identity.
    made_of: Mapping[str, str] = MappingProxyType({})
    loaded_from: LoadedFrom = LoadedFrom()

    @property
    def title(self) -> str:
        """Name of this very model in tables."""
        return self.card.title

    @property
    def trained_on(self) -> frozenset[str] | None:
        """Names of the tasks whose train splits these very weights have seen; None if nobody has said."""
        return self.card.trained_on

    def expect(self, specs: Sequence[TaskSpec]) -> None:
        """Get ready for the tasks of a run; what is to be said of one even if no question is left goes to `notices`."""
        del specs

    def close(self) -> None:
        """Give back what the model holds beside memory, such as a server of its own; called at a run's end."""
        return


class DirectAdapter(Adapter):
    """A model that answers one sample at a time without the engine: baselines and test doubles."""

    @abstractmethod
    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the answer to `sample`; SampleError if this sample cannot be answered; the run goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStates:
    """What the rows of a forward pass read besides their tokens, for a decoder with cross-attention."""

    states: tuple[Any, ...]  # What `LocalAdapter.row_state` made of every row.
    # Of every token [N] of a packed pass [1, N] its row, and its position in that; on the host, so that who groups
    # tokens need not wait for a device. None if the rows of the batch are it.
    rows: "NDArray[np.int64] | None" = None
    positions: "NDArray[np.int64] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A checkpoint that another engine can load whole, and what that engine must be told to be given the same."""

    folder: Path
    family: str  # `model_type` of its configuration.
    image_token_id: int  # Stands once for every visual token in the ids of a prompt.
    scaling: Mapping[str, Any] = field(default_factory=dict)  # More options of its image processor.


class LocalAdapter(Adapter):
    """A torch model that the generation engine drives; it renders, encodes and embeds, and schedules nothing."""

    decoder: "PreTrainedModel"  # A model of transformers that takes `inputs_embeds` and a cache and returns logits.
    # Why the engine cannot take the decoder apart from its vision; then `written_whole` answers. Empty if it can.
    only_whole: str = ""
    end_ids: frozenset[int]  # Token ids that end an answer.
    # What a prompt's token may read besides those before it: nothing, all tokens of its own image, the whole prompt.
    attention: Literal["causal", "images", "prompt"] = "causal"
    # Whether keys of a prompt's beginning depend on nothing behind it, so that questions of one image may share them.
    shares_prefixes: bool = True
    # Whether images are read by cross-attention: every pass gets `row_states=RowStates(...)`, no beginnings are shared.
    has_row_states: bool = False
    # The whole model on the disk, where `pixels` are by name what its own library takes of images and `inputs_whole` is
    # there; an engine that has the model's class may then answer in its place.
    published: Published | None = None
    # Whether nobody else has the model, as when a run loaded it by its name: the engine may then lay out its weights
    # anew for speed. A model in training, or in a notebook, stays as it is.
    exclusive: bool = False
    # How tokens are chosen where the user says nothing, by the command line's options; greedily by default.
    decoding: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the prompt of `sample`, pure but for `size_of`; SampleError if it cannot be rendered."""

    @abstractmethod
    def pixels(self, image: "Image.Image") -> Pixels:
        """Return one image as the vision tower wants it, on the CPU; called in threads beside the decoder."""

    @abstractmethod
    def encode_images(self, pixels: Sequence[Pixels]) -> "Sequence[torch.Tensor]":
        """Return features [...] of each image; must depend on nothing but the image."""

    def project(self, features: "Sequence[torch.Tensor]", kind: Kind) -> "Sequence[torch.Tensor]":
        """Return visual tokens [V, D] of the features of each image for a kind of task; by default the features."""
        del kind
        return features

    def row_state(self, features: "Sequence[torch.Tensor]", prompt: Prompt, kind: Kind) -> object:
        """Return what a row reads by cross-attention, once for all tokens, of features [...] of its images in order."""
        del features, prompt, kind
        raise NotImplementedError(f"{type(self).__name__} says that it has row states, and makes none.")

    def written_whole(
        self, asked: "Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]]", max_new_tokens: int
    ) -> Sequence[Sequence[int]] | None:
        """Return the ids that the model's own library writes to samples with their tasks and images, greedily.

        None if that is `generate` over the prompt's embeddings. Where logits are no numbers (`plain_generation.Watch`
        sees it), the ids end with `NO_TOKEN`.
        """
        del asked, max_new_tokens
        return None

    def inputs_whole(
        self, sample: Sample, spec: TaskSpec, images: "Sequence[Image.Image]"
    ) -> "Mapping[str, torch.Tensor]":
        """Return what the model's own library takes for a sample: ids [1, L] as `input_ids`, its images by name."""
        raise NotImplementedError(f"{type(self).__name__} is published as a whole, and makes no inputs of one.")

    def embed_tokens(self, ids: "torch.Tensor") -> "torch.Tensor":
        """Return embeddings [L, D] of token ids [L]; by default those of the decoder's table."""
        return cast("torch.Tensor", self.decoder.get_input_embeddings()(ids.to(self.decoder.device)))

    @abstractmethod
    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens, but for those that set thoughts apart."""

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt's ids for people, special tokens included; by default without them."""
        return self.detokenise(ids)

    def observed(self) -> Mapping[str, Any]:
        """Return what the model showed of its workings while it answered, for `env.json`; nothing by default."""
        return {}

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the longest answer to a task, in tokens: the task's own limit unless the authors used another."""
        return spec.max_new_tokens

    def longest_answer(self, spec: TaskSpec) -> int:
        """Return the longest answer to a task, in tokens, as the user says or else as `max_new_tokens` does."""
        return spec.max_new_tokens if spec.limit_chosen else self.max_new_tokens(spec)

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return texts that end an answer to a task, beside the end tokens; none unless the authors used some."""
        del spec
        return ()


Parser = Callable[[str, Sample, TaskSpec], Answer]
"""Returns what a model's text means; pure."""


def plain_answer(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return the stripped text as the answer; the parser of models that draw no boxes."""
    return Answer(text=text.strip())


def answer_with_box(space: BoxSpace, text: str, sample: Sample, spec: TaskSpec) -> Answer:
    """Return the stripped text and, for REC, its box read in `space`; `functools.partial` makes it a parser."""
    answer, size = text.strip(), sample.image_size
    return Answer(text=answer, box=space.read(answer, size) if spec.kind == "rec" and size is not None else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A choice of one model, given as `--model-arg NAME=VALUE`."""

    help: str
    default: str = ""
    choices: tuple[str, ...] = ()  # Allowed values; empty for any.
    # Whether an answer may depend on it; what does not, such as a key, may change while a run is under way.
    changes_answers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """One line of the model catalogue."""

    card: ModelCard
    load: Callable[[LoadOptions], Adapter]  # Loads the model; imports torch only when called.
    parse: Parser  # What a text of the model means; pure, and here so that `medbench score` needs no weights.
    takes: frozenset[str] = frozenset()  # What the loader uses of `checkpoint`, `device`, `dtype`, ...
    variants: Mapping[str, str] = field(default_factory=dict)  # Words after the colon and their meaning; `*` is any.
    arguments: Mapping[str, Argument] = field(default_factory=dict)  # What `--model-arg` may choose, by name.
    boxes: BoxSpace | None = None  # How the model writes boxes, which bounds what it can score; None if it draws none.
    spaces: Mapping[str, BoxSpace] = field(default_factory=dict)  # Others, of which the argument `boxes` chooses one.
    defaults: Callable[[str], Mapping[str, str]] = lambda _: {}  # Arguments by variant, where the user gives none.
    card_of: Callable[[str], ModelCard] | None = None  # What is known of a variant before it is loaded, if more is.
    converter: str = ""  # Path `module:attribute` of the click command behind `medbench convert NAME`, if there is one.

    def card_for(self, variant: str) -> ModelCard:
        """Return what is known of a variant."""
        return self.card if self.card_of is None or not variant else self.card_of(variant)

    def settled(self, variant: str, given: Mapping[str, str]) -> dict[str, str]:
        """Return all arguments, as given, by the variant or by default; UsageError if one or its value is unknown."""
        for name, value in given.items():
            if name not in self.arguments:
                raise unknown_name(f"argument of {self.card.name}", name, self.arguments)
            choices = self.arguments[name].choices
            if choices and value not in choices:
                raise UsageError(f"--model-arg {name}={value} is not allowed.", f"Allowed: {', '.join(choices)}.")
        defaults = {name: argument.default for name, argument in self.arguments.items()}
        return {**defaults, **self.defaults(variant), **given}
