"""Med-Flamingo against the original code on recorded cases: every stage, both rules, the loader and the engine."""

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
from fixture_root import realdata
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
    document,
    load,
    numbered_pictures,
    prompt_of,
    request_of,
    root,
    trained,
    write_checkpoint,
)
from PIL import Image
from transformers import CLIPConfig, CLIPModel, GenerationConfig

from adapters.base import ImageSlot, LoadOptions, Prompt, RowStates
from adapters.layers.segment_tokenizer import SegmentTokenizer, read_tokenizer
from adapters.med_flamingo.adapter import MedFlamingoAdapter
from adapters.med_flamingo.decoder import GatedLayer
from adapters.med_flamingo.entry import ENTRY
from adapters.med_flamingo.examples import AUTHORS, drawn_examples
from adapters.med_flamingo.looking import Media, looks_of, seen_images
from adapters.med_flamingo.pictures import clip_pixels
from adapters.med_flamingo.prompts import Mark, Part, Words, prompt_parts
from harness.engine.alone import generate_alone
from harness.engine.budget import Budget
from harness.engine.engine import Engine
from harness.engine.request import Request, make_request
from harness.phases import Phases
from tasks.catalog import get_task
from tasks.foundation.errors import DataError, UsageError
from tasks.sample import ImageRef, Sample

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("med-flamingo"))


@pytest.fixture(scope="module")
def adapters(folder: Path) -> dict[str, MedFlamingoAdapter]:
    """The same weights under both rules."""
    return {rule: load(folder, media_rule=rule) for rule in RULES}


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=0)


def state_of(adapter: MedFlamingoAdapter, ids: Sequence[int], pixels: torch.Tensor) -> Media:
    prompt = prompt_of(ids)
    images = pixels[: len(prompt.images())]
    return adapter.row_state(adapter.encode_images(list(images)) if len(images) else [], prompt, "vqa")


def own_pixels(given: dict[str, torch.Tensor], row: int = 0) -> torch.Tensor:
    """Return the pixels [T, 3, S, S] of a recorded row."""
    return given["vision_x"][row, :, 0]


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
    given, vision = case(name), adapters["previous"]._vision
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
    blind = Media(images=state.images, seen=torch.zeros_like(state.seen))
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
    assert (rough.dtype, next(rough._vision.parameters()).dtype) == ("bfloat16", torch.float32)
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
    assert seen_images(ids, IMAGE, "previous") == ([0, 0, 1, 1, 1, 2, 2], 2)
    assert seen_images(ids, IMAGE, "next") == ([1, 1, 1, 2, 2, 2, 0], 0)
    for rule in ("previous", "next"):
        assert seen_images([3, 4], IMAGE, rule) == ([0, 0], 0)
        assert seen_images([], IMAGE, rule) == ([], 0)


def test_the_tokens_of_a_packed_line_look_at_their_own_rows_images() -> None:
    """Two rows decode, one of them behind its prompt, and a third reads its prompt; each image is there once."""
    media = [
        Media(images=tuple(torch.full((1, 2, 1, 1, 1), float(10 * row + image)) for image in range(2)), seen=seen)
        for row, seen in enumerate((torch.tensor([0, 1, 2]), torch.tensor([0, 0]), torch.tensor([1, 2, 1, 0])))
    ]
    rows = torch.tensor([0, 1, 2, 2, 2])
    positions = torch.tensor([[7, 1, 0, 1, 2]])
    looks = looks_of(RowStates(states=tuple(media), rows=rows), positions)
    assert looks is not None
    assert looks.tokens.tolist() == [0, 2, 4, 3]
    assert [float(image.flatten()[0]) for image in looks.images] == [1, 20, 21]
    assert (looks.longest, looks.places.tolist()) == (2, [0, 2, 3, 4])
    nothing = RowStates(states=(media[1],), rows=torch.tensor([0, 0]))
    assert looks_of(nothing, torch.tensor([[0, 9]])) is None


def test_pixels_equal_those_of_the_pinned_transform() -> None:
    given = np.load(root() / "preprocess.npz")
    names = [name.removesuffix(".input") for name in given.files if name.endswith(".input")]
    assert len(names) == 5
    for name in names:
        picture, pixels = given[f"{name}.input"], given[f"{name}.pixels"]
        assert torch.equal(clip_pixels(Image.fromarray(picture), pixels.shape[-1]), torch.from_numpy(pixels))


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


