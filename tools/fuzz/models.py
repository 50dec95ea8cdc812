"""What reads the files of models: configurations, tokenizers, weights, adapters; each loader, fed with a tiny model."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import llava_med_fixtures
import med_flamingo_fixtures
import numpy as np
import radfm_fixtures
import tiny_vlms
import torch
import xraygpt_fixtures
from low_rank_helpers import publish
from safetensors.torch import save
from tiny_model import small
from tiny_towers import write_tower
from transformers import ViTConfig, ViTModel

from medbench.adapters.base import LoadOptions
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.hf.adapter import read_hf_config
from medbench.adapters.hf.entry import card_of, family_of
from medbench.adapters.hf.processing import load_processor
from medbench.adapters.image_classifiers import pretrained_classifier
from medbench.adapters.interpreting import fisher_tables, resolved
from medbench.adapters.llava_med.model import read_format
from medbench.adapters.low_rank import read_low_rank
from medbench.adapters.radfm.vision import read_sizes
from medbench.adapters.xraygpt.model import config_of, find_files
from medbench.leaderboard.interpretation.spectra import spectra_as_markdown
from medbench.tasks.foundation.model_files import identity_of, refuse_absurd, refuse_stand_ins
from medbench.unimed.checkpoint import (
    BaseWeights,
    base_of,
    checked_config,
    load_checkpoint,
    read_config,
    read_language_config,
    write_checkpoint,
)
from medbench.unimed.interpret.document import (
    Document,
    Interference,
    MatrixBounds,
    Measured,
    Scored,
    Scores,
    VectorBounds,
    csv_files,
    read_document,
)
from medbench.unimed.interpret.fisher import FisherDocument, FisherModel, compare, part_of, read_fisher, resampled
from medbench.unimed.interpret.fisher import csv_files as fisher_files
from medbench.unimed.interpret.gradients import recipe_beside
from medbench.unimed.interpret.routing import logged
from medbench.unimed.interpret.streaming import mapped
from medbench.unimed.lora import read_adapter, read_adapter_config
from medbench.unimed.tokens import load_codec, load_saved_tokenizer, read_tokenizer
from medbench.unimed.towers import tower_fields
from medbench.unimed.training.folder import LOG_FILE
from medbench.unimed.weights import open_shards, read_tensors, read_torch_file
from tools.fuzz import ROOT
from tools.fuzz.mutations import Form
from tools.fuzz.workers import Reader

_LOADS = 0.05  # A share for what loads a model.
_TENSORS = {"a.weight": torch.zeros(2, 3), "b": torch.arange(4)}
_SECONDS = 4.0
"""What loading a tiny model may take: most of it is the library's, whatever is in the files."""


def _saved(**options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(_TENSORS, stream, **options)
    return stream.getvalue()


def _of_file(
    name: str, form: Form, file: str, read: Callable[[Path], object], build: Callable[[Path], object], **more: Any
) -> Reader:
    return Reader(name=f"{name}: {file}", form=form, file=f"m/{file}", read=lambda at: read(at / "m"),
                  build=lambda at: build(at / "m"), **{"share": 1, **more})  # fmt: skip


def _load(name: str, folder: Path, variant: str = "") -> object:
    entry = ADAPTERS.load(name)
    arguments, checkpoint = entry.settled(variant, {}), folder if "checkpoint" in entry.takes else None
    return entry.load(
        LoadOptions(variant=variant, device="cpu", dtype="float32", arguments=arguments, checkpoint=checkpoint)
    )


def _classifier(folder: Path) -> None:
    small_vit = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
    )
    ViTModel(small_vit).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def _classified(folder: Path) -> object:
    return pretrained_classifier(folder, 2).make()


def _uni_med(folder: Path) -> None:
    model, processor = small()
    write_checkpoint(model, processor, folder)


def _adapter(folder: Path) -> None:
    publish(torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4)}), folder, base="b", target_modules=["q_proj"])


def _tokenizer(folder: Path) -> None:
    shutil.copytree(ROOT / "tests" / "fixtures" / "tokenizer", folder)


def _tower(folder: Path) -> None:
    write_tower(folder, "mobilenet_v2")


def _sharded(folder: Path) -> None:
    folder.mkdir()
    (folder / "x.safetensors").write_bytes(save(_TENSORS))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(_TENSORS, "x.safetensors")})
    )


def _tensors(folder: Path) -> object:
    shards = open_shards(folder)
    return [shards.tensor(name) for name in shards.files]


