"""Pictures as LLaVA-Med's CLIP tower reads them: PIL's filters and transformers' arithmetic, bit for bit."""

import numpy as np
import torch
from PIL import Image

from medbench.unimed.processing import CLIP_MEAN, CLIP_STD

_WHITE = 255
MEAN_COLOUR = (int(CLIP_MEAN[0] * _WHITE), int(CLIP_MEAN[1] * _WHITE), int(CLIP_MEAN[2] * _WHITE))
"""(122, 116, 104): what the border of a padded picture is filled with; near 0 after normalisation."""


def padded_to_square(image: Image.Image) -> Image.Image:
    """Return an RGB picture in the middle of a square of the mean colour.

    The authors draw at random which side an odd pixel goes to; here it always goes right, or to the bottom.
    """
    side = max(image.size)
    square = Image.new("RGB", (side, side), MEAN_COLOUR)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def clip_pixels(image: Image.Image, size: int, *, pad: bool) -> torch.Tensor:
    """Return normalised pixels [3, size, size], float32.

    Args:
        image: A picture of any mode. It becomes RGB first; the authors pad grey ones by one grey before that.
        size: Side in pixels.
        pad: Whether the whole picture is kept on a square (version 1.5), or the middle of it cut out (1.0).
    """
    colour = image.convert("RGB")
    resized = _shortest_edge(padded_to_square(colour) if pad else colour, size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    cut = np.asarray(resized.crop((left, top, left + size, top + size)))
    values = (cut * (1 / _WHITE)).astype(np.float32)
    normalised = (values - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def _shortest_edge(image: Image.Image, size: int) -> Image.Image:
    short, long = min(image.size), max(image.size)
    longest = size * long // short
    shape = (size, longest) if image.width <= image.height else (longest, size)
    return image.resize(shape, Image.Resampling.BICUBIC)
