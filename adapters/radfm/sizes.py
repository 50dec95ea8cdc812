"""What size a RadFM is: told by `radfm.json`, by the shapes of its weights, and else as published.

`radfm.json` beside `pytorch_model.bin` may hold any part of what the converter writes, for models of other sizes:

    {"vision": {"heads": 8}, "perceiver": {"heads": 8}, "language_model": {"num_attention_heads": 40}}
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from transformers import LlamaConfig

from medbench.adapters.perceiver import PerceiverSizes, sizes_of
from medbench.adapters.radfm.vit3d import VisionSizes
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.weights import layers_in, part_of

SIZES_FILE = "radfm.json"
LANGUAGE, VISION = "lang_model.", "embedding_layer."
_TOWER, _PERCEIVER = f"{VISION}vision_encoder.", f"{VISION}perceiver."
PUBLISHED_HINT = "Give the state dictionary that RadFM's authors publish as pytorch_model.bin."
_PARTS = ("language_model", "vision", "perceiver")
_LLAMA_HEAD_WIDTH = 128
_TOWER_HEAD_WIDTH = 64
_PUBLISHED = VisionSizes()
_ROTARY = "model.layers.0.self_attn.rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSizes:
    """Sizes of LLaMA, by the names of its configuration in transformers.

    Attributes:
        vocab_size: Tokens that it knows.
        hidden_size: Width of a token.
        intermediate_size: Width of the feed-forward.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of attention.
        max_position_embeddings: Tokens of the longest prompt with its answer.
        rms_norm_eps: Of the norms.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6


# An unknown name in a file that people write by hand is a mistake.
for _sizes in (LanguageSizes, VisionSizes, PerceiverSizes):
    with_config(ConfigDict(extra="forbid"))(_sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RadFMSizes:
    """Sizes of the whole model.

    Attributes:
        language_model: Of LLaMA.
        vision: Of the vision transformer.
        perceiver: Of the resampler.
    """

    language_model: LanguageSizes
    vision: VisionSizes
    perceiver: PerceiverSizes

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in a prompt: its latents between two brackets."""
        return self.perceiver.num_latents + 2

    def llama_config(self) -> LlamaConfig:
        """Return the configuration of the language model. Its end token is 2, which it was taught, not upstream's 1.

        Raises:
            DataError: If a setting is impossible.
        """
        try:
            return LlamaConfig(**asdict(self.language_model), bos_token_id=1, eos_token_id=2, pad_token_id=None)
        except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
            raise DataError(f"The sizes of the language model cannot be: {error}", f"Correct {SIZES_FILE}.") from error

    def as_json(self) -> dict[str, Any]:
        """Return the sizes as `radfm.json` has them."""
        return asdict(self)


def read_sizes(path: Path) -> RadFMSizes:
    """Return the sizes that the converter wrote.

    Raises:
        DataError: If the file is missing or says something else.
    """
    return _checked(path, _read_table(path))


def sizes_of_state(state: Mapping[str, torch.Tensor], source: str, file: Path) -> RadFMSizes:
    """Return the sizes of the published state, with what `file` says, if it is there, on top.

    Args:
        state: Tensors under their published names.
        source: Where they are from, for messages.
        file: A `radfm.json` that may be missing or hold a part.

    Raises:
        DataError: If the state is no RadFM, or the file says something impossible.
    """
    given = _read_table(file) if file.is_file() else {}
    told = {part: given.get(part, {}) for part in _PARTS}
    try:
        found = {
            "language_model": _llama_sizes(part_of(state, LANGUAGE)),
            "vision": _vision_sizes(part_of(state, _TOWER), told["vision"].get("heads")),
            "perceiver": asdict(sizes_of(part_of(state, _PERCEIVER), source, heads=told["perceiver"].get("heads"))),
        }
    except KeyError as error:
        raise DataError(f"{source} is no RadFM: {error} is missing.", PUBLISHED_HINT) from error
    except (ValueError, ZeroDivisionError, TypeError, IndexError) as error:
        raise DataError(f"{source} is no RadFM: its sizes cannot be told ({error}).", PUBLISHED_HINT) from error
    return _checked(file, {part: found[part] | told[part] for part in _PARTS})


def _read_table(path: Path) -> dict[str, Any]:
    table = read_json(path)
    wrong = not isinstance(table, dict) or any(not isinstance(part, dict) for part in table.values())
    if wrong or not set(table) <= set(_PARTS):
        raise DataError(f"{path} is no table of sizes.", f"It may hold {', '.join(_PARTS)}, each a table.")
    return dict(table)


def _checked(path: Path, table: Mapping[str, Any]) -> RadFMSizes:
    missing = [part for part in _PARTS if part not in table]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}.", "Convert the checkpoint again.")
    try:
        sizes = RadFMSizes(
            language_model=TypeAdapter(LanguageSizes).validate_python(table["language_model"]),
            vision=TypeAdapter(VisionSizes).validate_python(table["vision"]),
            perceiver=TypeAdapter(PerceiverSizes).validate_python(table["perceiver"]),
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(f"{path} holds impossible sizes: {problems}.", "Correct the file.") from error
    wrong = list(_not_positive(sizes))
    if wrong:
        raise DataError(f"{path} holds impossible sizes: {', '.join(wrong)}.", "Sizes are larger than 0.")
    return sizes


def _not_positive(sizes: RadFMSizes) -> Iterator[str]:
    for part, values in asdict(sizes).items():
        yield from (f"{part}.{name} {value}" for name, value in values.items() if not value > 0)


def _llama_sizes(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    vocabulary, hidden = state["model.embed_tokens.weight"].shape
    # Old transformers kept the rotary frequencies, half as many as a head is wide, in the state.
    width = 2 * len(state[_ROTARY]) if _ROTARY in state else _LLAMA_HEAD_WIDTH
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": state["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": layers_in(state, "model.layers."),
        "num_attention_heads": max(1, hidden // width),
    }


def _vision_sizes(state: Mapping[str, torch.Tensor], heads: int | None) -> dict[str, Any]:
    """Return the sizes of the tower; three channels and four slices of a patch are as published, not to be seen."""
    first = "transformer.layers.0"
    inner = state[f"{first}.0.fn.to_qkv.weight"].shape[0] // 3
    many = heads or max(1, inner // _TOWER_HEAD_WIDTH)
    dim, values = state["to_patch_embedding.2.weight"].shape
    channels, slices = _PUBLISHED.channels, _PUBLISHED.frame_patch_size
    patch = math.isqrt(values // (channels * slices))
    return {
        "image_size": len(state["pos_embedding.row_embed.weight"]) * patch,
        "frames": len(state["pos_embedding.dep_embed.weight"]) * slices,
        "patch_size": patch,
        "frame_patch_size": slices,
        "dim": dim,
        "depth": layers_in(state, "transformer.layers."),
        "heads": many,
        "dim_head": inner // many,
        "mlp_dim": state[f"{first}.1.fn.net.0.weight"].shape[0],
        "channels": channels,
    }