def recorded_parts(text: str) -> list[Part]:
    parts: list[Part] = [text]
    for word, mark in (("<image>", Mark.IMAGE), ("<|endofchunk|>", Mark.END_OF_CHUNK)):
        cut: list[Part] = []
        for part in parts:
            if isinstance(part, Mark):
                cut.append(part)
                continue
            first, *others = part.split(word)
            cut += [first, *(piece for other in others for piece in (mark, other))]
        parts = cut
    return [part for part in parts if part != ""]


def recorded_ids(tokenizer: SegmentTokenizer, text: str, bos: int) -> list[int]:
    ids = [bos]
    for part in tokenizer.encode(recorded_parts(text)):
        ids += [32000 + part.value] if isinstance(part, Mark) else part
    return ids


def recorded_cases() -> list[tuple[dict[str, Any], int]]:
    variants = document("tokenization.json")["variants"].values()
    return [(one, variant["bos_id"]) for variant in variants for one in variant["cases"]]


def test_stretches_of_text_are_those_of_the_recorded_tokenizer() -> None:
    words: dict[str, tuple[int, ...]] = {}
    for one, bos in recorded_cases():
        assert one["input_ids"][0] == bos
        texts = [part.strip() for part in recorded_parts(one["text"]) if isinstance(part, str)]
        stretches: list[tuple[int, ...]] = []
        run: list[int] = []
        for token in [*one["input_ids"][1:], 32000]:
            if token < 32000:
                run.append(token)
            elif run:
                stretches.append(tuple(run))
                run = []
        for text, ids in zip(texts, stretches, strict=True):
            assert words.setdefault(text, ids) == ids
    tokenizer = SegmentTokenizer(Recorded(words))
    for one, bos in recorded_cases():
        assert recorded_ids(tokenizer, one["text"], bos) == one["input_ids"]


def test_token_ids_of_the_real_llama_tokenizer() -> None:
    place = os.environ.get("MEDBENCH_LLAMA_TOKENIZER")
    if not place:
        pytest.skip("LLaMA's tokenizer.model may not be passed on: set MEDBENCH_LLAMA_TOKENIZER to a folder with it")
    tokenizer = read_tokenizer(Path(place) / "tokenizer.model")
    for one, bos in recorded_cases():
        assert recorded_ids(tokenizer, one["text"], bos) == one["input_ids"]


def test_the_prompt_is_the_authors_own() -> None:
    [recorded] = {one["text"] for one, _ in recorded_cases() if one["name"] == "demo_6shot"}
    examples = [Words(question=question, answer=answer) for _, question, answer in AUTHORS]
    parts = prompt_parts("Where is the largest mass located in the cerebellum?", 1, examples)
    names = {Mark.IMAGE: "<image>", Mark.END_OF_CHUNK: "<|endofchunk|>"}
    assert "".join(part if isinstance(part, str) else names[part] for part in parts) == recorded


def sample_of(number: int, task: str = "slake-vqa", **inputs: str) -> Sample:
    given = inputs or {"question": f"What is in <image>picture {number}?"}
    images = (ImageRef(path=f"{number % 8}.png"),)
    return Sample(sample_id=f"q{number}", task=task, split="train", images=images, inputs=given, reference=f"a{number}")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    draw = np.random.default_rng(3)
    for number in range(8):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def words_of(adapter: MedFlamingoAdapter, prompt: Prompt) -> str:
    """Return a prompt as text; the images that have slots are `[name]`."""
    names = {VOCABULARY: "<|endofchunk|>", IMAGE: "<image>", 0: "<0>", 1: "<1>"}
    text = ""
    for segment in prompt.segments:
        if isinstance(segment, ImageSlot):
            text += f"[{segment.image.path}]"
            continue
        run: list[int] = []
        for token in (*segment.ids, -1):
            if token in names or token < 0:
                text += adapter.detokenise(run) + names.get(token, "")
                run = []
            else:
                run.append(token)
    return text


def test_without_examples_the_question_stands_alone(folder: Path) -> None:
    adapter = load(folder, shots="0", bos_token_id="1")
    spec = get_task("slake-vqa")
    prompt = adapter.render(sample_of(3), spec, lambda _: (1, 1))
    assert words_of(adapter, prompt) == (
        "<1>You are a helpful medical assistant. You are being provided with images and a question about the image, "
        "please answer the question.<image>[3.png]Question: What is in picture 3? Answer:"
    )
    assert adapter.notices == ("Med-Flamingo answers slake-vqa without examples.",)
    assert prompt.images() == (ImageRef(path="3.png"),)


