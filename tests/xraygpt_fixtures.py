"""XrayGPT's published layout, built from the fixture files, and the authors' outputs."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fixture_root import copy_fixture, fixture_tensors, fixtures
from PIL import Image

from medbench.adapters.base import LoadOptions
from medbench.adapters.xraygpt.entry import ENTRY
from medbench.adapters.xraygpt.model import QFORMER, SIZES, TRAINED, VISION, XrayGptAdapter
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

TOLERANCE = 1e-4
PICTURES = ("wide", "tall", "gray")
SPEC = get_task("mimic-cxr")
FILES = {VISION: "eva_vit", QFORMER: "blip2_qformer", TRAINED: "xraygpt_ckpt"}


def root() -> Path:
    return fixtures() / "xraygpt"


@cache
def document(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((root() / name).read_text(encoding="utf-8"))
    return parsed


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return fixture_tensors(f"xraygpt/{name}.safetensors")


@cache
def arrays() -> dict[str, Any]:
    with np.load(root() / "preprocess.npz") as archive:
        return {key: archive[key] for key in archive.files}


def picture(name: str) -> Image.Image:
    return Image.fromarray(arrays()[f"image_{name}"])


def write_pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in PICTURES:
        picture(name).save(folder / f"{name}.png")
    return folder


def sizes() -> dict[str, Any]:
    """Return the fixture's configuration in the words of transformers."""
    given = document("config.json")
    vit, qformer = given["vit"], given["qformer"]
    return {
        "vision_config": {
            "hidden_size": vit["embed_dim"], "intermediate_size": vit["mlp_hidden"],
            "num_hidden_layers": vit["depth"], "num_attention_heads": vit["num_heads"], "image_size": vit["img_size"],
            "patch_size": vit["patch_size"], "layer_norm_eps": vit["norm_eps"],
        },
        "qformer_config": {
            **{name: qformer[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                "intermediate_size", "layer_norm_eps", "hidden_act")},
            "cross_attention_frequency": qformer["cross_attention_freq"],
            "encoder_hidden_size": qformer["encoder_width"],
        },
        "num_query_tokens": given["num_query_tokens"],
    }  # fmt: skip


def make_language(folder: Path, *, only_model: bool = True) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "llama", **document("config.json")["llama"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in (fixtures() / "tokenizer").glob("tokenizer.model" if only_model else "*"):
        shutil.copyfile(file, folder / file.name)
    copy_fixture("xraygpt/vicuna.safetensors", folder / "model.safetensors")
    return folder


def make_four_files(folder: Path, *, suffix: str = ".pth", only_model: bool = True) -> Path:
    """Write what the authors publish; of BLIP-2's and their own file the tensors lie under `model`."""
    folder.mkdir(parents=True)
    make_language(folder / "Vicuna_Radiology_fp16", only_model=only_model)
    (folder / SIZES).write_text(json.dumps(sizes()), encoding="utf-8")
    for name, theirs in FILES.items():
        if suffix == ".safetensors":
            copy_fixture(f"xraygpt/{theirs}.safetensors", folder / f"{name}.safetensors")
            continue
        state = dict(tensors(theirs))
        training = {"optimizer": {"state": {}}, "config": {"run": {"lr": 3e-5}}, "scaler": {}, "epoch": 3}
        whole = {VISION: state, QFORMER: {"model": state}, TRAINED: {"model": state, **training}}[name]
        torch.save(whole, folder / f"{name}.pth")
    return folder


def load(folder: Path, **given: str) -> XrayGptAdapter:
    adapter = ENTRY.load(LoadOptions(checkpoint=folder, device="cpu", arguments=ENTRY.settled("", given)))
    assert isinstance(adapter, XrayGptAdapter)
    return adapter


def sample_of(*images: str, sample_id: str = "s") -> Sample:
    return Sample(
        sample_id=sample_id,
        task=SPEC.name,
        split="test",
        images=tuple(ImageRef(path=f"{name}.png") for name in images),
        reference="",
    )
