"""Random adapters of peft on tiny models, as their trainers publish them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

Model = Any  # Any model of transformers.
TARGETS = r".*(language_model|^model)\.layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"
"""Layers of the decoder alone: towers have some of the same names."""


def publish(model: Model, folder: Path, *, base: str = "", **settings: Any) -> Model:
    """Write an adapter that changes answers, trained on `base`; return the model with it, computed by peft."""
    torch.manual_seed(3)
    wrapped = PeftModel(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **settings}))
    for name, parameter in wrapped.named_parameters():
        if "default" in name and ("lora_B" in name or "modules_to_save" in name):
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(str(folder))
    edit(folder, base_model_name_or_path=base)
    return wrapped.eval().get_base_model()


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of an adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Write other weights of an adapter."""
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
