"""OpenAI's CLIP as several models use it: pixels, and a vision tower in a folder of its own."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPVisionConfig

from medbench.adapters.families import usable
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.configuration import CLIP_MEAN
from medbench.unimed.processing import pixels_of
from medbench.unimed.weights import State, open_shards, refuse_misfits, refuse_other_names

MEAN_COLOUR = (int(CLIP_MEAN[0] * 255), int(CLIP_MEAN[1] * 255), int(CLIP_MEAN[2] * 255))  # (122, 116, 104)
_INNER = "vision_model."
_HARMLESS = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", _INNER + "embeddings.position_ids")
"""What a whole CLIP holds beside its vision tower."""


def clip_pixels(image: Image.Image, side: int, *, pad: bool = False, half_to_even: bool = False) -> torch.Tensor:
    """Return normalised pixels [3, side, side], float32: the shorter side becomes `side`, the middle is cut out.

    With `pad` the whole image stands on a square of the mean colour instead; an odd pixel goes right, or to the bottom.
    A cut that could begin at a half begins at the even pixel with `half_to_even`, as in torchvision and open_clip, or
    else at the one before, as in transformers.
    """
    colour = image.convert("RGB")  # Before the resize: Pillow would pick the nearest colour of a palette.
    if pad:
        longest = max(colour.size)
        square = Image.new("RGB", (longest, longest), MEAN_COLOUR)
        square.paste(colour, ((longest - colour.width) // 2, (longest - colour.height) // 2))
        colour = square
    longer = side * max(colour.size) // min(colour.size)
    shape = (side, longer) if colour.width <= colour.height else (longer, side)
    resized = colour.resize(shape, Image.Resampling.BICUBIC)
    left, top = (round(spare / 2) if half_to_even else spare // 2 for spare in (shape[0] - side, shape[1] - side))
    # It has its size, so that nothing is resized again.
    return pixels_of(resized.crop((left, top, left + side, top + side)), side)


def read_tower_config(folder: Path, hint: str) -> CLIPVisionConfig:
    """Return the vision configuration of a tower or a whole CLIP; DataError, with `hint`, if there is none of CLIP."""
    file = folder / "config.json"
    values = read_json(file)
    kind = values.get("model_type") if isinstance(values, dict) else None
    # A kind that is a list has no place in a set.
    own = values.get("vision_config", values) if kind in ("clip", CLIPVisionConfig.model_type) else None
    if not isinstance(own, dict):
        raise DataError(f"The vision tower in {folder} is of type {kind!r}, not CLIP.", hint)
    with usable(f"{file} cannot be used", "Copy it again."):
        config = CLIPVisionConfig.from_dict(own)
        sizes: Any = config
        # Lengths that are lists, or patches beyond the image, would end further on, without the name of the file.
        if sizes.image_size // sizes.patch_size < 1:
            raise ValueError(f"patches of {sizes.patch_size} pixels do not fit into {sizes.image_size}")
    return config


def read_tower(folder: Path, expected: State) -> dict[str, torch.Tensor]:
    """Return the vision tower's weights in a folder of it or of a whole CLIP; DataError if they misfit `expected`."""
    shards = open_shards(folder)
    names = {name.removeprefix(_INNER): name for name in shards.files if not name.startswith(_HARMLESS)}
    refuse_other_names(str(folder), names, expected)
    state = {ours: shards.tensor(theirs) for ours, theirs in names.items()}
    refuse_misfits(str(folder), state, expected)
    return state
