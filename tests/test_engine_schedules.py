"""Answers do not depend on the schedule: any family of decoders, any number of slots, any order."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import FAMILIES, Small, answer, generate_alone, make_requests, prefix_of, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.harness.engine import attention
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.packing import NEVER, AttentionSettings, NewTokens
from medbench.harness.engine.passes import Passes
from medbench.harness.engine.requests import in_order
from medbench.harness.engine.slots import CHUNK, KVSlots
from medbench.harness.phases import Phases

WIDE = Budget(rows=16, tokens=4096)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("continuous", [True, False])
def test_every_family_writes_what_generate_writes(family: str, continuous: bool, picture_folder: Path) -> None:
    adapter = Small(family)
    requests = make_requests(picture_folder, 24, seed=1)
    alone = {request.sample.sample_id: generate_alone(adapter, request) for request in requests}
    assert len(set(alone.values())) > 12
    assert Engine(adapter, WIDE, Phases()).why_static == ""
    assert texts(answer(adapter, requests, Budget(rows=5, tokens=4096), continuous=continuous)) == alone


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 12), tokens=st.integers(30, 2000), prefill=st.integers(1, 300),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_no_schedule_changes_an_answer(
    picture_folder: Path, small_llama: Small, seed: int, rows: int, tokens: int, prefill: int, order: random.Random
) -> None:
    requests = make_requests(picture_folder, 20, seed)
    alone: dict[str, str] = {}
    for request in requests:
        alone |= texts(answer(small_llama, [request], Budget(rows=1, tokens=1)))
    order.shuffle(requests)
    assert texts(answer(small_llama, requests, Budget(rows=rows, tokens=tokens, prefill=prefill))) == alone


def test_what_questions_share_is_computed_once(picture_folder: Path, small_llama: Small) -> None:
    requests = make_requests(picture_folder, 60, seed=3)
    phases = Phases()
    answer(small_llama, requests, Budget(rows=8, tokens=4096), phases)
    total = sum(request.length for request in requests)
    counts = phases.counts
    assert counts["prompt tokens"] == total
    assert counts["prompt tokens shared"] > total / 4
    beginnings = {
        member.prefix
        for window in in_order(requests, share=True, window_tokens=10_000)
        for member in window
        if member.prefix
    }
    shared = sum(beginning.length for beginning in beginnings)
    assert counts["prompt tokens computed"] == total - counts["prompt tokens shared"] + shared
    assert counts["images encoded"] == 4


def test_an_adapter_whose_prefixes_depend_on_what_follows_shares_none(picture_folder: Path) -> None:
    adapter = Small()
    adapter.shares_prefixes = False
    requests = make_requests(picture_folder, 20, seed=4)
    phases = Phases()
    found = texts(answer(adapter, requests, WIDE, phases))
    assert found == texts(answer(Small(), requests, WIDE))
    assert phases.counts["prompt tokens shared"] == 0


def test_no_row_is_computed_for_nothing(picture_folder: Path, small_llama: Small) -> None:
    requests = make_requests(picture_folder, 50, seed=6)
    phases = Phases()
    answer(small_llama, requests, Budget(rows=7, tokens=4096), phases)
    assert phases.counts["decode row steps"] == phases.counts["output tokens"] - len(requests)


def test_like_lengths_stand_together(picture_folder: Path) -> None:
    requests = make_requests(picture_folder, 300, seed=7)
    windows = list(in_order(requests, share=True, window_tokens=10_000))
    assert sorted(member.request.sample.sample_id for window in windows for member in window) == sorted(
        request.sample.sample_id for request in requests
    )
    for window in windows:
        lengths = [member.own_length for member in window]
        assert lengths == sorted(lengths, reverse=True)
        assert len({bool(member.request.prompt.images()) for member in window}) == 1
        for member in window:
            whole = member.prefix.length if member.prefix else 0
            assert whole + member.own_length == member.request.length
            assert member.own_length >= 1


def one_pass(passes: Passes, prompts: list[tuple[NewTokens, torch.Tensor]], **more: Any) -> torch.Tensor:
    return passes.run(more.get("tokens", []), more.get("steps", []), prompts, more.get("prefixes", []))


def test_neighbours_do_not_leak(small_llama: Small) -> None:
    """The same shapes with other neighbours, and large numbers where rows hold nothing: bit for bit the same row."""

    def first_row(neighbour: float, rubbish: float) -> torch.Tensor:
        torch.manual_seed(1)
        cache = KVSlots(Budget(rows=4, tokens=1000))
        passes = Passes(small_llama.decoder, cache)
        own, other, shared = torch.randn(7, 32), torch.randn(5, 32) + neighbour, torch.randn(6, 32)
        held = prefix_of(6)
        first, second = NewTokens(slot=0, place=0, length=7), NewTokens(slot=1, place=0, length=5, prefix=held)
        one_pass(passes, [(first, own), (second, other)], prefixes=[(held, shared + neighbour)])
        for layer in range(3):
            for store in cache.layers[layer].chunks[0]:
                store[0, :, 7:] = rubbish
        steps = [NewTokens(slot=0, place=7, length=1), NewTokens(slot=1, place=5, length=1, prefix=held)]
        return one_pass(passes, [], tokens=[5, 6], steps=steps)[0]

    with torch.inference_mode():
        assert torch.equal(first_row(0.0, 0.0), first_row(3.0, 1e4))


@given(
    heads=st.sampled_from([1, 3]), length=st.integers(1, 9), keys=st.integers(1, 9), causal=st.booleans(),
    masked=st.booleans(),
)  # fmt: skip
def test_the_kernel_returns_the_sums_of_the_definition(
    heads: int, length: int, keys: int, causal: bool, masked: bool
) -> None:
    torch.manual_seed(heads + length + keys)
    keys = length if causal else keys
    query, key, value = (torch.randn(2, heads, size, 8) for size in (length, keys, keys))
    mask = torch.where(torch.rand(2, 1, length, keys) < 0.5, NEVER, 0.0) if masked and not causal else None
    if mask is not None:
        mask[..., 0] = 0
    fast = attention.attend(query, key, value, AttentionSettings(0.3, None, None), mask, causal=causal)
    plain = attention.attend_plainly(query, key, value, AttentionSettings(0.3, None, None), mask, causal=causal)
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-4)


def writing(cache: KVSlots, parts: list[NewTokens], states: torch.Tensor) -> None:
    """Write states [N, D] as keys, and ten more as values."""
    steps, prompts = [part for part in parts if part.length == 1], [part for part in parts if part.length > 1]
    keys = states[None].expand(2, -1, -1)
    cache.layers[0].write(cache.plan(steps, prompts, []), keys, keys + 10)


def test_rows_move_with_their_keys() -> None:
    cache = KVSlots(Budget(rows=4, tokens=4000))
    lengths = (3, 5, CHUNK + 20, 4)
    parts = [NewTokens(slot=slot, place=0, length=length) for slot, length in enumerate(lengths)]
    states = torch.cat([torch.full((length, 8), 1.0 + slot) for slot, length in enumerate(lengths)])
    writing(cache, parts, states)
    cache.move([(3, 0, 4), (2, 1, CHUNK + 20)])
    (keys, values), (later_keys, _) = cache.layers[0].chunks
    assert keys[0, 0, :4, 0].tolist() == [4.0] * 4
    assert keys[1, 1, :, 7].tolist() == [3.0] * CHUNK
    assert values[1, 1, 2, 7] == 13.0
    assert later_keys[1, 0, :20, 0].tolist() == [3.0] * 20


def test_rows_grow_over_chunks_without_losing_a_key() -> None:
    cache = KVSlots(Budget(rows=2, tokens=4000))
    torch.manual_seed(0)
    first = torch.randn(2 * (CHUNK - 1), 4)
    writing(cache, [NewTokens(slot=slot, place=0, length=CHUNK - 1) for slot in (0, 1)], first)
    for place in (CHUNK - 1, CHUNK):
        parts = [NewTokens(slot=0, place=place, length=1), NewTokens(slot=1, place=40 + place - CHUNK, length=1)]
        writing(cache, parts, torch.full((2, 4), float(place)))
    (keys, _), (later, _) = cache.layers[0].chunks
    assert torch.equal(keys[0, 1, : CHUNK - 1], first[: CHUNK - 1])
    assert torch.equal(keys[1, 1, 41 : CHUNK - 1], first[CHUNK + 40 :])
    found = [float(one) for one in (keys[0, 0, CHUNK - 1, 0], later[0, 0, 0, 0], keys[1, 0, 40, 0])]
    assert found == [CHUNK - 1, CHUNK, CHUNK]
    assert not later[0, :, 1:].any()
    assert not later[1:].any()


def test_only_long_rows_reach_later_chunks() -> None:
    layer, like = KVSlots(Budget(rows=64, tokens=1024)).layers[0], torch.zeros(2, 5, 4)
    assert [len(layer.room(chunk, like)) for chunk in (0, 1, 3, 40)] == [8, 4, 2, 1]


@torch.inference_mode()
def test_answers_over_several_chunks_are_those_of_generate(picture_folder: Path) -> None:
    adapter = Small("qwen3")
    requests = [
        replace(request, decoding=replace(request.decoding, max_new_tokens=length, end_ids=frozenset()))
        for request, length in zip(make_requests(picture_folder, 5, seed=12), (300, 20, 140, 1, 260), strict=True)
    ]
    alone = {one.sample.sample_id: generate_alone(adapter, one, forever=True) for one in requests}
    assert texts(answer(adapter, requests, Budget(rows=4, tokens=4096))) == alone