def test_examples_come_from_the_train_split(colours: Path, tmp_path: Path) -> None:
    wide = write_checkpoint(tmp_path / "wide", context=2048)
    (colours / "2.png").write_bytes(b"no picture")
    train = [sample_of(number) for number in range(40)]
    spec = get_task("slake-vqa")
    adapter = load(wide, train_samples=lambda _: train, source_of=lambda _: colours)
    prompt = adapter.render(sample_of(3), spec, lambda _: (1, 1))
    text = words_of(adapter, prompt)
    assert text.count("<image>Question: What is in picture ") == 6
    assert text.endswith("<|endofchunk|><image>[3.png]Question: What is in picture 3? Answer:")
    assert text.startswith("<0>You are a helpful medical assistant. You are being provided with images, a question")
    [notice] = adapter.notices
    shown = notice.removeprefix("Med-Flamingo is shown 6 examples for slake-vqa, of its train split: ").split(", ")
    pictures = {int(name[1:]) % 8 for name in shown}
    assert len(pictures) == 6
    assert 2 not in pictures
    for name in shown:
        assert f"picture {name[1:]}? Answer: a{name[1:]}.<|endofchunk|>" in text
    again = drawn_examples(spec, train[::-1], colours, lambda _: True)
    assert [example.name for example in again] == shown
    assert adapter.render(sample_of(4), spec, lambda _: (1, 1)) != prompt
    assert len(adapter.notices) == 1


def test_examples_that_are_too_long_for_the_context_are_passed_over(folder: Path, colours: Path) -> None:
    train = [sample_of(number, question=f"What is in picture {number}? " * 9) for number in range(40)]
    adapter = load(folder, train_samples=lambda _: train, source_of=lambda _: colours)
    adapter.render(sample_of(3), get_task("slake-vqa"), lambda _: (1, 1))
    assert adapter.notices == ("Med-Flamingo answers slake-vqa without examples.",)


@pytest.mark.parametrize("rule", RULES)
def test_the_pictures_of_examples_are_read_like_the_questions_own(colours: Path, tmp_path: Path, rule: str) -> None:
    """A prompt with examples equals one whose images all have slots, and its rows can be batched."""
    wide = write_checkpoint(tmp_path / "wide", context=2048)
    train = [sample_of(number) for number in range(40)]
    spec = get_task("slake-vqa")
    adapter = load(wide, media_rule=rule, train_samples=lambda _: train, source_of=lambda _: colours)
    requests = [make_request(adapter, sample_of(number), spec, colours) for number in range(6)]
    examples = adapter._examples.of(spec)
    pictures = [image for example in examples for image in example.images]
    with torch.inference_mode():
        features = adapter.encode_images([adapter.pixels(image) for image in pictures])
        own = adapter.encode_images([adapter.pixels(Image.open(colours / "0.png").convert("RGB"))])
        state = adapter.row_state(own, requests[0].prompt, "vqa")
        plain = Prompt(segments=requests[0].prompt.segments)
        whole = adapter.row_state([*features, *own], plain, "vqa")
    assert len(state.images) == len(whole.images) == 7
    for one, other in zip(state.images, whole.images, strict=True):
        close(one, other, 1e-5)
    assert torch.equal(state.seen, whole.seen)
    assert int(state.seen[-1]) == (7 if rule == "previous" else 0)
    alone = {one.sample.sample_id: generate_alone(adapter, one) for one in requests}
    engine = Engine(adapter, Budget(rows=4, tokens=16384), Phases())
    found = {outcome.sample_id: outcome.generation for some in engine.generate(requests) for outcome in some}
    assert found == alone
    if rule == "previous":
        assert len({generation.text for generation in alone.values()}) > 2


