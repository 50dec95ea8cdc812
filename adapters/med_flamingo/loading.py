"""Loading Med-Flamingo: what was trained, on the LLaMA-7B and the CLIP that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from adapters.layers.filling import fill, filled_llama
from adapters.layers.perceiver import HEAD_WIDTH, PerceiverResampler, sizes_of
from adapters.layers.segment_tokenizer import BOS_ID, EOS_ID, SegmentTokenizer, read_tokenizer
from adapters.llava_med.identity import identity_of
from adapters.llava_med.shards import open_shards
from adapters.llava_med.vision import read_tower
from adapters.med_flamingo.decoder import ADDED_TOKENS, EVERY, MedFlamingoLlama, MediaSizes
from adapters.med_flamingo.state import TrainedState, read_state
from tasks.foundation.errors import DataError, UsageError
from tasks.foundation.files import read_json

TRAINED_FILE, LLAMA_FOLDER, CLIP_FOLDER = "model.pt", "llama", "clip"
_EMBEDDINGS = "model.embed_tokens.weight"
_ROTARY = "rotary_emb.inv_freq"
_FIRST_LLAMA_LENGTH = 2048
_SECOND_LLAMA = (
    "The LLaMA in {folder} reads {length} tokens, as LLaMA-2 does. Med-Flamingo was trained on the first LLaMA-7B, and "
    "on another its answers mean nothing."
)


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
    if checkpoint is None:
        raise UsageError(
            "Med-Flamingo needs weights.",
            f"Give --checkpoint DIR with {TRAINED_FILE}, {LLAMA_FOLDER}/ and {CLIP_FOLDER}/.",
        )
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
    """
    tokenizer = read_tokenizer(places.llama / "tokenizer.model")
    config = _llama_config(places.llama)
    state = read_state(places.trained)
    vision = _vision(places, state, device)
    decoder = _decoder(places, config, state, device=device, dtype=dtype)
    if tokenizer.size > int(config.vocab_size):
        raise DataError(
            f"The tokenizer in {places.llama} has {tokenizer.size} pieces, but the model knows {config.vocab_size}.",
            "Copy tokenizer.model of the same LLaMA.",
        )
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
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
        given = {**values, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": None}
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
    name = f"model.layers.{EVERY - 1}.gated.attn.to_q.weight"
    heads = len(trained.decoder[name]) // HEAD_WIDTH if name in trained.decoder else MediaSizes(width=1).heads
    return MediaSizes(width=_perceiver_width(trained.perceiver), heads=heads)


def _perceiver_width(state: Mapping[str, torch.Tensor]) -> int:
    return int(state["latents"].shape[1])


def _vision(places: Places, state: TrainedState, device: torch.device) -> MedFlamingoVision:
    try:
        sizes = sizes_of(state.perceiver)
    except (KeyError, ValueError) as error:
        raise DataError(f"{places.trained} lacks {error} of the perceiver.", "Download it again.") from error
    with torch.device("meta"):
        perceiver = PerceiverResampler(sizes)
    fill(perceiver, state.perceiver, str(places.trained), device=device, dtype=torch.float32)
    clip = _clip(places.clip, device)
    if int(clip.config.hidden_size) != sizes.dim:
        raise DataError(
            f"CLIP in {places.clip} has tokens of width {clip.config.hidden_size}, the perceiver reads {sizes.dim}.",
            "Give openai/clip-vit-large-patch14.",
        )
    return MedFlamingoVision(clip, perceiver).eval()


def _clip(folder: Path, device: torch.device) -> CLIPVisionModel:
    """Load CLIP's vision strictly, from a folder of it alone or of the whole model."""
    clip = CLIPVisionModel(_clip_config(folder))
    nn.Module.to(clip, device=device, dtype=torch.float32)
    # Versions of transformers differ in whether the tower is the model itself.
    tower: nn.Module = getattr(clip, "vision_model", clip)
    state = read_tower(folder, tower.state_dict())
    tower.load_state_dict(state, strict=True)
    clip.train(mode=False).requires_grad_(requires_grad=False)
    return clip


def _clip_config(folder: Path) -> CLIPVisionConfig:
    values = read_json(folder / "config.json")
    own = values.get("vision_config", values) if isinstance(values, dict) else {}
    if not isinstance(own, dict) or values.get("model_type") not in {"clip", CLIPVisionConfig.model_type}:
        raise DataError(f"{folder} holds no CLIP.", "Give openai/clip-vit-large-patch14.")
    try:
        return CLIPVisionConfig.from_dict(own)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Copy it again.") from error


def _notices(places: Places, config: LlamaConfig) -> tuple[str, ...]:
    length = int(config.max_position_embeddings)
    if length <= _FIRST_LLAMA_LENGTH:
        return ()
    return (_SECOND_LLAMA.format(folder=places.llama, length=length),)
