"""Med-Flamingo: what was trained, on the LLaMA-7B and the CLIP that it was trained on.

Images are read by cross-attention. `model.pt` holds what was trained under OpenFlamingo's names, some of it twice.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import nn
from transformers import CLIPVisionModel, LlamaConfig

from medbench.adapters.base import LoadOptions, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.clip import clip_pixels, read_tower, read_tower_config
from medbench.adapters.families import TextAdapter, usable
from medbench.adapters.med_flamingo import entry
from medbench.adapters.med_flamingo.decoder import ADDED_TOKENS, MedFlamingoLlama, Media, seen_images
from medbench.adapters.med_flamingo.entry import AUTHORS, CARD, ENTRY, SPECIAL_TEXTS, Special
from medbench.adapters.med_flamingo.examples import Example, authors_examples, examples_of
from medbench.adapters.perceiver import PerceiverResampler, PerceiverSizes
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed import weights
from medbench.unimed.tokens import BOS_ID, EOS_ID, SegmentTokenizer, read_tokenizer
from medbench.unimed.weights import open_shards, read_tensors

State = dict[str, torch.Tensor]
TOKENIZER_FILE = "tokenizer.model"
_PARTS = {
    "llama": "the first LLaMA-7B in transformers' format, such as huggyllama/llama-7b",
    "clip": "openai/clip-vit-large-patch14",
}
_PERCEIVER, _LANGUAGE, _EMBEDDINGS = "perceiver.", "lang_encoder.", "model.embed_tokens.weight"
# The gated blocks, which the checkpoint holds twice.
_GATED = re.compile(r"lang_encoder\.gated_cross_attn_layers\.(\d+)\.(.+)")
_COPY = re.compile(r"lang_encoder\.model\.layers\.(\d+)\.gated_cross_attn_layer\.(.+)")
_MODEL_HINT = "Give model.pt as it is published at med-flamingo/med-flamingo."
_FIRST_LLAMA_LENGTH, _FIRST_EPSILON = 2048, 1e-6
_PUBLISHED_CLIP = {1024: (224, 14)}  # Sides of image and patch by CLIP's width: no shape of a weight tells them all.
_CLIP_HINT = "Give openai/clip-vit-large-patch14."
_LONGEST_VQA_ANSWER = 10
_EXAMPLES_THAT_FILL = 10  # Of the longest allowed length they fill the context: six, question and answer fit.


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
        return cast("torch.Tensor", self.perceiver(self.patches(pixels)))


def load_med_flamingo(options: LoadOptions) -> "MedFlamingoAdapter":
    """Load all three parts; vision stays in float32. See `families` for what it raises."""
    chosen, folder = ENTRY.settled(options.variant, options.arguments), options.folder_of(CARD)
    given = {name: Path(chosen[name]).expanduser() if chosen[name] else folder / name for name in _PARTS}
    files = {"trained": folder / "model.pt", **given}
    if not files["trained"].is_file():
        raise UsageError(f"{files['trained']} is missing.", "It is published at med-flamingo/med-flamingo.")
    for name, what in _PARTS.items():
        if not files[name].is_dir():
            hint = f"Put {what} there, or give its folder by --model-arg {name}=DIR."
            raise UsageError(f"{files[name]} is no folder.", hint)
    demo_images = Path(chosen["demo_images"]).expanduser() if chosen["demo_images"] else None
    authors = authors_examples(chosen["shots"], demo_images)
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    refuse_stand_ins(*files.values())
    config, added = _llama_config(files["llama"]), tuple(SPECIAL_TEXTS.values())
    tokenizer = read_tokenizer(files["llama"] / TOKENIZER_FILE, added, rows=int(config.vocab_size))
    with room_for(f"Med-Flamingo in {folder}"):
        seeing, blocks = _read_trained(files["trained"])
        clip = _clip(files["clip"], device)
        width = int(clip.config.hidden_size)
        with torch.device("meta"):
            perceiver = PerceiverResampler(PerceiverSizes(dim=width))
        source = f"The perceiver of {files['trained']} with {files['clip']}"
        weights.fill(perceiver, seeing, source, device=device, dtype=torch.float32)
        vision = MedFlamingoVision(clip, perceiver).eval()
        rows = len(blocks[_EMBEDDINGS])
        if rows != int(config.vocab_size) + ADDED_TOKENS:
            known = f"the LLaMA in {files['llama']} knows {config.vocab_size} tokens"
            hint = f"Med-Flamingo adds {ADDED_TOKENS} tokens to the vocabulary of the first LLaMA-7B."
            raise DataError(f"{files['trained']} has {rows} embeddings, {known}.", hint)
        shards = open_shards(files["llama"])
        needed = [name for name in shards.files if not name.endswith(weights.ROTARY) and name != _EMBEDDINGS]
        state = {name: shards.tensor(name) for name in needed} | blocks
        source = f"{files['trained']} with {files['llama']}"
        kind = partial(MedFlamingoLlama, media_width=width)
        decoder = weights.filled_llama(kind, config, state, source, device=device, dtype=dtype)
    parts = {**files, **({name: demo_images / name for name, _, _ in AUTHORS} if authors and demo_images else {})}
    return MedFlamingoAdapter(
        decoder, vision, tokenizer, options, authors=authors, fingerprint=identity_of(parts),
        notices=_unlike_the_first(files["llama"], config),
    )  # fmt: skip


def _read_trained(path: Path) -> tuple[State, State]:
    """Return what `model.pt` holds: the perceiver, and embeddings and gated blocks, under the names of the modules."""
    state = weights.unwrapped(read_tensors(path))
    gated, copies = (
        {
            f"model.layers.{match[1]}.gated.{match[2]}": state.pop(name)
            for name in list(state) if (match := kind.fullmatch(name))
        }
        for kind in (_GATED, _COPY)
    )  # fmt: skip
    shared = sorted(gated.keys() & copies.keys())
    weights.refuse_different(str(path), ((name, gated[name], copies[name]) for name in shared))
    blocks, embeddings = {**copies, **gated}, state.pop(f"{_LANGUAGE}{_EMBEDDINGS}", None)
    rotary = {name for name in state if name.startswith(_LANGUAGE) and name.endswith(weights.ROTARY)}
    strangers = [name for name in state if not name.startswith(_PERCEIVER) and name not in rotary]
    if strangers or embeddings is None or not blocks:
        said = f"it also holds {weights.some_of(strangers)}" if strangers else "it lacks embeddings or gated blocks"
        raise DataError(f"{path} is no Med-Flamingo checkpoint: {said}.", _MODEL_HINT)
    blocks[_EMBEDDINGS] = embeddings
    single = weights.some_of(name for name, tensor in blocks.items() if not tensor.ndim)
    if single:
        raise DataError(f"{path} is no Med-Flamingo checkpoint: {single} is a single number.", _MODEL_HINT)
    return weights.part_of(state, _PERCEIVER), blocks


def _llama_config(folder: Path) -> LlamaConfig:
    """Return the configuration of the base LLaMA, without the odd special tokens of its early conversions."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder / 'config.json'} is missing.", "Give a LLaMA-7B folder.")
    with usable(f"{folder} has no usable config.json", "Give a LLaMA-7B folder."):
        values, _ = LlamaConfig.get_config_dict(folder)
        special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": None}
        # The head has no rows for the added tokens, so that it cannot be the table of embeddings.
        config = LlamaConfig.from_dict({**values, **special, "tie_word_embeddings": False})
    if values.get("model_type") != "llama":
        problem = f"{folder} holds a model of type {values.get('model_type')!r}."
        raise DataError(problem, "Med-Flamingo is built on LLaMA-7B.")
    return config


