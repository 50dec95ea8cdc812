"""Packing requests into batches by tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.engine.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one batch may hold.

    Attributes:
        rows: Most rows.
        tokens: Most tokens: rows times the longest prompt plus the longest answer. One row always fits.
    """

    rows: int
    tokens: int


AUTO_BUDGET = Budget(rows=64, tokens=16_384)


def pack(requests: Iterable[Request], budget: Budget) -> Iterator[list[Request]]:
    """Yield batches of one task each, longest prompts first.

    Prompts of unlike tasks are never padded together, and a batch that does not fit shows itself at the start.
    """
    for _, of_task in groupby(requests, key=lambda request: request.spec.name):
        ordered = sorted(of_task, key=lambda request: (-request.length, request.sample.sample_id))
        yield from _pack_ordered(ordered, budget)


def _pack_ordered(requests: Sequence[Request], budget: Budget) -> Iterator[list[Request]]:
    batch: list[Request] = []
    for request in requests:
        longest = batch[0] if batch else request
        row_tokens = longest.length + longest.spec.max_new_tokens
        if batch and (len(batch) == budget.rows or (len(batch) + 1) * row_tokens > budget.tokens):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
