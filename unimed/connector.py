"""The Connector-MoE: experts mixed by a router that sees the visual token and the task (paper section 3.3)."""

import torch
from torch import nn

from unimed.configuration import CONNECTOR_TASKS, UniMedConfig

TASK_TOKEN_STD = 0.02


class Router(nn.Module):
    """Two-layer router whose first layer is split into a task half and a token half.

    The official first layer multiplies `[task token, visual token]`. Its task half is the same for every visual
    token of a task, so it is computed once per task and added like a bias; the result is the same.
    """

    def __init__(self, config: UniMedConfig) -> None:
        super().__init__()
        width = config.connector_width
        self.sees_token = config.router_input != "task"
        self.sees_task = config.router_input != "token"
        inputs = width * (self.sees_token + self.sees_task)
        hidden = config.router_hidden_size or 4 * inputs
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, config.num_experts)
        self._width = width

    def forward(self, tokens: torch.Tensor, task_tokens: torch.Tensor) -> torch.Tensor:
        """Return expert weights [B, M, N] that sum to one, for tokens [B, M, C] and task tokens [B, 1, C]."""
        task_half, token_half = self._first_layer_halves()
        hidden = self.fc1.bias.expand(tokens.shape[0], tokens.shape[1], -1)
        if self.sees_task:
            hidden = hidden + nn.functional.linear(task_tokens, task_half)
        if self.sees_token:
            hidden = hidden + nn.functional.linear(tokens, token_half)
        gates = torch.sigmoid(self.fc2(nn.functional.gelu(hidden)))
        return gates / gates.sum(dim=-1, keepdim=True)

    def _first_layer_halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.fc1.weight
        if self.sees_task and self.sees_token:
            return weight[:, : self._width], weight[:, self._width :]
        return weight, weight


class Connector(nn.Module):
    """Maps resampled visual tokens into the language model's space, by N experts."""

    def __init__(self, config: UniMedConfig) -> None:
        super().__init__()
        width = config.connector_width
        output = config.text.hidden_size
        self.task_tokens = nn.ParameterDict({task: nn.Parameter(torch.empty(1, 1, width)) for task in CONNECTOR_TASKS})
        self.router = Router(config)
        self.experts = nn.ModuleList(_expert(config.expert_type, width, output) for _ in range(config.num_experts))
        for token in self.task_tokens.values():
            nn.init.normal_(token, std=TASK_TOKEN_STD)

    def routing_weights(self, tokens: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """Return the experts' weights [B, M, N] for tokens [B, M, C] of tasks `task_ids` [B]."""
        stacked = torch.cat([self.task_tokens[task] for task in CONNECTOR_TASKS])
        weights: torch.Tensor = self.router(tokens, stacked[task_ids])
        return weights

    def forward(self, tokens: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """Return visual tokens [B, M, D] for the language model.

        Args:
            tokens: Resampled features [B, M, C].
            task_ids: Index of each image's task in `CONNECTOR_TASKS`, int64 [B].
        """
        weights = self.routing_weights(tokens, task_ids)
        mixed = [weights[..., index, None] * expert(tokens) for index, expert in enumerate(self.experts)]
        return torch.stack(mixed).sum(dim=0)


def _expert(expert_type: str, width: int, output: int) -> nn.Module:
    if expert_type == "linear":
        return nn.Linear(width, output)
    return nn.Sequential(nn.Linear(width, output), nn.GELU(), nn.Linear(output, output))
