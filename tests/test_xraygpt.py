"""XrayGPT against the authors' own code, through the published files, the loader, the adapter and the engine."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import parity
import pytest
import torch
import xraygpt_fixtures as fixture
from command_line import medbench
from parity import NEW_TOKENS, difference
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Blip2ForConditionalGeneration,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from xraygpt_fixtures import SPEC, TOLERANCE, arrays, document, load, picture, sample_of, tensors

from medbench.adapters.base import ImageSlot, LoadOptions, Prompt, TextSegment
from medbench.adapters.xraygpt.entry import ENTRY, parse, prompt_texts
from medbench.adapters.xraygpt.model import (
    QFORMER,
    SIZES,
    TRAINED,
    VISION,
    XrayGptAdapter,
    config_of,
    convert,
    find_files,
)
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError

CASES = ("chat_wide", "chat_tall", "test_wide", "test_gray", "train_wrap")
PLACEHOLDER = 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xraygpt")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Path:
    return fixture.write_pictures(folder / "pictures")


@pytest.fixture(scope="module")
def four(folder: Path) -> Path:
    return fixture.make_four_files(folder / "four")


@pytest.fixture(scope="module")
def converted(folder: Path, four: Path) -> Path:
    convert(four, folder / "converted", dtype=torch.float32)
    return folder / "converted"


@pytest.fixture(scope="module")
def demo(four: Path) -> XrayGptAdapter:
    return load(four)


def in_test_form(adapter: XrayGptAdapter) -> XrayGptAdapter:
    return XrayGptAdapter(adapter.model, adapter.tokens, adapter.weights_fingerprint, template="test")


def case_of(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", next(case for case in document("cases.json")["cases"] if case["id"] == name))


def question_in(prompt: str) -> str:
    return prompt.partition("<ImageHere></Img> ")[2].partition("###")[0].strip()


def prompt_of(adapter: XrayGptAdapter, case: Mapping[str, Any]) -> Prompt:
    """Return the adapter's prompt of an authors' case, whatever the adapter's own template is."""
    own = adapter if case["kind"] == "chat" else in_test_form(adapter)
    return own.put(question_in(case["prompt"]), sample_of(case["image"], sample_id=case["id"]))


embeddings_of, logits_of = partial(parity.embeddings_of, picture=picture), partial(parity.logits_of, picture=picture)
written = partial(parity.written, spec=SPEC)


@pytest.mark.parametrize("name", ["wide", "tall", "gray"])
def test_pixels_are_the_authors_to_the_bit(name: str, demo: XrayGptAdapter) -> None:
    assert difference(demo.pixels(picture(name)), torch.from_numpy(arrays()[f"pixels_{name}"])) == 0


@pytest.mark.parametrize("only_model", [False, True])
def test_token_ids_are_the_authors(only_model: bool, tmp_path: Path) -> None:
    adapter = load(fixture.make_four_files(tmp_path / "four", only_model=only_model))
    for name in CASES:
        case = case_of(name)
        before, image, behind = prompt_of(adapter, case).segments
        assert isinstance(before, TextSegment)
        assert isinstance(image, ImageSlot)
        assert isinstance(behind, TextSegment)
        # Training puts an embedded BOS before the wrapped prompt; its ids have none.
        ours = [list(before.ids)[name == "train_wrap" :], list(behind.ids)]
        assert ours == case["segment_ids"], name
        assert (image.tokens, image.image.path) == (8, f"{case['image']}.png")


def test_all_prompts_of_the_authors_list(demo: XrayGptAdapter) -> None:
    for prompt in document("cases.json")["prompts"]:
        before, behind = prompt_texts(question_in(prompt), "test")
        assert f"{before}<ImageHere>{behind}" == prompt
    assert question_in(document("cases.json")["prompts"][0]) == SPEC.instruction(sample_of("wide"))
    assert demo.render(sample_of("wide"), SPEC, lambda _: (1, 1)) == prompt_of(demo, case_of("chat_wide"))


