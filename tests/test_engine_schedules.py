"""Answers do not depend on the schedule: any family of decoders, any number of slots, any order."""

import random
from pathlib import Path

import pytest
import torch
from engine_helpers import FAMILIES, Small, answer, generate_alone, make_requests, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.budget import Budget
from harness.engine.engine import Engine
from harness.engine.grouping import in_order
from harness.engine.slots import Place, SlotCache
from harness.phases import Phases

WIDE = Budget(rows=16, tokens=4096)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("continuous", [True, False])
def test_every_family_writes_what_generate_writes(family: str, continuous: bool, picture_folder: Path) -> None:
    adapter = Small(family)
    requests = make_requests(picture_folder, 24, seed=1)
    alone = {request.sample.sample_id: generate_alone(adapter, request) for request in requests}
    assert len(set(alone.values())) > 12
    assert Engine(adapter, WIDE, Phases()).reading is not None
    assert texts(answer(adapter, requests, Budget(rows=5, tokens=4096), continuous=continuous)) == alone


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
        member.beginning
        for window in in_order(requests, image_tokens=small_llama.image_tokens, share=True, window_tokens=10_000)
        for member in window
        if member.beginning
    }
    shared = sum(beginning.length for beginning in beginnings)
    assert counts["prompt tokens computed"] == total - counts["prompt tokens shared"] + shared
    assert counts["images encoded"] == 4


def test_an_adapter_whose_beginnings_depend_on_what_follows_shares_none(picture_folder: Path) -> None:
    adapter = Small()
    adapter.shares_beginnings = False
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
    windows = list(in_order(requests, image_tokens=6, share=True, window_tokens=10_000))
    assert sorted(member.request.sample.sample_id for window in windows for member in window) == sorted(
        request.sample.sample_id for request in requests
    )
    for window in windows:
        lengths = [member.own_length for member in window]
        assert lengths == sorted(lengths, reverse=True)
        assert len({bool(member.request.prompt.images()) for member in window}) == 1
        for member in window:
            whole = member.beginning.length if member.beginning else 0
            assert whole + member.own_length == member.request.length
            assert member.own_length >= 1


def test_neighbours_do_not_leak(small_llama: Small) -> None:
    """The same shapes with other neighbours, and large numbers where rows hold nothing: bit for bit the same row."""
    from harness.engine.passes import Passes, Reading

    def first_row(neighbour: float, rubbish: float) -> torch.Tensor:
        torch.manual_seed(1)
        cache = SlotCache(3, 4)
        passes = Passes(small_llama.decoder, cache, Reading(attention="full", window=0))
        own, other = torch.randn(7, 32), torch.randn(5, 32) + neighbour
        passes.prefill(0, [own, other], [0, 0])
        for store in cache.stores():
            store[0, :, 7:] = rubbish
        return passes.step([5, 6], [7, 5])[0]

    with torch.inference_mode():
        assert torch.equal(first_row(0.0, 0.0), first_row(3.0, 1e4))


def test_rows_move_with_their_keys() -> None:
    cache = SlotCache(1, 4)
    keys = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 2, 3, 8)
    cache.aim(Place(rows=slice(0, 4), positions=torch.arange(3).expand(4, 3), reach=3, start=0))
    cache.update(keys, keys + 10, 0)
    cache.move([3, 2], [0, 1], reach=3)
    stored_keys, stored_values = cache.stores()
    assert stored_keys[:2, 0, :3, 0].tolist() == [[3.0] * 3, [2.0] * 3]
    assert stored_values[0, 1, 2, 7] == 13.0


def test_slots_grow_without_losing_a_key() -> None:
    cache = SlotCache(1, 2)
    torch.manual_seed(0)
    first = torch.randn(2, 2, 60, 4)
    cache.aim(Place(rows=slice(0, 2), positions=torch.arange(60).expand(2, 60), reach=60, start=0))
    cache.update(first, first, 0)
    positions = torch.tensor([[60], [40]])
    cache.aim(Place(rows=slice(0, 2), positions=positions, reach=90))
    keys, _ = cache.update(torch.ones(2, 2, 1, 4), torch.ones(2, 2, 1, 4), 0)
    assert torch.equal(keys[0, :, :60], first[0])
    assert torch.equal(keys[1, :, 41:60], first[1, :, 41:])
    assert bool((keys[0, :, 60] == 1).all())
    assert bool((keys[1, :, 40] == 1).all())
    assert not keys[0, :, 61:].any()
