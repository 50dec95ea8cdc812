"""Peak memory of the engine and of the official loop at the same number of rows, each in a process of its own."""

import multiprocessing
import tempfile
from pathlib import Path
from typing import Literal

import psutil
import torch

from benchmarks.engine_loads import LOADS, make_requests
from benchmarks.engine_model import MidSize
from benchmarks.engine_peers import OFFICIAL_BATCH, engine_answers, official_loop
from medbench.harness.engine.budget import Budget
from medbench.harness.phases import Phases

MemoryWay = Literal["engine", "official"]
LOAD = "report"


def memory_ratio() -> float:
    """Return the engine's peak over the official loop's, above what model and libraries take."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, official = (pool.apply(_peak, (way,)) for way in ("engine", "official"))
    return round(ours / official, 3)


def _peak(way: MemoryWay) -> int:
    torch.set_num_threads(1)
    model = MidSize()
    [load] = [load for load in LOADS if load.name == LOAD]
    with tempfile.TemporaryDirectory() as folder:
        requests = make_requests(load, Path(folder))[: 2 * OFFICIAL_BATCH]
        before = int(psutil.Process().memory_info().rss)
        if way == "engine":
            engine_answers(model, requests, Budget(rows=OFFICIAL_BATCH, tokens=1 << 17), Phases())
        else:
            official_loop(model, requests)
        return _most() - before


def _most() -> int:
    """Return the high-water mark in bytes; what the system's resource usage tells is inherited from the parent."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