@pytest.mark.parametrize("layout", [".pth", ".safetensors", "converted"])
def test_it_computes_what_the_authors_compute(layout: str, converted: Path, tmp_path: Path, pictures: Path) -> None:
    four = layout != "converted"
    adapter = load(fixture.make_four_files(tmp_path / "four", suffix=layout) if four else converted)
    expected = tensors("expected")
    model = adapter.model
    pixels = [adapter.pixels(picture(name)) for name in fixture.PICTURES]
    with torch.inference_mode():
        seen = model.vision_model(pixel_values=torch.stack(pixels), output_hidden_states=True)
        assert difference(seen.hidden_states[-1], expected["visual_encoder"]) < TOLERANCE
        assert difference(seen.last_hidden_state, expected["ln_vision"]) < TOLERANCE
        features = adapter.encode_images(pixels)
        assert difference(torch.stack(list(features)), expected["qformer"]) < TOLERANCE
        assert difference(torch.stack(list(adapter.project(features, "report"))), expected["img_embeds"]) < TOLERANCE
    prompts = {name: prompt_of(adapter, case_of(name)) for name in CASES}
    for name, prompt in prompts.items():
        assert difference(logits_of(adapter, prompt), expected[f"{name}/logits"]) < TOLERANCE, name
    together = written(adapter, prompts, pictures)
    assert together == {name: case_of(name)["greedy_ids"][1:] for name in CASES}
    assert together == written(adapter, prompts, pictures, rows=1)
    assert together == written(adapter, prompts, pictures, continuous=False)


def test_the_normalisation_has_the_authors_epsilon(demo: XrayGptAdapter, converted: Path) -> None:
    exact = tensors("expected")["ln_vision"]
    pixels = torch.stack([demo.pixels(picture(name)) for name in fixture.PICTURES])
    for adapter in (demo, load(converted)):
        norm: Any = adapter.model.vision_model.post_layernorm
        assert norm.eps == 1e-5
        with torch.inference_mode():
            right = adapter.model.vision_model(pixel_values=pixels).last_hidden_state
            norm.eps = 1e-6
            wrong = adapter.model.vision_model(pixel_values=pixels).last_hidden_state
            norm.eps = 1e-5
        assert difference(right, exact) < difference(wrong, exact)


def test_a_batch_equals_its_rows(demo: XrayGptAdapter, pictures: Path) -> None:
    batch = document("cases.json")["batch"]
    prompts = {"0": prompt_of(demo, case_of("test_wide")), "2": prompt_of(demo, case_of("test_gray"))}
    [middle] = [
        prompt
        for text in document("cases.json")["prompts"]
        if (prompt := in_test_form(demo).put(question_in(text), sample_of("tall"))).length == batch["lengths"][1]
    ]
    prompts["1"] = middle
    assert [prompts[name].length for name in "012"] == batch["lengths"]
    ids = written(demo, prompts, pictures)
    assert [ids[name] for name in "012"] == [own[1:] for own in batch["left_padded_with_mask_greedy_ids"]]


@torch.inference_mode()
def test_rows_padded_without_a_mask_are_wrong(demo: XrayGptAdapter) -> None:
    own = [embeddings_of(demo, prompt_of(demo, case_of(name))) for name in ("test_wide", "chat_tall")]
    longest = max(one.shape[1] for one in own)
    batch = torch.cat([torch.nn.functional.pad(one, (0, 0, longest - one.shape[1], 0)) for one in own])
    mask = torch.tensor([[0] * (longest - one.shape[1]) + [1] * one.shape[1] for one in own])
    alone = demo.decoder(inputs_embeds=own[0]).logits[0]
    masked = demo.decoder(inputs_embeds=batch, attention_mask=mask).logits[0, -len(alone) :]
    assert difference(alone, masked) < TOLERANCE
    assert difference(alone, demo.decoder(inputs_embeds=batch).logits[0, -len(alone) :]) > 1e-2


