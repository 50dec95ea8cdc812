"""How long a device computes: on a GPU its own time, not that of the host, which only launches."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from medbench.harness.phases import Phases

WAITED = "choose"
"""The phase in which the host waits for a device: it needs the chosen tokens."""
_NONE: Mapping[str, int] = MappingProxyType({})


@contextmanager
def timed(
    phases: Phases, device: torch.device | str, parts: Mapping[str, int], tasks: Mapping[str, int] = _NONE
) -> Iterator[None]:
    """Add the time of what a block computes to phases and tasks, by the tokens that each has in it.

    On a GPU it lies between two events of the stream, and is known when the host has waited for what follows.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        with phases.share(parts, tasks):
            yield
        return
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started = time.perf_counter()
    first.record()
    yield
    last.record()
    phases.add(time.perf_counter() - started, {WAITED: 1}, {})

    def seconds() -> float:
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000

    phases.add_later(seconds, parts, tasks)
