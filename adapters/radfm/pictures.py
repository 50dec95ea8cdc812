"""Pictures and volumes as RadFM's vision transformer reads them.

A picture becomes a square by a bicubic resize that does not keep its shape, in [0, 1], and stands as four equal slices.
The authors cut a random part of 80 to 100 % out of every picture, in testing too; that is `crop=random`, and no default
here, since an answer must not depend on a draw. Volumes are scaled by their own lowest and highest value. All images of
a sample get one depth, that of its deepest volume by the authors' rule; `volumes_of` makes them so.
"""

import hashlib
import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from medbench.tasks.foundation.errors import SampleError

SLICES = 4
"""Of a picture, and the step in which volumes grow deeper."""
DEEPEST = 64
_TRIES = 10
_AREA = (0.8, 1.0)
_SHAPE = (3 / 4, 4 / 3)
_BITS = 255
_VOLUME_AXES = 3


def square(image: Image.Image, side: int) -> torch.Tensor:
    """Return a picture as uint8 [3, side, side]."""
    return _values(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def random_square(image: Image.Image, side: int, seed: int) -> torch.Tensor:
    """Return a random part of a picture as uint8 [3, side, side]; the draw depends on the picture and the seed alone.

    80 to 100 % of the area in a shape between 3:4 and 4:3, like `RandomResizedCrop` of the authors' transforms.
    """
    colour = image.convert("RGB")
    digest = hashlib.sha256(f"{seed}/{colour.width}x{colour.height}/".encode() + colour.tobytes()).digest()
    box = _part(colour.width, colour.height, random.Random(int.from_bytes(digest[:8], "big")))
    return _values(colour.crop(box).resize((side, side), Image.Resampling.BICUBIC))


def _part(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a random part; the largest middle part of a lawful shape if none fits."""
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*_AREA)
        shape = math.exp(draw.uniform(math.log(_SHAPE[0]), math.log(_SHAPE[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * _SHAPE[1])), min(height, round(width / _SHAPE[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _values(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def slices_of(picture: torch.Tensor, depth: int = SLICES) -> torch.Tensor:
    """Return a picture, uint8 [3, H, W], as a volume [3, H, W, depth] of equal slices in [0, 1]."""
    return (picture.float() / _BITS).unsqueeze(-1).expand(-1, -1, -1, depth)


def target_depth(depths: Sequence[int | None]) -> int:
    """Return the depth that all images of a sample get.

    The multiple of 4 up to 64 that is nearest to the deepest, the smaller of two that are as near.

    Args:
        depths: Slices of each volume; None for a picture.
    """
    deepest = max((depth for depth in depths if depth is not None), default=SLICES)
    return min(range(SLICES, DEEPEST + 1, SLICES), key=lambda depth: (abs(depth - deepest), depth))


def volume_pixels(volume: np.ndarray, depth: int, side: int) -> torch.Tensor:
    """Return a volume as [3, side, side, depth] in [0, 1].

    Args:
        volume: Values of any range [H, W, D], the slices last.
        depth: Slices that it gets, by `target_depth` over all images of its sample.
        side: Height and width in pixels.

    Raises:
        SampleError: If it has other axes, or nothing in it.
    """
    if volume.ndim != _VOLUME_AXES or not volume.size:
        raise SampleError(f"A volume has rows, columns and slices; this one has the shape {list(volume.shape)}.")
    values = torch.from_numpy(np.array(volume, dtype=np.float32))
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    resized = nn.functional.interpolate(scaled[None, None], size=(side, side, depth), mode="nearest")
    return resized[0].expand(3, -1, -1, -1)


def volumes_of(images: Sequence[Image.Image | np.ndarray], side: int) -> list[torch.Tensor]:
    """Return the pictures and volumes of one sample as volumes [3, side, side, D] in [0, 1] of the same depth.

    Args:
        images: Pictures, and volumes of any range [H, W, D].
        side: Height and width in pixels.

    Raises:
        SampleError: If a volume has other axes.
    """
    depth = target_depth([None if isinstance(image, Image.Image) else image.shape[-1] for image in images])
    return [
        slices_of(square(image, side), depth) if isinstance(image, Image.Image) else volume_pixels(image, depth, side)
        for image in images
    ]
