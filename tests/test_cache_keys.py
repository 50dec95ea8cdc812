"""Keys of the cache: what can change an answer makes another key, one ingredient at a time; what cannot does not."""

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
from engine_helpers import Small, make_requests, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from low_rank_helpers import publish
from PIL import Image

from medbench.adapters.base import Adapter, ImageSlot, LoadedFrom, LocalAdapter, Prompt, TextSegment
from medbench.adapters.catalog import choose_model
from medbench.adapters.med_flamingo.model import ShownPrompt
from medbench.adapters.remote import Served, ServedGeneration
from medbench.harness.answering import told_by
from medbench.harness.cache.keys import (
    CHANGES_NO_ANSWER,
    NAMES_ALONE,
    TOLD_OTHERWISE,
    Keys,
    Pictures,
    digest,
    keys_for,
)
from medbench.harness.engine.requests import Decoding, Request
from medbench.harness.identity import run_identity
from medbench.harness.models import ModelFacts, load_share, shares_of
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation import files, model_files
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

# A new ingredient is part of the key by itself; whoever adds one says here that this was seen.
OF_A_RUN = {
    "code", "libraries", "plugins", "parts", "model", "arguments", "weights", "dtype", "device", "batch size",
    "device map", "limit", "seed", "decoding", "compile", "engine", "probe", "own model", "suite", "tasks",
}  # fmt: skip
OF_RECORDS: Mapping[type, set[str]] = {
    Request: {"sample", "spec", "source", "prompt", "length", "decoding", "shift"},
    Decoding: {
        "temperature", "top_k", "top_p", "repetition_penalty", "beams", "seed", "max_new_tokens", "end_ids",
        "stop_strings",
    },
    Prompt: {"segments"},
    TextSegment: {"ids"},
    ImageSlot: {"image", "tokens", "first", "grid"},
    Sample: {
        "sample_id", "task", "split", "images", "inputs", "reference", "choices", "box", "image_size", "labels",
        "groups",
    },
    ServedGeneration: {
        "text", "stop", "prompt_tokens", "output_tokens", "thought_tokens", "reasoning", "served",
    },
    Served: {"model", "finish_reason", "scaled", "withheld"},
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_RECORDS)
def test_every_field_of_what_is_asked_and_answered_was_thought_of(kind: type[Any]) -> None:
    assert {one.name for one in fields(kind)} == OF_RECORDS[kind]


# What is the same for all requests of a model


def identity(**changed: Any) -> dict[str, object]:
    """Return a run's identity that has all parts."""
    chosen = {
        "model": "mock:oracle", "tasks": ("slake-vqa",), "limit": 2, "batch_size": 3, "device_map": "auto",
        "temperature": 0.5, "compile": True, "probe": "image-off", "seed": 1,
    }  # fmt: skip
    wanted = Settings(**{**chosen, **changed})
    workload = load_workload(replace(wanted, probe=""))
    model = choose_model("openai:m@http://127.0.0.1:1/v1", {})
    adapter = Small()
    info = replace(ModelFacts.of(adapter).info, dtype="bfloat16")
    made = {"code": "c", "libraries": {"torch": "1"}, "plugins": {"p": "1"}, "parts": {"server": "s"}}
    return run_identity(
        wanted, workload, info, model, weights="w", made_of=made, own=True, engine={"name": "vllm", "version": "1"}
    )


@pytest.fixture(scope="module")
def parts() -> dict[str, object]:
    return identity()


def base(adapter: Adapter, parts: Mapping[str, object], data: str = "d") -> str:
    return keys_for(adapter, parts, [get_task("slake-vqa")], lambda _: data).base


def test_a_runs_identity_has_no_part_that_was_not_thought_of(parts: dict[str, object]) -> None:
    assert set(parts) == OF_A_RUN
    assert CHANGES_NO_ANSWER < OF_A_RUN


@pytest.mark.parametrize("name", sorted(OF_A_RUN))
def test_each_part_of_a_runs_identity_makes_another_key_but_those_that_say_which_questions_are_asked(
    name: str, parts: dict[str, object], small_llama: Small
) -> None:
    before = base(small_llama, parts)
    missing = base(small_llama, {key: value for key, value in parts.items() if key != name})
    other = base(small_llama, {**parts, name: "another"})
    assert (other != before, missing != before) == ((name not in CHANGES_NO_ANSWER),) * 2


