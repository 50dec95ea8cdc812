"""The names of the official checkpoint's tensors, and ours."""

import re
from collections.abc import Iterable, Mapping

import torch

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from medbench.unimed.official.eva import from_eva, to_eva

State = dict[str, torch.Tensor]
_LORA_PREFIX = "llm_model.base_model.model."
_FULL_PREFIX = "llm_model."
_LANGUAGE, _VISION, _CONNECTOR = "language_model.", "vision_tower.vit.", "connector."
_IGNORED = re.compile(r"llm_model\..*\.rotary_emb\.inv_freq|ln_vision\.(weight|bias)")
"""Buffers that follow from the configuration, and the normalisation that the official code never trains."""
ROUTER_WEIGHT = "router.fc1.weight"
_TASK_HALF, _TOKEN_HALF = "router.fc1_task", "router.fc1_token"
_ROUTER_NAMES = {_TASK_HALF: ROUTER_WEIGHT, _TOKEN_HALF: ROUTER_WEIGHT, "router.fc1_bias": "router.fc1.bias"}
"""The official weight is the task half beside the token half; ours come in this order too."""


def to_official(state: Mapping[str, torch.Tensor], config: UniMedConfig) -> State:
    """Return `state` under the official names, with the duplicates that the official saver writes."""
    official: State = {}
    for name, tensor in state.items():
        theirs = official_name(name, config)
        if theirs == ROUTER_WEIGHT and theirs in official:
            official[theirs] = torch.cat([official[theirs], tensor], dim=1)
        elif not name.startswith(_VISION):
            official[theirs] = tensor
    vision = {name.removeprefix(_VISION): tensor for name, tensor in state.items() if name.startswith(_VISION)}
    if vision:
        official |= {f"visual_encoder.{name}": tensor for name, tensor in to_eva(vision).items()}
    duplicates = {name: name.replace("moe_layers.", "llm_proj.", 1) for name in official if name.startswith("moe_")}
    return official | {duplicate: official[name] for name, duplicate in duplicates.items()}


def official_name(name: str, config: UniMedConfig) -> str:
    """Return the official name of one of our parameters outside the vision tower."""
    if name.startswith(_LANGUAGE):
        inner = name.removeprefix(_LANGUAGE)
        if not config.has_lora:
            return _FULL_PREFIX + inner
        return _LORA_PREFIX + re.sub(r"\.(lora_[AB])$", r".\1.default.weight", inner)
    inner = name.removeprefix(_CONNECTOR)
    if inner.startswith("experts."):
        return inner.replace("experts.", "moe_layers.", 1)
    if inner.startswith("projector."):
        only = config.connector_type == "linear"
        return inner.replace("projector.0." if only else "projector.", "llm_proj.", 1)
    return _ROUTER_NAMES.get(inner, inner)


def from_official(tensors: Mapping[str, torch.Tensor], config: UniMedConfig, names: Iterable[str]) -> State:
    """Return official `tensors` under our names.

    Args:
        tensors: Of an official checkpoint, or a whole official state.
        config: What the checkpoint was trained as.
        names: All names of our model's state, to translate by.

    Returns:
        What was recognised, under our names. Anything else keeps its official name, so that a strict comparison with
        the model finds it; what the official code saves without using it (`dead_shapes`) is left out.

    Raises:
        DataError: If the two copies of an expert's weight differ.
    """
    known = {official_name(name, config): name for name in names if not name.startswith(_VISION)}
    known |= {_wrapped(official): name for official, name in known.items()}
    known |= {
        name.replace("moe_layers.", "llm_proj.", 1): ours for name, ours in known.items() if "moe_layers." in name
    }
    dead = dead_shapes(config)
    state: State = {}
    vision: State = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0].startswith("moe_layers.")):
        if name.startswith("visual_encoder."):
            vision[name.removeprefix("visual_encoder.")] = tensor
        elif not _IGNORED.fullmatch(name) and name not in dead:
            ours = known.get(name, name)
            if ours in state and not torch.equal(state[ours], tensor):
                raise DataError(f"{name} differs from its duplicate under llm_proj.", "The checkpoint is damaged.")
            state[ours] = tensor
    state = _router_halves(state, config)
    if vision:
        state |= {_VISION + name: tensor for name, tensor in from_eva(vision, config.vision).items()}
    return state


def _router_halves(state: State, config: UniMedConfig) -> State:
    """Return `state` with the first layer of the router in halves, as far as the router has both."""
    if not (config.router_sees_task and config.router_sees_token) or _CONNECTOR + _TOKEN_HALF not in state:
        return state
    whole = state.pop(_CONNECTOR + _TOKEN_HALF)
    task = config.task_token_width
    return state | {_CONNECTOR + _TASK_HALF: whole[:, :task], _CONNECTOR + _TOKEN_HALF: whole[:, task:]}


def _wrapped(official: str) -> str:
    """Return the name that PEFT gives the frozen weight of a layer with LoRA."""
    return re.sub(r"(_proj)\.(weight|bias)$", r"\1.base_layer.\2", official)


def dead_shapes(config: UniMedConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what the official code builds, decays and saves although nothing reads it.

    Those are the router of a constant or hard connector, and the task tokens wherever no router reads them.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if not config.router_sees_task and config.task_tokens is not False:
        shapes |= {f"task_tokens.{task}": (1, 1, config.task_token_width) for task in CONNECTOR_TASKS}
    if config.is_moe and not config.has_router:
        visual, task = config.connector_width, config.task_token_width
        inputs = {"token": visual, "task": task, "token_and_task": visual + task}[config.router_input]
        hidden = 4 * inputs
        shapes |= {
            "router.fc1.weight": (hidden, inputs),
            "router.fc1.bias": (hidden,),
            "router.fc2.weight": (config.num_experts, hidden),
            "router.fc2.bias": (config.num_experts,),
        }
    return shapes
