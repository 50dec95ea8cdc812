"""AdamW, its groups of parameters, and its state by the parameters' names: the same for one process, DDP and FSDP."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.distributed.checkpoint import state_dict as states

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.lora import current_names

Decays = Callable[[str, torch.nn.Parameter], bool]
_MATRIX = 2
_GATHERED = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def official_decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether the official code decays a parameter: all but vectors, biases and norms, so task tokens too."""
    return parameter.ndim >= _MATRIX and not any(word in name for word in ("bias", "ln", "bn"))


def matrices_decay(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether to decay a parameter: matrices, but neither task tokens nor embeddings."""
    return parameter.ndim >= _MATRIX and "task_tokens" not in name and "embedding" not in name


DECAY_RULES: dict[str, Decays] = {"official": official_decays, "matrices": matrices_decay}


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], *, decays: Decays, weight_decay: float, betas: tuple[float, float],
    epsilon: float = 1e-8, shares: Mapping[str, float] | None = None
) -> torch.optim.AdamW:  # fmt: skip
    """Return AdamW over named parameters; one without a gradient in a step is left alone, decay and moments included.

    The official numbers depend on that, since each batch is of one task. `shares` are parts of the learning rate by
    prefix of the name, 1 for all others; they are kept as the groups' `share`.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = next((part for prefix, part in (shares or {}).items() if name.startswith(prefix)), 1.0)
        groups.setdefault((share, weight_decay if decays(name, parameter) else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "share": share} for (share, decay), members in groups.items()],
        lr=0.0, betas=betas, eps=epsilon, fused=True,
    )  # fmt: skip


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def decay_idle_experts(connector: Connector) -> None:
    """Give idle experts of a used connector zero gradients, as official: AdamW decays them and their moments."""
    experts = [parameter for expert in getattr(connector, "experts", ()) for parameter in expert.parameters()]
    if any(parameter.grad is not None for parameter in experts):
        for parameter in experts:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


# By name; every process has to ask


def gathered_weights(model: torch.nn.Module, *, only_trained: bool) -> dict[str, torch.Tensor]:
    """Return weights on the CPU; shards are gathered on the first process."""
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=only_trained)
    return cast("dict[str, torch.Tensor]", states.get_model_state_dict(model, options=options))


def optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return moments and step counts by parameter name; a parameter that never had a gradient has none."""
    return dict(states.get_optimizer_state_dict(model, optimizer, options=_GATHERED)) if optimizer.state else {}


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], config: UniMedConfig
) -> None:
    """Give an optimizer the state that `optimizer_state` returned, also that of an older version."""
    if not state:
        return
    # PyTorch makes no state to load into while there are gradients.
    optimizer.zero_grad(set_to_none=True)
    named = [list(current_names(dict.fromkeys(group["params"]), config)) for group in state["param_groups"]]
    groups = [{**group, "params": names} for group, names in zip(state["param_groups"], named, strict=True)]
    whole: dict[str, Any] = {"state": current_names(state["state"], config), "param_groups": groups}
    # PyTorch wants a state for every parameter; the one without gives what AdamW starts with: zeros at step 0.
    # Asked without gathering, which would leave every process but the first without names; shapes are whole ones.
    trained = states.StateDictOptions(ignore_frozen_params=True)
    for name, weight in states.get_model_state_dict(model, options=trained).items():
        if name not in whole["state"]:
            zeros = torch.zeros(cast("torch.Tensor", weight).shape)
            whole["state"][name] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    states.set_optimizer_state_dict(model, optimizer, whole, options=_GATHERED)
