"""Uni-Med's parts against the official code's own outputs (tiny sizes, random weights)."""

import json
from typing import Any, Literal

import pytest
import torch
from fixture_root import fixtures
from PIL import Image
from safetensors.torch import load_file
from transformers import Blip2VisionConfig

from tasks.answers.box_space import UNI_MED
from tasks.sample import Box
from unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from unimed.connector import Connector
from unimed.processing import pixels_of
from unimed.prompts import wrap
from unimed.vision import LN_VISION_EPSILON, VisionTower, resample

TOLERANCE = 5e-5
RouterInput = Literal["token", "task", "token_and_task"]
ROUTER_INPUT: dict[str, RouterInput] = {
    "router_task_token": "token_and_task",
    "router_token": "token",
    "router_task": "task",
}
# The soft router with one task token per task; the other routers come with the issue that builds them.
VARIANTS = [
    "soft.router_task_token.moe_mlp",
    "soft.router_token.moe_mlp",
    "soft.router_task.moe_mlp",
    "soft.router_task_token.moe_linear",
    "soft.rate1",
    "soft.rate2",
    "soft.avgpool4",
    "soft.maxpool4",
    "soft.experts3",
    "soft.experts8",
]


def config_of(official: dict[str, Any], tensors: dict[str, torch.Tensor]) -> UniMedConfig:
    _, tokens, hidden = tensors["in.vit_out"].shape
    return UniMedConfig(
        vision_config={
            "hidden_size": hidden,
            "image_size": round((tokens - 1) ** 0.5),
            "patch_size": 1,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
        },
        text_config={"hidden_size": tensors["out.vqa.inputs_llm"].shape[2], "num_attention_heads": 1, "vocab_size": 8},
        resample_method=official["resample_method"],
        resample_rate=official["resample_rate"],
        num_experts=official["num_experts"],
        expert_type="linear" if official["projector_type"] == "moe_linear" else "mlp",
        router_input=ROUTER_INPUT[official["router_method"]],
    )


def connector_of(config: UniMedConfig, tensors: dict[str, torch.Tensor]) -> Connector:
    renamed = {}
    for key, value in tensors.items():
        name = key.removeprefix("sd.")
        if name.startswith(("task_tokens.", "router.")):
            renamed[name] = value
        elif name.startswith("moe_layers."):
            expert = name.removeprefix("moe_layers.")
            renamed[f"experts.{expert.replace('.0.', '.', 1) if config.expert_type == 'linear' else expert}"] = value
    connector = Connector(config)
    connector.load_state_dict(renamed, strict=True)
    return connector.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_connector_equals_the_official_one(variant: str) -> None:
    folder = fixtures() / "unimed" / "connector"
    official = json.loads((folder / "index.json").read_text())[variant]["config"]
    tensors = load_file(folder / f"{variant}.safetensors")
    config = config_of(official, tensors)
    connector = connector_of(config, tensors)
    seen = torch.nn.functional.layer_norm(
        tensors["in.vit_out"], (tensors["in.vit_out"].shape[2],), tensors["sd.ln_vision.weight"],
        tensors["sd.ln_vision.bias"], LN_VISION_EPSILON,
    )[:, 1:]  # fmt: skip
    features = resample(seen, method=config.resample_method, rate=config.resample_rate)
    for index, task in enumerate(CONNECTOR_TASKS):
        tasks = torch.full((len(features),), index)
        weights = connector.routing_weights(features, tasks)
        expected = tensors[f"out.{task}.routing_weights"]
        torch.testing.assert_close(weights.expand_as(expected), expected, atol=TOLERANCE, rtol=0)
        visual = connector(features, tasks)
        torch.testing.assert_close(visual, tensors[f"out.{task}.inputs_llm"], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_rows_of_different_tasks_may_share_a_batch() -> None:
    folder = fixtures() / "unimed" / "connector"
    variant = VARIANTS[0]
    official = json.loads((folder / "index.json").read_text())[variant]["config"]
    tensors = load_file(folder / f"{variant}.safetensors")
    config = config_of(official, tensors)
    connector = connector_of(config, tensors)
    features = torch.randn(5, config.visual_tokens, config.connector_width)
    mixed = connector(features, torch.arange(5))
    alone = torch.cat([connector(features[index : index + 1], torch.tensor([index])) for index in range(5)])
    torch.testing.assert_close(mixed, alone, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_vision_tower_equals_the_official_one() -> None:
    folder = fixtures() / "unimed" / "vit"
    tensors = load_file(folder / "eva_vit_tiny.safetensors")
    tower = VisionTower(
        Blip2VisionConfig(
            hidden_size=32,
            intermediate_size=139,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        )
    )
    tower.vit.load_state_dict(_from_eva({k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}))
    expected = torch.nn.functional.layer_norm(tensors["out.vit_depth3"], (32,), eps=LN_VISION_EPSILON)[:, 1:]
    torch.testing.assert_close(tower.eval()(tensors["in.image56"]), expected, atol=TOLERANCE, rtol=0)


def _from_eva(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {
        "embeddings.class_embedding": official["cls_token"],
        "embeddings.position_embedding": official["pos_embed"],
        "embeddings.patch_embedding.weight": official["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": official["patch_embed.proj.bias"],
    }
    for block in range(3):
        here, there = f"encoder.layers.{block}", f"blocks.{block}"
        for kind in ("weight", "bias"):
            renamed[f"{here}.layer_norm1.{kind}"] = official[f"{there}.norm1.{kind}"]
            renamed[f"{here}.layer_norm2.{kind}"] = official[f"{there}.norm2.{kind}"]
            renamed[f"{here}.self_attn.projection.{kind}"] = official[f"{there}.attn.proj.{kind}"]
            renamed[f"{here}.mlp.fc1.{kind}"] = official[f"{there}.mlp.fc1.{kind}"]
            renamed[f"{here}.mlp.fc2.{kind}"] = official[f"{there}.mlp.fc2.{kind}"]
        q, v = official[f"{there}.attn.q_bias"], official[f"{there}.attn.v_bias"]
        renamed[f"{here}.self_attn.qkv.weight"] = official[f"{there}.attn.qkv.weight"]
        renamed[f"{here}.self_attn.qkv.bias"] = torch.cat([q, torch.zeros_like(v), v])
    return renamed


@pytest.mark.parametrize("name", ["gray", "rgb_down", "rgb_up"])
def test_the_image_transform_equals_the_official_one(name: str) -> None:
    folder = fixtures() / "unimed" / "data"
    expected = load_file(folder / "image_preprocess.safetensors")[f"{name}.56"]
    torch.testing.assert_close(pixels_of(Image.open(folder / f"{name}.png"), 56), expected, atol=1e-6, rtol=0)


def test_the_full_size_model_has_the_official_number_of_connector_parameters() -> None:
    with torch.device("meta"):
        connector = Connector(UniMedConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in connector.named_children()}
    assert counts == {"task_tokens": 28_160, "router": 507_781_125, "experts": 199_270_400}


def test_box_strings_and_prompts_equal_the_official_ones() -> None:
    document = json.loads((fixtures() / "unimed" / "data" / "datasets.json").read_text())
    prompt = document["eval"]["invref_slake"]["prompt_sent_to_generate"][0]
    box = UNI_MED.write(Box.from_xywh(10.0, 12.0, 20.5, 15.0), (33, 77))
    wrapped = "<ImageHere>".join(wrap("reg", f"what object is in this location {box}", images=1))
    assert f"<s>{wrapped}" == prompt
