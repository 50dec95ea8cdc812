"""Med-Flamingo: what was trained, on the LLaMA-7B and the CLIP that it was trained on.

Prompts have no visual tokens; images are read by cross-attention. The published `model.pt` holds what was trained under
OpenFlamingo's names, some of it twice.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from medbench.adapters.base import ImageSlot, LoadOptions, Pixels, Prompt, SizeOf, TextAdapter, TextSegment
from medbench.adapters.clip import clip_pixels, read_tower, read_tower_config
from medbench.adapters.med_flamingo import entry
from medbench.adapters.med_flamingo.decoder import ADDED_TOKENS, MedFlamingoLlama, Media, seen_images
from medbench.adapters.med_flamingo.entry import AUTHORS, CARD, ENTRY, SPECIAL_TEXTS, Special
from medbench.adapters.med_flamingo.examples import Example, authors_examples, examples_of, notice_of
from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed import weights
from medbench.unimed.tokens import BOS_ID, EOS_ID, SegmentTokenizer, read_tokenizer, refuse_other_vocabulary
from medbench.unimed.weights import open_shards, read_tensors

State = dict[str, torch.Tensor]
TOKENIZER_FILE = "tokenizer.model"
_PERCEIVER = "perceiver."
_EMBEDDINGS = "model.embed_tokens.weight"
_GATED = re.compile(r"lang_encoder\.gated_cross_attn_layers\.(\d+)\.(.+)")
_COPY = re.compile(r"lang_encoder\.model\.layers\.(\d+)\.gated_cross_attn_layer\.(.+)")
_MODEL_HINT = "Give model.pt as it is published at med-flamingo/med-flamingo."
_FIRST_LLAMA_LENGTH, _FIRST_LLAMA_EPSILON = 2048, 1e-6
_PUBLISHED_CLIP = {1024: (224, 14)}
"""Sides of the image and of a patch of the published CLIP, by its width: no shape of a weight tells them all."""
_CLIP_HINT = "Give openai/clip-vit-large-patch14."
_EXAMPLES_THAT_FILL = 10
"""Examples of the longest allowed length that would fill the context: six of them, question and answer fit."""


class MedFlamingoVision(nn.Module):
    """Images to latents, in float32 whatever the type of the language model: 1.5 GB."""

    def __init__(self, clip: CLIPVisionModel, perceiver: PerceiverResampler) -> None:
        super().__init__()
        self.clip = clip
        self.perceiver = perceiver

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return CLIP's tokens [N, T, C] of pixels [N, 3, S, S]: behind the last layer, without its class and norm."""
        tokens: torch.Tensor = self.clip(pixel_values=pixels).last_hidden_state
        return tokens[:, 1:]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return latents [N, L, C] of pixels [N, 3, S, S]."""
        latents: torch.Tensor = self.perceiver(self.patches(pixels))
        return latents


def load_med_flamingo(options: LoadOptions) -> "MedFlamingoAdapter":
    """Load all three parts; vision stays in float32.

    UsageError if a part or an image of the authors' examples is not there, or the device is not; DataError if a file is
    missing or broken, or a weight is missing, unexpected or of another shape; RunError if the device has no room for
    it.
    """
    chosen = ENTRY.settled(options.variant, options.arguments)
    files = _files(options.folder_of(CARD), chosen)
    demo_images = Path(chosen["demo_images"]).expanduser() if chosen["demo_images"] else None
    authors = authors_examples(chosen["shots"], demo_images)
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    refuse_stand_ins(*files.values())
    tokenizer_file = files["llama"] / TOKENIZER_FILE
    tokenizer = read_tokenizer(tokenizer_file, tuple(SPECIAL_TEXTS.values()))
    config = _llama_config(files["llama"])
    refuse_other_vocabulary(tokenizer_file, tokenizer, int(config.vocab_size))
    with room_for(f"Med-Flamingo in {files['trained'].parent}"):
        perceiver, blocks = _read_trained(files["trained"])
        vision = _vision(files, perceiver, device)
        kind = partial(MedFlamingoLlama, media_width=int(vision.clip.config.hidden_size))
        state, source = _llama_state(files, config, blocks), f"{files['trained']} with {files['llama']}"
        decoder = weights.filled_llama(kind, config, state, source, device=device, dtype=dtype)
    parts = {**files, **({name: demo_images / name for name, _, _ in AUTHORS} if authors and demo_images else {})}
    return MedFlamingoAdapter(
        decoder, vision, tokenizer, options, authors=authors, fingerprint=identity_of(parts),
        notices=tuple(_unlike_the_first(files["llama"], config))[:1],
    )  # fmt: skip


def _files(checkpoint: Path, chosen: Mapping[str, str]) -> dict[str, Path]:
    """Return where the three parts are, by the names `trained`, `llama` and `clip`."""
    trained = checkpoint / "model.pt"
    if not trained.is_file():
        raise UsageError(f"{trained} is missing.", "It is published at med-flamingo/med-flamingo.")
    files = {"trained": trained}
    for name, what in (
        ("llama", "the first LLaMA-7B in transformers' format, such as huggyllama/llama-7b"),
        ("clip", "openai/clip-vit-large-patch14"),
    ):
        folder = Path(chosen[name]).expanduser() if chosen[name] else checkpoint / name
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder.", f"Put {what} there, or give its folder by --model-arg {name}=DIR."
            )
        files[name] = folder
    return files


def _read_trained(path: Path) -> tuple[State, State]:
    """Return what `model.pt` holds: the perceiver, and embeddings and gated blocks, under the names of the modules."""
    state = weights.unwrapped(read_tensors(path))
    gated, copies = (
        {
            f"model.layers.{match[1]}.gated.{match[2]}": one
            for name, one in state.items()
            if (match := kind.fullmatch(name))
        }
        for kind in (_GATED, _COPY)
    )
    shared = sorted(gated.keys() & copies.keys())
    weights.refuse_different(str(path), ((name, gated[name], copies[name]) for name in shared))
    embeddings = f"lang_encoder.{_EMBEDDINGS}"
    strangers = [name for name in state if not _is_known(name) and name != embeddings]
    blocks = {**copies, **gated}
    if strangers or embeddings not in state or not blocks:
        said = f"it also holds {weights.some_of(strangers)}" if strangers else "it lacks embeddings or gated blocks"
        raise DataError(f"{path} is no Med-Flamingo checkpoint: {said}.", _MODEL_HINT)
    blocks[_EMBEDDINGS] = state[embeddings]
    single = [name for name, tensor in blocks.items() if not tensor.ndim]
    if single:
        raise DataError(
            f"{path} is no Med-Flamingo checkpoint: {weights.some_of(single)} is a single number.", _MODEL_HINT
        )
    return weights.part_of(state, _PERCEIVER), blocks


def _is_known(name: str) -> bool:
    rotary = name.startswith("lang_encoder.") and name.endswith(weights.ROTARY)
    return bool(rotary or name.startswith(_PERCEIVER) or _GATED.fullmatch(name) or _COPY.fullmatch(name))


def _llama_config(folder: Path) -> LlamaConfig:
    """Return the configuration of the base LLaMA, without the odd special tokens of its early conversions."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder / 'config.json'} is missing.", "Give a LLaMA-7B folder.")
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
        special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": None}
        # The head has no rows for the added tokens, so that it cannot be the table of embeddings.
        config = LlamaConfig.from_dict({**values, **special, "tie_word_embeddings": False})
    except (StrictDataclassError, OSError, ValueError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"{folder} has no usable config.json: {error}", "Give a LLaMA-7B folder.") from error
    if values.get("model_type") != "llama":
        raise DataError(
            f"{folder} holds a model of type {values.get('model_type')!r}.", "Med-Flamingo is built on LLaMA-7B."
        )
    return config


