"""LLaVA's vision tower: OpenAI's CLIP, in a folder of its own or inside the checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.weight_files import open_shards
from medbench.unimed.weights import refuse_misfits, refuse_other_names

SUBFOLDER = "vision_tower"
_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
    "clip-vit-large-patch14": {**_LARGE, "image_size": 224},
}
"""OpenAI's towers by the last part of their name, so that a checkpoint with a tower needs no other folder."""
_INNER = "vision_model."
_HARMLESS = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", _INNER + "embeddings.position_ids")
"""What a whole CLIP holds beside its vision tower."""
_HINT = "Give OpenAI's tower: --model-arg vision_tower=DIR, a folder with config.json and weights."
_BIOMED = "biomedclip"


def tower_config(name: str, folder: Path | None) -> CLIPVisionConfig:
    """Return the configuration of a tower.

    Args:
        name: What the checkpoint calls it.
        folder: Where it is; None if only the name is known.

    Raises:
        DataError: If it is not CLIP, or unknown.
    """
    if _BIOMED in name.lower():
        raise DataError(
            f"The checkpoint was trained with the vision tower {name!r}, which is not supported.",
            "The weights of LLaVA-Med with BiomedCLIP were never published; use one with OpenAI's CLIP.",
        )
    if folder is None:
        settings = KNOWN.get(name.rstrip("/").rpartition("/")[2])
        if settings is None:
            raise DataError(f"The checkpoint's vision tower {name!r} is unknown.", _HINT)
        return CLIPVisionConfig(**settings)
    return _read_config(folder)


def _read_config(folder: Path) -> CLIPVisionConfig:
    values = read_json(folder / "config.json")
    kind = values.get("model_type")
    settings = values.get("vision_config") if kind == "clip" else values
    if kind not in {"clip", CLIPVisionConfig.model_type} or not isinstance(settings, dict):
        raise DataError(f"The vision tower in {folder} is of type {kind!r}, not CLIP.", _HINT)
    try:
        return CLIPVisionConfig.from_dict(settings)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Copy it again.") from error


def read_tower(folder: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a CLIP folder that belong to its vision tower.

    Args:
        folder: A whole CLIP or its vision tower, in the layout of transformers.
        expected: The state to be filled, for names and shapes.

    Raises:
        DataError: If the weights do not fit, or a file is missing or broken.
    """
    shards = open_shards(folder)
    names = {name.removeprefix(_INNER): name for name in shards.files if not name.startswith(_HARMLESS)}
    refuse_other_names(str(folder), names, expected)
    state = {ours: shards.tensor(theirs) for ours, theirs in names.items()}
    refuse_misfits(str(folder), state, expected)
    return state
