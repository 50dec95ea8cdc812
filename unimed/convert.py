"""From the authors' checkpoint format to folders and back, and from folders on base weights to whole ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.unimed.assembly import assemble, processor_on
from medbench.unimed.base_weights import BaseWeights, read_language_config
from medbench.unimed.checkpoint import LoadedCheckpoint, is_whole, load_checkpoint, write_checkpoint
from medbench.unimed.model_card import model_card
from medbench.unimed.official.checkpoint import config_of, load_official, read_official, write_official


def from_authors(
    source: Path, output: Path, base: BaseWeights, *, vision: Mapping[str, int] | None = None, standalone: bool = False
) -> None:
    """Write a folder for a checkpoint of the authors' code and the base weights it was trained on.

    Args:
        source: `checkpoint_<epoch>.pth`.
        output: New folder.
        base: The frozen weights.
        vision: Sizes of the ViT that differ from EVA ViT-G/14.
        standalone: Whether to write the base weights too, as a whole model.

    Raises:
        DataError: If a file is broken or the parts do not fit together.
        UsageError: If base weights are not there.
        RunError: If `output` cannot be written.
    """
    base = base.resolved()
    checkpoint = read_official(source)
    text = read_language_config(Path(base.language_model)).to_dict()
    config = config_of(checkpoint.settings, vision=vision, text=text)
    processor = processor_on(base, config)
    model = assemble(config, base, dtype=torch.float32)
    load_official(model, checkpoint, str(source))
    loaded = LoadedCheckpoint(model=model, processor=processor, fingerprint="", trained_on=frozenset())
    _write(loaded, output, None if standalone else base)


def to_authors(source: Path, output: Path) -> tuple[str, ...]:
    """Write a folder's trained weights as the authors' code does; return what it would have written in vain.

    Raises:
        DataError: If the folder is broken, or the format has no place for such a model.
        RunError: If `output` cannot be written.
    """
    model = _load(source).model
    if is_whole(source) and model.config.language_tuning == "none":
        raise DataError(
            f"{source} is a whole model with an untuned language model, which is also what merged LoRA looks like.",
            "Convert the folder with trained.safetensors: the authors' format keeps LoRA apart.",
        )
    try:
        return write_official(model, output)
    except (OSError, RuntimeError) as error:
        output.unlink(missing_ok=True)
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error


def to_whole(source: Path, output: Path, *, merge_lora: bool = False) -> None:
    """Write a whole model, ready for `push_to_hub`, for a folder on base weights.

    Raises:
        DataError: If the folder is broken or its base weights changed.
        UsageError: If there is LoRA-MoE to be merged.
        RunError: If `output` cannot be written.
    """
    loaded = _load(source)
    if merge_lora:
        if loaded.model.config.language_tuning == "lora_moe":
            raise UsageError(
                "LoRA-MoE cannot be merged: which pairs it uses depends on the token.", "Leave --merge-lora out."
            )
        loaded.model.merge_lora()
    _write(loaded, output, None)


def _load(source: Path) -> LoadedCheckpoint:
    if not source.is_dir():
        raise UsageError(f"{source} is no folder.", "Give a checkpoint folder, or the authors' checkpoint_<epoch>.pth.")
    loaded = load_checkpoint(source, device="cpu", dtype="float32", merge=False)
    loaded.model.train_what_is_tuned()
    return loaded


def _write(loaded: LoadedCheckpoint, output: Path, base: BaseWeights | None) -> None:
    try:
        write_checkpoint(loaded.model, loaded.processor, output, base=base)
        if base is None:
            card = model_card(loaded.model.config, loaded.trained_on)
            (output / "README.md").write_text(card, encoding="utf-8")
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error
