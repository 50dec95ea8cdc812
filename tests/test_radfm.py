"""RadFM against the original code on recorded cases: every stage, the loader, the prompts and the engine."""

import json
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
    case,
    close,
    embedded,
    latents_of,
    load,
    on_volumes,
    prompt_of,
    request_of,
    state,
    write_checkpoint,
)
from transformers import GenerationConfig

from medbench.adapters.base import LoadOptions
from medbench.adapters.radfm.entry import ENTRY
from medbench.adapters.radfm.model import RadFMAdapter
from medbench.adapters.radfm.vision import patches_of
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("radfm"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> RadFMAdapter:
    return load(folder)


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
    vision = adapter.vision
    tower = vision.vision_encoder
    close(tower.to_patch_embedding(patches_of(volumes, (16, 16, 4))), given["patch_tokens"], 1e-5)
    close(tower.positions(volumes).expand_as(given["vit_pos"]), given["vit_pos"], 0)
    close(tower(volumes), given["vit_tokens"], 2e-5)
    latents = latents_of(adapter, list(volumes))
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
    assert (rough.dtype, next(rough.vision.parameters()).dtype) == ("bfloat16", torch.float32)
    assert rough.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
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
    shown = on_volumes(folder, volumes)
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


def test_images_become_squares_of_equal_slices(adapter: RadFMAdapter) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    pixels = adapter.pixels(image)
    expected = torch.from_numpy(np.array(image.resize((64, 64), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert torch.equal(pixels, expected)
    volume = (expected.float() / 255)[..., None].expand(-1, -1, -1, 4)
    with torch.inference_mode():
        [ours] = adapter.encode_images([pixels])
        assert torch.equal(ours, adapter.vision.latents(volume[None])[0])


def test_the_random_crop_depends_on_image_and_seed_alone(folder: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    image, ribbon = Image.fromarray(values), Image.new("RGB", (400, 4))
    drawn = [load(folder, seed=seed, crop="random").pixels(image) for seed in (*range(8), 0)]
    assert torch.equal(drawn[0], drawn[-1])
    assert len({one.numpy().tobytes() for one in drawn}) > 5
    assert load(folder, crop="random").pixels(ribbon).shape == (3, 64, 64)


@pytest.mark.slow
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