def weights() -> Iterator[Reader]:
    """Yield the readers of files of tensors."""
    files: tuple[tuple[str, Form, tuple[bytes, ...]], ...] = (
        ("x.safetensors", "safetensors", (save(_TENSORS),)),
        ("x.bin", "torch", (_saved(), _saved(_use_new_zipfile_serialization=False))),
    )
    for name, form, seeds in files:
        yield Reader(
            name=f"tensors: {name[2:]}", form=form, file=name, read=partial(_read_tensors, name), seeds=seeds, share=3
        )
    yield Reader(
        name="tensors: legacy",
        form="pickle",
        file="x.bin",
        read=lambda at: read_torch_file(at / "x.bin"),
        seeds=(_saved(_use_new_zipfile_serialization=False),),
        share=2,
    )
    yield _of_file("shards", "json", "model.safetensors.index.json", _tensors, _sharded, share=3)
    yield _of_file("shards", "safetensors", "x.safetensors", _tensors, _sharded, share=3)
    yield _of_file(
        "identity", "safetensors", "x.safetensors", lambda at: (identity_of({"m": at}), card_of(str(at))), _sharded
    )
    yield _of_file("stand-ins", "bytes", "x.safetensors", refuse_stand_ins, _sharded)


def _read_tensors(name: str, folder: Path) -> object:
    return read_tensors(folder / name)


def configurations() -> Iterator[Reader]:
    """Yield the readers of configurations alone."""
    llava, hf = partial(llava_med_fixtures.make_v15, shards=1), tiny_vlms.llava
    yield _of_file("uni-med", "json", "config.json", read_config, _uni_med, share=2)
    yield _of_file("sizes", "json", "config.json", lambda at: refuse_absurd(at / "config.json"), _uni_med, share=5)
    yield _of_file(
        "language model",
        "json",
        "config.json",
        read_language_config,
        xraygpt_fixtures.make_language,
        share=2,
    )
    yield _of_file("llava-med", "json", "config.json", lambda at: read_format(at, at / "vision_tower"), llava, share=2)
    yield _of_file(
        "llava-med tower",
        "json",
        "vision_tower/config.json",
        lambda at: read_format(at, at / "vision_tower"),
        llava,
        share=2,
    )
    yield _of_file("hf", "json", "config.json", read_hf_config, hf, share=2)
    yield _of_file("hf family", "json", "config.json", lambda at: family_of(str(at)), hf, share=2)
    for file in ("processor_config.json", "tokenizer_config.json", "tokenizer.json"):
        yield _of_file(
            "hf",
            "json",
            file,
            lambda at: load_processor(at, read_hf_config(at)),
            hf,
            share=_LOADS * 2,
            seconds=_SECONDS,
        )
    yield _of_file("radfm", "json", "radfm.json", read_sizes, radfm_fixtures.write_checkpoint, share=2)
    for file in ("xraygpt_sizes.json", "Vicuna_Radiology_fp16/config.json"):
        yield _of_file(
            "xraygpt", "json", file, lambda at: config_of(find_files(at)), xraygpt_fixtures.make_four_files, share=0.5
        )
    yield _of_file("lora", "json", "adapter_config.json", read_low_rank, _adapter, share=2)
    yield _of_file(
        "lora of uni-med",
        "json",
        "adapter_config.json",
        lambda at: (read_adapter_config(at), read_adapter(at)),
        _adapter,
        share=2,
    )
    yield _of_file("base of uni-med", "json", "base_weights.json", base_of, _base)
    for file in ("config.json", "preprocessor_config.json"):
        yield _of_file("tower", "json", file, lambda at: checked_config(**tower_fields(str(at), {})), _tower)