def _unlike_the_first(folder: Path, config: LlamaConfig) -> Iterator[str]:
    """Yield what a LLaMA does that the first does not; their weights have the same shapes."""
    told = (
        "The LLaMA in {} {}, as LLaMA-2 does. Med-Flamingo was trained on the first LLaMA-7B, and on another its "
        "answers mean nothing."
    )
    if int(config.max_position_embeddings) > _FIRST_LLAMA_LENGTH:
        yield told.format(folder, f"reads {config.max_position_embeddings} tokens")
    if float(config.rms_norm_eps) > _FIRST_LLAMA_EPSILON:
        yield told.format(folder, f"adds {config.rms_norm_eps} in its norms")


def _llama_state(files: Mapping[str, Path], config: LlamaConfig, trained: State) -> State:
    """Return the weights of the base LLaMA with what was trained in their place and beside them."""
    rows = len(trained[_EMBEDDINGS])
    if rows != int(config.vocab_size) + ADDED_TOKENS:
        known = f"the LLaMA in {files['llama']} knows {config.vocab_size} tokens"
        raise DataError(
            f"{files['trained']} has {rows} embeddings, {known}.",
            f"Med-Flamingo adds {ADDED_TOKENS} tokens to the vocabulary of the first LLaMA-7B.",
        )
    shards = open_shards(files["llama"])
    needed = [name for name in shards.files if not name.endswith(weights.ROTARY) and name != _EMBEDDINGS]
    return {name: shards.tensor(name) for name in needed} | trained


