"""Tiny folders of vision models of transformers with random weights, as towers for tests."""

import json
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModel

_VIT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7, "initializer_range": 0.2,
}  # fmt: skip
# MobileNetV2 of an eighth of the width; 64 pixels are 2 x 2 patches, 128 are 4 x 4.
_NET = {"image_size": 128, "depth_multiplier": 0.125, "tf_padding": False, "finegrained_output": False,
        "initializer_range": 0.15}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 3, "drop_path_rate": 0.5},
    "siglip_vision_model": _VIT,
    "mobilenet_v2": _NET,
}
PIXELS = {"do_rescale": True, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


def write_tower(folder: Path, kind: str, *, pixels: dict[str, Any] | None = None, **sizes: Any) -> Path:
    """Write the folder of a model with what its pixels are normalised by."""
    torch.manual_seed(3)
    model: Any = cast("Any", AutoModel).from_config(AutoConfig.for_model(kind, **{**FAMILIES.get(kind, _VIT), **sizes}))
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var", "normalization.bias")):
            tensor.uniform_(0.1, 1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PIXELS, **(pixels or {})}))
    return folder
