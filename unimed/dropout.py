"""Dropout with cheaper masks on a CPU, where drawing PyTorch's was an eighth of a training step at mini size."""

import torch
from torch import nn

_LEVELS = 1 << 16
_DRAWS_PER_NUMBER = 4


class Dropout(nn.Dropout):
    """`nn.Dropout`, with the mask of a CPU cut from 64-bit random numbers: sixteen bits for each value.

    The rate is rounded to a multiple of 1/65536 and the kept values are scaled by what was rounded to, so that the
    expectation stays exact. Masks come from PyTorch's generator, so a seed repeats them. On a GPU, where PyTorch draws
    inside the kernel, it is `nn.Dropout` itself.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name of nn.Dropout
        """Return the input with values dropped while training, of the same shape."""
        levels = round(self.p * _LEVELS)
        if not self.training or levels == 0:
            return input
        if input.device.type != "cpu" or levels == _LEVELS:
            return super().forward(input)
        return input * keep_mask(input.shape, levels).to(input.dtype)


def keep_mask(shape: torch.Size, levels: int) -> torch.Tensor:
    """Return a float32 mask: zero with probability `levels / 65536`, else the inverse of the share that is kept."""
    size = shape.numel()
    numbers = torch.empty(-(-size // _DRAWS_PER_NUMBER), dtype=torch.int64).random_(-(1 << 63), None)
    draws = numbers.view(torch.int16)[:size].view(shape).float()
    # Integers: the `levels` lowest become zero or less, all others one or more. Comparing is three times slower.
    lowest_kept = levels - _LEVELS // 2
    return (draws - (lowest_kept - 1)).clamp_(0, 1).mul_(_LEVELS / (_LEVELS - levels))
