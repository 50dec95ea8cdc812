"""From the authors' checkpoint format to folders and back, from folders on base weights to whole ones, and adapters."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed import checkpoint as folders
from medbench.unimed.checkpoint import (
    BaseWeights,
    LoadedCheckpoint,
    assemble,
    base_of,
    is_whole,
    processor_on,
    read_language_config,
)
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.lora import is_plain
from medbench.unimed.official import config_of, load_official, read_official, write_official
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.tokens import load_saved_tokenizer


def from_authors(
    source: Path, output: Path, base: BaseWeights, *, vision: Mapping[str, int] | None = None, standalone: bool = False
) -> None:
    """Write a folder for a checkpoint of the authors' code and the base weights it was trained on.

    `vision` are sizes of the ViT that differ from EVA ViT-G/14; `standalone` writes a whole model. DataError if the
    parts are broken or do not fit together; UsageError if base weights are not there; RunError if it cannot be written.
    """
    base = base.resolved()
    checkpoint = read_official(source)
    text = read_language_config(Path(base.language_model)).to_dict()
    config = config_of(checkpoint.settings, vision=vision, text=text)
    processor = processor_on(base, config)
    model = assemble(config, base, dtype=torch.float32)
    load_official(model, checkpoint, str(source))
    _write(LoadedCheckpoint(model=model, processor=processor), output, None if standalone else base)


def to_authors(source: Path, output: Path) -> tuple[str, ...]:
    """Write a folder's trained weights as the authors' code does; return what it would have written in vain.

    DataError if the folder is broken, or the format has no place for it; RunError if it cannot be written.
    """
    model = _load(source).model
    if is_whole(source) and model.config.language_tuning == "none":
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
    if is_whole(source):
        hint = "Give a folder with trained.safetensors and base_weights.json: an adapter"
        hint = f"{hint} belongs to the language model as it was before it was tuned."
        raise UsageError(f"{source} is a whole model.", hint)
    model = folders.load_on_base(source, torch.float32, adapter=adapter)
    processor = UniMedProcessor.of_model(load_saved_tokenizer(source), model.config)
    _write(LoadedCheckpoint(model=model, processor=processor), output, base_of(source))


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
