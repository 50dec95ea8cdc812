"""The authors' checkpoints (`checkpoint_<epoch>.pth`) into folders and back, and folders into others."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed import checkpoint as folders
from medbench.unimed.checkpoint import BaseWeights, LoadedCheckpoint
from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from medbench.unimed.lora import is_plain
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.tokens import load_saved_tokenizer
from medbench.unimed.vision import from_eva, is_eva, to_eva
from medbench.unimed.weights import State, copy_into, read_torch_file


def from_authors(
    source: Path, output: Path, base: BaseWeights, *, vision: Mapping[str, int] | None = None, standalone: bool = False
) -> None:
    """Write a folder for a checkpoint of the authors' code and the base weights it was trained on.

    `vision` are sizes of the ViT that differ from EVA ViT-G/14; `standalone` writes a whole model. DataError if the
    parts are broken or do not fit together; UsageError if base weights are not there; RunError if it cannot be written.
    """
    base = base.resolved()
    checkpoint = read_official(source)
    text = folders.read_language_config(Path(base.language_model)).to_dict()
    config = config_of(checkpoint.settings, vision=vision, text=text)
    processor = folders.processor_on(base, config)
    model = folders.assemble(config, base, dtype=torch.float32)
    load_official(model, checkpoint, str(source))
    _write(LoadedCheckpoint(model=model, processor=processor), output, None if standalone else base)


def to_authors(source: Path, output: Path) -> tuple[str, ...]:
    """Write a folder's trained weights as the authors' code does; return what it would have written in vain.

    DataError if the folder is broken, or the format has no place for it; RunError if it cannot be written.
    """
    model = _load(source).model
    if folders.is_whole(source) and model.config.language_tuning == "none":
        problem = "is a whole model with an untuned language model, which is also what merged LoRA looks like."
        hint = "Convert the folder with trained.safetensors: the authors' format keeps LoRA apart."
        raise DataError(f"{source} {problem}", hint)
    try:
        return write_official(model, output)
    except (OSError, RuntimeError) as error:
        output.unlink(missing_ok=True)
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error


def to_whole(source: Path, output: Path, *, merge_lora: bool = False) -> None:
    """Write a whole model, ready for `push_to_hub`, for a folder on base weights; errors of `load_checkpoint`.

    UsageError if LoRA-MoE is to be merged, or a LoRA that only an adapter describes is not; RunError if not writable.
    """
    loaded = _load(source)
    model, config = loaded.model, loaded.model.config
    if merge_lora:
        if config.language_tuning == "lora_moe":
            problem = "LoRA-MoE cannot be merged: which pairs it uses depends on the token."
            raise UsageError(problem, "Leave --merge-lora out.")
        model.merge_lora()
    elif config.language_tuning == "lora" and not is_plain(model.language_model, config):
        raise UsageError("A whole model has no place for such a LoRA.", "Fold it into the weights: --merge-lora.")
    _write(loaded, output, None)


def with_adapter(source: Path, adapter: Path, output: Path) -> None:
    """Write a folder on base weights whose language model has a LoRA in peft's format in place of its own.

    DataError if a folder is broken or the adapter does not fit; UsageError if one is no such thing; RunError as above.
    """
    _refuse_no_folder(source)
    if folders.is_whole(source):
        hint = "Give a folder with trained.safetensors and base_weights.json: an adapter"
        hint = f"{hint} belongs to the language model as it was before it was tuned."
        raise UsageError(f"{source} is a whole model.", hint)
    model = folders.load_on_base(source, torch.float32, adapter=adapter)
    processor = UniMedProcessor.of_model(load_saved_tokenizer(source), model.config)
    _write(LoadedCheckpoint(model=model, processor=processor), output, folders.base_of(source))


def _refuse_no_folder(source: Path) -> None:
    if not source.is_dir():
        raise UsageError(f"{source} is no folder.", "Give a checkpoint folder, or the authors' checkpoint_<epoch>.pth.")


def _load(source: Path) -> LoadedCheckpoint:
    _refuse_no_folder(source)
    loaded = folders.load_checkpoint(source, device="cpu", dtype="float32", merge=False)
    loaded.model.train_what_is_tuned()
    return loaded


def _write(loaded: LoadedCheckpoint, output: Path, base: BaseWeights | None) -> None:
    try:
        folders.write_checkpoint(loaded.model, loaded.processor, output, base=base)
        if base is None:
            card = model_card(loaded.model.config, loaded.trained_on)
            (output / "README.md").write_text(card, encoding="utf-8")
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error


def model_card(config: UniMedConfig, trained_on: Iterable[str]) -> str:
    """Return the README.md of a whole model, as the Hub shows it."""
    names = ", ".join(sorted(trained_on))
    experts = f"{config.num_experts} {config.expert_type} experts, {config.router_type} router"
    layers, width = config.text.num_hidden_layers, config.text.hidden_size
    card: str = read_yaml_table(Path(__file__).with_suffix(".yaml"))["card"]
    return card.format(
        tasks=f"Trained on the train splits of {names}." if names else "What it was trained on is not recorded.",
        resampler=f"{config.resample_method}, rate {config.resample_rate}", prompts=config.prompt_style,
        connector=experts if config.is_moe else config.connector_type,
        language=f"{layers} layers of {width}, tuning: {config.language_tuning}",
    )  # fmt: skip


ROUTER_INPUT = {"router_task_token": "token_and_task", "router_token": "token", "router_task": "task"}
EXPERTS = {"moe_mlp": "mlp", "moe_linear": "linear"}
TUNING = {"lora": "lora", "full": "full", "none": "none"}
ROUTER_WEIGHT = "router.fc1.weight"
_LORA_PREFIX, _FULL_PREFIX = "llm_model.base_model.model.", "llm_model."
_LANGUAGE, _VISION, _CONNECTOR = "language_model.", "vision_tower.vit.", "connector."
# Buffers that follow from the configuration, and the normalisation that the official code never trains.
_IGNORED = re.compile(r"llm_model\..*\.rotary_emb\.inv_freq|ln_vision\.(weight|bias)")
_TASK_HALF, _TOKEN_HALF = "router.fc1_task", "router.fc1_token"
# The official weight is the task half beside the token half; ours come in this order too.
_ROUTER_NAMES = {_TASK_HALF: ROUTER_WEIGHT, _TOKEN_HALF: ROUTER_WEIGHT, "router.fc1_bias": "router.fc1.bias"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialCheckpoint:
    """What the official saver wrote, without the optimizer."""

    tensors: State  # Trained weights and buffers under the official names.
    settings: Mapping[str, Any]  # The `model` section of the official configuration.


def read_official(path: Path) -> OfficialCheckpoint:
    """Read a checkpoint of the official code; DataError if the file is broken or lacks `model` or `config`."""
    content = read_torch_file(path)
    config = content.get("config")
    settings = config.get("model") if isinstance(config, Mapping) else None
    tensors = content.get("model")
    if not isinstance(settings, Mapping) or not isinstance(tensors, Mapping):
        problem = f"{path} is no Uni-Med checkpoint: it holds {', '.join(map(str, content)) or 'nothing'}."
        raise DataError(problem, "The official saver writes `model`, `optimizer`, `config`, `scaler` and `epoch`.")
    return OfficialCheckpoint(tensors=tensors, settings=settings)


def load_official(model: UniMedForConditionalGeneration, checkpoint: OfficialCheckpoint, source: str) -> None:
    """Put an official checkpoint's trained weights into `model`; DataError if one is missing, unknown or misshapen."""
    model.train_what_is_tuned()
    copy_into(model.trainable(), from_official(checkpoint.tensors, model.config, model.state_dict().keys()), source)


