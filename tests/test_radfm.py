"""RadFM against the original code on recorded cases: every stage, the loader, the prompts and the engine."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import medbench
from PIL import Image
from radfm_fixtures import (
    LIMIT,
    SINGLE,
    UPSTREAM_END,
    OnVolumes,
    case,
    document,
    embedded,
    load,
    prompt_of,
    request_of,
    state,
    write_checkpoint,
)
from transformers import GenerationConfig

from adapters.base import ImageSlot, LoadOptions, TextSegment
from adapters.layers.segment_tokenizer import SegmentTokenizer, read_tokenizer
from adapters.radfm.adapter import RadFMAdapter
from adapters.radfm.convert import convert
from adapters.radfm.entry import ENTRY
from adapters.radfm.pictures import random_square, slices_of, square, target_depth, volume_pixels
from adapters.radfm.prompts import question_of, with_images
from harness.engine.alone import generate_alone
from harness.engine.budget import Budget
from harness.engine.engine import Engine
from harness.phases import Phases
from tasks.catalog import get_task
from tasks.foundation.errors import DataError, SampleError, UsageError
from tasks.sample import ImageRef, Sample

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("radfm"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> RadFMAdapter:
    return load(folder)


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=0)


def generated(
    adapter: RadFMAdapter, embeddings: torch.Tensor, mask: torch.Tensor, *, end: int = UPSTREAM_END
) -> list[list[int]]:
    config = cast("Any", GenerationConfig)(do_sample=False, max_new_tokens=LIMIT, eos_token_id=end, pad_token_id=0)
    with torch.inference_mode():
        written = cast("Any", adapter.decoder).generate(
            generation_config=config, inputs_embeds=embeddings, attention_mask=mask
        )
    return cast("list[list[int]]", written.tolist())


def cut(ids: Sequence[int]) -> list[int]:
    """Return recorded ids without the dummy at their beginning, up to upstream's end token."""
    kept = list(ids)[1:]
    return kept[: kept.index(UPSTREAM_END) + 1] if UPSTREAM_END in kept else kept


@torch.inference_mode()
@pytest.mark.parametrize("name", SINGLE)
def test_every_stage_of_vision_equals_the_original(adapter: RadFMAdapter, name: str) -> None:
    given = case(name)
    volumes = given["vision_x"].flatten(0, 1)
    vision = adapter._model.vision
    tower = vision.vision_encoder
    close(tower.to_patch_embedding(volumes), given["patch_tokens"], 1e-5)
    close(tower.positions(volumes).expand_as(given["vit_pos"]), given["vit_pos"], 0)
    close(tower(volumes), given["vit_tokens"], 2e-5)
    latents = adapter.encode_images(list(volumes))
    close(torch.stack(list(latents)), given["perceiver_latents"].flatten(0, 1), 2e-5)
    tokens = torch.stack(list(adapter.project(latents, "vqa")))
    close(tokens[:, 1:-1].flatten(0, 1), given["fc_out"], 2e-5)
    close(tokens[:, [0, -1]], state()["embedding_layer.figure_token_weight"].expand(len(tokens), -1, -1), 0)


@torch.inference_mode()
@pytest.mark.parametrize("name", SINGLE)
def test_embeddings_logits_and_greedy_ids_equal_the_original(adapter: RadFMAdapter, name: str) -> None:
    given = case(name)
    prompt = prompt_of(given["input_ids"][0].tolist())
    assert prompt.length == given["input_ids"].shape[1]
    volumes = list(given["vision_x"].flatten(0, 1))[: len(prompt.images())]
    embeddings = embedded(adapter, prompt, volumes)[None]
    close(embeddings, given["inputs_embeds"], 2e-5)
    logits = cast("Any", adapter.decoder)(inputs_embeds=embeddings).logits
    close(logits, given["logits"])
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    [ids] = generated(adapter, embeddings, mask)
    assert ids == cut(given["generated_upstream"][0].tolist())