def _unlike_the_first(folder: Path, config: LlamaConfig) -> tuple[str, ...]:
    """Return what a LLaMA does that the first does not, if anything; their weights have the same shapes."""
    reads, adds = int(config.max_position_embeddings), float(config.rms_norm_eps)
    unlike = {f"reads {reads} tokens": reads > _FIRST_LLAMA_LENGTH, f"adds {adds} in its norms": adds > _FIRST_EPSILON}
    told = (
        "The LLaMA in {} {}, as LLaMA-2 does. Med-Flamingo was trained on the first LLaMA-7B, and on another its "
        "answers mean nothing."
    )
    return tuple(told.format(folder, does) for does, it_does in unlike.items() if it_does)[:1]


def _clip(folder: Path, device: torch.device) -> CLIPVisionModel:
    """Return a CLIP, but none that fits by its shapes and sees otherwise: LAION's, or OpenAI's for larger images."""
    config = read_tower_config(folder, _CLIP_HINT)
    sides = (config.image_size, config.patch_size)
    if config.hidden_act != "quick_gelu" or sides != _PUBLISHED_CLIP.get(int(config.hidden_size), sides):
        raise DataError(
            f"{folder} holds a CLIP with {config.hidden_act} for images of {config.image_size} pixels in patches of "
            f"{config.patch_size}; Med-Flamingo was trained with OpenAI's, with quick_gelu, 224 and 14.",
            _CLIP_HINT,
        )
    with usable(f"{folder / 'config.json'} cannot be used", _CLIP_HINT):
        clip = CLIPVisionModel(config)
    # Versions of transformers differ in whether the tower is the model itself.
    tower: nn.Module = getattr(clip, "vision_model", clip)
    tower.load_state_dict(read_tower(folder, tower.state_dict()), strict=True)
    nn.Module.to(clip, device=device, dtype=torch.float32)
    clip.train(mode=False).requires_grad_(requires_grad=False)
    return clip


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt(Prompt):
    """A prompt that begins with the examples of a task. Their images, encoded once for all prompts, have no slots."""

    task: str
    shown: str = ""  # Hash of the examples' images.