@torch.inference_mode()
def test_the_loss_of_training_is_the_authors(demo: XrayGptAdapter) -> None:
    """Teacher-forced over captions and their `###`, one mean over all tokens of the batch."""
    forward = document("cases.json")["forward_loss"]
    adapter, codec = in_test_form(demo), demo.tokens
    losses = []
    for caption, image in zip(forward["captions"], forward["images"], strict=True):
        prompt = embeddings_of(adapter, adapter.put(question_in(forward["prompt"]), sample_of(image)))
        target = torch.tensor(codec.ids(f"{caption}###"))
        whole = torch.cat([prompt, adapter.embed_tokens(target)[None]], dim=1)
        logits = adapter.decoder(inputs_embeds=whole).logits[0, prompt.shape[1] - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    assert float(torch.cat(losses).mean()) == pytest.approx(forward["loss"], abs=TOLERANCE)


def test_an_answer_stops(demo: XrayGptAdapter, pictures: Path) -> None:
    stop = document("cases.json")["stop"]
    prompt = in_test_form(demo).put(question_in(stop["prompt"]), sample_of(stop["image"]))
    ends = frozenset(stop["stop_ids"])
    assert written(demo, {"s": prompt}, pictures, ends=ends)["s"] == stop["greedy_ids"][1:-1]
    assert stop["greedy_ids"][-1] in ends
    assert demo.stop_strings(SPEC) == ("###",)
    assert make_request(demo, sample_of("wide"), SPEC, pictures).decoding.stop_strings == ("###",)


def test_a_stop_string_ends_its_row_alone(demo: XrayGptAdapter, pictures: Path) -> None:
    requests = [make_request(demo, sample_of(name, sample_id=name), SPEC, pictures) for name in ("wide", "tall")]
    whole = {request.sample.sample_id: generate_alone(demo, request).text for request in requests}
    mark = whole["wide"][6:8]
    marked = [replace(one, decoding=replace(one.decoding, stop_strings=(mark,))) for one in requests]
    outcomes = [one for some in Engine(demo, Budget(rows=2, tokens=9999), Phases()).generate(marked) for one in some]
    texts = {one.sample_id: one.generation.text for one in outcomes if one.generation}
    assert texts == {name: text.partition(mark)[0] for name, text in whole.items()}
    assert len(texts["wide"]) <= 6 < len(texts["tall"])


def test_the_engine_answers_as_generate_does(demo: XrayGptAdapter, pictures: Path) -> None:
    requests = [
        make_request(demo, sample_of(name, sample_id=str(number)), SPEC, pictures)
        for number, name in enumerate(("wide", "tall", "gray", "wide"))
    ]
    engine = Engine(demo, Budget(rows=3, tokens=9999), Phases())
    outcomes = {one.sample_id: one.generation for some in engine.generate(requests) for one in some}
    assert outcomes == {request.sample.sample_id: generate_alone(demo, request) for request in requests}


def test_what_an_answer_is() -> None:
    sample = sample_of("wide")
    assert parse(" The heart is normal. ###Patient: why", sample, SPEC).text == "The heart is normal."
    assert parse("Doctor: clear lungs\n", sample, SPEC).text == "clear lungs"
    assert parse("I say: Doctor: one Doctor: two", sample, SPEC).text == "two"
    assert parse("###", sample, SPEC).text == ""


def test_presets(demo: XrayGptAdapter, four: Path) -> None:
    author = load(four, preset="author", template="test")
    assert (dict(author.decoding), author.max_new_tokens(SPEC)) == ({"temperature": 1.0, "top_p": 0.9}, 300)
    assert (dict(demo.decoding), demo.max_new_tokens(SPEC)) == ({}, SPEC.max_new_tokens)
    assert author.put("What?", sample_of("wide")) == in_test_form(demo).put("What?", sample_of("wide"))


@pytest.mark.parametrize("images", [(), ("wide", "tall")])
def test_it_reads_one_image(images: tuple[str, ...], demo: XrayGptAdapter) -> None:
    with pytest.raises(SampleError, match="reads one image"):
        demo.render(sample_of(*images), SPEC, lambda _: (1, 1))


def test_surplus_parts_of_the_files_do_not_matter(demo: XrayGptAdapter, four: Path, tmp_path: Path) -> None:
    """EVA's last block, norm and head, BLIP-2's projection and the buffers are in the files and are not used."""
    fewer = fixture.make_four_files(tmp_path / "four", suffix=".safetensors")
    surplus = {
        VISION: ("blocks.3.", "norm.", "head."),
        QFORMER: ("t5_proj.",),
        TRAINED: ("Qformer.bert.embeddings.position_ids", "llama_model."),
    }
    for name, unused in surplus.items():
        state = load_file(fewer / f"{name}.safetensors")
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(unused)}
        assert len(kept) < len(state)
        save_file(kept, fewer / f"{name}.safetensors")
    assert torch.equal(
        logits_of(load(fewer), prompt_of(demo, case_of("test_wide"))),
        logits_of(load(four), prompt_of(demo, case_of("test_wide"))),
    )


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        (VISION, {"blocks.1.norm1.bias": None}, "missing: blocks.1.norm1.bias"),
        (VISION, {"blocks.1.extra": torch.ones(2)}, "unexpected: blocks.1.extra"),
        (VISION, {"cls_token": torch.ones(1, 1, 3)}, "vision_model.embeddings.class_embedding [1, 1, 3]"),
        (QFORMER, {"query_tokens": None}, "missing: query_tokens"),
        (QFORMER, {"Qformer.cls.bias": torch.ones(2)}, "unexpected: Qformer.cls.bias"),
        (QFORMER, {"ln_vision.weight": torch.ones(2)}, "vision_model.post_layernorm.weight [2]"),
        (TRAINED, {"llama_proj.bias": None}, "missing: llama_proj.bias"),
        (TRAINED, {"query_tokens": torch.ones(2)}, "unexpected: query_tokens"),
    ],
)
def test_weights_must_fit(name: str, changes: dict[str, torch.Tensor | None], told: str, tmp_path: Path) -> None:
    four = fixture.make_four_files(tmp_path / "four", suffix=".safetensors")
    state = {**load_file(four / f"{name}.safetensors"), **changes}
    save_file({key: tensor for key, tensor in state.items() if tensor is not None}, four / f"{name}.safetensors")
    with pytest.raises(DataError) as caught:
        load(four)
    assert told in str(caught.value)


