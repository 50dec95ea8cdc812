"""What Med-Flamingo is asked: token ids, examples, the prompt, and where an answer ends."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixture_root import realdata
from med_flamingo_fixtures import (
    RULES,
    VOCABULARY,
    close,
    document,
    load,
    sample_of,
    write_checkpoint,
)
from parity import RecordedPieces
from PIL import Image

from medbench.adapters.base import ImageSlot, Prompt
from medbench.adapters.med_flamingo.entry import AUTHORS, ENTRY, SPECIAL_TEXTS, Special, example_parts, prompt_parts
from medbench.adapters.med_flamingo.examples import drawn_examples
from medbench.adapters.med_flamingo.model import MedFlamingoAdapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.sample import ImageRef
from medbench.unimed.tokens import SegmentTokenizer, read_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("med-flamingo"))


@pytest.fixture(scope="module")
def adapters(folder: Path) -> dict[str, MedFlamingoAdapter]:
    """The same weights under both rules."""
    return {rule: load(folder, media_rule=rule) for rule in RULES}


def recorded_parts(text: str) -> list[str | Special]:
    parts: list[str | Special] = [text]
    for word, mark in (("<image>", Special.IMAGE), ("<|endofchunk|>", Special.END_OF_CHUNK)):
        cut: list[str | Special] = []
        for part in parts:
            if isinstance(part, Special):
                cut.append(part)
                continue
            first, *others = part.split(word)
            cut += [first, *(piece for other in others for piece in (mark, other))]
        parts = cut
    return [part for part in parts if part != ""]


def recorded_ids(tokenizer: SegmentTokenizer, text: str, bos: int) -> list[int]:
    ids = [bos]
    for part in tokenizer.encode(recorded_parts(text)):
        ids += [32000 + part.value] if isinstance(part, Special) else part
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
    tokenizer = SegmentTokenizer(RecordedPieces(words))
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
    examples = [part for _, question, answer in AUTHORS for part in example_parts(question, answer)]
    parts = prompt_parts("Where is the largest mass located in the cerebellum?", 1, examples)
    assert "".join(part if isinstance(part, str) else SPECIAL_TEXTS[part] for part in parts) == recorded


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    draw = np.random.default_rng(3)
    for number in range(8):
        Image.fromarray(draw.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def words_of(adapter: MedFlamingoAdapter, prompt: Prompt) -> str:
    """Return a prompt as text; the images that have slots are `[name]`."""
    return "".join(
        f"[{segment.image.path}]" if isinstance(segment, ImageSlot) else adapter.readable(segment.ids)
        for segment in prompt.segments
    )


def test_without_examples_the_question_stands_alone(folder: Path) -> None:
    adapter = load(folder, shots="0", bos_token_id="1")
    spec = get_task("slake-vqa")
    prompt = adapter.render(sample_of(3), spec, lambda _: (1, 1))
    assert words_of(adapter, prompt) == (
        "<s>You are a helpful medical assistant. You are being provided with images and a question about the image, "
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
    assert text.startswith("<unk>You are a helpful medical assistant. You are being provided with images, a question")
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


def test_the_examples_of_a_run_that_goes_on_are_told_without_a_question(colours: Path, tmp_path: Path) -> None:
    """What is said of a run must not depend on which of its samples are left; examples are no less said before."""
    wide = write_checkpoint(tmp_path / "wide", context=2048)
    train = [sample_of(number) for number in range(40)]
    fresh, resumed = (load(wide, train_samples=lambda _: train, source_of=lambda _: colours) for _ in range(2))
    specs = [get_task("slake-vqa"), get_task("path-vqa")]
    fresh.expect(specs)
    fresh.render(sample_of(3), specs[0], lambda _: (1, 1))
    resumed.expect(specs)
    assert len(resumed.notices) == 2
    assert resumed.notices == fresh.notices


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
    examples = adapter.examples_of(spec)
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
    assert np.array_equal(state.seen, whole.seen)
    assert int(state.seen[-1]) == (7 if rule == "previous" else 0)
    alone = {one.sample.sample_id: generate_alone(adapter, one) for one in requests}
    engine = Engine(adapter, Budget(rows=4, tokens=16384), Phases())
    found = {outcome.sample_id: outcome.generation for some in engine.generate(requests) for outcome in some}
    assert found == alone
    if rule == "previous":
        assert len({generation.text for generation in alone.values()}) > 2


def test_the_authors_examples_need_their_pictures(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="their images are not given"):
        load(folder, shots="6")
    with pytest.raises(UsageError, match=r"does not give the authors' images(.|\n)*synpic50962\.jpg is missing"):
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
    assert [example.images[0].mode for example in adapter.examples_of(get_task("path-vqa"))] == ["RGB"] * 6


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


def test_a_title_names_what_was_chosen(adapters: dict[str, MedFlamingoAdapter], folder: Path) -> None:
    """Two media rules are two rows of a table; folders are no choice that a reader could compare."""
    assert [adapters[rule].title for rule in RULES] == ["Med-Flamingo", "Med-Flamingo (media_rule=next)"]
    zero = load(folder, shots="0", bos_token_id="1", clip=str(folder / "clip"))
    assert zero.title == "Med-Flamingo (shots=0, bos_token_id=1)"


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
