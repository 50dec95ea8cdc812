"""What RadFM is asked: token ids, words, and where images stand."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from parity import RecordedPieces
from radfm_fixtures import (
    document,
    load,
    write_checkpoint,
)

from medbench.adapters.base import ImageSlot, TextSegment
from medbench.adapters.radfm.entry import ENTRY, question_of
from medbench.adapters.radfm.model import RadFMAdapter
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample
from medbench.unimed.tokens import SegmentTokenizer, read_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("radfm"))


@pytest.fixture(scope="module")
def adapter(folder: Path) -> RadFMAdapter:
    return load(folder)


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
    tokenizer = SegmentTokenizer(RecordedPieces(words))
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
        assert tokenizer.text(one["ids"]) == one["text"]


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
    assert written_prompt(load(folder, image_position="end"), sample_of("slake-vqa", images=0, question="Is it?")) == [
        "Is it?"
    ]


def test_without_images_a_question_is_one_stretch_of_text(adapter: RadFMAdapter, folder: Path) -> None:
    """Cut before its last character, it would get a space there that nobody wrote."""
    sample = sample_of("slake-vqa", images=0, question="Is the liver shown?")
    spec = get_task(sample.task)
    tokenizer = read_tokenizer(folder / "tokenizer.model")
    [ids] = tokenizer.encode(["Is the liver shown?"])
    for one in (adapter, load(folder, image_position="end")):
        prompt = one.render(sample, spec, lambda _: (1, 1))
        assert prompt.segments == (TextSegment(ids=(1,)), TextSegment(ids=ids))


def test_special_ids_are_silent_but_for_people(adapter: RadFMAdapter, folder: Path) -> None:
    [ids] = read_tokenizer(folder / "tokenizer.model").encode(["yes."])
    assert adapter.detokenise([0, 1, *ids, 2, 0, 448, 449, 500]) == "yes."
    assert adapter.readable([1, *ids, 2]) == "<s>yes.</s>"


def test_each_kind_is_asked_in_its_words() -> None:
    spec = get_task("mimic-cxr-impression")
    assert question_of(sample_of(spec.name), spec) == "Could you provide an impression for this chest scan?"
    spec = get_task("mpx-single")
    assert question_of(sample_of(spec.name), spec) == "Describe this input image."
    spec = get_task("dermamnist")
    given = sample_of(spec.name, subject="skin lesion", classes="a, b")
    assert question_of(given, spec) == "Which category does this skin lesion belong to: a, b?"


def test_a_title_names_what_was_chosen(adapter: RadFMAdapter, folder: Path) -> None:
    assert adapter.title == "RadFM"
    assert load(folder, image_position="end", crop="random").title == "RadFM (image_position=end, crop=random)"


def test_the_card_and_the_limits(adapter: RadFMAdapter) -> None:
    assert adapter.end_ids == {2}
    assert adapter.max_new_tokens(get_task("medqa-options")) == 200
    assert ENTRY.card.kinds == {"vqa", "report", "cls"}
    assert (ENTRY.card.trained_on or frozenset()) >= {"slake-vqa", "mpx-single"}
    assert adapter.decoder.config.eos_token_id == 2
    assert cast("Any", adapter.decoder.config)._attn_implementation == "sdpa"
