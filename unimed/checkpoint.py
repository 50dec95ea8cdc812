"""Checkpoint folders: whole models, or what was trained beside the names of the frozen base weights.

On base weights a LoRA lies in peft's format beside `trained.safetensors`: the folder is an adapter for peft too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from transformers import Blip2VisionConfig, LlamaConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from medbench.tasks.foundation import files
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256, fingerprint, read_json_object, readable, sampled_sha256
from medbench.tasks.foundation.model_files import digests, refuse_absurd, refuse_stand_ins, room_for
from medbench.unimed import lora, weights
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.modeling import LanguageModel, UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.tokens import load_language_model_tokenizer, load_saved_tokenizer
from medbench.unimed.towers import PREPROCESSOR, load_tower, tower_fields, type_of
from medbench.unimed.vision import from_eva
from medbench.unimed.weights import State, copy_into, read_tensors, strict_from_pretrained

if TYPE_CHECKING:
    from peft import LoraConfig

WHOLE, TRAINED, BASE_FILE = "model.safetensors", "trained.safetensors", "base_weights.json"
WHOLE_SHARDED = "model.safetensors.index.json"
ALWAYS = ("config.json", "tokenizer.json", "tokenizer_config.json")
RECIPE_FILE = "recipe.yaml"
# Read where they are there, which `medbench train` does not write.
_MORE_OF_THE_TOKENIZER = ("added_tokens.json", "special_tokens_map.json", "chat_template.jinja")
JOINED = "+"  # Between tasks that are one entry of a mixture, as the official code joins the two MedMNIST sets.
_LANGUAGE_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.bin")
# Stands for the bundled mini weights: their tower, their language model, or both, beneath a connector of one's own.
BUNDLED, MINI = "bundled", Path(__file__).parent / "mini"
_OTHER_PARTS = ("vision_tower.", "connector.")
_IDENTITY_FILES = ("*.safetensors", "*.bin", "*.pth", "*.pt", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWeights:
    """Where the frozen weights are; each may also be the folder of a whole Uni-Med without LoRA, or `bundled`."""

    language_model: str  # Folder of a LLaMA-architecture model, or its name on the Hub.
    # `eva_vit_g.pth`, a folder or file of safetensors with `vision_model.*` (BLIP-2 on the Hub), or the folder of any
    # vision model of transformers.
    vision: str

    def resolved(self) -> "BaseWeights":
        """Return the same with paths of this machine; UsageError if something is not to be had."""
        tower, named = (str(MINI) if one == BUNDLED else one for one in (self.vision, self.language_model))
        vision = Path(tower).expanduser()
        hint = "Give eva_vit_g.pth (as BLIP-2 ships it), or a folder of BLIP-2 or of a vision model of transformers."
        with readable(vision, hint):  # no file can have such a name, or it is in a folder that may not be read
            there = vision.exists()
        if not there:
            raise UsageError(f"The vision weights {self.vision!r} are not there.", hint)
        what = f"The language model {self.language_model!r}"
        hint = "Give the folder of a LLaMA-architecture model; gated ones need `hf auth login` first."
        language, _ = weights.find_folder(named, files=_LANGUAGE_FILES, what=what, hint=hint)
        return BaseWeights(language_model=str(language), vision=str(vision.resolve()))

    def identity(self) -> dict[str, str]:
        """Return a fingerprint of each part, as checkpoints hold it: of sizes and samples, 15 GB are not read."""
        found = {}
        for name, path in asdict(self.resolved()).items():
            pixels = (PREPROCESSOR,) if name == "vision" and type_of(Path(path)) else ()
            sampled = digests(Path(path), only=(*_IDENTITY_FILES, *pixels), digest=sampled_sha256)
            # A file alone has its own name, whatever folder it is in.
            found[name] = fingerprint({inner or Path(path).name: digest for inner, digest in sampled.items()})
        return found


def read_language_config(folder: Path) -> LlamaConfig:
    """Return the configuration of a LLaMA-architecture model; DataError if there is none, or of another one."""
    try:
        values, _ = LlamaConfig.get_config_dict(folder)
        if values.get("model_type") == UniMedConfig.model_type:
            values = dict(values["text_config"])
        config = LlamaConfig.from_dict(values)
    except weights.LIBRARY_FAULTS as error:
        raise DataError(f"{folder} has no readable config.json: {error}", "Give a LLaMA folder.") from error
    if values.get("model_type") != "llama":
        hint = "Uni-Med takes any language model of LLaMA's architecture (model_type `llama`)."
        raise DataError(f"{folder} holds a model of type {values.get('model_type')!r}.", hint)
    return config


def configure(base: BaseWeights, settings: dict[str, Any], *, vision: dict[str, Any] | None = None) -> UniMedConfig:
    """Return the configuration of a model on `base`, the rest from `settings`; UsageError if it cannot work."""
    text = read_language_config(Path(base.language_model)).to_dict()
    return checked_config(**tower_fields(base.vision, vision or {}), text_config=text, **settings)


def checked_config(**settings: Any) -> UniMedConfig:
    """Return a configuration; UsageError if a field is unknown or the combination cannot work."""
    refuse_unknown("UniMedConfig", settings, UniMedConfig)
    tower = settings.get("vision_config") or {}
    if "model_type" not in tower:
        refuse_unknown("The vision tower", tower, Blip2VisionConfig)
    try:
        return UniMedConfig(**settings)
    except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UsageError(f"This Uni-Med cannot be built: {error}", "See `unimed/configuration.py`.") from error


def refuse_unknown(owner: str, given: Iterable[str], config: type[PreTrainedConfig]) -> None:
    """UsageError if a configuration has no field of a given name; transformers would keep it and ignore it."""
    unknown = sorted(set(given) - set(config.__dataclass_fields__))
    if unknown:
        allowed = ", ".join(sorted(config.__annotations__))
        raise UsageError(f"{owner} has no {', '.join(unknown)}.", f"Allowed: {allowed}.")


def assemble(
    config: UniMedConfig, base: BaseWeights, *, dtype: torch.dtype, adapter: "LoraConfig | None" = None
) -> UniMedForConditionalGeneration:
    """Return a model on `base`, frozen in `dtype`, what learns in float32; DataError if the weights do not fit."""
    with torch.device("meta"):
        model = UniMedForConditionalGeneration(config)
    model.language_model = _read_language_model(Path(base.language_model), config.text, dtype)
    if config.has_lora:
        lora.add_low_rank(model.language_model, config, adapter)
    if isinstance(config.vision, Blip2VisionConfig):
        vit = model.vision_tower.vit
        state = _read_eva(Path(base.vision), config.vision)
        weights.refuse_misfits(base.vision, state, vit.state_dict())
        moved = {name: tensor.to(dtype, copy=True) for name, tensor in state.items()}
        vit.load_state_dict(moved, strict=True, assign=True)
    else:
        model.vision_tower = load_tower(Path(base.vision), config.vision, dtype)
    model.connector = Connector(config)
    model.train_what_is_tuned()
    for parameter in model.trainable().values():
        parameter.data = parameter.data.float()
    return model


def _read_language_model(folder: Path, config: LlamaConfig, dtype: torch.dtype) -> LanguageModel:
    """Return the LLaMA of a folder; of a whole Uni-Med its other parts are left."""
    found, info = weights.reported_from_pretrained(
        LanguageModel, folder, config=config, dtype=dtype, key_mapping={r"^language_model\.": ""}
    )
    strangers = [name for name in info["unexpected_keys"] if not name.startswith(_OTHER_PARTS)]
    weights.refuse_loading_info(str(folder), {**info, "unexpected_keys": strangers}, harmless=weights.ROTARY)
    return cast("LanguageModel", found)


def _read_eva(path: Path, config: Blip2VisionConfig) -> dict[str, torch.Tensor]:
    """Return the state of a `Blip2VisionModel` without `post_layernorm` and what lies behind the configured depth."""
    if kind := type_of(path):
        hint = "Give the weights that the model was trained on; the authors' format has no other tower than EVA ViT."
        raise DataError(f"{path} holds a vision tower of type {kind!r}, where EVA ViT belongs.", hint)
    if path.suffix in {".pth", ".pt"}:
        return from_eva(read_tensors(path), config, str(path))
    state: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        for name, tensor in read_tensors(file).items():
            inner = name.removeprefix("vision_model.").removeprefix("vision_tower.vit.")
            block = int(inner.split(".")[2]) if inner.startswith("encoder.layers.") else 0
            if name != inner and "post_layernorm" not in inner and block < int(config.num_hidden_layers):
                state[inner] = tensor
    return state


def processor_on(base: BaseWeights, config: UniMedConfig) -> UniMedProcessor:
    """Return the processor of a model on `base`; the configuration learns the id of the image placeholder."""
    processor = UniMedProcessor.of_model(load_language_model_tokenizer(Path(base.language_model)), config)
    config.image_token_id = processor.image_token_id
    return processor


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCheckpoint:
    """A model with its processor, the identity of its files, and the tasks of the recipe that made it."""

    model: UniMedForConditionalGeneration
    processor: UniMedProcessor
    fingerprint: str = ""
    trained_on: frozenset[str] = frozenset()


def load_checkpoint(folder: Path, *, device: str = "auto", dtype: str = "auto", merge: bool = True) -> LoadedCheckpoint:
    """Load a checkpoint folder for answering, as `medbench train` and `medbench convert` write it.

    `merge` folds LoRA into the frozen weights. Device and type: see `device_and_dtype`. DataError if a file is missing
    or broken, or a weight is missing, unexpected or misshapen; UsageError if device or base weights are not there, or
    the adapter is no LoRA; RunError if there is no room for it.
    """
    holding = _weight_files(folder)
    refuse_stand_ins(folder)
    transformers_logging.disable_progress_bar()
    chosen, kind = weights.device_and_dtype(device, dtype)
    with room_for(f"The checkpoint {folder}"):
        model: UniMedForConditionalGeneration
        if is_whole(folder):
            config, problem = read_config(folder), f"The checkpoint {folder} cannot be read"
            model = strict_from_pretrained(
                UniMedForConditionalGeneration, folder, config=config, dtype=kind,
                key_mapping=lora.OLD_NAMES if config.language_tuning == "lora" else None,
                unreadable=lambda error: DataError(f"{problem}: {error}", "Copy it again or train it anew."),
            )  # fmt: skip
        else:
            model = load_on_base(folder, kind)
        if merge:
            model.merge_lora()
        weights.cast_parameters(model, kind)
        torch.nn.Module.to(model, chosen).eval()
    processor = UniMedProcessor.of_model(load_saved_tokenizer(folder), model.config)
    more, recipe = [name for name in _MORE_OF_THE_TOKENIZER if (folder / name).is_file()], folder / RECIPE_FILE
    identity = fingerprint({name: _identity_of(folder / name) for name in (*ALWAYS, *holding, *more)})
    mixture = files.read_yaml_table(recipe).get("mixture") if recipe.is_file() else None
    tasks = (name for entry in mixture for name in entry.split(JOINED)) if isinstance(mixture, dict) else ()
    return LoadedCheckpoint(model=model, processor=processor, fingerprint=identity, trained_on=frozenset(tasks))


def _identity_of(path: Path) -> str:
    """Return the hash of a file; of the notes on base weights, what they are and not where."""
    if path.name == BASE_FILE:
        return fingerprint(read_json_object(path).get("identity"))
    if path.name == lora.ADAPTER_CONFIG:
        return fingerprint(read_json_object(path) | {"base_model_name_or_path": None})
    return file_sha256(path)


def write_checkpoint(
    model: UniMedForConditionalGeneration, processor: UniMedProcessor, folder: Path, *, base: BaseWeights | None = None,
    state: State | None = None
) -> None:  # fmt: skip
    """Write a checkpoint folder: on the `base` of the frozen weights what is trained, without one the whole model.

    `state` has these weights, if they were gathered already. OSError, SafetensorError, RuntimeError if not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tied = set(model.all_tied_weights_keys)
    if base is None:
        once = None if state is None else {name: tensor for name, tensor in state.items() if name not in tied}
        # Otherwise transformers would give weights that were read under old names their old names back.
        model.save_pretrained(folder, state_dict=once, save_original_format=False)
    else:
        trained = state if state is not None else model.trainable()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.items() if name not in tied}
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        plain = model.config.language_tuning == "lora"
        adapted = lora.write_adapter(model.language_model, tensors, folder, base.language_model) if plain else set()
        rest = {name: tensor for name, tensor in tensors.items() if name not in adapted}
        save_file(rest, folder / TRAINED, metadata={"format": "pt"})
        document = {"paths": asdict(base), "identity": base.identity()}
        (folder / BASE_FILE).write_text(files.canonical_json(document, indent=2) + "\n", encoding="utf-8")
    processor.save_pretrained(folder)


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds a whole model, not only what was trained."""
    return not (folder / BASE_FILE).is_file()


def base_of(folder: Path) -> BaseWeights:
    """Return where a checkpoint's frozen weights are; DataError if they are others than then, or the note is broken."""
    document = read_json_object(folder / BASE_FILE)
    try:
        base = BaseWeights(**document["paths"]).resolved()
        recorded: dict[str, str] = dict(document["identity"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / BASE_FILE} is not what `medbench train` writes.", "Copy it again.") from error
    changed = [name for name, identity in base.identity().items() if identity != recorded.get(name)]
    if changed:
        other = ", ".join(f"{name} {getattr(base, name)}" for name in changed)
        hint = "what was trained fits only the weights it was trained on."
        hint = f"Put the right paths into {folder / BASE_FILE}; {hint}"
        raise DataError(f"Other base weights than in training: {other}.", hint)
    return base


def _weight_files(folder: Path) -> tuple[str, ...]:
    parts: tuple[str, ...] = (WHOLE,)
    if (folder / BASE_FILE).is_file():
        adapter = (lora.ADAPTER_CONFIG, lora.ADAPTER) if (folder / lora.ADAPTER_CONFIG).is_file() else ()
        parts = (BASE_FILE, TRAINED, *adapter)
    elif (folder / WHOLE_SHARDED).is_file():
        parts = (WHOLE_SHARDED, *sorted(set(weights.weight_map(folder / WHOLE_SHARDED).values())))
    missing = [name for name in (*ALWAYS, *parts) if not (folder / name).is_file()]
    if missing:
        holds = f"A checkpoint folder holds {', '.join(ALWAYS)} and {WHOLE}, or {TRAINED} and {BASE_FILE}, as"
        hint = f"{holds} `medbench train --output DIR` and `medbench convert` write them."
        raise DataError(f"{folder} is not a Uni-Med checkpoint: {', '.join(missing)} missing.", hint)
    return parts


def read_config(folder: Path) -> UniMedConfig:
    """Return the configuration of a checkpoint folder; DataError if it cannot be read or cannot work."""
    refuse_absurd(folder / "config.json")
    try:
        return UniMedConfig.from_pretrained(folder, trust_remote_code=False)
    except weights.LIBRARY_FAULTS as error:
        raise DataError(f"{folder / 'config.json'} cannot be read: {error}", "Copy the checkpoint again.") from error


def load_on_base(folder: Path, dtype: torch.dtype, *, adapter: Path | None = None) -> UniMedForConditionalGeneration:
    """Return the model of a folder on base weights, what was trained in float32; errors of `load_checkpoint`."""
    config, source = read_config(folder), adapter or folder
    tensors = lora.current_names(read_tensors(folder / TRAINED, "Copy the checkpoint again."), config)
    chosen = None
    if (source / lora.ADAPTER_CONFIG).is_file() or adapter:
        if config.language_tuning not in {"lora", "none"}:
            tuned = f"The language model was tuned by {config.language_tuning!r}"
            hint = "Give a checkpoint whose language model has LoRA, or is untuned."
            raise UsageError(f"{tuned}, where a LoRA ({source}) has no meaning.", hint)
        chosen = lora.read_adapter_config(source)
        config.language_tuning, config.lora_rank, config.lora_alpha = "lora", chosen.r, chosen.lora_alpha
        others = {name: tensor for name, tensor in tensors.items() if adapter is None or ".lora_" not in name}
        tensors = others | lora.read_adapter(source)
    model = assemble(config, base_of(folder), dtype=dtype, adapter=chosen)
    copy_into(model.trainable(), tensors, str(source if chosen else folder / TRAINED))
    return model


def restore_weights(model: UniMedForConditionalGeneration, folder: Path) -> None:
    """Put the weights of a checkpoint of the same training into `model`; DataError if they do not fit."""
    file, tied = folder / (WHOLE if is_whole(folder) else TRAINED), set(model.all_tied_weights_keys)
    hint = "Delete this checkpoint and resume from the one before."
    tensors = lora.current_names(read_tensors(file, hint), model.config)
    if not is_whole(folder):
        adapter = lora.read_adapter(folder) if (folder / lora.ADAPTER_CONFIG).is_file() else {}
        copy_into(model.trainable(), tensors | adapter, str(folder))
    else:
        copy_into({name: one for name, one in model.state_dict().items() if name not in tied}, tensors, str(folder))
