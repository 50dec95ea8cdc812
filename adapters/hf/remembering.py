"""An image processor that looks at the sizes of pictures alone, since a prompt's tokens depend on nothing else."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

_REMEMBERED = 512


class RememberingImageProcessor:
    """Stands before an image processor and computes once for pictures of the same sizes; pixels become zeros.

    Args:
        real: The image processor.
    """

    def __init__(self, real: Any) -> None:  # noqa: ANN401 - any of transformers
        self._real = real
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._real, name)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:  # noqa: ANN401 - as the real one
        """Return what the real one returns, with pixels that take no memory."""
        key = repr((_sizes(images), sorted(kwargs.items(), key=lambda item: item[0])))
        if key not in self._known:
            self._known[key] = {name: _weightless(value) for name, value in self._real(images, **kwargs).items()}
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return BatchFeature(dict(self._known[key]))


def _sizes(images: Any) -> Any:  # noqa: ANN401 - pictures, nested as the processor likes
    if isinstance(images, Image.Image):
        return images.size
    return [_sizes(image) for image in images] if isinstance(images, Sequence) else type(images).__name__


def _weightless(value: Any) -> Any:  # noqa: ANN401 - as it comes
    """Return floating numbers as zeros of the same shape that share one place; whatever else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.new_zeros(()).expand(value.shape)
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return np.broadcast_to(np.zeros((), dtype=value.dtype), value.shape)
    return [_weightless(part) for part in value] if isinstance(value, list) else value
