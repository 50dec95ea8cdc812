"""States of every kind of model: they are those of a plain forward pass, and a stop costs none."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_vlms
import torch
from test_fake_gpu import MODELS, by_name

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.requests import make_request
from medbench.harness.probing import states
from medbench.harness.probing.places import randomise
from medbench.harness.probing.reading import StateReader, pooled
from medbench.harness.probing.states import read_states
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.sample import Sample

pytestmark = pytest.mark.filterwarnings("ignore")
WHOLE: dict[str, Callable[[Path], LocalAdapter]] = {
    name: lambda folder, make=make, name=name: by_name(f"hf:{make(folder / name)}")  # type: ignore[misc]
    for name, make in tiny_vlms.WHOLE.items()
}
EVERY = {**MODELS, **WHOLE}
ONE_OF_A_KIND = ("uni-med", "med-flamingo", "qwen2_5_vl", "gemma3")


@pytest.fixture
def prepared(small_data: Path) -> Prepared:
    return load_prepared(small_data, "slake-vqa")


def every(prepared: Prepared) -> list[Sample]:
    return [*prepared.samples("test"), *prepared.samples("train")]


def hidden_by_hand(adapter: LocalAdapter, reader: StateReader, prepared: Prepared, sample: Any) -> Any:  # noqa: ANN401
    """Return the hidden states that the library itself gives out for one prompt, and where the image stands."""
    request = make_request(adapter, sample, prepared.spec, prepared.source)
    decoder = cast("Any", adapter.decoder)
    with torch.inference_mode():
        if adapter.only_whole or adapter.attention != "causal":
            inputs = adapter.inputs_whole(sample, prepared.spec, prepared.images(sample))
            assert adapter.published is not None
            image = inputs["input_ids"][0] == adapter.published.image_token_id
            return decoder(**inputs, output_hidden_states=True).hidden_states, image.nonzero().flatten()
        reader._see([*request.images])
        embedded = reader._embedded(request)[None]
        states_of = reader._states([request])
        from medbench.harness.engine.static import positions_of, row_states_argument

        mask = torch.ones(embedded.shape[:2], dtype=torch.long)
        output = decoder(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions_of([request], mask),
            output_hidden_states=True, use_cache=False, **row_states_argument(states_of),
        )  # fmt: skip
    at, found = 0, list[int]()
    for segment in request.prompt.segments:
        size = len(getattr(segment, "ids", ())) or getattr(segment, "tokens", 0)
        found += range(at, at + size) if hasattr(segment, "tokens") else ()
        at += size
    return output.hidden_states, torch.tensor(found, dtype=torch.long)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_decoders_states_are_those_of_a_plain_forward_pass(name: str, prepared: Prepared, tmp_path: Path) -> None:
    adapter = EVERY[name](tmp_path)
    reader, sample = StateReader(adapter, prepared), prepared.samples("test")[0]
    [row], [digest] = reader.read([sample])
    assert len(digest) == 16
    hidden, image = hidden_by_hand(adapter, reader, prepared, sample)
    expected: dict[str, torch.Tensor] = {}
    for read in (block.name for block in reader._blocks):
        # The library gives out the last block's states behind the final norm alone, and none inside a block.
        number = re.fullmatch(r"language (\d+)", read)
        if read == "language, normed" or (number and int(number[1]) < len(hidden) - 1):
            state = hidden[int(number[1]) if number else -1][0]
            expected[f"{read}, last token"] = state[-1].float()
            if len(image) > 1:
                expected[read] = pooled(state[image], sketch=False)
    if len(image) > 1:
        expected["connector output"] = pooled(hidden[0][0][image], sketch=False)
    start, compared = 0, 0
    for one in reader.places:
        own = row[start : start + one.width]
        start += one.width
        if one.label in expected:
            np.testing.assert_array_equal(own, expected[one.label].numpy(), err_msg=one.label)
            compared += 1
    assert compared == len(expected) > 2
    assert [one.module for one in reader.places if one.module == "vision"]
    assert any(", gated" in one.name for one in reader.places) == (name == "med-flamingo")


def test_vision_is_read_block_by_block(prepared: Prepared, tmp_path: Path) -> None:
    adapter = cast("Any", EVERY["uni-med"](tmp_path))
    sample = prepared.samples("test")[0]
    reader = StateReader(adapter, prepared)
    [row], _ = reader.read([sample])
    pixels = adapter.pixels(prepared.images(sample)[0])[None]
    with torch.inference_mode():
        hidden = adapter._model.vision_tower.vit(pixel_values=pixels, output_hidden_states=True).hidden_states
        resampled = adapter._model.encode_images(pixels)[0]
    names = [one.name for one in reader.places[:6]]
    assert names == [*(f"vision {place}" for place in range(1, 5)), "vision, handed on", "connector output"]
    by_hand = torch.cat([*(pooled(one[0], sketch=False) for one in hidden[1:5]), pooled(resampled, sketch=False)])
    np.testing.assert_array_equal(row[: len(by_hand)], by_hand.numpy())


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_a_batch_holds_what_its_samples_hold_alone(name: str, prepared: Prepared, tmp_path: Path) -> None:
    adapter = EVERY[name](tmp_path)
    samples = sorted(every(prepared), key=lambda one: len(one.inputs["question"]))
    some = [samples[0], samples[-1], samples[1]]
    together, _ = StateReader(adapter, prepared).read(some)
    alone = [StateReader(adapter, prepared).read([one])[0][0] for one in some]
    np.testing.assert_allclose(together, np.stack(alone), rtol=2e-4, atol=2e-4)


def test_a_stop_costs_no_state_and_changes_none(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, samples = EVERY["uni-med"](tmp_path), (every(prepared) * 4)[:7]
    straight = read_states(StateReader(adapter, prepared), samples, tmp_path / "one.f32", of="x", batch=2)
    reader, read = StateReader(adapter, prepared), StateReader.read
    asked = list[int]()

    def stopping(self: StateReader, some: Any) -> Any:  # noqa: ANN401
        asked.append(len(some))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return read(self, some)

    monkeypatch.setattr(StateReader, "read", stopping)
    with pytest.raises(KeyboardInterrupt):
        read_states(reader, samples, tmp_path / "two.f32", of="x", batch=2)
    # What was written behind the last batch that is told of is written again.
    with (tmp_path / "two.f32").open("ab") as stream:
        stream.write(b"half a batch")
    continued = read_states(StateReader(adapter, prepared), samples, tmp_path / "two.f32", of="x", batch=2)
    assert asked == [2, 2, 2, 2, 1]
    assert (tmp_path / "one.f32").read_bytes() == (tmp_path / "two.f32").read_bytes()
    assert continued.places == straight.places
    assert continued.digests == straight.digests
    with pytest.raises(DataError, match="other weights"):
        read_states(reader, samples, tmp_path / "two.f32", of="y", batch=2)
    (tmp_path / "two.f32").write_bytes(b"short")
    with pytest.raises(RunError, match="cut short"):
        read_states(reader, samples, tmp_path / "two.f32", of="x", batch=2)


def test_a_picture_is_encoded_once_for_all_its_questions(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = EVERY["uni-med"](tmp_path)
    samples = sorted(every(prepared) * 2, key=lambda one: one.images[0].path)
    encoded, encode = list[int](), adapter.encode_images
    reader = StateReader(adapter, prepared)
    reader.read(samples[:1])

    def counting(pixels: Any) -> Any:  # noqa: ANN401
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(adapter, "encode_images", counting)
    for start in range(1, len(samples), 2):
        reader.read(samples[start : start + 2])
    assert sum(encoded) == len({one.images for one in samples}) - 1
    assert len(samples) > len({one.images for one in samples})


def test_a_broken_picture_is_a_row_of_nothing(prepared: Prepared, tmp_path: Path) -> None:
    from dataclasses import replace

    first, second = every(prepared)[:2]
    broken = replace(first, images=(replace(first.images[0], path="imgs/none.jpg"),))
    rows, digests = StateReader(EVERY["uni-med"](tmp_path), prepared).read([broken, second])
    assert np.isnan(rows[0]).all()
    assert not np.isnan(rows[1]).any()
    assert digests[0] == ""
    assert digests[1]


def test_a_location_is_sketched_with_its_positions(prepared: Prepared, tmp_path: Path) -> None:
    reader = StateReader(EVERY["uni-med"](tmp_path), prepared, sketch=True)
    reader.read(prepared.samples("test")[:1])
    assert {one.width for one in reader.places if one.readout == "image"} == {1024}
    tokens = torch.randn(9, 5)
    assert not torch.allclose(pooled(tokens, sketch=True), pooled(tokens.flip(0), sketch=True))


def test_random_weights_are_others_of_the_same_size(tmp_path: Path) -> None:
    adapter = cast("Any", EVERY["uni-med"](tmp_path))
    before = {name: one.detach().clone() for name, one in adapter._model.named_parameters()}
    randomise(adapter, 0)
    for name, one in adapter._model.named_parameters():
        if one.dim() > 1:
            assert not torch.equal(one, before[name]), name
            assert one.std() < 1
    again = {name: one.detach().clone() for name, one in adapter._model.named_parameters()}
    randomise(adapter, 0)
    assert all(torch.equal(one, again[name]) for name, one in adapter._model.named_parameters())


def test_the_file_is_a_memory_map(prepared: Prepared, tmp_path: Path) -> None:
    reader = StateReader(EVERY["uni-med"](tmp_path), prepared)
    found = read_states(reader, (every(prepared) * 3)[:3], tmp_path / "s.f32", of="x", batch=2)
    assert isinstance(found.values, np.memmap)
    assert found.at(found.places[1]).shape == (3, found.places[1].width)
    np.testing.assert_array_equal(found.at(found.places[0]), found.values[:, : found.places[0].width])
    assert states._BYTES * found.values.size == (tmp_path / "s.f32").stat().st_size