def test_the_authors_examples_need_their_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="their pictures are not given"):
        load(folder, shots="6")
    with pytest.raises(UsageError, match=r"does not give the authors' pictures(.|\n)*synpic50962\.jpg is missing"):
        load(folder, demo_images=str(tmp_path))
    for number, (name, _, _) in enumerate(AUTHORS):
        Image.new("RGB", (20, 30), (40 * number, 0, 0)).save(tmp_path / name)
    given = load(folder, demo_images=str(tmp_path))
    prompt = given.render(sample_of(3), get_task("slake-vqa"), lambda _: (1, 1))
    assert prompt.images() == (ImageRef(path="3.png"),)
    assert given.notices == (
        "Med-Flamingo is shown 6 examples for slake-vqa, the authors': " + ", ".join(name for name, _, _ in AUTHORS),
    )
    state = given.row_state([torch.zeros(64, 64)], prompt, "vqa")
    assert len(state.images) == 7
    bare = load(folder)
    assert given.weights_fingerprint != bare.weights_fingerprint
    assert load(folder, demo_images=str(tmp_path), shots="0").weights_fingerprint == bare.weights_fingerprint
    with pytest.raises(DataError, match="0 usable examples; shots=6 needs 6"):
        load(folder, demo_images=str(tmp_path), shots="6").render(
            sample_of(3, "mpx-single"), get_task("mpx-single"), lambda _: (1, 1)
        )


def test_the_authors_pictures_are_those_of_vqa_rad(folder: Path) -> None:
    pictures = realdata("vqa_rad") / "images"
    adapter = load(folder, demo_images=str(pictures), shots="6")
    assert [example.images[0].mode for example in adapter._examples.of(get_task("path-vqa"))] == ["RGB"] * 6


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ("slake-vqa", " yes.\nQuestion: and?", "yes."),
        ("slake-vqa", "the liver. Question: and?", "the liver."),
        ("slake-vqa", "<unk> pons<|endofchunk|>", "pons"),
        ("dermamnist", "nevus<image>", "nevus"),
        ("mpx-single", "two lines\nof a report Answer: no", "two lines\nof a report"),
        ("slake-vqa", "\n", ""),
    ],
)
def test_answers_are_cut_where_the_authors_cut_them(
    adapters: dict[str, MedFlamingoAdapter], task: str, text: str, answer: str
) -> None:
    spec = get_task(task)
    assert ENTRY.parse(text, sample_of(0, task), spec).text == answer
    stops = adapters["previous"].stop_strings(spec)
    assert set(stops) >= {"<|endofchunk|>", "<image>", "Question", "Answer"}
    assert ("\n" in stops) == (spec.kind != "report")


def test_limits_and_card(adapters: dict[str, MedFlamingoAdapter]) -> None:
    adapter = adapters["previous"]
    assert adapter.max_new_tokens(get_task("slake-vqa")) == 10
    assert adapter.max_new_tokens(get_task("mimic-cxr")) == get_task("mimic-cxr").max_new_tokens
    assert adapter.end_ids == {2}
    assert adapter.decoder.lm_head.weight.shape[0] == VOCABULARY
    assert adapter.decoder.model.embed_tokens.weight.shape[0] == VOCABULARY + 3
    assert ENTRY.card.kinds == {"vqa", "report", "cls"}
    with pytest.raises(NotImplementedError):
        adapter.project([], "vqa")


def test_the_checkpoints_embeddings_replace_those_of_llama(adapters: dict[str, MedFlamingoAdapter]) -> None:
    embeddings = adapters["next"].embed_tokens(torch.arange(VOCABULARY + 3))
    assert torch.equal(embeddings, trained()["lang_encoder.model.embed_tokens.weight"])


def test_the_leading_word_of_wrapped_training_is_accepted(
    adapters: dict[str, MedFlamingoAdapter], tmp_path: Path
) -> None:
    """So is a checkpoint that holds the blocks once."""
    once = {name: one for name, one in trained().items() if ".gated_cross_attn_layer." not in name}
    wrapped = load(write_checkpoint(tmp_path, {f"module.{name}": one for name, one in once.items()}))
    given = adapters["previous"].decoder.state_dict()
    assert all(torch.equal(one, given[name]) for name, one in wrapped.decoder.state_dict().items())


BLOCK = "lang_encoder.gated_cross_attn_layers.3.attn_gate"
COPY = "lang_encoder.model.layers.3.gated_cross_attn_layer.attn_gate"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({BLOCK: None, COPY: None}, r"1 missing: model\.layers\.3\.gated\.attn_gate"),
        ({BLOCK: torch.ones(1)}, r"model\.layers\.3\.gated\.attn_gate twice, and differently"),
        ({"lang_encoder.gated_cross_attn_layers.4.attn_gate": torch.ones(1)}, r"1 unexpected: model\.layers\.4"),
        ({"perceiver.norm.bias": None}, r"1 missing: norm\.bias"),
        ({"perceiver.extra": torch.ones(1)}, "1 unexpected: extra"),
        ({"perceiver.latents": None}, "lacks 'latents' of the perceiver"),
        ({"perceiver.norm.bias": torch.ones(3)}, "of another shape"),
        ({"vision_encoder.proj": torch.ones(1)}, r"also holds vision_encoder\.proj"),
        ({"lang_encoder.model.embed_tokens.weight": None}, "lacks embeddings"),
        ({"lang_encoder.model.embed_tokens.weight": torch.ones(448, 64)}, "has 448 embeddings"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, torch.Tensor | None], said: str, tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in {**trained(), **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=said):
        load(write_checkpoint(tmp_path, weights))


