"""Decode steps of a fixed shape: the answers of `generate`, and nothing in them that a CUDA graph could not replay."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import FAMILIES, Small, answer, generate_alone, make_requests, prefix_of, texts
from torch.utils._python_dispatch import TorchDispatchMode

from medbench.harness.engine.attention import KVSlots
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.images import Images
from medbench.harness.engine.packing import CHUNK, NewTokens
from medbench.harness.engine.passes import FixedSteps, Passes
from medbench.harness.phases import Phases


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_what_generate_writes(family: str, picture_folder: Path) -> None:
    adapter = Small(family)
    requests = make_requests(picture_folder, 24, seed=1)
    alone = {request.sample.sample_id: generate_alone(adapter, request) for request in requests}
    phases = Phases()
    assert texts(answer(adapter, requests, Budget(rows=5, tokens=4096, prefill=40), phases, fixed_steps=True)) == alone
    assert phases.counts["prompt tokens shared"] > 0


def test_rows_may_grow_over_chunks_and_start_in_a_later_one(picture_folder: Path) -> None:
    adapter = Small("mistral")
    requests = [
        replace(request, decoding=replace(request.decoding, max_new_tokens=length, end_ids=frozenset()))
        for request, length in zip(make_requests(picture_folder, 5, seed=12), (300, 20, 140, 1, 260), strict=True)
    ]
    alone = {one.sample.sample_id: generate_alone(adapter, one, forever=True) for one in requests}
    assert texts(answer(adapter, requests, Budget(rows=4, tokens=4096), fixed_steps=True)) == alone


@torch.inference_mode()
def test_a_prefix_longer_than_a_chunk_is_copied_whole() -> None:
    decoder = Small().decoder
    shared, own = torch.randn(CHUNK + 9, 32), torch.randn(4, 32)
    held = prefix_of(len(shared))

    def logits(copies: bool) -> torch.Tensor:
        cache = KVSlots(Budget(rows=2, tokens=1000))
        passes = Passes(decoder, cache)
        place = len(shared) if copies else 0
        part = NewTokens(slot=0, place=place, length=4, prefix=held, copies=copies)
        first = passes.run([], [], [(part, own)], [(held, shared)])
        if copies:
            return torch.cat([first, FixedSteps(decoder, cache, passes, 2).run([7], [place + 4], [place + 4])])
        return torch.cat([first, passes.run([7], [NewTokens(slot=0, place=4, length=1, prefix=held)], [], [])])

    torch.testing.assert_close(logits(copies=True), logits(copies=False), atol=2e-5, rtol=1e-4)


def test_memory_that_runs_out_starts_fixed_steps_again(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Small()
    requests = make_requests(picture_folder, 12, seed=2)
    expected = texts(answer(adapter, requests, Budget(rows=6, tokens=4096)))
    run, calls = FixedSteps.run, 0

    def run_out(self: FixedSteps, tokens: list[int], places: list[int], positions: list[int]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("injected")
        return run(self, tokens, places, positions)

    monkeypatch.setattr(FixedSteps, "run", run_out)
    phases = Phases()
    assert texts(answer(adapter, requests, Budget(rows=6, tokens=4096), phases, fixed_steps=True)) == expected
    assert phases.counts["out of memory"] == 1
    shared = phases.counts["prompt tokens shared"]
    again = Phases()
    answer(adapter, requests, Budget(rows=6, tokens=4096), again)
    assert shared == again.counts["prompt tokens shared"]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation and the shapes it was given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:  # fmt: skip
        shapes = [tuple(one.shape) for one in args if isinstance(one, torch.Tensor)]
        self.operations.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2"])
def test_a_step_does_the_same_whatever_its_tensors_hold(family: str) -> None:
    """A graph replays what it saw: no operation may depend on a value, read one, or bring one from the CPU."""
    decoder = Small(family).decoder

    def operations(tokens: list[int], places: list[int]) -> list[str]:
        cache = KVSlots(Budget(rows=4, tokens=4000))
        passes = Passes(decoder, cache)
        with torch.no_grad():
            passes.run([], [], [(NewTokens(slot=slot, place=0, length=3), torch.randn(3, 32)) for slot in range(3)], [])
            steps = FixedSteps(decoder, cache, passes, 4)
            steps.run(tokens, places, places)
            with _Recorder() as recorder:
                steps._compute(*next(iter(steps._inputs)))
            found: list[str] = recorder.operations
        return found

    few, many = operations([1, 2, 3], [3, 3, CHUNK + 40]), operations([9, 8, 7], [CHUNK + 1, 5, 100])
    assert few == many
    assert len(few) > 50
    forbidden = ("_local_scalar_dense", "nonzero", "lift_fresh", "_to_copy.default [()]", "is_nonzero", "item")
    assert [one for one in few if any(word in one for word in forbidden)] == []


def test_steps_keep_their_tensors() -> None:
    steps = FixedSteps(*(parts := _parts()), rows=8)
    _, cache, passes = parts
    with torch.inference_mode():
        passes.run([], [], [(NewTokens(slot=slot, place=0, length=3), torch.randn(3, 32)) for slot in range(3)], [])
        steps.run([1, 2, 3], [3, 3, 3], [3, 3, 3])
        inputs = next(iter(steps._inputs.values()))
        where = inputs.data_ptr(), cache.layers[0].chunks[0][0].data_ptr()
        steps.run([4, 5, 6, 7], [4, 4, 4, 0], [4, 4, 4, 0])
    assert list(steps._inputs) == [(4, 1)]
    assert where == (inputs.data_ptr(), cache.layers[0].chunks[0][0].data_ptr())


def _parts() -> tuple[Any, KVSlots, Passes]:
    decoder = Small().decoder
    cache = KVSlots(Budget(rows=8, tokens=4000))
    return decoder, cache, Passes(decoder, cache)


def test_pictures_taken_ahead_are_encoded_once(picture_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the next pictures are copied while the decoder computes."""
    adapter, requests = Small(), make_requests(picture_folder, 40, seed=3)
    expected = texts(answer(adapter, requests, Budget(rows=2, tokens=4096)))
    monkeypatch.setattr(Images, "uploads_ahead", True)
    phases = Phases()
    assert texts(answer(adapter, requests, Budget(rows=2, tokens=4096), phases)) == expected
    assert phases.counts["images encoded"] == 4