class Strange:
    """An object of a program, which no checkpoint may bring along."""


def test_a_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    four = fixture.make_four_files(tmp_path / "four")
    torch.save({"model": dict(tensors("xraygpt_ckpt")), "config": Strange()}, four / f"{TRAINED}.pth")
    with pytest.raises(DataError, match="cannot be read") as caught:
        load(four)
    assert "keep the tensors alone" in str(caught.value)


def test_the_language_model_must_fit(tmp_path: Path) -> None:
    four = fixture.make_four_files(tmp_path / "four")
    language = four / "Vicuna_Radiology_fp16"
    state = load_file(language / "model.safetensors")
    save_file({name: one for name, one in state.items() if name != "model.norm.weight"}, language / "model.safetensors")
    with pytest.raises(DataError, match=r"missing: model\.norm\.weight"):
        load(four)
    config = json.loads((language / "config.json").read_text())
    (language / "config.json").write_text(json.dumps({**config, "model_type": "opt"}))
    with pytest.raises(DataError, match="of type 'opt'"):
        load(four)


def test_files_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions(arguments=ENTRY.settled("", {})))
    with pytest.raises(UsageError, match="is no folder"):
        load(tmp_path / "nowhere")
    four = fixture.make_four_files(tmp_path / "four")
    fixture.make_language(four / "another")
    with pytest.raises(DataError, match="2 folders with a language model"):
        load(four)
    (four / f"{QFORMER}.pth").unlink()
    with pytest.raises(DataError, match=f"{QFORMER}.pth missing"):
        load(four)


def test_unknown_sizes_are_refused(tmp_path: Path) -> None:
    four = fixture.make_four_files(tmp_path / "four")
    (four / SIZES).write_text(json.dumps({**fixture.sizes(), "depth": 3}))
    with pytest.raises(DataError, match="'depth'"):
        load(four)


def test_the_published_sizes_need_no_file(four: Path) -> None:
    config = config_of({part: file for part, file in find_files(four).items() if part != "sizes"})
    vision: Any = config.vision_config
    qformer: Any = config.qformer_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.intermediate_size) == (1408, 39, 6144)
    assert (vision.num_attention_heads, vision.image_size, vision.layer_norm_eps) == (16, 224, 1e-6)
    assert (qformer.hidden_size, qformer.num_hidden_layers, qformer.encoder_hidden_size) == (768, 12, 1408)
    assert config.num_query_tokens == 32
    language = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    config.text_config = LlamaConfig(**language, num_attention_heads=32)  # type: ignore[arg-type]  # a table of sizes
    with torch.device("meta"):
        weights = [one.numel() for one in Blip2ForConditionalGeneration(config).parameters()]
    assert (len(weights), round(sum(weights) / 1e9, 2)) == (1022, 7.83)


