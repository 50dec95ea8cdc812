"""Loading Med-Flamingo: what was trained, on the LLaMA-7B and the CLIP that it was trained on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from medbench.adapters.llava_med.vision import read_tower
from medbench.adapters.med_flamingo.decoder import ADDED_TOKENS, EVERY, MedFlamingoLlama, MediaSizes
from medbench.adapters.med_flamingo.state import TrainedState, read_state
from medbench.adapters.perceiver import HEAD_WIDTH, PerceiverResampler, sizes_of
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.foundation.model_files import identity_of
from medbench.tasks.foundation.stand_ins import refuse_stand_ins
from medbench.unimed.tokens import (
    BOS_ID,
    EOS_ID,
    SegmentTokenizer,
    read_tokenizer,
    refuse_other_vocabulary,
)
from medbench.unimed.weight_files import open_shards
from medbench.unimed.weights import LIBRARY_FAULTS, fill, filled_llama

TRAINED_FILE, LLAMA_FOLDER, CLIP_FOLDER = "model.pt", "llama", "clip"
TOKENIZER_FILE = "tokenizer.model"
_EMBEDDINGS = "model.embed_tokens.weight"
_ROTARY = "rotary_emb.inv_freq"
_FIRST_LLAMA_LENGTH, _FIRST_LLAMA_EPSILON = 2048, 1e-6
_OTHER_LLAMA = (
    "The LLaMA in {folder} {what}, as LLaMA-2 does. Med-Flamingo was trained on the first LLaMA-7B, and on another its "
    "answers mean nothing."
)
_PUBLISHED_CLIP = {1024: (224, 14)}
"""Sides of the picture and of a patch of the published CLIP, by its width: no shape of a weight tells them all."""
_CLIP_HINT = "Give openai/clip-vit-large-patch14."


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the three parts are."""

    trained: Path
    llama: Path
    clip: Path


class MedFlamingoVision(nn.Module):
    """Pictures to latents, in float32 whatever the type of the language model: 1.5 GB."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedMedFlamingo:
    """The model with its tokenizer and the identity of its files.

    Attributes:
        decoder: LLaMA with gated blocks.
        vision: What it looks at.
        tokenizer: LLaMA's.
        fingerprint: Of all files.
        notices: What is odd about them.
    """

    decoder: MedFlamingoLlama
    vision: MedFlamingoVision
    tokenizer: SegmentTokenizer
    fingerprint: str
    notices: tuple[str, ...]


def places_of(checkpoint: Path | None, llama: str, clip: str) -> Places:
    """Return where the parts are.

    Args:
        checkpoint: Folder with model.pt, and the other two in it unless they are named.
        llama: Folder of LLaMA-7B, or empty.
        clip: Folder of CLIP ViT-L/14, or empty.

    Raises:
        UsageError: If a part is not there.
    """
    hint = f"Give --checkpoint DIR with {TRAINED_FILE}, {LLAMA_FOLDER}/ and {CLIP_FOLDER}/."
    if checkpoint is None:
        raise UsageError("Med-Flamingo needs weights.", hint)
    if not checkpoint.is_dir():
        raise UsageError(f"{checkpoint} is no folder.", hint)
    places = Places(
        trained=checkpoint / TRAINED_FILE,
        llama=Path(llama).expanduser() if llama else checkpoint / LLAMA_FOLDER,
        clip=Path(clip).expanduser() if clip else checkpoint / CLIP_FOLDER,
    )
    if not places.trained.is_file():
        raise UsageError(f"{places.trained} is missing.", "It is published at med-flamingo/med-flamingo.")
    for name, folder, what in (
        (LLAMA_FOLDER, places.llama, "the first LLaMA-7B in transformers' format, such as huggyllama/llama-7b"),
        (CLIP_FOLDER, places.clip, "openai/clip-vit-large-patch14"),
    ):
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is no folder.", f"Put {what} there, or give its folder by --model-arg {name}=DIR."
            )
    return places


def load_med_flamingo(
    places: Places, *, device: torch.device, dtype: torch.dtype, more: Mapping[str, Path] | None = None
) -> LoadedMedFlamingo:
    """Load all three parts.

    Args:
        places: Where they are.
        more: Other files that answers depend on, by name; they enter the identity.
        device: Where the model goes.
        dtype: Of the language model; vision stays in float32.

    Raises:
        DataError: If a file is missing or broken, or a weight is missing, unexpected or of another shape.
        RunError: If the device has no room for it.
    """
    refuse_stand_ins(places.trained, places.llama, places.clip)
    tokenizer = read_tokenizer(places.llama / TOKENIZER_FILE)
    config = _llama_config(places.llama)
    refuse_other_vocabulary(places.llama / TOKENIZER_FILE, tokenizer, int(config.vocab_size))
    with room_for(f"Med-Flamingo in {places.trained.parent}"):
        state = read_state(places.trained)
        vision = _vision(places, state, device)
        decoder = _decoder(places, config, state, device=device, dtype=dtype)
    return LoadedMedFlamingo(
        decoder=decoder,
        vision=vision,
        tokenizer=tokenizer,
        fingerprint=identity_of(
            {"trained": places.trained, "llama": places.llama, "clip": places.clip, **(more or {})}
        ),
        notices=_notices(places, config),
    )


def _llama_config(folder: Path) -> LlamaConfig:
    """Return the configuration of the base LLaMA, without the odd special tokens of its early conversions."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder / 'config.json'} is missing.", "Give a LLaMA-7B folder.")
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
        special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": None}
        # The head has no rows for the added tokens, so that it cannot be the table of embeddings.
        given = {**values, **special, "tie_word_embeddings": False}
        config = LlamaConfig.from_dict(given)
    except (StrictDataclassError, OSError, ValueError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"{folder} has no usable config.json: {error}", "Give a LLaMA-7B folder.") from error
    if values.get("model_type") != "llama":
        raise DataError(
            f"{folder} holds a model of type {values.get('model_type')!r}.", "Med-Flamingo is built on LLaMA-7B."
        )
    return config


