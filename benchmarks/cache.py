"""What the cache of answers costs while it is filled, and saves when it is full; in one process, interleaved.

Prints seconds of answering (nothing is loaded or scored) without a cache, with an empty one and with a full one, and
what a lookup costs in a file of many answers. Run it on a quiet machine: `python -m benchmarks.cache`.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from medbench.adapters.catalog import choose_model
from medbench.harness.answering import Answering, told_by
from medbench.harness.cache.memory import memory_of
from medbench.harness.cache.store import Store
from medbench.harness.engine.requests import Outcome
from medbench.harness.generate import Plan
from medbench.harness.learned import Learned
from medbench.harness.models import ModelFacts, load_share, shares_of
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import RunError

SAMPLES, REPEATS, ROWS, TOGETHER = 40, 3, 200_000, 2_000


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {"none": [], "empty": [], "full": []}
    wanted: dict[tuple[str, str], Outcome] = {}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            for name, times in seconds.items():
                spent, found = _answered(None if name == "none" else Path(folder))
                times.append(spent)
                wanted = wanted or found
                if found != wanted:
                    raise RunError("The cache changed an answer.", "")
    plain = median(seconds["none"])
    rows = [[name, f"{median(times):.2f}", f"{median(times) / plain:.3f}"] for name, times in seconds.items()]
    title = f"{len(wanted)} samples of Uni-Med's mini weights, median of {REPEATS}, one thread"
    emit_table(["cache", "seconds", "of those without"], rows, title=title)
    with tempfile.TemporaryDirectory() as folder:
        _many(Path(folder))


def _answered(cache: Path | None) -> tuple[float, dict[tuple[str, str], Outcome]]:
    settings = Settings(model="uni-med", limit=SAMPLES, cache=cache)
    workload, model, phases = load_workload(settings), choose_model("uni-med", {}), Phases()
    adapter = load_share(settings, model, workload, shares_of(settings, workload)[0])
    plan = Plan(loads=workload.loads, missing={one.spec.name: one.samples for one in workload.loads}, recorded=0)
    started = time.perf_counter()
    told = told_by(adapter, ModelFacts.of(adapter), settings, workload)
    specs = [load.spec for load in plan.loads]
    memory = memory_of(adapter, told.identity(settings, workload, model), settings, workload, phases, specs=specs)
    outcomes = Answering(adapter, settings, phases, Learned(), memory).outcomes(plan)
    found = {(one.task, one.sample_id): one for some in outcomes for one in some}
    return time.perf_counter() - started, found


def _many(folder: Path) -> None:
    store, value = Store(folder), b"x" * 400
    keys = [f"{number * 2_654_435_761 % 2**32:064x}" for number in range(ROWS)]
    started = time.perf_counter()
    for first in range(0, ROWS, TOGETHER):
        store.put(dict.fromkeys(keys[first : first + TOGETHER], value), "model")
    written = time.perf_counter() - started
    started = time.perf_counter()
    for first in range(0, ROWS, TOGETHER):
        store.get(keys[first : first + TOGETHER])
    read = time.perf_counter() - started
    size = store.path.stat().st_size / ROWS
    kept, found = 1e6 * written / ROWS, 1e6 * read / ROWS
    say(f"{ROWS:,} answers of 400 bytes: {kept:.0f} µs to keep one, {found:.0f} µs to find it; {size:.0f} bytes each.")


if __name__ == "__main__":
    main()