@torch.inference_mode()
def test_a_padded_batch_equals_single_rows_and_without_a_mask_it_is_wrong(adapter: RadFMAdapter) -> None:
    given = case("case5_batch_left_pad")
    rows = []
    for row, number in enumerate(given["num_images"].tolist()):
        ids = given[f"sample{row}.input_ids"][0].tolist()
        rows.append(embedded(adapter, prompt_of(ids), list(given["vision_x"][row][:number])))
    longest = max(map(len, rows))
    padded = torch.zeros(len(rows), longest, rows[0].shape[1])
    for row, own in enumerate(rows):
        padded[row, longest - len(own) :] = own
        logits = cast("Any", adapter.decoder)(inputs_embeds=own[None]).logits
        close(logits, given[f"sample{row}.logits"])
    mask = given["attention_mask"]
    # Upstream pads with the embedding of id 0.
    padded[mask == 0] = adapter.embed_tokens(torch.tensor([0]))
    close(padded, given["inputs_embeds"], 2e-5)
    with_mask, without = generated(adapter, padded, mask), generated(adapter, padded, torch.ones_like(mask))
    singles = [cut(given[f"sample{row}.generated_upstream"][0].tolist()) for row in range(len(rows))]
    assert [ids[: len(own)] for ids, own in zip(with_mask, singles, strict=True)] == singles
    recorded = [cut(ids) for ids in given["generated_batched_with_mask"].tolist()]
    assert [ids[: len(own)] for ids, own in zip(with_mask, recorded, strict=True)] == recorded
    wrong = [cut(ids) for ids in given["generated_batched_no_mask"].tolist()]
    assert [ids[: len(own)] for ids, own in zip(without, wrong, strict=True)] == wrong
    assert [without[row][: len(own)] == own for row, own in enumerate(singles)] == [False, True, False]


@torch.inference_mode()
def test_bfloat16_is_near(folder: Path) -> None:
    given, exact = case("case6_bf16_of_case1"), case("case1_single_2d")
    rough = ENTRY.load(LoadOptions(checkpoint=folder, device="cpu", dtype="bfloat16"))
    assert isinstance(rough, RadFMAdapter)
    assert (rough.dtype, next(rough._model.vision.parameters()).dtype) == ("bfloat16", torch.float32)
    assert rough._model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32
    prompt = prompt_of(exact["input_ids"][0].tolist())
    embeddings = embedded(rough, prompt, list(exact["vision_x"][0]))[None]
    # Upstream rounds in vision too; ours, exact there, is nearer to what both approach.
    close(embeddings, exact["inputs_embeds"], 0.02)
    close(embeddings, given["inputs_embeds"], 0.15)
    logits = cast("Any", rough.decoder)(inputs_embeds=embeddings).logits
    close(logits, exact["logits"], 0.7)
    close(logits, given["logits"], 0.7)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("rows", [2, 8])
def test_the_engine_writes_what_the_original_wrote(folder: Path, tmp_path: Path, continuous: bool, rows: int) -> None:
    volumes: list[torch.Tensor] = []
    requests, expected = [], {}

    def add(name: str, ids: list[int], own: list[torch.Tensor], written: list[int]) -> None:
        requests.append(request_of(name, ids, len(volumes), tmp_path))
        volumes.extend(own)
        expected[name] = written

    for name in SINGLE:
        given = case(name)
        ids = given["input_ids"][0].tolist()
        number = len(prompt_of(ids).images())
        own = list(given["vision_x"].flatten(0, 1))[:number]
        add(name, ids, own, cut(given["generated_upstream"][0].tolist()))
    batch = case("case5_batch_left_pad")
    for row, number in enumerate(batch["num_images"].tolist()):
        ids = batch[f"sample{row}.input_ids"][0].tolist()
        written = cut(batch[f"sample{row}.generated_upstream"][0].tolist())
        add(f"row{row}", ids, list(batch["vision_x"][row][:number]), written)
    for number in range(len(volumes)):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"{number}.png")
    shown = OnVolumes(folder, volumes)
    engine = Engine(shown, Budget(rows=rows, tokens=8192), Phases(), continuous=continuous)
    assert engine.why_static == ("" if continuous else "static batches were asked for")
    found = {outcome.sample_id: outcome for some in engine.generate(requests) for outcome in some}
    for name, written in expected.items():
        generation = found[name].generation
        assert generation is not None, found[name].error
        ended = written[-1] == UPSTREAM_END
        assert generation.text == shown.detokenise(written[:-1] if ended else written)
        assert generation.output_tokens == len(written)
        assert generation.stop == ("eos" if ended else "length")
    if continuous and rows == 2:
        alone = {one.sample.sample_id: generate_alone(shown, one) for one in requests}
        assert {name: outcome.generation for name, outcome in found.items()} == alone


