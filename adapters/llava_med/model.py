"""A checkpoint of LLaVA's format as transformers' `LlavaForConditionalGeneration`, strictly."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from medbench.adapters.llava_med.configuration import LlavaFormat
from medbench.adapters.llava_med.vision import read_tower
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.unimed.weights import ROTARY, refuse_loading_info, reported_from_pretrained

_TOWER = "model.vision_tower."
_NAMES = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": _TOWER,
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
}
_TWO_LAYERS = {
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
}
_ONE_LAYER = {r"^model\.mm_projector\.(weight|bias)$": r"model.multi_modal_projector.\1"}
_BUFFERS = (*ROTARY, "embeddings.position_ids")
"""What checkpoints of older libraries hold beside the weights; it follows from the configuration."""
_LEAST_NORM = 0.1


class LinearLlava(LlavaForConditionalGeneration):
    """LLaVA whose projector is one linear layer, as in its first version."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        text, vision = cast("Any", config.text_config), cast("Any", config.vision_config)
        self.model.multi_modal_projector = nn.Linear(vision.hidden_size, text.hidden_size)


def load_model(
    folder: Path, form: LlavaFormat, dtype: torch.dtype, *, tower: Path | None, from_base: bool
) -> tuple[LlavaForConditionalGeneration, float | None]:
    """Load a checkpoint.

    Args:
        folder: The checkpoint.
        form: What it is.
        dtype: Type of the weights.
        tower: Folder of a CLIP, if there is one.
        from_base: Whether the vision tower comes from there, not from the checkpoint.

    Returns:
        The model, and the largest difference between the weights of both towers; None where there is only one.

    Raises:
        DataError: If a weight is missing, unexpected or of another shape, or a file is broken.
        UsageError: If the tower is to come from a folder and there is none.
    """
    model, has_tower = _read(folder, form, dtype, without_tower=from_base)
    _refuse_delta(model, folder)
    theirs = read_tower(tower, model.model.vision_tower.state_dict()) if tower and _has_weights(tower) else None
    if from_base and theirs is None:
        raise UsageError(
            "The vision tower is not in the checkpoint.",
            "Give OpenAI's CLIP as --model-arg vision_tower=DIR, a folder with config.json and weights.",
        )
    if theirs is None:
        return model, None
    ours = model.model.vision_tower.state_dict()
    difference = max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)
    if from_base:
        model.model.vision_tower.load_state_dict(theirs, strict=True)
    return model, difference if has_tower else None


def _has_weights(tower: Path) -> bool:
    """Return whether a folder holds more than a configuration, which is enough where the checkpoint has the weights."""
    return any(file.suffix in {".safetensors", ".bin"} for file in tower.iterdir())


def _read(
    folder: Path, form: LlavaFormat, dtype: torch.dtype, *, without_tower: bool
) -> tuple[LlavaForConditionalGeneration, bool]:
    """Return the model, and whether the checkpoint holds a vision tower."""
    kind: Any = LinearLlava if form.linear else LlavaForConditionalGeneration
    names = {**_NAMES, **(_ONE_LAYER if form.linear else _TWO_LAYERS)}
    model, info = reported_from_pretrained(kind, folder, config=form.config, key_mapping=names, dtype=dtype)
    missing = {str(name) for name in info.get("missing_keys") or ()}
    own_tower = {_TOWER + name for name, _ in model.model.vision_tower.named_parameters()}
    lacks_tower = own_tower <= missing
    if lacks_tower and without_tower:
        missing -= own_tower
    elif lacks_tower:
        raise DataError(
            f"The checkpoint {folder} holds no vision tower.",
            "Give OpenAI's CLIP: --model-arg vision_source=base --model-arg vision_tower=DIR",
        )
    refuse_loading_info(str(folder), {**info, "missing_keys": missing}, harmless=_BUFFERS)
    return model, not lacks_tower


def _refuse_delta(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Refuse a published delta that was not added to LLaMA: it has the names and shapes of a model and says nothing."""
    norm = cast("Any", model.model.language_model).norm.weight
    if float(norm.detach().float().abs().mean()) < _LEAST_NORM:
        raise DataError(
            f"{folder} looks like a delta, not like a model: its last normalisation is almost 0.",
            "Add it to LLaMA-7B first: `medbench.adapters.llava_med.delta.convert_delta(base, delta, output)`.",
        )
