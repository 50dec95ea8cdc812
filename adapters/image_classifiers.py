"""Image classifiers that learn a task from its pictures: two small nets from nothing, and any that transformers knows.

They show what can be read off the pictures, beside what a vision tower holds. They answer no run, so they are no part
of a model's identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, ViTConfig

from medbench.adapters.families import usable
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins
from medbench.unimed.weights import refuse_loading_info, reported_from_pretrained

SIDES = range(32, 513, 8)  # Of the small nets' pictures.
_CHANNELS = (32, 64, 128, 256)
_WIDTH, _LAYERS, _HEADS, _PATCHES = 128, 6, 4, 8  # Of the small ViT, with so many patches along one side.


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A net that can be trained, and how; `identity` is all that tells it from another."""

    name: str
    pixels: Callable[[Image.Image], torch.Tensor]  # A picture as the net takes it [3, H, W], float32.
    make: Callable[[], nn.Module]  # A net of logits [B, K] of pixels [B, 3, H, W]; torch's generator draws what is new.
    epochs: int
    rate: float  # The highest learning rate.
    identity: Mapping[str, Any]


def small_classifiers(classes: int, side: int) -> tuple[Classifier, ...]:
    """Return a small ResNet and a small ViT, of about a million weights each, for pictures of `side` pixels.

    UsageError if the side is none of `SIDES`.
    """
    if side not in SIDES:
        allowed = f"Allowed: multiples of {SIDES.step} from {SIDES.start} to {SIDES[-1]}."
        raise UsageError(f"The small reference nets cannot take pictures of {side} pixels.", allowed)
    of_kinds = (("small CNN", partial(_cnn, classes), 2e-3), ("small ViT", partial(_vit, classes, side), 5e-4))
    return tuple(
        Classifier(
            name=name, pixels=partial(_scaled, side=side), make=make, epochs=25, rate=rate,
            identity={"name": name, "side": side, "version": 1},
        ) for name, make, rate in of_kinds
    )  # fmt: skip


def _scaled(image: Image.Image, side: int) -> torch.Tensor:
    """Return an RGB picture as a square [3, side, side] from -1 to 1, its shape not kept."""
    square = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1.0).permute(2, 0, 1)


class _Residual(nn.Module):
    """A basic block of ResNet (arXiv 1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_convolution(before, after, 3, stride), nn.ReLU(), _convolution(after, after, 3, 1))
        self.straight = nn.Identity() if before == after else _convolution(before, after, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return features [B, after, H / stride, W / stride] of [B, before, H, W]."""
        return torch.relu(self.branch(features) + self.straight(features))


def _convolution(before: int, after: int, size: int, stride: int) -> nn.Module:
    kernel = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(after))


def _cnn(classes: int) -> nn.Module:
    first = _CHANNELS[0]
    stem = (_convolution(3, first, 3, 2), nn.ReLU(), _Residual(first, first, 1))
    stages = (_Residual(before, after, 2) for before, after in pairwise(_CHANNELS))
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CHANNELS[-1], classes))


class _Logits(nn.Module):
    """A classifier of transformers as a function of its pixels alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [B, K] of pixels [B, 3, H, W]."""
        logits: torch.Tensor = self.model(pixel_values=pixels).logits
        return logits


def _vit(classes: int, side: int) -> nn.Module:
    config = ViTConfig(
        hidden_size=_WIDTH, num_hidden_layers=_LAYERS, num_attention_heads=_HEADS, intermediate_size=2 * _WIDTH,
        image_size=side, patch_size=side // _PATCHES,
    )  # fmt: skip
    config.num_labels = classes
    return _Logits(AutoModelForImageClassification.from_config(config))


def pretrained_classifier(folder: Path, classes: int) -> Classifier:
    """Return an image classifier of transformers in a folder, every weight below its head, with a head that is new.

    UsageError if transformers knows no such classifier; DataError if files are missing or broken, and from `make` if
    weights are missing or misfit. No code of the folder is run.
    """
    refuse_stand_ins(folder)
    with usable(f"The configuration of {folder} cannot be used", "No code from folders is run; copy it again."):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in AutoModelForImageClassification._model_mapping:  # noqa: SLF001 - the only public way is to try
        problem = f"{folder} holds a {config.model_type}, of which transformers makes no image classifier."
        raise UsageError(problem, "Name a folder of ViT, DINOv2, ConvNeXt, Swin, ResNet, CLIP, SigLIP or the like.")
    config.num_labels = classes
    with usable(f"{folder} has no image processor that can be used", "Copy its preprocessor_config.json too."):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    pixels = partial(_processed, processor, folder)
    return Classifier(
        name=folder.resolve().name, pixels=pixels, make=partial(_pretrained, folder, config, pixels), epochs=10,
        rate=1e-4, identity={"files": identity_of({"model": folder}), "version": 1},
    )  # fmt: skip


def _processed(processor: Any, folder: Path, image: Image.Image) -> torch.Tensor:  # noqa: ANN401 - of transformers
    with usable(f"The image processor of {folder} takes no picture", "Copy the files that belong to the model."):
        pixels: torch.Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return pixels.float()


def _pretrained(folder: Path, config: Any, pixels: Callable[[Image.Image], torch.Tensor], /) -> nn.Module:  # noqa: ANN401 - as above
    """Return the model with a new head; DataError if a weight below the head is missing, or no picture goes through."""
    kind = AutoModelForImageClassification
    model, info = reported_from_pretrained(kind, folder, config=config, dtype=torch.float32)
    parts = dict(model.named_children())
    below = max(parts, key=lambda name: sum(one.numel() for one in parts[name].parameters()))
    refuse_loading_info(str(folder), {word: _within(below, info[word]) for word in ("missing_keys", "mismatched_keys")})
    for head in (part for name, part in parts.items() if name != below):
        for layer in (one for one in head.modules() if isinstance(one, nn.Linear)):
            layer.reset_parameters()  # Also one that fitted: it was learned for other classes, or for another order.
    net = _Logits(model)
    with usable(f"The model in {folder} takes no picture of its own image processor", "Copy both again."):
        net.eval()(pixels(Image.new("RGB", (64, 64)))[None])
    return net


def _within(part: str, keys: Any) -> list[Any]:  # noqa: ANN401 - names, or tuples that begin with one
    return [key for key in keys if (key if isinstance(key, str) else key[0]).startswith(f"{part}.")]
