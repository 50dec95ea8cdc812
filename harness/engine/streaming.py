"""Attention of single tokens on a CPU, bound by the memory that keys and values come from.

PyTorch's kernel multiplies matrices of one row for every head of every row, at a third of what memory delivers. Here
all heads of a block of rows are one batched product with keys, and values are summed as an embedding bag sums lines
of a table, whose kernel asks for them ahead.
"""

import torch
from torch.nn.functional import embedding_bag


def can_stream(queries: torch.Tensor, values: torch.Tensor) -> bool:
    """Return whether queries [n, H, D] are one for each head of values [S, K, C, D], and kernels for them are here.

    Where several queries read the same keys, a product of matrices reads them once; autocast would mix types.
    """
    if torch.is_autocast_enabled("cpu"):
        return False
    return values.device.type == "cpu" and values.dtype == torch.float32 and queries.shape[1] == values.shape[1]


def attend_streaming(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lines: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what scaled queries [n, H, D] of rows read, and the logarithm of the sum of weights [n, H].

    Args:
        queries: One for each row and head.
        keys: What the rows read [n, H, L, D].
        values: Of all slots [S, H, C, D], one line of D for each place.
        lines: The lines of values that each row and head reads [n H, L].
        mask: Added to scores [n, 1, L].
    """
    # Strides of a column: a product with it takes half the time of one with a row that is turned.
    columns = queries.flatten(0, 1)[:, None].transpose(1, 2)
    scores = torch.bmm(keys.flatten(0, 1), columns).view(*queries.shape[:2], -1)
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1)
    sums = scores.amax(dim=-1) - weights.amax(dim=-1).log()
    table = values.view(-1, values.shape[-1])
    found = embedding_bag(lines, table, per_sample_weights=weights.view(lines.shape), mode="sum")
    return found.view(queries.shape), sums