def tokenizers() -> Iterator[Reader]:
    """Yield the readers of tokenizers alone."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        yield _of_file("codec", "json", file, load_codec, _tokenizer, share=0.3, seconds=_SECONDS)
    yield _of_file(
        "saved tokenizer", "json", "tokenizer.json", load_saved_tokenizer, _uni_med, share=0.3, seconds=_SECONDS
    )
    yield _of_file(
        "sentencepiece",
        "bytes",
        "tokenizer.model",
        lambda at: read_tokenizer(at / "tokenizer.model"),
        _tokenizer,
        share=0.5,
    )


def _base(folder: Path) -> None:
    folder.mkdir()
    (folder / "eva.pth").write_bytes(_saved())
    base = BaseWeights(
        vision=str(folder / "eva.pth"), language_model=str(xraygpt_fixtures.make_language(folder / "llama"))
    )
    (folder / "base_weights.json").write_text(
        json.dumps({"paths": asdict(base), "identity": base.identity()}), encoding="utf-8"
    )


def loaders() -> Iterator[Reader]:
    """Yield the loaders of whole models, fed with each file that says sizes, names or weights."""
    made: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], tuple[str, ...]]] = {
        "uni-med": (_uni_med, lambda at: load_checkpoint(at, device="cpu"), ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "model.safetensors")),
        "llava-med": (partial(llava_med_fixtures.make_v15, shards=1), partial(_load, "llava-med"), ("config.json", "vision_tower/config.json", "tokenizer.json")),
        "radfm": (radfm_fixtures.write_checkpoint, partial(_load, "radfm"), ("radfm.json", "pytorch_model.bin", "tokenizer.model")),
        "med-flamingo": (med_flamingo_fixtures.write_checkpoint, partial(_load, "med-flamingo"), ("llama/config.json", "clip/config.json", "model.pt")),
        "xraygpt": (xraygpt_fixtures.make_four_files, partial(_load, "xraygpt"), ("xraygpt_sizes.json", "Vicuna_Radiology_fp16/config.json", "Vicuna_Radiology_fp16/model.safetensors")),
        "hf": (tiny_vlms.llava, lambda at: _load("hf", at, str(at)), ("config.json", "generation_config.json", "model.safetensors")),
    }  # fmt: skip
    made["classifier"] = (_classifier, _classified, ("config.json", "preprocessor_config.json", "model.safetensors"))
    forms: dict[str, Form] = {
        ".json": "json",
        ".safetensors": "bytes",
        ".bin": "torch",
        ".pt": "torch",
        ".model": "bytes",
    }
    for name, (build, read, files) in made.items():
        for file in files:
            yield _of_file(f"load {name}", forms[Path(file).suffix], file, read, build, share=_LOADS, seconds=_SECONDS)


def _measured(folder: Path) -> None:
    """Write what a measurement of interference reads and keeps, each as small as it can be."""
    folder.mkdir()
    matrix, shared = ((1.0,),), tuple(range(10))
    bounds = dict.fromkeys(("value", "low", "high"), matrix)
    vectors = dict.fromkeys(("value", "low", "high"), (1.0,))
    group = Interference(
        parameters=2, paper_direction=matrix, paper_index=(1.0,), paper_normalised=(1.0,), non_positive=(0.0,),
        direction=MatrixBounds(**bounds), magnitude=MatrixBounds(**bounds), index=VectorBounds(**vectors),
        normalised=VectorBounds(**vectors), flipped=matrix, halves=(None,),
    )  # fmt: skip
    scored = Scored(shared=shared, single=1, silent=0, mean=0.5, paper=shared, paper_mean=None)
    model = Measured(
        label="m", connector="linear", fingerprint="0", tasks=("slake-vqa",), left_out={}, data={}, batches=2,
        batch_size=1, seed=0, precision="fp32", stored="float64", copied="slake-vqa", losses={"slake-vqa": 1.0},
        groups={"all": group}, routing={"slake-vqa": (0.5, 0.5)}, over_training=(), suite="mini",
        scores={"all": Scores(tasks=scored, flipped=scored, copies=scored, halves={})},
    )  # fmt: skip
    (folder / "interference.json").write_text(Document(models=(model,)).model_dump_json(), encoding="utf-8")
    spectrum = FisherModel(
        label="m", connector="linear", fingerprint="0", tasks=("slake-vqa",), data={}, samples=2, seed=0, precision="fp32",
        draws="official", groups={"all": part_of(np.eye(2), resampled(1, 2, seed=0), parameters=4)},
    )  # fmt: skip
    gram = {"all": np.eye(2)}
    pair = compare(("m", "m"), gram, gram, gram, resampled(1, 2, seed=0), seed=0)
    fisher = FisherDocument(models=(spectrum,), comparisons=(pair,))
    (folder / "fisher.json").write_text(fisher.model_dump_json(), encoding="utf-8")
    log = {"stage": "language", "step": 1, "expert_use": {"slake-vqa": [0.5, 0.5]}}
    (folder / LOG_FILE).write_text(json.dumps(log) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_bytes((ROOT / "unimed" / "recipes" / "mini.yaml").read_bytes())
    (folder / "run.yaml").write_text("settings: {model: uni-med, checkpoint: here}\n", encoding="utf-8")
    np.save(folder / "unit.npy", np.ones(4))


def fisher_all(at: Path) -> None:
    """Read spectra as the command and its page do."""
    found = read_fisher(at / "fisher.json")
    for use in (fisher_tables, fisher_files, spectra_as_markdown):
        list(use(found))


def interference() -> Iterator[Reader]:
    """Yield the readers of what is measured of a connector's gradients."""
    reads: dict[str, tuple[Form, Callable[[Path], object]]] = {
        "interference.json": ("json", lambda at: list(map(csv_files, read_document(at / "interference.json").models))),
        "fisher.json": ("json", fisher_all),
        LOG_FILE: ("lines", lambda at: list(logged(at))), "recipe.yaml": ("yaml", recipe_beside),
        "run.yaml": ("yaml", lambda at: resolved(str(at))),
        "unit.npy": ("bytes", lambda at: mapped(at / "unit.npy", (4,), np.float64)),
    }  # fmt: skip
    for file, (form, read) in reads.items():
        yield _of_file("interference", form, file, read, _measured)


def readers() -> Iterator[Reader]:
    """Yield the readers of models' files."""
    for room in (weights, configurations, tokenizers, loaders, interference):
        yield from room()
