"""Keys and values in pages, as on a GPU: the same answers as in slots and as `generate`, whatever reads the pages."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import FAMILIES, Small, answer, generate_alone, make_requests, pictures, prefix_of, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hf import BUDGET, asked, model, one_by_one
from tiny_vlms import FAMILIES as VLMS
from transformers import PreTrainedModel

from medbench.harness.engine import continuous, pages
from medbench.harness.engine.budget import Budget, held_type
from medbench.harness.engine.packing import AttentionSettings, NewTokens
from medbench.harness.engine.pages import Kernel, KVPages, kernel_for
from medbench.harness.engine.slots import KVSlots
from medbench.harness.phases import Phases

Paged = Callable[..., list[KVPages]]
CPU = torch.device("cpu")
SETTINGS = AttentionSettings(0.4, None, None)


def pages_held(store: KVPages) -> int:
    return store._count - len(store._free)


def call_for_pages(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool, seqused_k: torch.Tensor,
    block_table: torch.Tensor, num_splits: int,
) -> torch.Tensor:  # fmt: skip
    """What `varlen_attn` is documented to return, sequence by sequence, written from its documentation alone."""
    assert all(one.dtype == torch.int32 for one in (cu_seq_q, cu_seq_k, seqused_k, block_table))
    assert num_splits == 1
    assert enable_gqa == (query.shape[1] != key.shape[2])
    assert cu_seq_k.diff().tolist() == seqused_k.tolist()
    out = torch.full_like(query, math.nan)
    longest = [0, 0]
    for number, (first, last) in enumerate(zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False)):
        used = int(seqused_k[number])
        own = block_table[number, : math.ceil(used / key.shape[1])].long()
        keys, values = (store[own].flatten(0, 1)[:used].transpose(0, 1) for store in (key, value))
        keys, values = (one.repeat_interleave(query.shape[1] // key.shape[2], dim=0) for one in (keys, values))
        # Aligned at the end: the last query stands beside the last key.
        places = torch.arange(last - first)[:, None] + used - (last - first) - torch.arange(used)
        allowed = places >= -window_size[1]
        if window_size[0] >= 0:
            allowed = allowed & (places <= window_size[0])
        scores = (query[first:last].transpose(0, 1) @ keys.transpose(1, 2) * scale).masked_fill(~allowed, -math.inf)
        out[first:last] = (scores.softmax(dim=-1) @ values).transpose(0, 1)
        longest = [max(longest[0], last - first), max(longest[1], used)]
    assert longest == [max_q, max_k]
    return out


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> Paged:
    """Hold keys and values in pages of a size, read by a kernel or by definition; the stores that were made."""

    def use(page: int, kernel: Kernel | None) -> list[KVPages]:
        def make(decoder: PreTrainedModel, budget: Budget) -> KVPages:
            made.append(KVPages(budget, decoder.device, held_type(decoder), kernel=kernel, page=page))
            return made[-1]

        made: list[KVPages] = []
        monkeypatch.setattr(continuous, "store_for", make)
        return made

    return use


KERNELS: Mapping[str, Kernel | None] = {"kernel": call_for_pages, "definition": None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("page", [8, 256])
def test_every_family_writes_what_generate_writes(
    family: str, kernel: str, page: int, picture_folder: Path, paged: Paged
) -> None:
    adapter = Small(family)
    requests = make_requests(picture_folder, 24, seed=1)
    alone = {request.sample.sample_id: generate_alone(adapter, request) for request in requests}
    stores = paged(page, KERNELS[kernel])
    phases = Phases()
    assert texts(answer(adapter, requests, Budget(rows=9, tokens=4096, prefill=150), phases)) == alone
    assert phases.counts["prompt tokens shared"] > 0
    assert list(map(pages_held, stores)) == [0]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    budget=st.builds(Budget, rows=st.integers(1, 12), tokens=st.integers(1, 900), prefill=st.integers(1, 300)),
    page=st.sampled_from([1, 3, 8, 64]), order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_no_schedule_changes_an_answer_nor_keeps_a_page(
    picture_folder: Path, small_llama: Small, paged: Paged, seed: int, budget: Budget, page: int, order: random.Random
) -> None:  # fmt: skip
    requests = make_requests(picture_folder, 16, seed)
    alone = {request.sample.sample_id: generate_alone(small_llama, request) for request in requests}
    order.shuffle(requests)
    stores = paged(page, None)
    assert texts(answer(small_llama, requests, budget)) == alone
    assert list(map(pages_held, stores)) == [0]


@pytest.mark.parametrize("family", ["gemma3", "paligemma", "qwen2_5_vl"])
def test_images_whose_tokens_read_one_another_or_stand_in_grids(family: str, tmp_path: Path, paged: Paged) -> None:
    pictures(tmp_path, 4)
    adapter = model(VLMS[family](tmp_path / family))
    requests = asked(adapter, tmp_path)
    alone = one_by_one(adapter, requests)
    for kernel in KERNELS.values():
        paged(16, kernel)
        assert texts(answer(adapter, requests, BUDGET)) == alone


def test_a_spoilt_row_leaves_nothing_to_who_comes_next() -> None:
    """NaN that is masked comes through a product all the same."""
    for store in (KVPages(Budget(rows=2, tokens=64), CPU, torch.float32, page=16), KVSlots(Budget(rows=2, tokens=512))):
        prefix = prefix_of(20)
        first = [NewTokens(slot=0, place=0, length=9, prefix=prefix), NewTokens(slot=1, place=0, length=12)]
        attention = store.plan([], first, [prefix])
        query = torch.ones(4, 41, 8)
        broken = torch.full((2, 41, 8), math.nan)
        attention.attend(0, SETTINGS, query, broken, broken)
        for slot in (0, 1):
            store.leave(slot, spoilt=True)
        store.drop(prefix)
        after = store.plan([], [NewTokens(slot=0, place=0, length=3), NewTokens(slot=1, place=0, length=12)], [])
        first_read = after.attend(0, SETTINGS, query[:, :15], torch.ones(2, 15, 8), torch.ones(2, 15, 8))
        steps = [NewTokens(slot=0, place=3, length=1), NewTokens(slot=1, place=12, length=1)]
        then = store.plan(steps, [], []).attend(0, SETTINGS, query[:, :2], torch.ones(2, 2, 8), torch.ones(2, 2, 8))
        assert torch.equal(first_read, torch.ones(15, 4, 8))
        assert torch.equal(then, torch.ones(2, 4, 8))


def test_pages_are_shared_but_where_a_prefix_ends() -> None:
    store = KVPages(Budget(rows=4, tokens=160), CPU, torch.float32, page=16)
    prefix = prefix_of(40)
    rows = [NewTokens(slot=slot, place=0, length=5, prefix=prefix) for slot in range(3)]
    assert store.places([], [prefix]) == 48
    store.plan([], rows, [prefix])
    # Three of the prefix, of which two are full; each row has a copy of the third and writes on in it.
    assert pages_held(store) == 3 + 3
    store.plan([replace(row, place=5, length=1) for row in rows], [], [])
    assert pages_held(store) == 6
    store.leave(1, spoilt=False)
    store.move([(2, 1, 6)])
    store.leave(1, spoilt=False)
    store.leave(0, spoilt=False)
    assert pages_held(store) == 3
    store.drop(prefix)
    assert pages_held(store) == 0


def test_a_row_that_is_longer_than_the_budget_gets_pages_all_the_same() -> None:
    small, large = (KVPages(Budget(rows=1, tokens=tokens), CPU, torch.float32, page=16) for tokens in (1, 4096))
    for place, length in ((0, 70), (70, 1), (71, 1)):
        part = NewTokens(slot=0, place=place, length=length)
        steps, prompts = ([part], []) if place else ([], [part])
        torch.manual_seed(place)
        query, key, value = torch.randn(4, length, 8), torch.randn(2, length, 8), torch.randn(2, length, 8)
        found = [store.plan(steps, prompts, []).attend(0, SETTINGS, query, key, value) for store in (small, large)]
        torch.testing.assert_close(*found)


def test_a_machine_without_the_kernel_is_told_why() -> None:
    kernel, why = kernel_for(CPU, torch.bfloat16)
    assert kernel is None
    assert why == "PyTorch has no paged attention for cpu"


def test_a_kernel_that_reads_the_wrong_pages_is_found_out() -> None:
    def shuffled(*given: Any, block_table: torch.Tensor, **named: Any) -> torch.Tensor:
        return call_for_pages(*given, block_table=block_table.flip(1).contiguous(), **named)

    assert pages.distance(call_for_pages, CPU, torch.float32) < 1e-5
    assert pages.distance(shuffled, CPU, torch.float32) > 0.5