def _decoder(
    places: Places, config: LlamaConfig, trained: TrainedState, *, device: torch.device, dtype: torch.dtype
) -> MedFlamingoLlama:
    _refuse_other_vocabulary(places, config, trained)
    shards = open_shards(places.llama)
    needed = [name for name in shards.files if _ROTARY not in name and name != _EMBEDDINGS]
    state = {name: shards.tensor(name) for name in needed} | trained.decoder
    kind = partial(MedFlamingoLlama, media=_media_sizes(trained))
    source = f"{places.trained} with {places.llama}"
    return filled_llama(kind, config, state, source, device=device, dtype=dtype)


def _refuse_other_vocabulary(places: Places, config: LlamaConfig, trained: TrainedState) -> None:
    rows = len(trained.decoder[_EMBEDDINGS])
    if rows != int(config.vocab_size) + ADDED_TOKENS:
        raise DataError(
            f"{places.trained} has {rows} embeddings, the LLaMA in {places.llama} knows {config.vocab_size} tokens.",
            f"Med-Flamingo adds {ADDED_TOKENS} tokens to the vocabulary of the first LLaMA-7B.",
        )


def _media_sizes(trained: TrainedState) -> MediaSizes:
    """Return the sizes of the first block; what is missing in it is said when it is filled."""
    queries = trained.decoder.get(f"model.layers.{EVERY - 1}.gated.attn.to_q.weight")
    heads = MediaSizes(width=1).heads if queries is None else max(1, queries.shape[0] // HEAD_WIDTH)
    return MediaSizes(width=int(trained.perceiver["latents"].shape[1]), heads=heads)


def _vision(places: Places, state: TrainedState, device: torch.device) -> MedFlamingoVision:
    sizes = sizes_of(state.perceiver, str(places.trained))
    with torch.device("meta"):
        perceiver = PerceiverResampler(sizes)
    fill(perceiver, state.perceiver, str(places.trained), device=device, dtype=torch.float32)
    clip = _clip(places.clip, device)
    if int(clip.config.hidden_size) != sizes.dim:
        raise DataError(
            f"CLIP in {places.clip} has tokens of width {clip.config.hidden_size}, the perceiver reads {sizes.dim}.",
            _CLIP_HINT,
        )
    return MedFlamingoVision(clip, perceiver).eval()


def _clip(folder: Path, device: torch.device) -> CLIPVisionModel:
    """Load CLIP's vision strictly, from a folder of it alone or of the whole model."""
    config = _clip_config(folder)
    try:
        clip = CLIPVisionModel(config)
    except LIBRARY_FAULTS as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", _CLIP_HINT) from error
    # Versions of transformers differ in whether the tower is the model itself.
    tower: nn.Module = getattr(clip, "vision_model", clip)
    state = read_tower(folder, tower.state_dict())
    tower.load_state_dict(state, strict=True)
    nn.Module.to(clip, device=device, dtype=torch.float32)
    clip.train(mode=False).requires_grad_(requires_grad=False)
    return clip


def _clip_config(folder: Path) -> CLIPVisionConfig:
    values = read_json(folder / "config.json")
    table = values if isinstance(values, dict) else {}
    own = table.get("vision_config", table)
    if not isinstance(own, dict) or table.get("model_type") not in {"clip", CLIPVisionConfig.model_type}:
        raise DataError(f"{folder} holds no CLIP.", _CLIP_HINT)
    try:
        config = CLIPVisionConfig.from_dict(own)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Copy it again.") from error
    _refuse_other_clip(folder, config)
    return config


def _refuse_other_clip(folder: Path, config: CLIPVisionConfig) -> None:
    """Refuse towers that fit by their shapes and see otherwise, such as LAION's, or OpenAI's for larger pictures."""
    sides = (config.image_size, config.patch_size)
    if config.hidden_act != "quick_gelu" or sides != _PUBLISHED_CLIP.get(int(config.hidden_size), sides):
        raise DataError(
            f"{folder} holds a CLIP with {config.hidden_act} for pictures of {config.image_size} pixels in patches of "
            f"{config.patch_size}; Med-Flamingo was trained with OpenAI's, with quick_gelu, 224 and 14.",
            _CLIP_HINT,
        )


def _notices(places: Places, config: LlamaConfig) -> tuple[str, ...]:
    return tuple(_OTHER_LLAMA.format(folder=places.llama, what=what) for what in _unlike_the_first(config))[:1]


def _unlike_the_first(config: LlamaConfig) -> Iterator[str]:
    """Yield what a LLaMA does that the first does not; their weights have the same shapes."""
    if int(config.max_position_embeddings) > _FIRST_LLAMA_LENGTH:
        yield f"reads {config.max_position_embeddings} tokens"
    if float(config.rms_norm_eps) > _FIRST_LLAMA_EPSILON:
        yield f"adds {config.rms_norm_eps} in its norms"
