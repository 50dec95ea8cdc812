"""Pictures as the authors' CLIP reads them: the evaluation transform of open_clip, without torchvision."""

import numpy as np
import torch
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_BITS = 255


def clip_pixels(image: Image.Image, side: int) -> torch.Tensor:
    """Return normalised pixels [3, side, side].

    The shorter side becomes `side` (bicubic), the other is rounded down, and the middle is cut out. Colours come before
    the resize, since Pillow would pick the nearest colour of a palette; for grey and RGB that is the same.
    """
    resized = _shorter_side(image.convert("RGB"), side)
    left, top = (round((length - side) / 2) for length in resized.size)
    middle = np.array(resized.crop((left, top, left + side, top + side)))
    values = torch.from_numpy(middle).permute(2, 0, 1).contiguous().float().div(_BITS)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (values - mean) / std


def _shorter_side(image: Image.Image, side: int) -> Image.Image:
    short, long = min(image.size), max(image.size)
    longer = int(side * long / short)
    shape = (side, longer) if image.width <= image.height else (longer, side)
    return image.resize(shape, Image.Resampling.BICUBIC)