def test_a_converted_folder_is_the_same_model(adapter: RadFMAdapter, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    convert(folder, output, dtype="float32", shard_bytes=100_000)
    assert len(list((output / "language_model").glob("*.safetensors"))) > 3
    converted = load(output)
    assert converted._model.sizes == adapter._model.sizes
    for ours, theirs in (
        (converted._model.language_model, adapter._model.language_model),
        (converted._model.vision, adapter._model.vision),
    ):
        weights = cast("torch.nn.Module", theirs).state_dict()
        assert all(torch.equal(one, weights[name]) for name, one in ours.state_dict().items())
    assert converted.weights_fingerprint != adapter.weights_fingerprint
    with pytest.raises(UsageError, match="is there already"):
        convert(folder, output)


def test_converting_to_bfloat16_halves_the_language_model(adapter: RadFMAdapter, folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "half")
    loaded = load(tmp_path / "half")
    given, halved = (one._model.language_model.state_dict() for one in (adapter, loaded))
    assert all(torch.equal(halved[name], given[name].bfloat16().float()) for name in given)
    assert torch.equal(loaded._model.vision.fc.weight, adapter._model.vision.fc.weight)


def test_a_failed_conversion_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no type 'int8'"):
        convert(folder, tmp_path / "out", dtype="int8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"lacks pytorch_model\.bin, tokenizer\.model"):
        convert(tmp_path / "empty", tmp_path / "out")
    broken = write_checkpoint(tmp_path / "broken", {**state(), "embedding_layer.fc.weight": torch.zeros(3, 3)})
    with pytest.raises(DataError, match=r"fc\.weight"):
        convert(broken, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "empty"]


def test_the_leading_word_of_wrapped_training_is_accepted(adapter: RadFMAdapter, tmp_path: Path) -> None:
    wrapped = write_checkpoint(tmp_path, {f"module.{name}": tensor for name, tensor in state().items()})
    loaded = load(wrapped)
    assert torch.equal(loaded._model.language_model.lm_head.weight, adapter._model.language_model.lm_head.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lang_model.model.layers.1.mlp.up_proj.weight": None}, "1 missing: model.layers.1.mlp.up_proj.weight"),
        ({"embedding_layer.perceiver.norm.bias": None}, "1 missing: perceiver.norm.bias"),
        ({"embedding_layer.fc.bias": torch.zeros(5)}, "of another shape: fc.bias"),
        ({"lang_model.model.layers.7.mlp.up_proj.weight": torch.zeros(1)}, "missing"),
        ({"embedding_layer.new_part.weight": torch.zeros(1)}, "1 unexpected: new_part.weight"),
        ({"another.weight": torch.zeros(1)}, "holds what no RadFM has: another.weight"),
        ({"embedding_layer.weight": torch.zeros(448, 64)}, "embedding_layer.weight twice, and differently"),
        ({"embedding_layer.perceiver.latents": None}, "no RadFM"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], said: str, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in {**state(), **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=said):
        load(write_checkpoint(tmp_path, weights))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"visoin": {}}, "no table of sizes"),
        ({"vision": {"head": 3}}, "impossible sizes: head"),
        ({"vision": {"heads": "three"}}, "no RadFM|impossible sizes"),
        ({"language_model": {"num_attention_heads": 5}}, "sizes of the language model cannot be"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "radfm.json").write_text(json.dumps(sizes), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load(folder)


def test_what_is_not_there_is_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions())
    with pytest.raises(DataError, match=r"tokenizer\.model is missing"):
        load(tmp_path)
    shutil.copyfile(folder / "tokenizer.model", tmp_path / "tokenizer.model")
    with pytest.raises(DataError, match=r"neither pytorch_model\.bin nor vision\.safetensors"):
        load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="no SentencePiece model"):
        load(tmp_path)


def test_the_depth_rule_is_the_originals() -> None:
    rule = document("depth_rule.json")
    assert {depth: target_depth([int(depth)]) for depth in rule["target_depth"]} == rule["target_depth"]
    mixed = rule["mixed_example"]
    assert [[512, 512, target_depth(mixed["input_depths"])]] * 3 == mixed["sizes"]
    assert target_depth([None]) == target_depth([]) == 4


