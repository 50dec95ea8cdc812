"""LLaVA-Med's published layouts, built from the fixture files, and the authors' outputs."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fixture_root import copy_fixture, fixture_tensors, fixtures, normalised
from PIL import Image
from safetensors.torch import save_file

from medbench.adapters.base import LoadOptions
from medbench.adapters.llava_med.entry import ENTRY
from medbench.adapters.llava_med.model import LlavaMedAdapter
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

TOLERANCE = 1e-4
PICTURES = ("wide", "tall", "square", "odd")
SPEC = get_task("slake-vqa")


def root() -> Path:
    return fixtures() / "llava_med"


@cache
def document(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((root() / name).read_text(encoding="utf-8"))
    return parsed


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return fixture_tensors(f"llava_med/{name}")


@cache
def arrays(name: str) -> dict[str, Any]:
    with np.load(root() / name) as archive:
        return {key: archive[key] for key in archive.files}


def picture(name: str) -> Image.Image:
    return Image.fromarray(arrays("preprocess.npz")[f"image_{name}"])


def recorded_pixels(name: str) -> torch.Tensor:
    """Return the pixels that the authors made of a picture; of large ones the file holds the levels."""
    kept = arrays("preprocess.npz")
    return torch.from_numpy(kept[f"pixels_{name}"]) if f"pixels_{name}" in kept else normalised(kept[f"levels_{name}"])


def write_pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in PICTURES:
        picture(name).save(folder / f"{name}.png")
    return folder


def write_config(folder: Path, name: str, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**document(name), **changes}), encoding="utf-8")


def write_tokenizer(folder: Path, *, only_model: bool = False) -> None:
    for file in (fixtures() / "tokenizer").glob("tokenizer.model" if only_model else "*"):
        shutil.copyfile(file, folder / file.name)


def write_in_shards(folder: Path, state: Mapping[str, torch.Tensor], shards: int) -> None:
    names = sorted(state)
    files = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    for number, file in enumerate(files):
        save_file({name: state[name] for name in names[number::shards]}, folder / file, metadata={"format": "pt"})
    places = {name: files[place % shards] for place, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def make_tower(folder: Path, weights: str = "v15_clip_base.safetensors", *, whole: bool = False) -> Path:
    """Write OpenAI's folder: the tower alone, or the whole CLIP as a torch file."""
    folder.mkdir(parents=True)
    tower = {**document("v15_clip_config.json"), "model_type": "clip_vision_model"}
    config = {"model_type": "clip", "vision_config": tower} if whole else tower
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if not whole:
        copy_fixture(f"llava_med/{weights}", folder / "model.safetensors")
        return folder
    others = {
        "logit_scale": torch.ones(()),
        "text_model.final_layer_norm.weight": torch.ones(4),
        "text_projection.weight": torch.ones(4, 4),
        "visual_projection.weight": torch.ones(4, 4),
        "vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    torch.save({**tensors(weights), **others}, folder / "pytorch_model.bin")
    return folder


def make_v15(folder: Path, *, shards: int = 2, only_model: bool = False, **changes: Any) -> Path:
    """Write the published folder; its tower's sizes are in the sub-folder, as they are not those of OpenAI's."""
    folder.mkdir(parents=True)
    write_config(folder, "v15_config.json", **changes)
    write_tokenizer(folder, only_model=only_model)
    write_in_shards(folder, tensors("v15_checkpoint.safetensors"), shards)
    sizes = {**document("v15_clip_config.json"), "model_type": "clip_vision_model"}
    (folder / "vision_tower").mkdir()
    (folder / "vision_tower" / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    return folder


def make_v10_parts(folder: Path) -> tuple[Path, Path]:
    """Write LLaMA and the delta."""
    base, delta = folder / "llama", folder / "delta"
    for own in (base, delta):
        own.mkdir(parents=True)
    write_config(base, "v10_base_config.json", model_type="llama")
    write_in_shards(base, tensors("v10_base_llama.safetensors"), 3)
    write_config(delta, "v10_config.json")
    write_tokenizer(delta)
    (delta / "added_tokens.json").write_text(json.dumps(document("v10_cases.json")["special"]), encoding="utf-8")
    torch.save(dict(tensors("v10_delta.safetensors")), delta / "pytorch_model.bin")
    return base, delta


def load(folder: Path, variant: str = "", **given: str) -> LlavaMedAdapter:
    options = LoadOptions(variant=variant, checkpoint=folder, device="cpu", arguments=ENTRY.settled(variant, given))
    adapter = ENTRY.load(options)
    assert isinstance(adapter, LlavaMedAdapter)
    return adapter


def sample_of(images: list[str], question: str = "", sample_id: str = "s") -> Sample:
    return Sample(
        sample_id=sample_id,
        task=SPEC.name,
        split="test",
        images=tuple(ImageRef(path=f"{name}.png") for name in images),
        inputs={"question": question},
        reference="",
    )


def question_in(prompt: str) -> str:
    """Return the question of an authors' prompt of version 1.5, or of 1.0."""
    text = prompt.replace("<image>\n", "").replace("\n<image>", "")
    for before in ("[INST] ", "USER: ", "today?\n###Human: "):
        text = text.rpartition(before)[2] if before in text else text
    for behind in (" [/INST]", " ASSISTANT:", "###"):
        text = text.partition(behind)[0]
    return text


def damaged(folder: Path, **changes: torch.Tensor | None) -> Path:
    checkpoint = make_v15(folder, shards=1)
    state = {**tensors("v15_checkpoint.safetensors"), **changes}
    kept = {name: one for name, one in state.items() if one is not None}
    write_in_shards(checkpoint, kept, 1)
    return checkpoint
