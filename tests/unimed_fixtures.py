"""The official code's inputs and outputs as the fixture files hold them; nothing about their sizes is assumed."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from fixture_root import fixture_tensors, fixtures

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.convert import config_of

TOLERANCE = 5e-5
"""The issue's bound on the largest absolute difference, everything in float32 on the CPU."""


def root() -> Path:
    return fixtures() / "unimed"


@cache
def document(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((root() / name).read_text(encoding="utf-8"))
    return parsed


@cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return fixture_tensors(f"unimed/{name}")


def connector_variants() -> list[str]:
    return [name for name in document("connector/index.json") if not name.startswith("_")]


def connector_config(variant: str) -> UniMedConfig:
    settings = document("connector/index.json")[variant]["config"]
    given = tensors(f"connector/{variant}.safetensors")
    _, tokens, hidden = given["in.vit_out"].shape
    task = connector_tasks(variant)[0]
    vision = {
        "hidden_size": hidden,
        "image_size": round((tokens - 1) ** 0.5),
        "patch_size": 1,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    width = given[f"out.{task}.inputs_llm"].shape[2]
    return config_of(settings, vision=vision, text={"hidden_size": width, "num_attention_heads": 1, "vocab_size": 8})


def connector_tasks(variant: str) -> list[str]:
    names = tensors(f"connector/{variant}.safetensors")
    return [name.split(".")[1] for name in names if name.startswith("out.") and name.endswith(".inputs_llm")]


def close(ours: torch.Tensor, official: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), official.float(), atol=tolerance, rtol=0)