@pytest.mark.parametrize("name", ["libraries", "arguments", "decoding", "engine", "parts", "plugins"])
def test_each_entry_of_a_table_of_the_identity_makes_another_key(
    name: str, parts: dict[str, Any], small_llama: Small
) -> None:
    found = {base(small_llama, parts)}
    assert parts[name]
    for entry in parts[name]:
        found.add(base(small_llama, {**parts, name: {**parts[name], entry: "another"}}))
    found.add(base(small_llama, {**parts, name: {**parts[name], "new": "one"}}))
    assert len(found) == len(parts[name]) + 2


def test_a_part_that_nobody_knows_yet_makes_another_key(parts: dict[str, object], small_llama: Small) -> None:
    assert base(small_llama, {**parts, "moon": "full"}) != base(small_llama, parts)


class Expecting(Small):
    def expect(self, specs: Sequence[TaskSpec]) -> None:
        """Get ready in a way that answers may depend on."""


def test_data_that_a_model_drew_from_and_tasks_that_it_expects_make_another_key(parts: dict[str, object]) -> None:
    plain, drawing, expecting = Small(), Small(), Expecting()
    drawing.loaded_from = LoadedFrom(tasks={"slake-vqa"})
    assert base(plain, parts, "one") == base(plain, parts, "two")
    assert len({base(plain, parts), base(drawing, parts, "one"), base(drawing, parts, "two")}) == 3
    specs = [get_task("slake-vqa"), get_task("medqa")]
    found = {keys_for(expecting, parts, specs[:end], lambda _: "d").base for end in (0, 1, 2)}
    assert len(found) == 3
    assert len({keys_for(plain, parts, specs[:end], lambda _: "d").base for end in (0, 1, 2)}) == 1


# Files of a model, loaded for real


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_vlms.llava(tmp_path_factory.mktemp("weights") / "llava")
    publish(tiny_adapter(made).decoder, made.parent / "lora")
    return made


def tiny_adapter(folder: Path) -> Any:  # noqa: ANN401 - a local adapter
    return loaded(folder)[0]


def loaded(folder: Path) -> tuple[Adapter, dict[str, object]]:
    wanted = Settings(model=f"hf:{folder}", tasks=("slake-vqa",), limit=2, device="cpu")
    model, workload = choose_model(wanted.model, {}), load_workload(wanted)
    adapter = load_share(wanted, model, workload, shares_of(wanted, workload)[0])
    told = told_by(adapter, ModelFacts.of(adapter), wanted, workload)
    weights = told.facts.info.weights
    return adapter, run_identity(
        wanted, workload, told.facts.info, model, weights=weights, made_of=told.made_of, engine=told.engine
    )


