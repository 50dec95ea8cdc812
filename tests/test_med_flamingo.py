"""Med-Flamingo against the original code on recorded cases: every stage, both rules, the loader and the engine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import medbench
from fixture_root import normalised
from med_flamingo_fixtures import (
    BATCH,
    IMAGE,
    NEW_TOKENS,
    PAD,
    RULES,
    SINGLE,
    VOCABULARY,
    OnPixels,
    case,
    close,
    document,
    load,
    numbered_pictures,
    own_pixels,
    prompt_of,
    request_of,
    root,
    write_checkpoint,
)
from PIL import Image
from transformers import GenerationConfig

from medbench.adapters.base import RowStates
from medbench.adapters.clip import clip_pixels
from medbench.adapters.med_flamingo.decoder import GatedLayer, Media, group_by_image, seen_images
from medbench.adapters.med_flamingo.model import MedFlamingoAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("med-flamingo"))


@pytest.fixture(scope="module")
def adapters(folder: Path) -> dict[str, MedFlamingoAdapter]:
    """The same weights under both rules."""
    return {rule: load(folder, media_rule=rule) for rule in RULES}


def state_of(adapter: MedFlamingoAdapter, ids: Sequence[int], pixels: torch.Tensor) -> Media:
    prompt = prompt_of(ids)
    images = pixels[: len(prompt.images())]
    return adapter.row_state(adapter.encode_images(list(images)) if len(images) else [], prompt, "vqa")


def generated(
    adapter: MedFlamingoAdapter, ids: torch.Tensor, states: Sequence[Media], mask: torch.Tensor | None = None
) -> list[list[int]]:
    """Return what transformers writes from the embeddings of ids, up to the recorded length."""
    config = cast("Any", GenerationConfig)(
        do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0
    )
    written = cast("Any", adapter.decoder).generate(
        generation_config=config, inputs_embeds=adapter.embed_tokens(ids),
        attention_mask=torch.ones_like(ids) if mask is None else mask, row_states=RowStates(states=tuple(states)),
    )  # fmt: skip
    return cast("list[list[int]]", written.tolist())


@torch.inference_mode()
@pytest.mark.parametrize("name", SINGLE)
def test_vision_equals_the_original(adapters: dict[str, MedFlamingoAdapter], name: str) -> None:
    given, vision = case(name), adapters["previous"].vision
    pixels = own_pixels(given)
    close(vision.patches(pixels), given["clip_tokens"], 2e-5)
    close(vision(pixels), given["perceiver_latents"][0], 2e-5)


class Seen:
    """What the blocks of a decoder give in one pass."""

    def __init__(self, adapter: MedFlamingoAdapter) -> None:
        self.looked: dict[int, torch.Tensor] = {}
        self.gated: dict[int, torch.Tensor] = {}
        self._handles = []
        for place, layer in enumerate(adapter.decoder.model.layers):
            if isinstance(layer, GatedLayer):
                self._handles += [
                    layer.gated.attn.register_forward_hook(self._keeper(self.looked, place)),
                    layer.gated.register_forward_hook(self._keeper(self.gated, place)),
                ]

    @staticmethod
    def _keeper(kept: dict[int, torch.Tensor], place: int) -> Any:  # noqa: ANN401 - a hook
        def keep(_: object, __: object, output: torch.Tensor) -> None:
            kept[place] = output

        return keep

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()


@torch.inference_mode()
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SINGLE)
def test_blocks_logits_and_greedy_ids_equal_the_original(
    adapters: dict[str, MedFlamingoAdapter], name: str, rule: str
) -> None:
    given, adapter = case(name), adapters[rule]
    ids = given["input_ids"]
    state = state_of(adapter, ids[0].tolist(), own_pixels(given))
    seen = Seen(adapter)
    embeddings = adapter.embed_tokens(ids)
    logits = cast("Any", adapter.decoder)(inputs_embeds=embeddings, row_states=RowStates(states=(state,))).logits
    seen.stop()
    close(seen.looked[3], given[f"{rule}.layer3_xattn_out"][0], 5e-5)
    close(seen.gated[3], given[f"{rule}.layer3_gated_out"], 5e-5)
    close(seen.gated[7], given[f"{rule}.layer7_gated_out"], 1e-4)
    assert logits.shape[-1] == VOCABULARY
    close(logits, given[f"{rule}.logits"][..., :VOCABULARY])
    [written] = generated(adapter, ids, [state])
    assert ids[0].tolist() + written == given[f"{rule}.generated"][0].tolist()


@torch.inference_mode()
def test_the_rules_give_different_answers() -> None:
    for name in SINGLE[:3]:
        given = case(name)
        assert given["previous.generated"].tolist() != given["next.generated"].tolist()


@torch.inference_mode()
@pytest.mark.parametrize("rule", RULES)
def test_a_padded_batch_equals_single_rows_and_without_a_mask_it_does_not(
    adapters: dict[str, MedFlamingoAdapter], rule: str
) -> None:
    given, adapter = case("case5_batch_left_pad"), adapters[rule]
    ids, mask = given["input_ids"], given["attention_mask"]
    states = [
        state_of(adapter, own[kept == 1].tolist(), own_pixels(given, row)[:number])
        for row, (own, kept, number) in enumerate(zip(ids, mask, given["num_images"].tolist(), strict=True))
    ]
    assert set(ids[mask == 0].tolist()) == {PAD}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = cast("Any", adapter.decoder)(
        inputs_embeds=adapter.embed_tokens(ids), attention_mask=mask, position_ids=positions,
        row_states=RowStates(states=tuple(states)),
    ).logits  # fmt: skip
    close(logits[mask == 1], given[f"{rule}.logits"][mask == 1][:, :VOCABULARY])
    written = generated(adapter, ids, states, mask)
    assert [row[-NEW_TOKENS:] for row in given[f"{rule}.generated"].tolist()] == written
    singles = [case(name)[f"{rule}.generated"][0].tolist()[-NEW_TOKENS:] for name in BATCH]
    assert written == singles
    unmasked = generated(adapter, ids, states)
    equal = [one == single for one, single in zip(unmasked, singles, strict=True)]
    assert equal == document("config.json")["checks"][rule]["batch"]["without_mask_equal"] == [True, False, False]


@torch.inference_mode()
@pytest.mark.parametrize("rule", RULES)
def test_without_the_images_the_answers_are_others(adapters: dict[str, MedFlamingoAdapter], rule: str) -> None:
    """The media are really looked at, and only where the rule allows it."""
    given, adapter = case("case2_two_images_text_tail"), adapters[rule]
    ids = given["input_ids"]
    state = state_of(adapter, ids[0].tolist(), own_pixels(given))
    blind = Media(images=state.images, seen=np.zeros_like(state.seen))
    recorded = given[f"{rule}.generated"][0].tolist()[-NEW_TOKENS:]
    assert generated(adapter, ids, [blind])[0] != recorded
    swapped = Media(images=state.images[::-1], seen=state.seen)
    assert generated(adapter, ids, [swapped])[0] != recorded


def all_requests(tmp_path: Path, **decoding: Any) -> tuple[list[Request], list[torch.Tensor]]:
    """Return the recorded cases as requests, some of them twice, with the pixels of their numbered pictures."""
    requests: list[Request] = []
    pixels: list[torch.Tensor] = []
    for turn in range(2):
        for name in SINGLE:
            prompt = prompt_of(case(name)["input_ids"][0].tolist(), first=len(pixels))
            requests.append(request_of(f"{name}/{turn}", prompt, tmp_path, **decoding))
            pixels += list(own_pixels(case(name)))[: len(prompt.images())]
    numbered_pictures(tmp_path, len(pixels))
    return requests, pixels


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("rows", [3, 16])
def test_the_engine_writes_what_the_original_wrote(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, continuous: bool, rows: int
) -> None:
    requests, pixels = all_requests(tmp_path)
    adapter = load(folder, media_rule=rule)
    monkeypatch.setattr(adapter, "pixels", OnPixels(pixels))
    phases = Phases()
    engine = Engine(adapter, Budget(rows=rows, tokens=4096), phases, continuous=continuous)
    assert engine.why_static == ("" if continuous else "static batches were asked for")
    found = {outcome.sample_id: outcome for some in engine.generate(requests) for outcome in some}
    for request in requests:
        name = request.sample.sample_id
        generation = found[name].generation
        assert generation is not None, found[name].error
        recorded = case(name.split("/")[0])[f"{rule}.generated"][0].tolist()
        assert generation.text == adapter.detokenise(recorded[-NEW_TOKENS:])
        assert (generation.output_tokens, generation.prompt_tokens) == (NEW_TOKENS, len(recorded) - NEW_TOKENS)
        if continuous and rows == 3:
            assert generate_alone(adapter, request) == generation
    assert phases.counts["prompt tokens shared"] == 0


def test_a_beam_search_looks_at_its_own_images(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, pixels = all_requests(tmp_path, beams=2)
    adapter = load(folder)
    monkeypatch.setattr(adapter, "pixels", OnPixels(pixels))
    engine = Engine(adapter, Budget(rows=16, tokens=8192), Phases())
    found = {outcome.sample_id: outcome for some in engine.generate(requests) for outcome in some}
    recorded = document("config.json")["checks"]["previous"]["beam2"]
    for turn in range(2):
        generation = found[f"case2_two_images_text_tail/{turn}"].generation
        assert generation is not None
        assert generation.text == adapter.detokenise(recorded)


@torch.inference_mode()
def test_bfloat16_is_near(folder: Path) -> None:
    given, rough = case("case2_two_images_text_tail"), load(folder, dtype="bfloat16")
    assert (rough.dtype, next(rough.vision.parameters()).dtype) == ("bfloat16", torch.float32)
    assert rough.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    ids = given["input_ids"]
    state = state_of(rough, ids[0].tolist(), own_pixels(given))
    assert state.images[0].dtype == torch.bfloat16
    logits = cast("Any", rough.decoder)(
        inputs_embeds=rough.embed_tokens(ids), row_states=RowStates(states=(state,))
    ).logits
    close(logits, given["previous.logits"][..., :VOCABULARY], 1.0)
    nearest = logits.argmax(dim=-1) == given["previous.logits"][..., :VOCABULARY].argmax(dim=-1)
    assert nearest.float().mean() > 0.8


def test_each_token_sees_what_the_rule_says() -> None:
    ids = [0, 5, IMAGE, 6, 7, IMAGE, 8]
    assert seen_images(ids, IMAGE, "previous").tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert seen_images(ids, IMAGE, "next").tolist() == [1, 1, 1, 2, 2, 2, 0, 0]
    for rule in ("previous", "next"):
        assert seen_images([3, 4], IMAGE, rule).tolist() == [0, 0, 0]
        assert seen_images([], IMAGE, rule).tolist() == [0]


def test_the_tokens_of_a_packed_line_look_at_their_own_rows_images() -> None:
    """Two rows decode, one of them behind its prompt, and a third reads its prompt; each image is there once."""
    media = [
        Media(images=tuple(torch.full((1, 2, 1, 1, 1), float(10 * row + image)) for image in range(2)), seen=seen)
        for row, seen in enumerate((np.array([0, 1, 2]), np.array([0, 0]), np.array([1, 2, 1, 0])))
    ]
    rows, positions = np.array([0, 1, 2, 2, 2]), np.array([7, 1, 0, 1, 2])
    groups = group_by_image(RowStates(states=tuple(media), rows=rows, positions=positions), torch.zeros(1, 5))
    assert groups is not None
    assert groups.tokens.tolist() == [0, 2, 4, 3]
    assert [float(image.flatten()[0]) for image in groups.images] == [1, 20, 21]
    assert (groups.longest, groups.cells.tolist()) == (2, [0, 2, 3, 4])
    nothing = RowStates(states=(media[1],), rows=np.array([0, 0]), positions=np.array([0, 9]))
    assert group_by_image(nothing, torch.zeros(1, 2)) is None
    assert group_by_image(RowStates(states=(media[1],)), torch.tensor([[0, 9]])) is None


def test_pixels_equal_those_of_the_pinned_transform() -> None:
    given = np.load(root() / "preprocess.npz")
    names = [name.removesuffix(".input") for name in given.files if name.endswith(".input")]
    assert len(names) == 5
    for name in names:
        large = f"{name}.levels" in given
        pixels = normalised(given[f"{name}.levels"]) if large else torch.from_numpy(given[f"{name}.pixels"])
        ours = clip_pixels(Image.fromarray(given[f"{name}.input"]), pixels.shape[-1], half_to_even=True)
        assert torch.equal(ours, pixels)


@pytest.mark.slow
def test_a_run_on_the_mini_suite(tmp_path: Path) -> None:
    """It goes on where it was cut off, and says the same of itself as one that was not."""
    folder = write_checkpoint(tmp_path / "checkpoint", context=4096)
    words = (
        "run", "--model", "med-flamingo", "--checkpoint", folder, "--tasks", "slake-vqa,mimic-cxr,dermamnist",
        "--limit", "2", "--output-dir", tmp_path / "runs", "--device", "cpu", "--model-arg", "media_rule=next",
    )  # fmt: skip
    result = medbench(*words)
    assert result.returncode == 0, result.stderr
    [results] = (tmp_path / "runs").glob("med-flamingo-mini-*/results.json")
    whole = results.read_bytes()
    scored = json.loads(whole)
    assert set(scored["tasks"]) == {"slake-vqa", "mimic-cxr", "dermamnist"}
    for task in scored["tasks"]:
        assert any(f"is shown 6 examples for {task}, of its train split: " in notice for notice in scored["notices"])
    for file in (results, results.with_name("done"), results.parent / "generations" / "dermamnist.jsonl"):
        file.unlink()
    result = medbench(*words)
    assert result.returncode == 0, result.stderr
    assert results.read_bytes() == whole


def test_the_mistakes_of_a_command_line_end_without_a_traceback(folder: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--checkpoint", tmp_path / "nowhere"), "nowhere is no folder"),
        (("--checkpoint", folder, "--model-arg", "media_rule=both"), "media_rule=both is not allowed"),
        (("--checkpoint", folder, "--model-arg", f"demo_images={tmp_path}"), "does not give the authors' images"),
    ):
        result = medbench(
            "run", "--model", "med-flamingo", "--tasks", "slake-vqa", "--output-dir", tmp_path / "runs", *words
        )
        assert result.returncode == 2, result.stderr
        assert said in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
