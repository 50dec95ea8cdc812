"""Any vision-language model: the engine writes what the model's own `generate` writes to its own processor's inputs."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from engine_helpers import answer, texts
from PIL import Image
from tiny_vlms import FAMILIES, WHOLE

from medbench.adapters.base import Dtype, LoadOptions
from medbench.adapters.hf import adapter as hf_adapter
from medbench.adapters.hf.adapter import HfAdapter, why_left_whole
from medbench.adapters.hf.adapter import load_adapter as load
from medbench.adapters.hf.entry import ENTRY, TAKEN_APART
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request, make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.local import self_test
from medbench.harness.phases import Phases
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, SampleError, UsageError
from medbench.tasks.sample import Box, ImageRef, Sample

SIZES = ((60, 60), (90, 60), (60, 130), (200, 150))
BUDGET = Budget(rows=4, tokens=8000, prefill=200)
VQA = get_task("slake-vqa")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in (FAMILIES | WHOLE).items()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    draw = random.Random(1)
    for place, (width, height) in enumerate(SIZES):
        Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height)).save(folder / f"{place}.png")
    return folder


def model(folder: Path | str, dtype: Dtype = "auto", **given: str) -> HfAdapter:
    arguments = ENTRY.settled(str(folder), given)
    return load(LoadOptions(variant=str(folder), device="cpu", dtype=dtype, arguments=arguments))


def question(place: int, images: int) -> Sample:
    return Sample(
        sample_id=f"s{place}", task=VQA.name, split="test", reference="",
        images=tuple(ImageRef(path=f"{(place + step) % 4}.png") for step in range(images)),
        inputs={"question": f"what is {'x' * (place % 7)}?"},
    )  # fmt: skip


def asked(adapter: HfAdapter, photos: Path, *, longest: int = 17) -> list[Request]:
    """Return questions of several lengths about one picture, two or none, where the model takes those."""
    requests = []
    for place in range(12):
        images = (1, 1, 2, 0)[place % 4] if "qa" in adapter.card.kinds else 1
        request = make_request(adapter, question(place, images), VQA, photos)
        tokens = min(6 + place, longest)
        requests.append(replace(request, decoding=replace(request.decoding, max_new_tokens=tokens)))
    return requests


def one_by_one(adapter: HfAdapter, requests: list[Request]) -> dict[str, str]:
    return {request.sample.sample_id: generate_alone(adapter, request).text for request in requests}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_writes_what_the_library_writes(family: str, folder_of: Mapping[str, Path], photos: Path) -> None:
    adapter = model(folder_of[family])
    requests = asked(adapter, photos)
    alone = one_by_one(adapter, requests)
    assert len(set(alone.values())) > 8
    phases = Phases()
    assert Engine(adapter, BUDGET, phases).why_whole == ""
    assert texts(answer(adapter, requests, BUDGET, phases)) == alone
    assert phases.counts["images encoded"] == len(SIZES)
    assert texts(answer(adapter, requests, BUDGET, whole="it was asked for")) == alone


@pytest.mark.parametrize(
    ("family", "images"),
    [
        ("gemma3", '{"do_pan_and_scan": true, "pan_and_scan_min_crop_size": 20, "pan_and_scan_max_num_crops": 3}'),
        ("qwen2_5_vl", '{"size": {"shortest_edge": 3136, "longest_edge": 12544}}'),
        ("internvl", '{"max_patches": 2}'),
    ],
)
def test_what_an_image_processor_is_told_holds_everywhere(
    family: str, images: str, folder_of: Mapping[str, Path], photos: Path
) -> None:
    plain, adapter = model(folder_of[family]), model(folder_of[family], images=images, system="Be brief.")
    requests = asked(adapter, photos)
    added = {
        one.sample.sample_id: one.length - other.length
        for one, other in zip(requests, asked(plain, photos), strict=True)
    }
    # The fourth question has no picture: what it is longer by is the system's message.
    assert set(added.values()) - {added["s3"]}
    assert "Be brief." in adapter.detokenise(getattr(requests[3].prompt.segments[0], "ids", ()))
    assert texts(answer(adapter, requests, BUDGET)) == one_by_one(adapter, requests)


@pytest.mark.parametrize("family", FAMILIES | WHOLE)
def test_16_bits_change_close_calls_alone(family: str, folder_of: Mapping[str, Path], photos: Path) -> None:
    exact, rounded = model(folder_of[family], "float32"), model(folder_of[family], "bfloat16")
    first, again = (texts(answer(one, asked(one, photos, longest=1), BUDGET)) for one in (exact, rounded))
    assert sum(first[key] == again[key] for key in first) >= 8


# What needs more than embeddings


@pytest.mark.parametrize(
    ("family", "reason"), [("qwen3_vl", "deepstack_visual_embeds"), ("mllama", "cross_attention_states")]
)
def test_a_decoder_that_needs_more_is_left_whole(
    family: str, reason: str, folder_of: Mapping[str, Path], photos: Path
) -> None:
    adapter = model(folder_of[family])
    assert reason in adapter.only_whole
    requests = asked(adapter, photos)
    alone = one_by_one(adapter, requests)
    assert len(set(alone.values())) > 8
    assert reason in Engine(adapter, BUDGET, Phases()).why_whole
    assert texts(answer(adapter, requests, BUDGET)) == alone
    assert all(request.length > 40 for request in requests)
    blind = [replace(request, sample=replace(request.sample, images=())) for request in requests]
    assert sum(one_by_one(adapter, blind)[key] != alone[key] for key in alone) >= 8


def test_the_engine_would_answer_it_wrongly_and_the_self_test_says_so(
    folder_of: Mapping[str, Path], photos: Path
) -> None:
    adapter = model(folder_of["qwen3_vl"])
    adapter.only_whole = ""
    requests = asked(adapter, photos)
    alone = one_by_one(adapter, requests)
    driven = texts(answer(adapter, requests, BUDGET))
    wrong = [request for request in requests if driven[request.sample.sample_id] != alone[request.sample.sample_id]]
    assert wrong
    tested = self_test(adapter, wrong[:1] * 2, BUDGET)
    assert tested.equal < tested.total
    assert "wrote other tokens" in tested.whole
    assert not tested.one_by_one


@pytest.mark.parametrize(
    ("module", "decoder", "reason"),
    [
        ("qwen3_vl_moe", "Qwen3VLMoeTextModel", "deepstack_visual_embeds"),
        ("granite4_vision", "Granite4VisionTextModel", "deepstack_features"),
        ("gemma3n", "Gemma3nTextModel", "per_layer_inputs"),
        ("gemma4", "Gemma4TextModel", "per_layer_inputs"),
        ("mllama", "MllamaTextModel", "cross_attention_states"),
        ("ernie4_5_vl_moe", "Ernie4_5_VLMoeTextModel", "moe_mm_token_type_ids"),
    ],
)
def test_decoders_that_need_more_are_known_by_what_they_take(module: str, decoder: str, reason: str) -> None:
    # Even under the name of a family whose usual decoder needs no more.
    found = getattr(import_module(f"transformers.models.{module}.modeling_{module}"), decoder)
    assert f"its decoder reads {reason}" in why_left_whole("llava", found).replace("visual_pos_masks and ", "").replace(
        "vision_mask and ", ""
    )


def test_every_family_that_is_taken_apart_is_tested() -> None:
    assert set(TAKEN_APART) == set(FAMILIES)


def test_a_family_without_a_test_is_left_whole(
    folder_of: Mapping[str, Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = model(folder_of["llava"])
    known = texts(answer(engine, asked(engine, photos), BUDGET))
    monkeypatch.setattr(hf_adapter, "TAKEN_APART", {})
    adapter = model(folder_of["llava"])
    assert "no test has shown yet that llava can be taken apart" in adapter.only_whole
    assert texts(answer(adapter, asked(adapter, photos), BUDGET)) == known


def test_a_model_that_encodes_its_prompt_apart_is_refused(tmp_path: Path) -> None:
    from transformers import Florence2Config

    Florence2Config().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="florence2 encodes its prompt apart"):
        model(tmp_path)


# What is not the model's to choose


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_published_way_of_choosing_tokens_changes_nothing(
    family: str, folder_of: Mapping[str, Path], photos: Path, tmp_path: Path
) -> None:
    plain = model(folder_of[family])
    for file in folder_of[family].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    published = {"do_sample": True, "temperature": 0.1, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}
    (tmp_path / "generation_config.json").write_text(json.dumps({**published, "eos_token_id": [2, 5]}))
    adapter = model(tmp_path)
    assert adapter.end_ids == {2, 5}
    adapter.end_ids = plain.end_ids
    requests = asked(adapter, photos)
    assert one_by_one(adapter, requests) == one_by_one(plain, asked(plain, photos))
    assert texts(answer(adapter, requests, BUDGET)) == texts(answer(plain, asked(plain, photos), BUDGET))


def test_a_processor_that_wants_pictures_leaves_texts_unsupported(folder_of: Mapping[str, Path], photos: Path) -> None:
    adapter = model(folder_of["paligemma"])
    assert adapter.card.kinds == ENTRY.card.kinds - {"qa"}
    assert model(folder_of["llava"]).card.kinds == ENTRY.card.kinds
    with pytest.raises(SampleError, match="does not take this prompt"):
        make_request(adapter, question(0, 0), VQA, photos)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_picture_that_a_processor_refuses_costs_one_sample(
    family: str, folder_of: Mapping[str, Path], tmp_path: Path
) -> None:
    Image.new("RGB", (500, 2)).save(tmp_path / "0.png")
    with pytest.raises(SampleError, match="aspect ratio"):
        make_request(model(folder_of[family]), question(0, 1), VQA, tmp_path)


def test_a_processor_of_another_model_is_told(
    folder_of: Mapping[str, Path], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = model(folder_of["llava"])
    [pixels] = [adapter.pixels(Image.new("RGB", SIZES[0]))]
    with pytest.raises(RunError, match="makes 16 visual tokens where its processor wrote 15"):
        adapter.encode_images([{**pixels, "tokens": 15}])
    monkeypatch.setattr(adapter._renderer, "shape", lambda _: (9, None))
    with pytest.raises(SampleError, match="writes 16 visual tokens"):
        make_request(adapter, question(0, 1), VQA, photos)


# Boxes


def located(spec: str) -> Sample:
    return Sample(
        sample_id="b", task=spec, split="test", reference="liver", images=(ImageRef(path="3.png"),),
        inputs={"object": "liver"}, box=Box(20, 15, 100, 150), image_size=(200, 150),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "asks", "tells"),
    [
        ("qwen2_5_vl", "give me the location of liver\nAnswer with", "pixels of the image, counted"),
        ("qwen3_vl", "give me the location of liver\nAnswer with", "whole numbers from 0 to 1000"),
        ("gemma3", "give me the location of liver\nAnswer with", "[top, left, bottom, right] in whole numbers"),
        ("llava", "give me the location of liver\nAnswer with", "numbers from 0 to 1, where 1 is the image's"),
        ("internvl", "this sentence describes: <ref>liver</ref>", "Please provide the bounding box"),
        ("paligemma", "detect liver", "detect liver"),
    ],
)
def test_a_model_is_asked_for_boxes_as_it_was_taught_or_told(
    family: str, asks: str, tells: str, folder_of: Mapping[str, Path], photos: Path
) -> None:
    adapter = model(folder_of[family])
    for spec in ("slake-rec", "sa-med2d-rec"):
        request = make_request(adapter, located(spec), get_task(spec), photos)
        text = adapter.detokenise([token for part in request.prompt.segments for token in getattr(part, "ids", ())])
        assert asks in text
        assert tells in text
        assert ("Answer with the bounding box alone, as" in text) == ("Answer with" in asks)
    adapter._space = BOX_SPACES["percent"]
    request = make_request(adapter, located("slake-reg"), get_task("slake-reg"), photos)
    text = adapter.detokenise([token for part in request.prompt.segments for token in getattr(part, "ids", ())])
    assert "[10, 10, 50, 100]" in text
    assert "The location is [left, top, right, bottom] in whole numbers from 0 to 100" in text
    request = make_request(adapter, located("slake-rec"), get_task("slake-rec"), photos)
    text = adapter.detokenise([token for part in request.prompt.segments for token in getattr(part, "ids", ())])
    assert "Answer with the bounding box alone" in text


def test_pixels_of_scaled_pictures_need_the_scaling_that_they_are_named_for(folder_of: Mapping[str, Path]) -> None:
    size = '{"size": {"shortest_edge": 3136, "longest_edge": 12845056}}'
    assert model(folder_of["qwen2_5_vl"], boxes="pixels-28", images=size).notices == ()
    for images in ("{}", '{"size": {"shortest_edge": 3136, "longest_edge": 50176}}'):
        [notice] = model(folder_of["qwen2_5_vl"], boxes="pixels-28", images=images).notices
        assert "Boxes are read as pixels-28" in notice
    [notice] = model(folder_of["llava"], boxes="pixels-28").notices
    assert "squares of 0" in notice
    assert model(folder_of["qwen2_5_vl"], boxes="permille").notices == ()


def test_a_model_that_was_not_given_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no model"):
        load(LoadOptions(variant="", arguments=ENTRY.settled("", {})))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UsageError, match="llama is no vision-language model"):
        model(tmp_path)


@pytest.mark.parametrize("family", ["gemma3", "paligemma"])
def test_numbers_that_do_not_fit_are_refused(family: str, folder_of: Mapping[str, Path]) -> None:
    with pytest.raises(UsageError, match="gives no numbers in float16"):
        model(folder_of[family], "float16")
    assert model(folder_of[family], "bfloat16").decoder.dtype is torch.bfloat16