def _vision(files: Mapping[str, Path], state: State, device: torch.device) -> MedFlamingoVision:
    clip = _clip(files["clip"], device)
    with torch.device("meta"):
        perceiver = PerceiverResampler(PerceiverSizes(dim=int(clip.config.hidden_size)))
    source = f"The perceiver of {files['trained']} with {files['clip']}"
    weights.fill(perceiver, state, source, device=device, dtype=torch.float32)
    return MedFlamingoVision(clip, perceiver).eval()


def _clip(folder: Path, device: torch.device) -> CLIPVisionModel:
    config = read_tower_config(folder, _CLIP_HINT)
    _refuse_other_clip(folder, config)
    try:
        clip = CLIPVisionModel(config)
    except weights.LIBRARY_FAULTS as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", _CLIP_HINT) from error
    # Versions of transformers differ in whether the tower is the model itself.
    tower: nn.Module = getattr(clip, "vision_model", clip)
    tower.load_state_dict(read_tower(folder, tower.state_dict()), strict=True)
    nn.Module.to(clip, device=device, dtype=torch.float32)
    clip.train(mode=False).requires_grad_(requires_grad=False)
    return clip


def _refuse_other_clip(folder: Path, config: CLIPVisionConfig) -> None:
    """Refuse towers that fit by their shapes and see otherwise, such as LAION's, or OpenAI's for larger images."""
    sides = (config.image_size, config.patch_size)
    if config.hidden_act != "quick_gelu" or sides != _PUBLISHED_CLIP.get(int(config.hidden_size), sides):
        raise DataError(
            f"{folder} holds a CLIP with {config.hidden_act} for pictures of {config.image_size} pixels in patches of "
            f"{config.patch_size}; Med-Flamingo was trained with OpenAI's, with quick_gelu, 224 and 14.",
            _CLIP_HINT,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt(Prompt):
    """A prompt that begins with the examples of a task. Their images, encoded once for all prompts, have no slots."""

    task: str


class MedFlamingoAdapter(TextAdapter[SegmentTokenizer]):
    """Med-Flamingo: examples and a question in one line, of which each text sees one image.

    `options` say what the user chose, and where train splits are; without `authors` the authors' own examples are not
    shown; `notices` say what is odd about the files.
    """

    has_row_states = True

    def __init__(
        self, decoder: MedFlamingoLlama, vision: MedFlamingoVision, tokenizer: SegmentTokenizer, options: LoadOptions,
        *, authors: tuple[Example, ...], fingerprint: str, notices: tuple[str, ...],
    ) -> None:  # fmt: skip
        chosen = ENTRY.settled(options.variant, options.arguments)
        self.card = CARD.as_chosen(ENTRY.arguments, chosen)
        self.decoder: MedFlamingoLlama
        super().__init__(decoder, tokenizer, fingerprint)
        self.vision = vision
        self._media_rule = chosen["media_rule"]
        self._bos_id = int(chosen["bos_token_id"])
        self._ids = {special: int(decoder.config.vocab_size) + special.value for special in Special}
        self.notices = notices
        self._options = options
        self._authors = authors
        self._examples: dict[str, tuple[Example, ...]] = {}
        self._shown: dict[str, tuple[torch.Tensor, ...]] = {}

    def expect(self, specs: Sequence[TaskSpec]) -> None:
        """Choose the examples of tasks and say which they are.

        DataError if six are insisted on and a train split does not have them.
        """
        for spec in specs:
            self.examples_of(spec)

    def examples_of(self, spec: TaskSpec) -> tuple[Example, ...]:
        """Return the examples of a task, which are chosen, and told, when it is first asked about."""
        if spec.name not in self._examples:
            examples = examples_of(spec, self._options, self._authors, self._fits)
            notice = notice_of(spec, examples, self._authors)
            self.notices = (*self.notices, notice)
            say(notice)
            self._examples[spec.name] = examples
        return self._examples[spec.name]

    def _fits(self, parts: Sequence[str | Special]) -> bool:
        length = sum(1 if isinstance(part, Special) else len(part) for part in self.tokens.encode(parts))
        return length * _EXAMPLES_THAT_FILL <= int(self.decoder.config.max_position_embeddings)

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return examples and the question; each of its images has a slot of no tokens behind its `<image>`."""
        del size_of
        examples = self.examples_of(spec)
        shown = [part for example in examples for part in example.parts]
        parts = entry.prompt_parts(entry.question_of(sample, spec), len(sample.images), shown)
        images = [None] * sum(len(example.images) for example in examples) + list(sample.images)
        return ShownPrompt(segments=tuple(self._segments(parts, images)), task=spec.name)

    def _segments(
        self, parts: Sequence[str | Special], images: Iterable[ImageRef | None]
    ) -> Iterator[TextSegment | ImageSlot]:
        """Yield the ids, cut behind every `<image>` that has a slot."""
        waiting = iter(images)
        ids: list[int] = [self._bos_id]
        for part in self.tokens.encode(parts):
            ids += [self._ids[part]] if isinstance(part, Special) else part
            image = next(waiting) if part is Special.IMAGE else None
            if image is not None:
                yield TextSegment(ids=tuple(ids))
                yield ImageSlot(image=image, tokens=0)
                ids = []
        yield TextSegment(ids=tuple(ids))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S], as the evaluation transform of open_clip makes them."""
        return clip_pixels(image, cast("int", self.vision.clip.config.image_size), half_to_even=True)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [64, C] of pixels [3, S, S]."""
        return list(self.vision(torch.stack(list(pixels)).to(self.decoder.device, non_blocking=True)))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> NoReturn:
        """Refuse with NotImplementedError: no prompt has visual tokens."""
        raise NotImplementedError("Med-Flamingo reads images by cross-attention.")

    def row_state(self, features: Sequence[torch.Tensor], prompt: Prompt, kind: Kind) -> Media:
        """Return keys and values of the images of examples and question, and which of them each token may see."""
        del kind
        shown = self._media_of_examples(prompt.task) if isinstance(prompt, ShownPrompt) else ()
        own = tuple(self.decoder.media(torch.stack(list(features)))) if features else ()
        ids = [token for part in prompt.segments if isinstance(part, TextSegment) for token in part.ids]
        return Media(images=(*shown, *own), seen=seen_images(ids, self._ids[Special.IMAGE], self._media_rule))

    def _media_of_examples(self, task: str) -> tuple[torch.Tensor, ...]:
        if task not in self._shown:
            pixels = [self.pixels(image) for example in self._examples[task] for image in example.images]
            with torch.inference_mode():
                latents = self.encode_images(pixels) if pixels else ()
                self._shown[task] = tuple(self.decoder.media(torch.stack(list(latents)))) if latents else ()
        return self._shown[task]

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' 10 for VQA, and the task's own limit for what they never asked."""
        return entry.LONGEST_VQA_ANSWER if spec.kind == "vqa" else spec.max_new_tokens

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return the texts that end an answer, in place of the end mark that cannot be written."""
        return entry.stops_of(spec.kind)
