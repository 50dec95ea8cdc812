"""Batched against one-by-one generation: the same model, the same samples, the same answers, in one process.

Prints, for a few tasks of the mini suite, the ratio of CPU time and whether the answers agree. Run it on a quiet
machine: `make bench`.
"""

import time
from collections.abc import Sequence

import torch

from medbench.adapters.base import LoadOptions, LocalAdapter
from medbench.adapters.catalog import find_adapter
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request
from medbench.harness.generate import Plan, requests_of
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import RunError

TASKS = ("slake-vqa", "slake-rec", "mimic-cxr", "dermamnist")
SAMPLES = 64
REPEATS = 3
ONE_BY_ONE = Budget(rows=1, tokens=1 << 16)
BATCHED = Budget(rows=96, tokens=1 << 16)


def main() -> None:
    """Measure and print one row per task."""
    torch.set_num_threads(1)
    workload = load_workload(Settings(model="uni-med", tasks=TASKS, limit=SAMPLES))
    entry, _ = find_adapter("uni-med")
    adapter = entry.load(LoadOptions(device="cpu"))
    if not isinstance(adapter, LocalAdapter):
        raise RunError("The benchmark needs a local adapter.")
    adapter.exclusive = True
    say(f"{SAMPLES} samples per task, fp32, one thread, CPU seconds, median of {REPEATS} interleaved repeats")
    rows = [_compare(adapter, load) for load in workload.loads]
    emit_table(["task", "one by one", "batched", "ratio", "same answers"], rows)


def _compare(adapter: LocalAdapter, load: TaskLoad) -> list[str]:
    plan = Plan(loads=(load,), missing={load.spec.name: load.samples}, recorded=0)
    requests = list(requests_of(plan, adapter, Phases(), []))
    seconds: dict[Budget, list[float]] = {ONE_BY_ONE: [], BATCHED: []}
    answers: dict[Budget, dict[str, str]] = {}
    for _ in range(REPEATS):
        for budget, times in seconds.items():
            spent, answers[budget] = _generate(adapter, requests, budget)
            times.append(spent)
    single, batched = (sorted(times)[REPEATS // 2] for times in seconds.values())
    same = sum(answers[ONE_BY_ONE][key] == text for key, text in answers[BATCHED].items())
    return [load.spec.name, f"{single:.2f}", f"{batched:.2f}", f"{single / batched:.2f}", f"{same}/{len(requests)}"]


def _generate(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> tuple[float, dict[str, str]]:
    started = time.process_time()
    outcomes = [outcome for batch in Engine(adapter, budget, Phases()).generate(requests) for outcome in batch]
    spent = time.process_time() - started
    return spent, {outcome.sample_id: outcome.generation.text for outcome in outcomes if outcome.generation}


if __name__ == "__main__":
    main()