def write_official(model: UniMedForConditionalGeneration, path: Path, *, epoch: int = 0) -> tuple[str, ...]:
    """Write the trained weights of `model` as the official saver does, without an optimizer's state.

    Return what it would have saved too, although nothing reads it. DataError if the format has no place for the model.
    """
    settings = settings_of(model.config)
    if model.config.has_lora and not is_plain(model.language_model, model.config):
        raise DataError("The official code knows plain LoRA on all layers only.", "Save the model in our own format.")
    model.train_what_is_tuned()
    trained = {name: parameter.detach().float() for name, parameter in model.trainable().items()}
    tensors = to_official(trained, model.config)
    prefix = _LORA_PREFIX if model.config.has_lora else _FULL_PREFIX
    for layer in range(int(model.config.text.num_hidden_layers)):
        name = f"{prefix}model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = model.language_model.model.rotary_emb.inv_freq
    config = {"run": {}, "model": settings}
    torch.save({"model": tensors, "optimizer": None, "config": config, "scaler": None, "epoch": epoch}, path)
    return tuple(dead_shapes(model.config))


def config_of(
    settings: Mapping[str, Any], *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None
) -> UniMedConfig:
    """Return our configuration for the `model` section of an official one; DataError if it has no place here."""
    adapted = settings.get("lora_target_modules", ["all"])
    if list(adapted) != ["all"]:
        raise DataError(f"LoRA on {adapted} only is not supported.", "The official configuration adapts `all` layers.")
    projector, moe = str(settings.get("projector_type", "moe_mlp")), bool(settings.get("has_moe", True))
    if moe != (projector in EXPERTS):
        problem = f"projector_type {projector!r} with has_moe {moe} cannot work."
        raise DataError(problem, "The official code crashes too.")
    try:
        fields: dict[str, Any] = {
            "connector_type": "moe" if moe else projector,
            "expert_type": EXPERTS.get(projector, "mlp"),
            "router_input": ROUTER_INPUT[settings.get("router_method", "router_task_token")],
            "language_tuning": TUNING[settings.get("sft_type", "lora")],
            "resample_method": settings.get("resample_method", "projection"),
            "resample_rate": int(settings.get("resample_rate", 4)),
            "num_experts": int(settings.get("num_experts", 5)),
            "router_type": settings.get("router_type", "soft"),
            "sparse_top_k": int(settings.get("sparse_topk", 2)),
            "task_token_size": int(settings["task_token_c"]) if "task_token_c" in settings else None,
            "task_tokens": False if int(settings.get("num_task_tokens", 1)) == 0 else None,
            "lora_rank": int(settings.get("lora_r", 8)),
            "lora_alpha": settings.get("lora_alpha", 16),
        }
        return UniMedConfig(
            vision_config={"image_size": settings.get("image_size", 224), **(vision or {})},
            text_config=dict(text) if text else None, prompt_style="official", **fields,
        )  # fmt: skip
    except KeyError as error:
        raise DataError(f"The official configuration has an unknown word: {error}.", "Check the checkpoint.") from error
    except (StrictDataclassError, ValueError) as error:
        raise DataError(f"The official configuration cannot work: {error}", "The official code crashes too.") from error


