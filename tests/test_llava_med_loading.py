"""What is loaded as LLaVA-Med, and what is refused and why."""

from pathlib import Path
from typing import Any, cast

import llava_med_fixtures as fixture
import pytest
import torch
from llava_med_fixtures import load
from transformers import LlavaForConditionalGeneration

from medbench.adapters.base import LoadOptions
from medbench.adapters.llava_med.entry import ENTRY
from medbench.adapters.llava_med.model import read_format
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llava_med_loading")


@pytest.fixture(scope="module")
def v15(folder: Path) -> Path:
    return fixture.make_v15(folder / "v15")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return fixture.make_tower(folder / "clip")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Path:
    return fixture.write_pictures(folder / "pictures")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.norm.weight": None}, "missing: model.language_model.norm.weight"),
        ({"model.extra.weight": torch.ones(2)}, "unexpected: model.extra.weight"),
        ({"model.norm.weight": torch.ones(2)}, "mismatched: model.language_model.norm.weight"),
        ({"model.mm_projector.2.bias": None}, "missing: model.multi_modal_projector.linear_2.bias"),
        (
            {"model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias": None},
            "missing: model.vision_tower.pre_layrnorm.bias",
        ),
    ],
)
def test_weights_must_fit(changes: dict[str, torch.Tensor | None], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(fixture.damaged(tmp_path / "checkpoint", **changes))
    assert told in str(caught.value)


def test_old_buffers_are_no_weights(tmp_path: Path) -> None:
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    load(fixture.damaged(tmp_path / "checkpoint", **buffers))


def test_the_published_model_has_as_many_weights_as_its_files(tmp_path: Path) -> None:
    mistral = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    }  # fmt: skip
    fixture.write_config(tmp_path, "v15_config.json", mm_vision_tower="openai/clip-vit-large-patch14-336", **mistral)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(read_format(tmp_path, None).config)
    sizes = [one.numel() for one in model.parameters()]
    assert (len(sizes), round(sum(sizes) / 1e9, 3)) == (686, 7.566)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text_config": {}}, "--model hf:"),
        ({"model_type": "mistral"}, "of type 'mistral'"),
        ({"mm_projector_type": "resampler"}, "mm_projector_type is 'resampler'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_vision_tower": "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"}, "BiomedCLIP"),
        ({"mm_use_im_start_end": True}, "llava-med:v1.0"),
        ({"num_attention_heads": "many"}, "cannot be used"),
    ],
)
def test_other_formats_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(fixture.make_v15(tmp_path / "checkpoint", **changes))
    assert told in str(caught.value)


def test_the_sizes_of_openais_towers_are_known(tmp_path: Path, v15: Path) -> None:
    fixture.write_config(tmp_path, "v15_config.json", mm_vision_tower="openai/clip-vit-large-patch14-336")
    assert read_format(tmp_path, None).visual_tokens == 576
    fixture.write_config(tmp_path, "v10_config.json", mm_vision_tower="openai/clip-vit-large-patch14")
    form = read_format(tmp_path, None)
    assert (form.visual_tokens, form.linear, form.pads, form.marks) == (256, True, False, True)
    assert cast("Any", form.config.text_config).rope_parameters["rope_theta"] == 10000
    assert cast("Any", read_format(v15, v15 / "vision_tower").config.text_config).rope_parameters["rope_theta"] == 1e6
    fixture.write_config(tmp_path, "v15_config.json", mm_vision_tower="google/siglip")
    with pytest.raises(DataError, match="'google/siglip' is unknown"):
        read_format(tmp_path, None)


@pytest.mark.parametrize(
    ("variant", "given", "told"),
    [
        ("v1.5", {"template": "simple"}, "no template 'simple'"),
        ("v1.0", {"template": "vicuna_v1"}, "no template 'vicuna_v1'"),
        ("v1.0", {"vision_source": "checkpoint"}, "holds no vision tower"),
        ("v1.5", {"vision_tower": "/nowhere"}, "is no folder"),
        ("v1.0", {}, "Run it as --model llava-med:v1.5"),
    ],
)
def test_arguments_must_make_sense(variant: str, given: dict[str, str], told: str, v15: Path) -> None:
    with pytest.raises(MedbenchError) as caught:
        load(v15, variant, **given)
    assert told in str(caught.value)


def test_weights_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions(arguments=ENTRY.settled("", {})))
    with pytest.raises(UsageError, match="is no folder"):
        load(tmp_path / "nowhere")
    broken = fixture.make_v15(tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer.model"):
        (broken / name).unlink()
    with pytest.raises(DataError, match="neither"):
        load(broken)
