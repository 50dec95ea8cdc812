"""The learned routers: how much each expert counts for a visual token of a task (paper section 3.3)."""

import torch
from torch import nn

from medbench.unimed.configuration import UniMedConfig


class Router(nn.Module):
    """Two-layer router whose first layer has a task half and a token half.

    The official first layer multiplies `[task token, visual token]`. Its task half is the same for every visual token
    of a task, so it is computed once per task and added like a bias. The halves are parameters of their own: as slices
    of one they would need a joined gradient, which is 2 GB at full size. `medbench.unimed.official.keys` joins them.
    """

    def __init__(self, config: UniMedConfig) -> None:
        super().__init__()
        self.top_k = config.sparse_top_k if config.router_type == "sparse" else None
        task = config.task_token_width if config.router_sees_task else 0
        token = config.connector_width if config.router_sees_token else 0
        hidden = config.router_hidden_size or 4 * (task + token)
        self.fc1_task = nn.Parameter(torch.empty(hidden, task)) if task else None
        self.fc1_token = nn.Parameter(torch.empty(hidden, token)) if token else None
        self.fc1_bias = nn.Parameter(torch.empty(hidden))
        self.fc2 = nn.Linear(hidden, config.num_experts)
        self.reset_first_layer()

    @property
    def sees_task(self) -> bool:
        """Whether it reads the task tokens."""
        return self.fc1_task is not None

    def reset_first_layer(self) -> None:
        """Draw the halves as PyTorch draws one linear layer of both, as the official code does."""
        halves = [half for half in (self.fc1_task, self.fc1_token) if half is not None]
        bound = sum(half.shape[1] for half in halves) ** -0.5
        for parameter in (*halves, self.fc1_bias):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, tokens: torch.Tensor, task_tokens: torch.Tensor | None, task_rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Return expert weights that sum to one, [B, M, N], or [B, 1, N] if the router sees no visual token.

        Args:
            tokens: Visual tokens [B, M, C].
            task_tokens: The tokens of the tasks that occur [T, 1, C_t], if the router sees them.
            task_rows: Row of each image's task in `task_tokens`, int64 [B].
        """
        hidden: torch.Tensor = self.fc1_bias
        if self.fc1_task is not None and task_tokens is not None and task_rows is not None:
            hidden = nn.functional.linear(task_tokens, self.fc1_task, hidden)[task_rows]
        if self.fc1_token is not None:
            hidden = hidden + nn.functional.linear(tokens, self.fc1_token)
        logits = self.fc2(nn.functional.gelu(hidden))
        return soft_weights(logits) if self.top_k is None else sparse_weights(logits, self.top_k)


def soft_weights(logits: torch.Tensor) -> torch.Tensor:
    """Return normalised sigmoids (Eq. 14); the softmax of Eq. 8 is not what the official code computes."""
    gates = torch.sigmoid(logits)
    return gates / gates.sum(dim=-1, keepdim=True)


def sparse_weights(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """Return a softmax over the `top_k` largest logits, exactly zero elsewhere.

    Eq. 13 fills with zeros before the softmax, which would leave weight on every expert; the official code fills with
    minus infinity.
    """
    best = logits.topk(top_k, dim=-1)
    filled = torch.full_like(logits, float("-inf")).scatter(-1, best.indices, best.values)
    return filled.softmax(dim=-1)
