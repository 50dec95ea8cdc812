"""AdamW and its groups of parameters."""

from collections.abc import Callable, Mapping

import torch

from medbench.unimed.connector import Connector

Decays = Callable[[str, torch.nn.Parameter], bool]
_MATRIX = 2


def official_decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether the official code decays a parameter: all but vectors, biases and norms, so task tokens too."""
    return parameter.ndim >= _MATRIX and not any(word in name for word in ("bias", "ln", "bn"))


def matrices_decay(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether to decay a parameter: matrices, but neither task tokens nor embeddings."""
    return parameter.ndim >= _MATRIX and "task_tokens" not in name and "embedding" not in name


DECAY_RULES: dict[str, Decays] = {"official": official_decays, "matrices": matrices_decay}


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter],
    *,
    decays: Decays,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float = 1e-8,
    shares: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """Return AdamW over named parameters.

    A parameter without a gradient in a step is left alone, decay and moments included; the official numbers depend on
    it, since each batch is of one task.

    Args:
        parameters: What learns, by name.
        decays: Which of them are decayed.
        weight_decay: By how much.
        betas: Of the two moments.
        epsilon: Of the division.
        shares: Part of the learning rate by prefix of the name; 1 for all others. Kept as the group's `share`.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = next((part for prefix, part in (shares or {}).items() if name.startswith(prefix)), 1.0)
        groups.setdefault((share, weight_decay if decays(name, parameter) else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "share": share} for (share, decay), members in groups.items()],
        lr=0.0,
        betas=betas,
        eps=epsilon,
        fused=True,
    )


def decay_idle_experts(connector: Connector) -> None:
    """Give experts that no token was sent to a gradient of zeros, if the step used the connector at all.

    The official code computes every expert and multiplies the idle ones by zero. Their gradient is then zero, not
    absent, so AdamW decays them and their moments.
    """
    experts = [parameter for expert in getattr(connector, "experts", ()) for parameter in expert.parameters()]
    if any(parameter.grad is not None for parameter in experts):
        for parameter in experts:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