def test_volumes_are_scaled_by_their_own_range() -> None:
    volume = np.arange(6 * 4 * 10, dtype=np.int16).reshape(6, 4, 10) - 100
    pixels = volume_pixels(volume, target_depth([10]), 12)
    assert pixels.shape == (3, 12, 12, 8)
    assert (float(pixels.min()), bool(pixels.max() <= 1)) == (0, True)
    whole = torch.from_numpy((volume + 100) / np.float32(volume.size - 1))
    nearest = whole[torch.arange(12) // 2][:, torch.arange(12) // 3][:, :, (torch.arange(8) * 1.25).long()]
    close(pixels, nearest.expand(3, -1, -1, -1), 1e-6)
    assert not volume_pixels(np.full((4, 4, 4), 7), 4, 8).any()


def test_pictures_become_squares_of_equal_slices(adapter: RadFMAdapter) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    pixels = adapter.pixels(picture)
    assert torch.equal(pixels, square(picture, 64))
    expected = torch.from_numpy(np.array(picture.resize((64, 64), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    volume = slices_of(pixels)
    assert volume.shape == (3, 64, 64, 4)
    assert torch.equal(volume[..., 3], expected.float() / 255)
    with torch.inference_mode():
        [ours] = adapter.encode_images([pixels])
        [theirs] = adapter.encode_images([volume])
    assert torch.equal(ours, theirs)


def test_the_random_crop_depends_on_picture_and_seed_alone(folder: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    cropping = load(folder, crop="random")
    assert torch.equal(cropping.pixels(picture), random_square(picture, 64, 0))
    drawn = [random_square(picture, 64, seed) for seed in range(20)]
    assert all(torch.equal(one, random_square(picture, 64, seed)) for seed, one in enumerate(drawn))
    assert len({one.numpy().tobytes() for one in drawn}) > 15
    ribbon = Image.new("RGB", (400, 4))
    assert random_square(ribbon, 64, 0).shape == (3, 64, 64)


def test_volumes_of_any_shape_are_encoded_together_and_impossible_ones_are_refused(adapter: RadFMAdapter) -> None:
    torch.manual_seed(0)
    volumes = [torch.rand(3, *sides) for sides in ((64, 64, 4), (32, 48, 8), (64, 64, 4))]
    with torch.inference_mode():
        together = adapter.encode_images(volumes)
        for one, volume in zip(together, volumes, strict=True):
            close(adapter.encode_images([volume])[0], one, 1e-5)
        with pytest.raises(SampleError, match="64x60x4 cannot be cut"):
            adapter.encode_images([torch.rand(3, 64, 60, 4)])
        with pytest.raises(SampleError, match="5 patches along one axis"):
            adapter.encode_images([torch.rand(3, 80, 64, 4)])


class Recorded:
    """A vocabulary that knows the recorded stretches of text, and nothing else."""

    def __init__(self, words: dict[str, tuple[int, ...]]) -> None:
        self._words = words

    def get_piece_size(self) -> int:
        return 32000

    def is_control(self, token: int) -> bool:
        return token in {1, 2}

    def is_unknown(self, token: int) -> bool:
        return token == 0

    def encode(self, text: str) -> tuple[int, ...]:
        return self._words[text]


def recorded_parts(text: str) -> list[str | ImageRef]:
    """Return a recorded text, in which `{IMG k}` stands for an image, as texts and images."""
    first, *others = text.split("{IMG ")
    parts: list[str | ImageRef] = [first]
    for other in others:
        number, _, rest = other.partition("}")
        parts += [ImageRef(path=number), rest]
    return [part for part in parts if part]


def recorded_ids(parts: Sequence[tuple[int, ...] | ImageRef]) -> list[int]:
    given = document("tokenization.json")
    ids = [given["bos"]]
    for part in parts:
        if isinstance(part, ImageRef):
            first = given["first_image_token"] + given["tokens_per_image"] * int(part.path)
            ids += [given["figure_open"], *range(first, first + given["tokens_per_image"]), given["figure_close"]]
        else:
            ids += part
    return ids


def test_stretches_of_text_are_those_of_the_recorded_tokenizer() -> None:
    """Each stretch without the white space beside images has ids of its own, the same wherever it stands."""
    given = document("tokenization.json")
    words: dict[str, tuple[int, ...]] = {}
    for one in given["cases"]:
        texts = [part.strip() for part in recorded_parts(one["text"]) if isinstance(part, str)]
        stretches: list[tuple[int, ...]] = []
        run: list[int] = []
        for token in [*one["input_ids"][1:], given["figure_open"]]:
            if token < given["figure_open"]:
                run.append(token)
            elif run:
                stretches.append(tuple(run))
                run = []
        for text, ids in zip([text for text in texts if text], stretches, strict=True):
            assert words.setdefault(text, ids) == ids
    tokenizer = SegmentTokenizer(Recorded(words))
    for one in given["cases"]:
        assert recorded_ids(tokenizer.encode(recorded_parts(one["text"]))) == one["input_ids"]


def test_token_ids_of_the_real_llama_tokenizer() -> None:
    place = os.environ.get("MEDBENCH_LLAMA_TOKENIZER")
    if not place:
        pytest.skip("LLaMA's tokenizer.model may not be passed on: set MEDBENCH_LLAMA_TOKENIZER to a folder with it")
    tokenizer = read_tokenizer(Path(place) / "tokenizer.model")
    given = document("tokenization.json")
    for one in given["cases"]:
        assert recorded_ids(tokenizer.encode(recorded_parts(one["text"]))) == one["input_ids"]
    for one in given["decode_skip_special"]:
        assert tokenizer.decode(one["ids"]) == one["text"]


def sample_of(task: str, images: int = 1, **inputs: str) -> Sample:
    refs = tuple(ImageRef(path=f"{number}.png") for number in range(images))
    return Sample(sample_id="s", task=task, split="test", images=refs, inputs=inputs, reference="")


def written_prompt(adapter: RadFMAdapter, sample: Sample) -> list[str]:
    """Return the parts of a prompt as words."""
    prompt = adapter.render(sample, get_task(sample.task), lambda _: (1, 1))
    assert all(segment.tokens == 10 for segment in prompt.segments if isinstance(segment, ImageSlot))
    assert prompt.segments[0] == TextSegment(ids=(1,))
    return [
        segment.image.path if isinstance(segment, ImageSlot) else adapter.detokenise(segment.ids)
        for segment in prompt.segments[1:]
    ]


def test_images_stand_where_the_authors_put_them(adapter: RadFMAdapter, folder: Path) -> None:
    question = sample_of("slake-vqa", question=" Is <image>the liver shown? ")
    assert written_prompt(adapter, question) == ["0.png", "Is the liver shown?"]
    chest = sample_of("mimic-cxr", images=2)
    text = "Can you provide a radiology report for this medical image"
    assert written_prompt(adapter, chest) == [text, "0.png", "1.png", "?"]
    assert written_prompt(load(folder, image_position="end"), question) == ["Is the liver shown", "0.png", "?"]
    assert written_prompt(load(folder, image_position="start"), chest) == ["0.png", "1.png", f"{text}?"]
    assert written_prompt(adapter, sample_of("slake-vqa", images=0, question="Is it?")) == ["Is it?"]
    assert with_images("", [], "end") == ("", "")


def test_each_kind_is_asked_in_its_words() -> None:
    spec = get_task("mimic-cxr-impression")
    assert question_of(sample_of(spec.name), spec) == "Could you provide an impression for this chest scan?"
    spec = get_task("mpx-single")
    assert question_of(sample_of(spec.name), spec) == "Describe this input image."
    spec = get_task("dermamnist")
    given = sample_of(spec.name, subject="skin lesion", classes="a, b")
    assert question_of(given, spec) == "Which category does this skin lesion belong to: a, b?"


def test_the_card_and_the_limits(adapter: RadFMAdapter) -> None:
    assert adapter.end_ids == {2}
    assert adapter.max_new_tokens(get_task("medqa-options")) == 200
    assert ENTRY.card.kinds == {"vqa", "report", "cls"}
    assert ENTRY.card.trained_on >= {"slake-vqa", "mpx-single"}
    assert adapter.decoder.config.eos_token_id == 2
    assert cast("Any", adapter.decoder.config)._attn_implementation == "sdpa"


def test_a_run_on_the_mini_suite(folder: Path, tmp_path: Path) -> None:
    result = medbench(
        "run", "--model", "radfm", "--checkpoint", folder, "--tasks", "vqa,cls,report", "--limit", "2",
        "--output-dir", tmp_path, "--device", "cpu", env={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [results] = tmp_path.glob("radfm-mini-*/results.json")
    scored = json.loads(results.read_text(encoding="utf-8"))
    assert {"slake-vqa", "mimic-cxr", "dermamnist"} <= set(scored["tasks"])
    [answers] = tmp_path.glob("radfm-mini-*/generations/slake-vqa.jsonl")
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 2