def test_half_precision_keeps_queries_and_positions_exact(four: Path, converted: Path) -> None:
    for folder in (four, converted):
        options = LoadOptions(checkpoint=folder, device="cpu", dtype="bfloat16", arguments=ENTRY.settled("", {}))
        adapter = ENTRY.load(options)
        assert isinstance(adapter, XrayGptAdapter)
        model = adapter.model
        assert adapter.dtype == "bfloat16"
        assert model.query_tokens.dtype == torch.float32
        assert {one.dtype for one in model.qformer.parameters()} == {torch.float32}
        assert {one.dtype for one in model.vision_model.parameters()} == {torch.bfloat16}
        assert cast("Any", model.language_model).model.rotary_emb.inv_freq.dtype == torch.float32
        assert not any(one.is_meta for one in [*model.parameters(), *model.buffers()])
        [features] = adapter.encode_images([adapter.pixels(picture("wide"))])
        assert features.dtype == torch.bfloat16
        assert adapter.project([features], "report")[0].dtype == torch.bfloat16


def test_the_converted_folder_is_one_of_transformers(converted: Path) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(converted)
    assert model.config.model_type == "blip-2"
    for name in CASES:
        case = case_of(name)
        before, behind = case["segment_ids"]
        start = [1] * (name == "train_wrap")
        ids = torch.tensor([[*start, *before, *[PLACEHOLDER] * 8, *behind]])
        pixels = torch.from_numpy(arrays()[f"pixels_{case['image']}"])[None]
        told = model.generate(pixel_values=pixels, input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert told[0, ids.shape[1] :].tolist() == case["greedy_ids"][1:], name
        assert tokenizer(case["prompt"].partition("<ImageHere>")[2], add_special_tokens=False)["input_ids"] == behind


def test_an_input_is_never_overwritten(four: Path) -> None:
    with pytest.raises(UsageError, match="is there already"):
        convert(four, four)


def test_a_damaged_conversion_is_refused(four: Path, tmp_path: Path) -> None:
    convert(four, tmp_path / "converted", dtype=torch.float32)
    file = tmp_path / "converted" / "model.safetensors"
    state = load_file(file)
    save_file({name: one for name, one in state.items() if "language_projection" not in name}, file)
    with pytest.raises(DataError, match=r"missing: language_projection\.bias"):
        load(tmp_path / "converted")


def test_what_changes_an_answer_changes_the_fingerprint(four: Path, demo: XrayGptAdapter, tmp_path: Path) -> None:
    again = fixture.make_four_files(tmp_path / "again", suffix=".safetensors")
    same = fixture.make_four_files(tmp_path / "same", suffix=".safetensors")
    assert load(again).weights_fingerprint == load(same).weights_fingerprint != demo.weights_fingerprint
    state = load_file(same / f"{TRAINED}.safetensors")
    save_file({**state, "llama_proj.bias": state["llama_proj.bias"] + 1}, same / f"{TRAINED}.safetensors")
    assert load(again).weights_fingerprint != load(same).weights_fingerprint
    assert load(four).weights_fingerprint == demo.weights_fingerprint


def test_the_card_says_what_it_saw() -> None:
    assert ENTRY.card.kinds == {"report"}
    assert "mimic-cxr" in (ENTRY.card.trained_on or ())


@pytest.mark.xdist_group("java")
def test_the_command_line_runs_it(four: Path, tmp_path: Path) -> None:
    done = medbench(
        "run", "--model", "xraygpt", "--checkpoint", four, "--tasks", "mimic-cxr,slake-vqa", "--limit", 2,
        "--model-arg", "template=test", "--output-dir", tmp_path / "runs", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [results] = (tmp_path / "runs").glob("*/results.json")
    assert list(json.loads(results.read_text())["tasks"]) == ["mimic-cxr"]