def test_one_bit_of_weights_that_the_fingerprint_does_not_see_makes_another_key(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(model_files, "_SAMPLE_BYTES", 16)
    copies = [Path(shutil.copytree(folder, tmp_path / place / "llava")) for place in ("a", "b", "c")]
    weights = copies[2] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    (adapter, first), (again, second), (other, third) = map(loaded, copies)
    # The run's identity knows samples of large files; the key knows all of them, wherever they lie.
    assert first == second == third
    assert weights.absolute() in other.loaded_from.sampled
    assert base(adapter, first) == base(again, second) != base(other, third)
    weights.write_bytes(content)
    os.utime(weights, ns=(1, 1))
    with pytest.raises(RunError, match="changed while the model was loaded"):
        base(other, third)


def test_hashes_of_samples_are_noted_only_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SAMPLED_BYTES", 10)
    (tmp_path / "a").write_text("x" * 100)
    files.sampled_sha256(tmp_path / "a")
    with files.noting_sampled() as noted:
        files.sampled_sha256(tmp_path / "a")
    files.sampled_sha256(tmp_path / "a")
    assert list(noted) == [tmp_path / "a"]


# One request


@pytest.fixture(scope="module")
def requests(picture_folder: Path) -> list[Request]:
    return make_requests(picture_folder, 40, seed=1)


@pytest.fixture
def request_(requests: list[Request]) -> Request:
    return next(one for one in requests if len(one.images) == 2 and one.spec.kind == "vqa")


def keys(*, whole: bool = False, base: str = "b") -> Keys:
    return Keys(base=base, whole=whole, pictures=Pictures())


def with_prompt(request: Request, place: int, **changed: Any) -> Request:
    segments = list(request.prompt.segments)
    segments[place] = replace(segments[place], **changed)
    return replace(request, prompt=Prompt(segments=tuple(segments)))


def other_requests(one: Request) -> Iterator[tuple[str, Request]]:
    """Yield requests that differ from one in a single ingredient."""
    slot = one.prompt.segments[1]
    assert isinstance(slot, ImageSlot)
    text = one.prompt.segments[-1]
    assert isinstance(text, TextSegment)
    yield "a token", with_prompt(one, -1, ids=(*text.ids[:-1], text.ids[-1] + 1))
    yield "a token less", with_prompt(one, -1, ids=text.ids[:-1])
    before, after = one.prompt.segments[:1], one.prompt.segments[2:]
    halves = TextSegment(ids=text.ids[:1]), TextSegment(ids=text.ids[1:])
    yield "the place of a text's end", replace(one, prompt=Prompt(segments=(*one.prompt.segments[:-1], *halves)))
    yield "the place of a picture", replace(one, prompt=Prompt(segments=(slot, *before, *after)))
    yield "visual tokens", with_prompt(one, 1, tokens=slot.tokens + 1)
    yield "the first visual token", with_prompt(one, 1, first=1)
    yield "a grid", with_prompt(one, 1, grid=(1, 2, 3))
    yield "another picture", with_prompt(one, 1, image=ImageRef(path="other.png"))
    yield "a row of an array", with_prompt(one, 1, image=replace(slot.image, member="images"))
    yield "another row", with_prompt(one, 1, image=replace(slot.image, index=1))
    yield "the length", replace(one, length=one.length + 1)
    yield "the shift", replace(one, shift=-1)
    yield "the kind of the task", replace(one, spec=replace(one.spec, kind="report"))
    yield "what a model's own prompt adds", replace(one, prompt=ShownPrompt(segments=one.prompt.segments, task="x"))
    other = ShownPrompt(segments=one.prompt.segments, task="x", shown="others")
    yield "examples' pictures", replace(one, prompt=other)
    changed: dict[str, Any] = {
        "temperature": 0.5, "top_k": 1, "top_p": 0.5, "repetition_penalty": 1.1, "beams": 2, "seed": 1,
        "max_new_tokens": one.decoding.max_new_tokens + 1, "end_ids": frozenset({2, 3}), "stop_strings": ("###",),
    }  # fmt: skip
    for field, value in changed.items():
        yield field, replace(one, decoding=replace(one.decoding, **{field: value}))


def test_each_ingredient_of_a_request_makes_another_key(request_: Request, picture_folder: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(picture_folder / "other.png")
    others = dict(other_requests(request_))
    found = {name: keys().of(one) for name, one in others.items()} | {"itself": keys().of(request_)}
    assert None not in found.values()
    assert len(set(found.values())) == len(others) + 1
    assert {one.name for one in fields(Decoding)} <= set(others)
    assert keys(base="other").of(request_) != keys().of(request_) == keys().of(request_)


def test_names_and_places_make_no_other_key(request_: Request, tmp_path: Path) -> None:
    shutil.copytree(request_.source, tmp_path / "elsewhere")
    for name, path in {"renamed.png": "0.png", "1.png": "1.png", "2.png": "2.png", "3.png": "3.png"}.items():
        shutil.copy(request_.source / path, tmp_path / "elsewhere" / name)
    moved = replace(request_, source=tmp_path / "elsewhere")
    named = replace(moved, sample=replace(request_.sample, sample_id="9", task="another", labels={"a": "b"}))
    of_another_task = replace(named, spec=replace(request_.spec, name="another", version=9))
    assert keys().of(request_) == keys().of(moved) == keys().of(named) == keys().of(of_another_task)


def test_a_picture_is_its_bytes_and_is_read_again_when_it_changed(request_: Request, tmp_path: Path) -> None:
    shutil.copytree(request_.source, tmp_path / "pictures")
    one, mine = replace(request_, source=tmp_path / "pictures"), keys()
    before, path = mine.of(one), tmp_path / "pictures" / request_.images[0][1].path
    content = bytearray(path.read_bytes())
    path.write_bytes(content)
    assert mine.of(one) == before
    content[-1] ^= 1
    path.write_bytes(content)
    assert mine.of(one) not in {before, None}
    path.unlink()
    assert mine.of(one) is None


@pytest.mark.parametrize("name", sorted(OF_RECORDS[Sample] | {"the task's prompt"}))
def test_of_a_model_that_is_answered_whole_all_of_a_sample_counts_but_its_names(name: str, request_: Request) -> None:
    sample = request_.sample
    changed: dict[str, Any] = {
        "sample_id": "9", "task": "medqa", "split": "train", "images": (), "inputs": {"question": "?"},
        "reference": "B", "choices": {"A": "x"}, "box": (1, 2, 3, 4), "image_size": (1, 2), "labels": {"a": "b"},
        "groups": {"a": "b"},
    }  # fmt: skip
    if name in changed:
        other = replace(request_, sample=replace(sample, **{name: changed[name]}))
    else:
        other = replace(request_, spec=replace(request_.spec, prompt="Say: {question}"))
    assert (keys(whole=True).of(other) != keys(whole=True).of(request_)) == (name not in NAMES_ALONE)
    assert keys().of(other) == keys().of(request_)
    assert {"sample", "spec", "source"} == TOLD_OTHERWISE


class OwnLibrary(Small):
    def written_whole(self, *_: object) -> None:
        return None


class OwnInputs(Small):
    def inputs_whole(self, *_: object) -> dict[str, Any]:
        return {}


def test_a_model_whose_library_sees_samples_is_known_as_such(parts: dict[str, object]) -> None:
    models: list[LocalAdapter] = [Small(), OwnLibrary(), OwnInputs()]
    assert [keys_for(one, parts, [], lambda _: "").whole for one in models] == [False, True, True]


def test_what_has_no_key_is_not_looked_for(request_: Request) -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Odd(Prompt):
        thing: object

    assert keys().of(replace(request_, prompt=Odd(segments=request_.prompt.segments, thing=object()))) is None


# Any request

TEXTS = st.builds(TextSegment, ids=st.lists(st.integers(0, 20), max_size=4).map(tuple))
SLOTS = st.builds(
    ImageSlot, image=st.builds(ImageRef, path=st.sampled_from(["0.png", "1.png", "2.png"])), tokens=st.integers(0, 3)
)
DECODINGS = st.builds(
    Decoding, max_new_tokens=st.integers(1, 3), end_ids=st.frozensets(st.integers(0, 3), max_size=2),
    stop_strings=st.lists(st.text("ab", max_size=2), max_size=2).map(tuple), temperature=st.sampled_from([0.0, 0.5]),
)  # fmt: skip
PROMPTS = st.builds(Prompt, segments=st.lists(st.one_of(TEXTS, SLOTS), max_size=4).map(tuple))
KINDS = st.sampled_from(["slake-vqa", "mimic-cxr"])
ASKED = st.tuples(PROMPTS, DECODINGS, KINDS)


@pytest.fixture(scope="module")
def known_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known")
    pictures(folder, 3)
    return folder


@settings(max_examples=60, deadline=None)
@given(first=ASKED, second=ASKED)
def test_two_requests_have_one_key_if_and_only_if_they_are_the_same(
    first: tuple[Prompt, Decoding, str], second: tuple[Prompt, Decoding, str], known_pictures: Path
) -> None:
    def key(asked: tuple[Prompt, Decoding, str], name: str) -> str | None:
        prompt, decoding, task = asked
        sample = Sample(sample_id=name, task=task, split="test", reference=name)
        return keys().of(
            Request(
                sample=sample, spec=get_task(task), source=known_pictures, prompt=prompt, length=prompt.length,
                decoding=decoding,
            )
        )  # fmt: skip

    assert (key(first, "a") == key(second, "b")) == (first == second)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def shape(value: object) -> object:
    """Return a value that equals another only if types are equal too: 1 is neither 1.0 nor true."""
    if isinstance(value, list):
        return [shape(one) for one in value]
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    return type(value).__name__, repr(value)


@settings(max_examples=60, deadline=None)
@given(first=PLAIN, second=PLAIN)
def test_plain_values_have_one_digest_if_and_only_if_they_are_the_same(first: object, second: object) -> None:
    assert (digest(first) == digest(second)) == (shape(first) == shape(second))


def test_workloads_differ_by_limit_and_not_by_key(small_llama: Small) -> None:
    loads: list[Workload] = [load_workload(Settings(model="m", tasks=("slake-vqa",), limit=end)) for end in (1, 2)]
    assert [len(one.loads[0].samples) for one in loads] == [1, 2]
    assert base(small_llama, identity(limit=1)) == base(small_llama, identity(limit=2))
