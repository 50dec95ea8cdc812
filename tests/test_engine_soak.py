"""Twenty thousand samples through the engine: all are answered, and memory does not grow with them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from engine_helpers import Small, make_requests, pictures

from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request
from medbench.harness.phases import Phases

MANY = 20_000
MEGABYTE = 1 << 20


def many(requests: list[Request]) -> Iterator[Request]:
    """Yield the requests over and over, under other names, as they are asked for."""
    for number in range(MANY):
        request = requests[number % len(requests)]
        short = replace(request.decoding, max_new_tokens=1 + number % 4)
        yield replace(request, sample=replace(request.sample, sample_id=f"n{number}"), decoding=short)


@pytest.mark.slow
def test_twenty_thousand_samples_leave_memory_flat(tmp_path: Path) -> None:
    pictures(tmp_path, 4)
    requests = make_requests(tmp_path, 500, seed=1)
    engine = Engine(Small(num_hidden_layers=1), Budget(rows=96, tokens=1 << 16), Phases())
    process = psutil.Process()
    answered, sizes = 0, []
    for outcomes in engine.generate(many(requests)):
        assert all(outcome.generation is not None for outcome in outcomes)
        before = answered // (MANY // 10)
        answered += len(outcomes)
        if answered // (MANY // 10) > before:
            sizes.append(process.memory_info().rss / MEGABYTE)
    assert answered == MANY
    # The first pools fill what allocators keep for themselves.
    assert max(sizes[5:]) - max(sizes[3:5]) < 40, sizes
