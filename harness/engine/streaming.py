"""Attention of single tokens on a CPU, bound by the memory that keys and values come from.

PyTorch's kernel multiplies matrices of one row for every head of every row, at a third of what memory delivers. Here
all heads of a block of rows are one batched product with keys, and values are summed as an embedding bag sums lines
of a table, whose kernel asks for them ahead.
"""

import torch
from torch.nn.functional import embedding_bag

from medbench.harness.engine.packing import DecodeBlock


def can_stream(queries: torch.Tensor, values: torch.Tensor) -> bool:
    """Return whether queries [n, H, D] are one for each head of values [S, K, C, D], and kernels for them are here.

    Where several queries read the same keys, a product of matrices reads them once.
    """
    return values.device.type == "cpu" and values.dtype == torch.float32 and queries.shape[1] == values.shape[1]


def attend_streaming(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: DecodeBlock, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a block's scaled queries [n, H, D] read, and the logarithm of the sum of weights [n, H].

    Args:
        queries: One for each row.
        keys: Of a chunk of all slots [S, H, C, D].
        values: Of the same shape.
        block: Which rows read how far.
        mask: Added to scores [n, 1, reach].
    """
    own = keys[block.rows, :, : block.reach].flatten(0, 1)
    # Strides of a column: a product with it takes half the time of one with a row that is turned.
    columns = queries.flatten(0, 1)[:, None].transpose(1, 2)
    scores = torch.bmm(own, columns).view(*queries.shape[:2], block.reach)
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1)
    sums = scores.amax(dim=-1) - weights.amax(dim=-1).log()
    table = values.view(-1, values.shape[-1])
    lines = block.lines(queries.shape[1])
    found = embedding_bag(lines, table, per_sample_weights=weights.view(lines.shape), mode="sum")
    return found.view(queries.shape), sums
