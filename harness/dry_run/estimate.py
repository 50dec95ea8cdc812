"""How long a run would take and what it would hold: measured on a few of its own questions."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.budget import Budget, auto_budget, bytes_per_token, held_type
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.grouping import in_order
from medbench.harness.engine.layout import text_config
from medbench.harness.engine.request import Request
from medbench.harness.phases import Phases

_PROBED = 16
_WRITTEN = 16
_PATIENCE_SECONDS = 20.0
_OF_IMAGES = ("wait for images", "encode", "connector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time and memory of a run.

    Attributes:
        probed: Questions that were answered to measure it.
        prompt_tokens: Tokens of all prompts that must be computed, shared beginnings once.
        seconds_as_references: If all answers are as long as their references.
        seconds_at_most: If all answers run to their limit.
        held: Bytes that the process (the GPU, if there is one) holds with the weights loaded, after the measurement.
        keys_and_values: Most bytes of keys and values.
        rows: Most rows at a time.
    """

    probed: int
    prompt_tokens: int
    seconds_as_references: float
    seconds_at_most: float
    held: int
    keys_and_values: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    image: float
    prompt_token: float
    output_token: float


def estimate(
    adapter: LocalAdapter, requests: Sequence[Request], *, images: int, as_references: int, rows: int | None
) -> Estimate | None:
    """Return an estimate, or None if there is nothing to measure.

    A full run has more questions in flight than the measurement, so it tends to be faster.

    Args:
        adapter: The model.
        requests: All that the run would ask.
        images: Different images among them.
        as_references: Tokens of all answers, were they as long as the references.
        rows: Most rows at a time, if the user has named them.
    """
    if not requests:
        return None
    budget = auto_budget(adapter.decoder, rows=rows)
    probe = _probe(requests)
    # The first pass of all compiles, allocates and reads from the disk; it is timed only to see if there is time.
    warming = _seconds(adapter, probe[:1], budget)[1]
    measured = probe if warming < _PATIENCE_SECONDS / _PROBED else probe[:1]
    speed = _speed(*_seconds(adapter, measured, budget), of=measured)
    prompts = _computed(adapter, requests, budget)
    before = images * speed.image + prompts * speed.prompt_token
    at_most = sum(request.decoding.max_new_tokens for request in requests)
    return Estimate(
        probed=len(measured),
        prompt_tokens=prompts,
        seconds_as_references=before + as_references * speed.output_token,
        seconds_at_most=before + at_most * speed.output_token,
        held=_held(adapter),
        keys_and_values=_keys_and_values(adapter, requests, budget),
        rows=budget.rows,
    )


def _probe(requests: Sequence[Request]) -> list[Request]:
    """Return a few requests from all over the run, with answers that end nowhere but at a few tokens."""
    stride = max(1, len(requests) // _PROBED)
    return [
        replace(
            request,
            decoding=replace(
                request.decoding, max_new_tokens=min(_WRITTEN, request.decoding.max_new_tokens), end_ids=frozenset(),
                stop_strings=(), beams=1,
            ),
        )
        for request in requests[::stride][:_PROBED]
    ]  # fmt: skip


def _seconds(adapter: LocalAdapter, probe: Sequence[Request], budget: Budget) -> tuple[Phases, float]:
    phases = Phases()
    started = time.perf_counter()
    for _ in Engine(adapter, budget, phases).generate(probe):
        pass
    if adapter.device.startswith("cuda"):
        torch.cuda.synchronize()
    return phases, time.perf_counter() - started


def _speed(phases: Phases, seconds: float, *, of: Sequence[Request]) -> _Speed:
    images = sum(phases.seconds.get(phase, 0.0) for phase in _OF_IMAGES)
    prefill = phases.seconds.get("prefill", 0.0)
    computed = phases.counts.get("prompt tokens computed", 0)
    written = phases.counts.get("output tokens", 0)
    encoded = phases.counts.get("images encoded", 0)
    if not computed:
        # The library answers whole batches and tells no phases: all of it is ascribed to what is written.
        return _Speed(image=0.0, prompt_token=0.0, output_token=seconds / max(1, written or len(of) * _WRITTEN))
    return _Speed(
        image=images / max(1, encoded),
        prompt_token=prefill / computed,
        output_token=(seconds - images - prefill) / max(1, written),
    )


def _computed(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> int:
    """Return the prompt tokens that are run, where questions of one image share their beginnings."""
    engine = Engine(adapter, budget, Phases())
    share = not engine.why_static and not engine.why_whole
    share = share and adapter.shares_prefixes and not adapter.has_row_states
    members = [one for window in in_order(requests, share=share, window_tokens=budget.tokens) for one in window]
    beginnings = {id(one.beginning): one.beginning.length for one in members if one.beginning}
    return sum(one.own_length for one in members) + sum(beginnings.values())


def _keys_and_values(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> int:
    longest = max(request.length + request.decoding.max_new_tokens for request in requests)
    tokens = max(longest, min(budget.tokens, longest * min(budget.rows, len(requests))))
    return tokens * bytes_per_token(text_config(adapter.decoder), held_type(adapter.decoder))


def _held(adapter: LocalAdapter) -> int:
    if adapter.device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
