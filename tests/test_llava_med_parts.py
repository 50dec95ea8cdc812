"""Parts of LLaVA-Med that need no checkpoint of a fixture: pixels, token ids, other language models of its format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import llava_med_fixtures as fixture
import pytest
import torch
from llava_med_fixtures import SPEC, TOLERANCE, load, picture, sample_of
from parity import difference
from test_llava_med import CASES, PREPROCESSED, case_of, ids_of, logits_of, prompt_of, vicuna_of
from transformers import LlavaForConditionalGeneration

from medbench.adapters.clip import clip_pixels
from medbench.adapters.llava_med.entry import parse
from medbench.adapters.llava_med.model import read_format


@pytest.mark.parametrize("name", PREPROCESSED)
def test_pixels_are_the_authors_to_the_bit(name: str) -> None:
    image, shape, _ = name.split("__")
    pixels = clip_pixels(picture(image), 336 if "336" in shape else 42, pad=shape.startswith("pad"))
    assert difference(pixels, fixture.recorded_pixels(name)) == 0


def test_a_grey_picture_becomes_rgb_before_it_is_padded() -> None:
    theirs = fixture.recorded_pixels("gray__pad__lo")
    grey = picture("gray")
    ours = clip_pixels(grey, 42, pad=True)
    assert grey.mode == "L"
    assert 0.1 < difference(ours, theirs) < 0.2
    assert torch.equal(ours, clip_pixels(grey.convert("RGB"), 42, pad=True))


@pytest.mark.parametrize("only_model", [False, True])
def test_token_ids_are_the_authors(only_model: bool, tmp_path: Path) -> None:
    new = load(fixture.make_v15(tmp_path / "checkpoint", only_model=only_model))
    vicuna = vicuna_of(new)
    for name in CASES:
        case = case_of(name)
        prompt = prompt_of(vicuna if name == "vicuna_v1" else new, case)
        assert ids_of(prompt, -200, expanded=False) == case["input_ids"], name
        assert prompt.length == case["merged_len"]
        assert [image.path for image in prompt.images()] == [f"{image}.png" for image in case["images"]]


def test_the_speaker_is_no_part_of_the_answer() -> None:
    sample = sample_of([])
    assert parse(" Assistant: No.\n", sample, SPEC).text == "No."
    assert parse("The Assistant: no ", sample, SPEC).text == "The Assistant: no"
    assert parse("", sample, SPEC).text == ""


def llava_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        theirs = name.replace("model.language_model.", "model.")
        theirs = theirs.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        theirs = theirs.replace("multi_modal_projector.linear_1", "mm_projector.0")
        renamed[theirs.replace("multi_modal_projector.linear_2", "mm_projector.2")] = tensor
    return renamed


@pytest.mark.parametrize(("kind", "family"), [("llava_llama", "llama"), ("llava", "llama"), ("llava_qwen2", "qwen2")])
def test_other_language_models_of_the_format(kind: str, family: str, tmp_path: Path) -> None:
    """Weights of a model of transformers, written under LLaVA's names, come back as the same model."""
    folder = fixture.make_v15(tmp_path / "checkpoint", model_type=kind)

    form = read_format(folder, folder / "vision_tower")
    assert cast("Any", form.config.text_config).model_type == family
    torch.manual_seed(3)
    model = LlavaForConditionalGeneration(form.config)
    model.train(mode=False)
    fixture.write_in_shards(folder, {name: one.clone() for name, one in llava_names(model.state_dict()).items()}, 2)
    adapter = load(folder)
    prompt = adapter.put("What is this?", sample_of(["wide"]))
    ids = torch.tensor([ids_of(prompt, 0, expanded=True)])
    with torch.inference_mode():
        theirs = model(input_ids=ids, pixel_values=adapter.pixels(picture("wide"))[None]).logits[0]
    assert difference(logits_of(adapter, prompt), theirs) < TOLERANCE
