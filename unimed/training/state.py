"""The state of a training by the names of its parameters: the same for one process, DDP and FSDP."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.lora import current_names

Tensors = dict[str, torch.Tensor]


def gathered_weights(model: torch.nn.Module, *, only_trained: bool) -> Tensors:
    """Return weights on the CPU; every process has to ask, shards are gathered on the first."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=only_trained)
    return cast("Tensors", get_model_state_dict(model, options=options))


def optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return moments and step counts by parameter name; every process has to ask.

    A parameter that never had a gradient has no state.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return dict(get_optimizer_state_dict(model, optimizer, options=options)) if optimizer.state else {}


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], config: UniMedConfig
) -> None:
    """Give an optimizer the state that `optimizer_state` returned.

    PyTorch wants a state for every parameter. The one without gives what AdamW starts with: zeros at step 0.
    """
    if not state:
        return
    # PyTorch makes no state to load into while there are gradients.
    optimizer.zero_grad(set_to_none=True)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    groups = [
        group | {"params": list(current_names(dict.fromkeys(group["params"]), config))}
        for group in state["param_groups"]
    ]
    whole: dict[str, Any] = {"state": current_names(state["state"], config), "param_groups": groups}
    # Asked without gathering, which would leave every process but the first without names; shapes are whole ones.
    for name, weight in get_model_state_dict(model, options=StateDictOptions(ignore_frozen_params=True)).items():
        if name not in whole["state"]:
            zeros = torch.zeros(cast("torch.Tensor", weight).shape)
            whole["state"][name] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    set_optimizer_state_dict(model, optimizer, whole, options=options)