def test_parts_that_are_not_there_are_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="needs weights"):
        ENTRY.load(LoadOptions())
    with pytest.raises(UsageError, match=r"model\.pt is missing"):
        load(tmp_path)
    shutil.copyfile(folder / "model.pt", tmp_path / "model.pt")
    with pytest.raises(UsageError, match="llama is no folder"):
        load(tmp_path)
    with pytest.raises(UsageError, match="clip is no folder"):
        load(tmp_path, llama=str(folder / "llama"))
    elsewhere = load(tmp_path, llama=str(folder / "llama"), clip=str(folder / "clip"))
    assert elsewhere.weights_fingerprint == load(folder).weights_fingerprint
    shutil.copytree(folder / "llama", tmp_path / "llama")
    (tmp_path / "llama" / "tokenizer.model").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.model is missing"):
        load(tmp_path, clip=str(folder / "clip"))


def test_other_base_models_are_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    config = folder / "llama" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "max_position_embeddings": 4096}), encoding="utf-8")
    assert "as LLaMA-2 does" in load(folder).notices[0]
    config.write_text(json.dumps({**values, "num_hidden_layers": 7}), encoding="utf-8")
    with pytest.raises(DataError, match=r"unexpected: model\.layers\.7"):
        load(folder)
    config.write_text(json.dumps({**values, "model_type": "mistral"}), encoding="utf-8")
    with pytest.raises(DataError, match="'mistral'"):
        load(folder)
    config.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"no usable config\.json"):
        load(folder)


def test_clip_may_be_the_whole_model_and_must_fit(
    folder: Path, adapters: dict[str, MedFlamingoAdapter], tmp_path: Path
) -> None:
    values = json.loads((folder / "clip" / "config.json").read_text(encoding="utf-8"))
    text = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    for name, width in (("whole", 64), ("wide", 32)):
        vision = {**values, "hidden_size": width}
        model = cast("Any", CLIPModel)(
            CLIPConfig(vision_config=vision, text_config={**text, "vocab_size": 32}, projection_dim=16)
        )
        if name == "whole":
            inner: torch.nn.Module = getattr(model.vision_model, "vision_model", model.vision_model)
            given = cast("torch.nn.Module", adapters["previous"]._vision.clip)
            inner.load_state_dict({key.removeprefix("vision_model."): one for key, one in given.state_dict().items()})
        model.save_pretrained(tmp_path / name)
    whole = load(folder, clip=str(tmp_path / "whole"))
    pixels = own_pixels(case("case1_one_image"))
    with torch.inference_mode():
        assert torch.equal(whole._vision(pixels), adapters["previous"]._vision(pixels))
    with pytest.raises(DataError, match="tokens of width 32, the perceiver reads 64"):
        load(folder, clip=str(tmp_path / "wide"))
    (tmp_path / "whole" / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load(folder, clip=str(tmp_path / "whole"))
    (tmp_path / "whole" / "config.json").write_text('{"model_type": "siglip"}', encoding="utf-8")
    with pytest.raises(DataError, match="holds no CLIP"):
        load(folder, clip=str(tmp_path / "whole"))


def test_a_run_on_the_mini_suite(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", context=4096)
    result = medbench(
        "run", "--model", "med-flamingo", "--checkpoint", folder, "--tasks", "vqa,cls,report", "--limit", "2",
        "--output-dir", tmp_path / "runs", "--device", "cpu", "--model-arg", "media_rule=next",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [results] = (tmp_path / "runs").glob("med-flamingo-mini-*/results.json")
    scored = json.loads(results.read_text(encoding="utf-8"))
    assert {"slake-vqa", "mimic-cxr", "dermamnist"} <= set(scored["tasks"])
    assert any("is shown 6 examples for slake-vqa" in notice for notice in scored["notices"])
