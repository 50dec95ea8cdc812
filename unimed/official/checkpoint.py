"""Reading and writing the training checkpoints of the official code (`checkpoint_<epoch>.pth`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.official.keys import dead_shapes, from_official, to_official
from medbench.unimed.weight_files import read_torch_file
from medbench.unimed.weights import copy_into

ROUTER_INPUT = {"router_task_token": "token_and_task", "router_token": "token", "router_task": "task"}
EXPERTS = {"moe_mlp": "mlp", "moe_linear": "linear"}
TUNING = {"lora": "lora", "full": "full", "none": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialCheckpoint:
    """What the official saver wrote, without the optimizer.

    Attributes:
        tensors: Trained weights and buffers under the official names.
        settings: The `model` section of the official configuration.
    """

    tensors: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]


def read_official(path: Path) -> OfficialCheckpoint:
    """Read a checkpoint of the official code.

    Raises:
        DataError: If the file is broken or lacks `model` or `config`.
    """
    content = read_torch_file(path)
    config = content.get("config")
    settings = config.get("model") if isinstance(config, Mapping) else None
    tensors = content.get("model")
    if not isinstance(settings, Mapping) or not isinstance(tensors, Mapping):
        raise DataError(
            f"{path} is no Uni-Med checkpoint: it holds {', '.join(map(str, content)) or 'nothing'}.",
            "The official saver writes `model`, `optimizer`, `config`, `scaler` and `epoch`.",
        )
    return OfficialCheckpoint(tensors=tensors, settings=settings)


def config_of(
    settings: Mapping[str, Any], *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None
) -> UniMedConfig:
    """Return our configuration for the `model` section of an official one; what it leaves out has its defaults.

    Raises:
        DataError: If a word is unknown or the combination cannot work.
    """
    adapted = settings.get("lora_target_modules", ["all"])
    if list(adapted) != ["all"]:
        raise DataError(f"LoRA on {adapted} only is not supported.", "The official configuration adapts `all` layers.")
    projector, moe = str(settings.get("projector_type", "moe_mlp")), bool(settings.get("has_moe", True))
    if moe != (projector in EXPERTS):
        raise DataError(
            f"projector_type {projector!r} with has_moe {moe} cannot work.", "The official code crashes too."
        )
    try:
        return UniMedConfig(
            vision_config={"image_size": settings.get("image_size", 224), **(vision or {})},
            text_config=dict(text) if text else None,
            connector_type="moe" if moe else projector,  # type: ignore[arg-type]  # validated by the class
            expert_type=EXPERTS.get(projector, "mlp"),  # type: ignore[arg-type]
            router_input=ROUTER_INPUT[settings.get("router_method", "router_task_token")],  # type: ignore[arg-type]
            language_tuning=TUNING[settings.get("sft_type", "lora")],  # type: ignore[arg-type]
            prompt_style="official",
            **_shared_settings(settings),
        )
    except KeyError as error:
        raise DataError(f"The official configuration has an unknown word: {error}.", "Check the checkpoint.") from error
    except (StrictDataclassError, ValueError) as error:
        raise DataError(f"The official configuration cannot work: {error}", "The official code crashes too.") from error


def _shared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    shared = {
        "resample_method": settings.get("resample_method", "projection"),
        "resample_rate": int(settings.get("resample_rate", 4)),
        "num_experts": int(settings.get("num_experts", 5)),
        "router_type": settings.get("router_type", "soft"),
        "sparse_top_k": int(settings.get("sparse_topk", 2)),
        "task_token_size": int(settings["task_token_c"]) if "task_token_c" in settings else None,
        "lora_rank": int(settings.get("lora_r", 8)),
        "lora_alpha": settings.get("lora_alpha", 16),
    }
    return shared | ({"task_tokens": False} if int(settings.get("num_task_tokens", 1)) == 0 else {})


def settings_of(config: UniMedConfig) -> dict[str, Any]:
    """Return the official `model` section for our configuration.

    Raises:
        DataError: If the official code has no word for it.
    """
    if config.language_tuning == "lora_moe":
        raise DataError("The official code has no LoRA-MoE.", "Such a model can only be saved in our own format.")
    if config.router_hidden_size is not None and config.has_router:
        raise DataError(
            "The official router is always four times as wide as its input.", "Train without router_hidden_size."
        )
    expert_words = {ours: theirs for theirs, ours in EXPERTS.items()}
    return {
        "image_size": config.image_size,
        "resample_rate": config.resample_rate,
        "resample_method": config.resample_method,
        "has_moe": config.is_moe,
        "projector_type": expert_words[config.expert_type] if config.is_moe else config.connector_type,
        "num_experts": config.num_experts,
        "router_method": {ours: theirs for theirs, ours in ROUTER_INPUT.items()}[config.router_input],
        "router_type": config.router_type,
        "sparse_topk": config.sparse_top_k,
        "num_task_tokens": 0 if config.task_tokens is False else 1,
        "task_token_c": config.task_token_width,
        "sft_type": config.language_tuning,
        "lora_target_modules": ["all"],
        "lora_r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
    }


def load_official(model: UniMedForConditionalGeneration, checkpoint: OfficialCheckpoint, source: str) -> None:
    """Put the trained weights of an official checkpoint into `model`, strictly.

    Raises:
        DataError: If a trained weight is missing, unknown, or of another shape.
    """
    model.train_what_is_tuned()
    copy_into(model.trainable(), from_official(checkpoint.tensors, model.config, model.state_dict().keys()), source)


def write_official(model: UniMedForConditionalGeneration, path: Path, *, epoch: int = 0) -> tuple[str, ...]:
    """Write the trained weights of `model` as the official saver does, without an optimizer's state.

    Returns:
        Names that the official code would have saved too, although nothing reads them; its loader does not miss them.
    """
    model.train_what_is_tuned()
    trained = {name: parameter.detach().float() for name, parameter in model.trainable().items()}
    tensors = to_official(trained, model.config)
    tensors |= _rotary_buffers(model)
    content = {
        "model": tensors,
        "optimizer": None,
        "config": {"run": {}, "model": settings_of(model.config)},
        "scaler": None,
        "epoch": epoch,
    }
    torch.save(content, path)
    return tuple(dead_shapes(model.config))


def _rotary_buffers(model: UniMedForConditionalGeneration) -> dict[str, torch.Tensor]:
    prefix = "llm_model.base_model.model." if model.config.has_lora else "llm_model."
    frequencies = model.language_model.model.rotary_emb.inv_freq
    layers = range(int(model.config.text.num_hidden_layers))
    return {f"{prefix}model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies for layer in layers}