class MedFlamingoAdapter(TextAdapter[SegmentTokenizer]):
    """Med-Flamingo: examples (`authors` if those are shown) and a question in one line; each text sees one image."""

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
        self._looks: dict[str, str] = {}
        self._shown: dict[str, tuple[torch.Tensor, ...]] = {}

    def expect(self, specs: Sequence[TaskSpec]) -> None:
        """Choose the examples of tasks and say which they are; DataError if six are insisted on and there are none."""
        for spec in specs:
            self.examples_of(spec)

    def examples_of(self, spec: TaskSpec) -> tuple[Example, ...]:
        """Return the examples of a task, which are chosen, and told, when it is first asked about."""

        def fits(parts: entry.Parts) -> bool:
            length = sum(1 if isinstance(part, Special) else len(part) for part in self.tokens.encode(parts))
            return length * _EXAMPLES_THAT_FILL <= int(self.decoder.config.max_position_embeddings)

        if spec.name not in self._examples:
            self._examples[spec.name], notice = examples_of(spec, self._options, self._authors, fits)
            images = [image for example in self._examples[spec.name] for image in example.images]
            looks = b"".join(f"{image.size}".encode() + image.tobytes() for image in images)
            self._looks[spec.name] = hashlib.sha256(looks).hexdigest()
            self.notices = (*self.notices, notice)
            say(notice)
        return self._examples[spec.name]

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return examples and the question; each of its images has a slot of no tokens behind its `<image>`."""
        del size_of
        examples = self.examples_of(spec)
        shown = [part for example in examples for part in example.parts]
        parts = entry.prompt_parts(entry.question_of(sample, spec), len(sample.images), shown)
        without_slots = sum(len(example.images) for example in examples)
        texts = [[self._bos_id]]
        for part in self.tokens.encode(parts):
            texts[-1] += [self._ids[part]] if isinstance(part, Special) else part
            without_slots -= part is Special.IMAGE
            if part is Special.IMAGE and without_slots < 0:
                texts.append([])
        segments = Prompt.between(texts, sample.images, 0).segments
        return ShownPrompt(segments=segments, task=spec.name, shown=self._looks[spec.name])

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S], as the evaluation transform of open_clip makes them."""
        return clip_pixels(image, cast("int", self.vision.clip.config.image_size), half_to_even=True)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [64, C] of pixels [3, S, S]."""
        return list(self.vision(torch.stack(list(pixels)).to(self.decoder.device, non_blocking=True)))

    def row_state(self, features: Sequence[torch.Tensor], prompt: Prompt, kind: Kind) -> Media:
        """Return keys and values of the images of examples and question, and which of them each token may see."""
        del kind
        task = prompt.task if isinstance(prompt, ShownPrompt) else ""
        if task and task not in self._shown:
            pixels = [self.pixels(image) for example in self._examples[task] for image in example.images]
            with torch.inference_mode():
                self._shown[task] = self._media_of(self.encode_images(pixels) if pixels else ())
        ids = [token for part in prompt.segments if isinstance(part, TextSegment) for token in part.ids]
        seen = seen_images(ids, self._ids[Special.IMAGE], self._media_rule)
        return Media(images=(*self._shown.get(task, ()), *self._media_of(features)), seen=seen)

    def _media_of(self, latents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(self.decoder.media(torch.stack(list(latents)))) if len(latents) else ()

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' 10 for VQA, and the task's own limit for what they never asked."""
        return _LONGEST_VQA_ANSWER if spec.kind == "vqa" else spec.max_new_tokens

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return the texts that end an answer, in place of the end mark that cannot be written."""
        return entry.stops_of(spec.kind)
