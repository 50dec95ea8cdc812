"""The connector and its routers: from resampled visual tokens to the language model's space (paper section 3.3)."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig

TASK_TOKEN_STD = 0.02
PROJECTOR_LAYERS = {"linear": 1, "mlp2x_gelu": 2, "mlp3x_gelu": 3}
EXPERT_LAYERS = {"linear": "linear", "mlp": "mlp2x_gelu"}


class Router(nn.Module):
    """Two-layer router whose first layer has a task half and a token half.

    The official first layer multiplies `[task token, visual token]`. Here its task half is computed once per task and
    added like a bias. The halves are parameters of their own, or their joined gradient would be 2 GB at full size.
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

        Of visual tokens [B, M, C], the tokens of the tasks that occur [T, 1, C_t] and each image's row in those [B].
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
    """Return a softmax over the `top_k` largest logits, zero elsewhere: Eq. 13 filled with -inf, as official, not 0."""
    best = logits.topk(top_k, dim=-1)
    filled = torch.full_like(logits, float("-inf")).scatter(-1, best.indices, best.values)
    return filled.softmax(dim=-1)


class Connector(nn.Module):
    """One projector for all tasks, or N experts that a router mixes per token and task; it owns what it uses alone."""

    def __init__(self, config: UniMedConfig) -> None:
        super().__init__()
        width, output = config.connector_width, config.text.hidden_size
        self.router_type, self.num_experts = config.router_type, config.num_experts
        self.watch: Callable[[torch.Tensor], None] | None = None  # Gets each expert's mean weight [N] at every pass.
        if not config.is_moe:
            self.projector = _mlp(config.connector_type, width, output)
            return
        if config.router_sees_task:
            shape = (1, 1, config.task_token_width)
            self.task_tokens = nn.ParameterDict({task: nn.Parameter(torch.empty(shape)) for task in CONNECTOR_TASKS})
            self.reset_task_tokens()
        if config.has_router:
            self.router = Router(config)
        layers = EXPERT_LAYERS[config.expert_type]
        self.experts = nn.ModuleList(_mlp(layers, width, output) for _ in range(config.num_experts))

    def reset_task_tokens(self) -> None:
        """Draw the task tokens anew, as the official code does."""
        for token in getattr(self, "task_tokens", {}).values():
            nn.init.normal_(token, std=TASK_TOKEN_STD)

    def routing_weights(self, tokens: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """Return the experts' weights [B, M, N] for tokens [B, M, C] of tasks `task_ids` [B]."""
        batch, length, _ = tokens.shape
        if self.router_type == "constant":
            return tokens.new_full((batch, length, self.num_experts), 1 / self.num_experts)
        if self.router_type == "hard":
            chosen = nn.functional.one_hot(task_ids.to(tokens.device), self.num_experts).to(tokens.dtype)
            return chosen[:, None].expand(batch, length, -1)
        weights: torch.Tensor = self.router(tokens, *self._tokens_of(task_ids, tokens.device))
        return weights.expand(batch, length, -1)

    def _tokens_of(
        self, task_ids: torch.Tensor, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
        """Return the tokens of the tasks that occur, so that those of other tasks get no gradient, not even zeros."""
        if self.router.fc1_task is None:
            return None, None
        occurring: list[int] = sorted(set(task_ids.tolist()))
        rows = torch.tensor([occurring.index(task) for task in task_ids.tolist()], device=device)
        return torch.cat([self.task_tokens[CONNECTOR_TASKS[task]] for task in occurring]), rows

    def forward(self, tokens: torch.Tensor, task_ids: torch.Tensor) -> torch.Tensor:
        """Return visual tokens [B, M, D] for the language model; only experts that count are computed.

        Of resampled features [B, M, C] and the index of each image's task in `CONNECTOR_TASKS`, cheapest on the CPU.
        """
        if not hasattr(self, "experts"):
            projected: torch.Tensor = self.projector(tokens)
            return projected
        weights = self.routing_weights(tokens, task_ids)
        if self.watch is not None:
            self.watch(weights.detach().mean(dim=(0, 1)))
        if self.router_type == "hard":
            return self._by_task(tokens, task_ids.tolist())
        if self.router_type == "sparse":
            return self._by_choice(tokens, weights)
        mixed = [weights[..., index, None] * expert(tokens) for index, expert in enumerate(self.experts)]
        return torch.stack(mixed).sum(dim=0)

    def _by_task(self, tokens: torch.Tensor, tasks: Sequence[int]) -> torch.Tensor:
        """Send the images of each task through that task's expert."""
        rows = {expert: [row for row, task in enumerate(tasks) if task == expert] for expert in sorted(set(tasks))}
        parts = [self.experts[expert](tokens[of_task]) for expert, of_task in rows.items()]
        order = torch.tensor([row for of_task in rows.values() for row in of_task], device=tokens.device)
        return torch.cat(parts)[order.argsort()]

    def _by_choice(self, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Send each token through the experts that its router chose."""
        flat, shares = tokens.flatten(0, 1), weights.flatten(0, 1)
        chosen = [column.nonzero().flatten() for column in shares.unbind(dim=1)]
        used = [(index, rows) for index, rows in enumerate(chosen) if len(rows)]
        parts = torch.cat([shares[rows, index, None] * self.experts[index](flat[rows]) for index, rows in used])
        mixed = parts.new_zeros(len(flat), parts.shape[1]).index_add(0, torch.cat(chosen), parts)
        return mixed.reshape(*tokens.shape[:2], -1)


def _mlp(kind: str, width: int, output: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(width, output)]
    for _ in range(PROJECTOR_LAYERS[kind] - 1):
        layers += [nn.GELU(), nn.Linear(output, output)]
    return nn.Sequential(*layers)