def settings_of(config: UniMedConfig) -> dict[str, Any]:
    """Return the official `model` section for our configuration; DataError if the official code has no word for it."""
    if config.language_tuning == "lora_moe":
        raise DataError("The official code has no LoRA-MoE.", "Such a model can only be saved in our own format.")
    if not is_eva(config.vision):
        problem = f"The official code has EVA ViT only, not a tower of type {config.vision.model_type!r}."
        raise DataError(problem, "Such a model can only be saved in our own format.")
    if config.router_hidden_size is not None and config.has_router:
        problem = "The official router is always four times as wide as its input."
        raise DataError(problem, "Train without router_hidden_size.")
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


def to_official(state: State, config: UniMedConfig) -> dict[str, torch.Tensor]:
    """Return `state` under the official names, with the duplicates that the official saver writes."""
    official: dict[str, torch.Tensor] = {}
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
    """Return the official name of one of our parameters outside the vision tower; a LoRA has peft's in both."""
    if name.startswith(_LANGUAGE):
        return (_LORA_PREFIX if config.has_lora else _FULL_PREFIX) + name.removeprefix(_LANGUAGE)
    inner = name.removeprefix(_CONNECTOR)
    if inner.startswith("experts."):
        return inner.replace("experts.", "moe_layers.", 1)
    if inner.startswith("projector."):
        only = config.connector_type == "linear"
        return inner.replace("projector.0." if only else "projector.", "llm_proj.", 1)
    return _ROUTER_NAMES.get(inner, inner)


def from_official(tensors: State, config: UniMedConfig, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return official `tensors` under our names; DataError if the two copies of an expert's weight differ.

    What is not recognised keeps its name, so that a strict comparison finds it; `dead_shapes` are left out.
    """
    known = {official_name(name, config): name for name in names if not name.startswith(_VISION)}
    experts = [(name, ours) for name, ours in known.items() if "moe_layers." in name]
    known |= {name.replace("moe_layers.", "llm_proj.", 1): ours for name, ours in experts}
    dead = dead_shapes(config)
    state: dict[str, torch.Tensor] = {}
    vision: dict[str, torch.Tensor] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: item[0].startswith("moe_layers.")):
        if name.startswith("visual_encoder."):
            vision[name.removeprefix("visual_encoder.")] = tensor
        elif not _IGNORED.fullmatch(name) and name not in dead:
            ours = known.get(name, name)
            if ours in state and not torch.equal(state[ours], tensor):
                raise DataError(f"{name} differs from its duplicate under llm_proj.", "The checkpoint is damaged.")
            state[ours] = tensor
    if config.router_sees_task and config.router_sees_token and _CONNECTOR + _TOKEN_HALF in state:
        whole, task = state[_CONNECTOR + _TOKEN_HALF], config.task_token_width
        state |= {_CONNECTOR + _TASK_HALF: whole[:, :task], _CONNECTOR + _TOKEN_HALF: whole[:, task:]}
    if vision:
        state |= {_VISION + name: tensor for name, tensor in from_eva(vision, config.vision).items()}
    return state


def dead_shapes(config: UniMedConfig) -> dict[str, tuple[int, ...]]:
    """Return what the official code trains and saves though nothing reads it: routers, task tokens, by shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    if not config.router_sees_task and config.task_tokens is not False:
        shapes |= {f"task_tokens.{task}": (1, 1, config.task_token_width) for task in CONNECTOR_TASKS}
    if config.is_moe and not config.has_router:
        visual, task = config.connector_width, config.task_token_width
        inputs = {"token": visual, "task": task, "token_and_task": visual + task}[config.router_input]
        shapes |= {
            ROUTER_WEIGHT: (4 * inputs, inputs), "router.fc1.bias": (4 * inputs,),
            "router.fc2.weight": (config.num_experts, 4 * inputs), "router.fc2.bias": (config.num_experts,),
        }  # fmt: skip
    return shapes
