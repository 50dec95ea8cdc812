"""LLaVA-Med against the authors' own code, through the published layouts, the loader, the adapter and the engine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import llava_med_fixtures as fixture
import parity
import pytest
import torch
from command_line import medbench
from llava_med_fixtures import SPEC, TOLERANCE, arrays, document, load, picture, sample_of, tensors
from parity import NEW_TOKENS, difference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from medbench.adapters.base import ImageSlot, LoadOptions, Prompt, TextSegment
from medbench.adapters.llava_med.convert import convert_delta, convert_v15
from medbench.adapters.llava_med.entry import ENTRY, TEMPLATES
from medbench.adapters.llava_med.model import LlavaMedAdapter, mark_ids
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.passes import why_not_packed
from medbench.harness.engine.requests import make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.sample import ImageRef
from medbench.unimed.tokens import load_codec

CASES = (
    "single_wide", "single_tall_long", "single_square_short", "vicuna_v1", "two_images", "multi_turn", "text_only",
)  # fmt: skip
OLD_CASES = ("simple_vqa", "simple_vqa2", "multimodal_trailing", "llava_v1", "text_only")
PREPROCESSED = (
    "wide__pad__lo", "tall__pad__lo", "square__pad__lo", "odd__pad__lo", "wide__crop__lo", "tall__crop__lo",
    "square__crop__lo", "odd__crop__lo", "gray__crop__lo", "wide__pad336__lo", "tall__crop336__lo",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llava_med")


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Path:
    return fixture.write_pictures(folder / "pictures")


@pytest.fixture(scope="module")
def v15(folder: Path) -> Path:
    return fixture.make_v15(folder / "v15")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    return fixture.make_tower(folder / "clip")


@pytest.fixture(scope="module")
def v10_parts(folder: Path) -> tuple[Path, Path]:
    return fixture.make_v10_parts(folder / "v10_parts")


@pytest.fixture(scope="module")
def v10(folder: Path, v10_parts: tuple[Path, Path]) -> Path:
    merged = folder / "v10"
    convert_delta(*v10_parts, merged, shard_bytes=100_000)
    fixture.make_tower(merged / "vision_tower", "v10_clip.safetensors")
    return merged


@pytest.fixture(scope="module")
def new(v15: Path) -> LlavaMedAdapter:
    return load(v15)


@pytest.fixture(scope="module")
def old(v10: Path) -> LlavaMedAdapter:
    return load(v10, "v1.0")


def case_of(name: str, source: str = "checkpoint") -> dict[str, Any]:
    found = [
        case for case in document("v15_cases.json")["cases"] if (case["id"], case["vision_source"]) == (name, source)
    ]
    assert len(found) == 1
    return cast("dict[str, Any]", found[0])


def old_case(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", next(c for c in document("v10_cases.json")["cases"] if c["id"] == name))


def prompt_of(adapter: LlavaMedAdapter, case: Mapping[str, Any]) -> Prompt:
    """Return the adapter's prompt of an authors' case; of one with several turns from its texts."""
    sample = sample_of(case["images"], sample_id=case["id"])
    question = case.get("question") or fixture.question_in(case["prompt"])
    if case["id"] != "multi_turn":
        return adapter.put(question, sample)
    codec = adapter.tokens
    first, later = case["prompt"].split("<image>")
    one, two = later.split("</s>")
    tail = (*codec.ids(one), codec.end, *codec.ids(two))
    slot = ImageSlot(image=sample.images[0], tokens=adapter.form.visual_tokens)
    return Prompt(segments=(TextSegment(ids=codec.begin + codec.ids(first)), slot, TextSegment(ids=tail)))


def vicuna_of(adapter: LlavaMedAdapter) -> LlavaMedAdapter:
    return LlavaMedAdapter(adapter.decoder, adapter.tokens, adapter.form, TEMPLATES["v1.5"]["vicuna_v1"])


def ids_of(prompt: Prompt, placeholder: int, *, expanded: bool) -> list[int]:
    ids: list[int] = []
    for segment in prompt.segments:
        if isinstance(segment, TextSegment):
            ids += segment.ids
        else:
            ids += [placeholder] * (segment.tokens if expanded else 1)
    return ids


embeddings_of, logits_of = partial(parity.embeddings_of, picture=picture), partial(parity.logits_of, picture=picture)
written = partial(parity.written, spec=SPEC)


def tower_pictures(adapter: LlavaMedAdapter) -> Sequence[torch.Tensor]:
    return adapter.encode_images([adapter.pixels(picture(name)) for name in ("wide", "square")])


@pytest.mark.parametrize("name", ["wide", "tall", "square"])
def test_pixels_of_version_1_0_are_the_authors_to_the_bit(old: LlavaMedAdapter, name: str) -> None:
    assert difference(old.pixels(picture(name)), torch.from_numpy(arrays("v10_pixels.npz")[name])) == 0


@pytest.mark.parametrize("source", ["checkpoint", "base"])
def test_version_1_5_computes_what_the_authors_compute(source: str, v15: Path, clip: Path, pictures: Path) -> None:
    tower = {"vision_source": "base", "vision_tower": str(clip)} if source == "base" else {}
    adapter = load(v15, **tower)
    vicuna = vicuna_of(adapter)
    expected = tensors("v15_expected.safetensors")
    features = tower_pictures(adapter)
    assert difference(torch.stack(list(features)), expected[f"{source}/features_select_m2_patch"]) < TOLERANCE
    assert difference(torch.stack(list(adapter.project(features, "vqa"))), expected[f"{source}/projected"]) < TOLERANCE
    prompts = {name: prompt_of(vicuna if name == "vicuna_v1" else adapter, case_of(name, source)) for name in CASES}
    for name, prompt in prompts.items():
        assert difference(logits_of(adapter, prompt), expected[f"{source}/{name}/logits"]) < TOLERANCE, name
    together = written(adapter, prompts, pictures)
    assert together == {name: case_of(name, source)["greedy_ids"][1:] for name in CASES}
    assert together == written(adapter, prompts, pictures, rows=1)
    assert together == written(adapter, prompts, pictures, continuous=False)
    texts = {name: adapter.detokenise(ids) for name, ids in together.items()}
    assert texts == {name: case_of(name, source)["greedy_text"] for name in CASES}


def test_the_two_towers_give_other_answers_and_the_run_says_how_far_they_are_apart(v15: Path, clip: Path) -> None:
    own, base = load(v15, vision_tower=str(clip)), load(v15, vision_source="base", vision_tower=str(clip))
    assert difference(tower_pictures(own)[0], tower_pictures(base)[0]) > 0.1
    [told], [also] = own.notices, base.notices
    assert f"the checkpoint's own, not the one in {clip}; their weights differ by up to 0.226" in told
    assert f"the one in {clip}, not the checkpoint's own; their weights differ by up to 0.226" in also
    assert own.weights_fingerprint != base.weights_fingerprint
    assert load(v15).notices == ()


def test_batches_padded_on_the_left_are_right_and_on_the_right_wrong(new: LlavaMedAdapter, pictures: Path) -> None:
    for batch in document("v15_cases.json")["batches"]:
        prompts = {name: prompt_of(new, case_of(name)) for name in batch["case_ids"]}
        ours = list(written(new, prompts, pictures).values())
        theirs = [ids[1:] for ids in batch["greedy_ids"]]
        same = [own == other for own, other in zip(ours, theirs, strict=True)]
        assert same == batch["greedy_equals_single"]
        logits = tensors("v15_expected.safetensors")[f"batch_{batch['padding_side']}/logits"]
        for prompt, padded in zip(prompts.values(), logits, strict=True):
            rows = padded[-prompt.length :] if batch["padding_side"] == "left" else padded[: prompt.length]
            assert difference(logits_of(new, prompt), rows) < TOLERANCE


@torch.inference_mode()
def test_a_batch_padded_on_the_left_by_transformers_equals_its_rows(new: LlavaMedAdapter) -> None:
    own = [embeddings_of(new, prompt_of(new, case_of(name))) for name in CASES]
    longest = max(one.shape[1] for one in own)
    batch = torch.cat([torch.nn.functional.pad(one, (0, 0, longest - one.shape[1], 0)) for one in own])
    mask = torch.tensor([[0] * (longest - one.shape[1]) + [1] * one.shape[1] for one in own])
    logits = new.decoder(inputs_embeds=batch, attention_mask=mask).logits
    for one, padded in zip(own, logits, strict=True):
        assert difference(new.decoder(inputs_embeds=one).logits[0], padded[longest - one.shape[1] :]) < TOLERANCE


def test_rows_with_and_without_images_share_a_batch(new: LlavaMedAdapter, pictures: Path) -> None:
    mixed = document("v15_cases.json")["mixed_batch_left"]
    prompts = {name: prompt_of(new, case_of(name)) for name in mixed["case_ids"]}
    assert list(written(new, prompts, pictures).values()) == [ids[1:] for ids in mixed["greedy_ids"]]


def test_a_prompt_is_refused_rather_than_cut(new: LlavaMedAdapter, folder: Path) -> None:
    truncation = document("v15_cases.json")["truncation"]
    limit, case = truncation["tokenizer_model_max_length"], case_of(truncation["case"])
    cut = tensors("v15_expected.safetensors")[f"truncate{limit}/logits"]
    assert difference(logits_of(new, prompt_of(new, case))[:limit], cut) < TOLERANCE
    short = load(fixture.make_v15(folder / "short", tokenizer_model_max_length=limit))
    with pytest.raises(SampleError, match=rf"tokens, but the model reads {limit}"):
        short.render(sample_of(["tall"], "Take a look at this X-ray and describe it."), SPEC, lambda _: (1, 1))


def test_render_puts_the_tasks_own_instruction_and_no_image_of_the_datas(new: LlavaMedAdapter) -> None:
    sample = sample_of(["wide"], "Is <image> this </s> a liver?")
    prompt = new.render(sample, SPEC, lambda _: (1, 1))
    asked = SPEC.instruction(sample).replace("<image>", "").strip()
    assert "<image>" not in asked
    assert prompt == new.put(asked, sample)
    assert len(prompt.images()) == 1
    assert new.tokens.end not in ids_of(prompt, -200, expanded=False)


@pytest.mark.parametrize("whole", [False, True])
def test_version_1_0_computes_what_the_authors_compute(whole: bool, v10: Path, tmp_path: Path, pictures: Path) -> None:
    tower = fixture.make_tower(tmp_path / "clip", "v10_clip.safetensors", whole=whole)
    expected = tensors("v10_expected.safetensors")
    adapters = {mode: load(v10, "v1.0", template=mode, vision_tower=str(tower)) for mode in TEMPLATES["v1.0"]}
    simple = adapters["simple"]
    features = tower_pictures(simple)
    assert difference(torch.stack(list(features)), expected["features"]) < TOLERANCE
    assert difference(torch.stack(list(simple.project(features, "vqa"))), expected["projected"]) < TOLERANCE
    patch = document("v10_cases.json")["special"]["<im_patch>"]
    prompts = {}
    for name in OLD_CASES:
        case = old_case(name)
        prompts[name] = prompt_of(adapters[case["conv_mode"]], case)
        assert ids_of(prompts[name], patch, expanded=True) == case["input_ids"], name
        if case["images"]:
            assert difference(logits_of(simple, prompts[name]), expected[f"{name}/logits"]) < TOLERANCE, name
    assert difference(logits_of(simple, prompts["text_only"]), expected["text_only/logits"]) < TOLERANCE
    together = written(simple, prompts, pictures)
    assert together == {name: old_case(name)["greedy_new_ids"] for name in OLD_CASES}
    assert together == written(simple, prompts, pictures, rows=1)


def test_batches_of_version_1_0_equal_its_rows(old: LlavaMedAdapter, v10: Path, pictures: Path) -> None:
    batch = document("v10_cases.json")["batch_left"]
    multimodal = load(v10, "v1.0", template="multimodal")
    prompts = {
        name: prompt_of(multimodal if name.startswith("multimodal") else old, old_case(name))
        for name in batch["case_ids"]
    }
    assert list(written(old, prompts, pictures).values()) == batch["greedy_new_ids"]


@torch.inference_mode()
def test_both_of_two_images_are_read(old: LlavaMedAdapter) -> None:
    """The authors' version 1.0 keeps the last image alone; ours is what transformers makes of the same prompt."""
    bug = document("v10_cases.json")["two_images_upstream_bug"]
    prompt = old.put("Compare.", sample_of(bug["images"]))
    ids = ids_of(prompt, document("v10_cases.json")["special"]["<im_patch>"], expanded=True)
    assert ids == bug["input_ids"]
    ours = logits_of(old, prompt)
    assert difference(ours, tensors("v10_expected.safetensors")["two_images_upstream_bug/logits"]) > 1
    pixels = torch.stack([old.pixels(picture(name)) for name in bug["images"]])
    theirs = old.decoder(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    assert difference(ours, theirs) < TOLERANCE


def test_the_delta_is_added_to_the_bit(v10: Path) -> None:
    merged: dict[str, torch.Tensor] = {}
    shards = sorted(v10.glob("*.safetensors"))
    for shard in shards:
        merged |= load_file(shard)
    assert all(merged[name].dtype == torch.float16 for name in merged)
    digests = {name: hashlib.sha256(one.numpy().tobytes()).hexdigest() for name, one in merged.items()}
    assert digests == document("v10_merged_sha256.json")
    assert len(shards) > 3
    largest = max(one.nbytes for one in merged.values())
    assert all(shard.stat().st_size < max(100_000, largest) + 10_000 for shard in shards)


def test_a_delta_fits_only_its_base(v10_parts: tuple[Path, Path], tmp_path: Path) -> None:
    base, delta = v10_parts
    other = tmp_path / "other"
    other.mkdir()
    fewer = {name: one for name, one in tensors("v10_base_llama.safetensors").items() if "layers.2" not in name}
    save_file(fewer, other / "model.safetensors")
    with pytest.raises(DataError, match="unexpected"):
        convert_delta(other, delta, tmp_path / "out")
    narrow = {**tensors("v10_base_llama.safetensors"), "model.norm.weight": torch.ones(3)}
    save_file(narrow, other / "model.safetensors")
    with pytest.raises(DataError, match=r"model\.norm\.weight is"):
        convert_delta(other, delta, tmp_path / "out")
    with pytest.raises(UsageError, match="is there already"):
        convert_delta(base, delta, delta)
    with pytest.raises(DataError, match="holds no weights"):
        convert_delta(tmp_path, delta, tmp_path / "out")


def test_a_delta_is_no_model(v10_parts: tuple[Path, Path], v10: Path) -> None:
    with pytest.raises(DataError, match="looks like a delta"):
        load(v10_parts[1], "v1.0", vision_tower=str(v10 / "vision_tower"))


def test_marks_come_from_the_tokenizer(v10: Path, v15: Path) -> None:
    codec, plain = load_codec(v10), load_codec(v15)
    assert mark_ids(codec, 1004) == (1001, 1002, 1003)
    assert mark_ids(plain, 1003) == (1000, 1001, 1002)
    with pytest.raises(DataError, match="1000 tokens"):
        mark_ids(plain, 1004)
    with pytest.raises(DataError, match="the model 1003"):
        mark_ids(codec, 1003)


def test_an_answer_of_version_1_0_ends_with_its_turn(
    old: LlavaMedAdapter, new: LlavaMedAdapter, pictures: Path
) -> None:
    assert old.stop_strings(SPEC) == ("###",)
    assert new.stop_strings(SPEC) == ()
    request = make_request(old, sample_of(["wide"], "What is it?"), SPEC, pictures)
    assert request.decoding.stop_strings == ("###",)
    turn = old.tokens.ids("Assistant: liver###Human")
    assert old.detokenise(turn).partition("###")[0] == "Assistant: liver"
    whole = generate_alone(old, request).text
    mark = whole[4:6]
    stopped = replace(request, decoding=replace(request.decoding, stop_strings=(mark,)))
    [outcome] = [one for some in Engine(old, Budget(rows=2, tokens=9999), Phases()).generate([stopped]) for one in some]
    assert outcome.generation is not None
    assert (outcome.generation.text, outcome.generation.stop) == (whole[: whole.index(mark)], "stop")


def test_the_engine_answers_as_generate_does(old: LlavaMedAdapter, new: LlavaMedAdapter, pictures: Path) -> None:
    for adapter in (old, new):
        samples = [
            sample_of(images, f"What is {'very ' * count}odd?", sample_id=f"s{count}")
            for count, images in enumerate([["wide"], [], ["tall", "odd"], ["wide"], ["square"]])
        ]
        requests = [make_request(adapter, sample, SPEC, pictures) for sample in samples]
        engine = Engine(adapter, Budget(rows=4, tokens=9999), Phases())
        outcomes = {one.sample_id: one.generation for some in engine.generate(requests) for one in some}
        assert outcomes == {request.sample.sample_id: generate_alone(adapter, request) for request in requests}


def test_presets(v10: Path, v15: Path, old: LlavaMedAdapter) -> None:
    author = load(v10, "v1.0", preset="author")
    assert (dict(author.decoding), author.max_new_tokens(SPEC)) == ({"temperature": 0.7}, 1024)
    assert (dict(old.decoding), old.max_new_tokens(SPEC)) == ({}, SPEC.max_new_tokens)
    later = load(v15, preset="author")
    assert (dict(later.decoding), later.max_new_tokens(SPEC)) == ({}, 1024)


def test_a_tuned_checkpoint_says_what_it_was_tuned_on(v15: Path) -> None:
    assert load(v15).trained_on is None
    assert load(v15, trained_on="none").trained_on == frozenset()
    assert load(v15, trained_on="slake-vqa, path-vqa").trained_on == frozenset({"slake-vqa", "path-vqa"})
    with pytest.raises(UsageError, match="slake-vq"):
        load(v15, trained_on="slake-vq")


def test_the_engine_finds_the_layers_of_the_decoder(new: LlavaMedAdapter, old: LlavaMedAdapter) -> None:
    for adapter in (new, old):
        assert len(cast("Any", adapter.decoder).get_decoder().layers) == 3
        assert why_not_packed(adapter.decoder) == ""


def test_titles_name_the_version(old: LlavaMedAdapter, new: LlavaMedAdapter) -> None:
    assert (old.title, new.title) == ("LLaVA-Med v1.0", "LLaVA-Med v1.5")


def test_a_checkpoint_without_a_tower_needs_one(tmp_path: Path, clip: Path, pictures: Path) -> None:
    tower = {name: None for name in tensors("v15_checkpoint.safetensors") if "vision_tower" in name}
    checkpoint = fixture.damaged(tmp_path / "checkpoint", **tower)
    with pytest.raises(DataError, match="holds no vision tower") as caught:
        load(checkpoint)
    assert "vision_source=base" in str(caught.value)
    with pytest.raises(UsageError, match="not in the checkpoint"):
        load(checkpoint, vision_source="base")
    adapter = load(checkpoint, vision_source="base", vision_tower=str(clip))
    assert adapter.notices == ()
    case = case_of("single_wide", "base")
    prompts = {"single_wide": prompt_of(adapter, case)}
    assert written(adapter, prompts, pictures)["single_wide"] == case["greedy_ids"][1:]


def test_half_precision_keeps_the_positions_exact(v15: Path) -> None:
    adapter = ENTRY.load(LoadOptions(checkpoint=v15, device="cpu", dtype="bfloat16", arguments=ENTRY.settled("", {})))
    assert isinstance(adapter, LlavaMedAdapter)
    assert adapter.dtype == "bfloat16"
    model = adapter.decoder.model
    assert cast("Any", model.language_model).rotary_emb.inv_freq.dtype == torch.float32
    assert tower_pictures(adapter)[0].dtype == torch.bfloat16


def test_what_changes_an_answer_changes_the_fingerprint(new: LlavaMedAdapter, tmp_path: Path) -> None:
    again = fixture.make_v15(tmp_path / "again")
    assert load(again).weights_fingerprint == new.weights_fingerprint
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": "square"}))
    assert load(again).weights_fingerprint != new.weights_fingerprint
    other = fixture.damaged(tmp_path / "other", **{"model.norm.weight": torch.full((64,), 0.9)})
    assert load(other).weights_fingerprint != load(fixture.damaged(tmp_path / "same")).weights_fingerprint


def test_the_converted_folder_is_one_of_transformers(v15: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    convert_v15(v15, output, dtype=torch.float32)
    processor = cast("Any", AutoProcessor).from_pretrained(output)
    model: Any = AutoModelForImageTextToText.from_pretrained(output, dtype=torch.float32)
    assert (processor.patch_size, processor.num_additional_image_tokens) == (14, 1)
    assert (processor.vision_feature_select_strategy, processor.image_processor.do_pad) == ("default", True)
    for name in ("single_wide", "single_tall_long", "two_images", "text_only"):
        case = case_of(name)
        question = fixture.question_in(case["prompt"])
        content = [{"type": "image", "image": picture(image)} for image in case["images"]]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        assert processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == case["prompt"]
        inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        told = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert told.tolist() == case["greedy_ids"][1:], name
    turns = case_of("multi_turn")["prompt"]
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is seen?"}]},
        {"role": "assistant", "content": "A nodule."},
        {"role": "user", "content": "Where?"},
    ]
    assert processor.apply_chat_template(chat, tokenize=False) == turns
    assert processor.tokenizer(turns.replace("<image>", "<image>" * 9))["input_ids"] == [
        1000 if one == -200 else one for one in expanded(case_of("multi_turn")["input_ids"], 9)
    ]


def expanded(ids: Sequence[int], tokens: int) -> list[int]:
    return [one for own in ids for one in ([own] * (tokens if own == -200 else 1))]


def test_only_version_1_5_is_converted(v10: Path, v15: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not LLaVA-Med 1\.5"):
        convert_v15(v10, tmp_path / "out")
    with pytest.raises(UsageError, match="is there already"):
        convert_v15(v15, v15)


def test_the_converted_folder_may_have_openais_tower(v15: Path, clip: Path, tmp_path: Path) -> None:
    convert_v15(v15, tmp_path / "out", vision_tower=clip, dtype=torch.float32)
    state = load_file(tmp_path / "out" / "model.safetensors")
    base = tensors("v15_clip_base.safetensors")["vision_model.pre_layrnorm.weight"]
    [ours] = [one for name, one in state.items() if name.endswith("pre_layrnorm.weight")]
    assert torch.equal(ours, base)


@pytest.mark.parametrize("kind", ["vqa", "report"])
def test_it_answers_questions_and_writes_reports(kind: str, new: LlavaMedAdapter) -> None:
    spec = get_task({"vqa": "path-vqa", "report": "mimic-cxr"}[kind])
    assert spec.kind in new.card.kinds
    sample = replace(sample_of(["wide"], "What is shown?"), images=(ImageRef(path="wide.png"),))
    assert new.render(sample, spec, lambda _: (1, 1)).length > 20


def test_a_folder_merged_by_the_authors_program_loads(v10: Path, old: LlavaMedAdapter, tmp_path: Path) -> None:
    """Theirs is a torch file, with buffers of rotary positions."""
    fixture.write_config(tmp_path, "v10_config.json")
    fixture.write_tokenizer(tmp_path, only_model=True)
    (tmp_path / "added_tokens.json").write_text(json.dumps(document("v10_cases.json")["special"]))
    buffers = {name: one for name, one in tensors("v10_delta.safetensors").items() if name.endswith("inv_freq")}
    assert buffers
    merged = {name: one for shard in v10.glob("*.safetensors") for name, one in load_file(shard).items()}
    torch.save({**merged, **buffers}, tmp_path / "pytorch_model.bin")
    theirs = load(tmp_path, "v1.0", vision_tower=str(v10 / "vision_tower"))
    prompt = prompt_of(old, old_case("simple_vqa"))
    assert prompt_of(theirs, old_case("simple_vqa")) == prompt
    assert torch.equal(logits_of(theirs, prompt), logits_of(old, prompt))
    assert theirs.detokenise([1001, 555, 1000, 1002]) == old.detokenise([555])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "given", "title"),
    [
        ("llava-med", "template=vicuna_v1", "LLaVA-Med v1.5"),
        ("llava-med:v1.0", "preset=author", "LLaVA-Med v1.0"),
    ],
)
def test_the_command_line_runs_it(model: str, given: str, title: str, v10: Path, v15: Path, tmp_path: Path) -> None:
    done = medbench(
        "run", "--model", model, "--checkpoint", v10 if model.endswith("v1.0") else v15, "--model-arg", given,
        "--tasks", "slake-vqa,slake-rec", "--limit", 2, "--output-dir", tmp_path / "runs", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = (tmp_path / "runs").glob("*/results.json")
    results = json.loads(file.read_text())
    assert results["model"]["title"] == title
    assert list(results["tasks"]) == ["slake-vqa"]
