"""The generation engine against transformers' `generate`: one by one, as the official loop, and length-sorted.

A model of Uni-Med's shape with random weights (66 M parameters) answers workloads shaped like the real test sets. All
ways answer the same requests in the same process, interleaved; ids are compared. Where vLLM is installed it is one of
them, by prompt embeddings (`.venv-vllm/bin/python -m benchmarks.engine`). CPU time of one thread, fp32. Prints a
table and writes `build/bench-engine.json`. Run it on a quiet machine: `make bench-engine`, half an hour; some workloads
or fewer repeats: `python -m benchmarks.engine --repeats 1 slake rec`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.engine_ideal import gemm_peak, needed_operations, seconds_inside
from benchmarks.engine_loads import LOADS, make_requests, mixed
from benchmarks.engine_memory import memory_ratio
from benchmarks.engine_model import MidSize
from benchmarks.engine_peers import (
    OFFICIAL_BATCH,
    Answers,
    engine_answers,
    official_loop,
    one_by_one,
    sorted_batches,
    vllm_answers,
)
from medbench.adapters.base import LocalAdapter
from medbench.harness.engine import vllm
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.requests import Request
from medbench.harness.phases import Phases
from medbench.tasks.foundation.console import emit_table, say

REPEATS = 3
BUDGET = Budget(rows=96, tokens=1 << 17)
VLLM_BYTES = 1 << 31
OUTPUT = Path("build/bench-engine.json")
MIXED_EVERY = 6
GATED = ("ours", "official", "vllm")

Way = Callable[[LocalAdapter, Sequence[Request]], Answers]


@dataclass(frozen=True, slots=True)
class Timed:
    """CPU seconds of every repeat, and the answers."""

    seconds: list[float]
    answers: Answers


def main() -> None:
    """Measure the workloads, print the table, write the file."""
    names = [*(load.name for load in LOADS), "mixed"]
    parser = argparse.ArgumentParser(description="Compare the generation engine with transformers' generate.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}; all if none is named")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - set(names):
        parser.error(f"no workload is named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    torch.set_num_threads(1)
    model = MidSize()
    llm = vllm.start(model, BUDGET, {"kv_cache_memory_bytes": VLLM_BYTES}) if vllm.installed() else None
    with tempfile.TemporaryDirectory() as folder:
        loads = {load.name: make_requests(load, Path(folder)) for load in LOADS}
        every = {load.name: load.every for load in LOADS} | {"mixed": MIXED_EVERY}
        loads["mixed"] = mixed(Path(folder))
        _warm_up(model, loads["slake"])
        rows = {
            name: measure(model, loads[name], every[name], arguments.repeats, llm)
            for name in arguments.workloads or names
        }
    OUTPUT.parent.mkdir(exist_ok=True)
    memory = memory_ratio()
    OUTPUT.write_text(
        json.dumps({"workloads": rows, "peak_memory_vs_official": memory}, indent=2) + "\n", encoding="utf-8"
    )
    _show(model, rows, arguments.repeats)
    say(f"Peak memory at {OFFICIAL_BATCH} rows of reports: {memory} of the official loop's")


def measure(
    model: MidSize, requests: Sequence[Request], every: int, repeats: int, llm: object = None
) -> dict[str, Any]:
    """Return the ratios and counts of one workload; one by one is timed on every so manyth request."""
    phases = Phases()
    plain = MidSize()  # The engine puts weights into an order of its own, which would serve the others too.
    ways: dict[str, tuple[Way, Sequence[Request]]] = {
        "ours": (lambda model, asked: engine_answers(model, asked, BUDGET, phases), requests),
        "official": (lambda _, asked: official_loop(plain, asked), requests),
        "sorted": (lambda _, asked: sorted_batches(plain, asked), requests),
        "one_by_one": (lambda _, asked: one_by_one(plain, asked), requests[::every]),
    }
    if llm is not None:
        ways["vllm"] = (lambda model, asked: vllm_answers(model, asked, BUDGET, llm), requests)
    timed = {name: Timed([], {}) for name in ways}
    inside = 0.0
    for repeat in range(repeats):
        order = list(ways) if repeat % 2 == 0 else list(ways)[::-1]
        for name in order:
            if repeat and name not in GATED:
                continue
            way, asked = ways[name]
            with seconds_inside(model.decoder) as calls:
                started = time.process_time()
                timed[name].answers.update(way(model, asked))
                timed[name].seconds.append((time.process_time() - started) * len(requests) / len(asked))
            inside += sum(calls) if name == "ours" else 0.0
    ours = timed["ours"]
    counts = {name: number // repeats for name, number in phases.counts.items()}
    passes = sum(phases.seconds[name] for name in ("prefill", "decode", "choose", "move rows", "detokenise"))
    return {
        **{f"vs_{name}": _ratio(one, ours) for name, one in timed.items() if name != "ours"},
        "ids_equal": all(ours.answers[key] == ids for one in timed.values() for key, ids in one.answers.items()),
        "useful_row_share": round((counts["output tokens"] - len(requests)) / counts["decode row steps"], 4),
        "prefill_padding": round(1 - counts["prompt tokens computed"] / counts["prefill tokens run"], 4),
        "images_encoded": counts.get("images encoded", 0),
        "images_unique": len({image for request in requests for image in request.prompt.images()}),
        "fraction_of_ideal": round(needed_operations(model, counts) / gemm_peak() / median(ours.seconds), 3),
        "overhead_per_pass": round((passes - inside) / inside, 4),
        "seconds": {name: [round(value, 2) for value in one.seconds] for name, one in timed.items()},
        "phases": {name: round(value / repeats, 2) for name, value in phases.seconds.items()},
        "mean_rows": round(counts["decode row steps"] / max(1, counts["decode steps"]), 1),
    }


def _ratio(other: Timed, ours: Timed) -> float:
    return round(median(other.seconds) / median(ours.seconds), 2)


def _warm_up(model: MidSize, requests: Sequence[Request]) -> None:
    engine_answers(model, requests, BUDGET, Phases())
    official_loop(model, requests[:40])


def _show(model: MidSize, rows: dict[str, dict[str, Any]], repeats: int) -> None:
    say(f"{model.parameters() / 1e6:.0f} M parameters, fp32, one thread, median CPU time of {repeats} repeats")
    compared = [name for name in next(iter(rows.values())) if name.startswith("vs_")]
    columns = (*compared, "ids_equal", "fraction_of_ideal", "overhead_per_pass")
    images = [f"{row['images_encoded']}/{row['images_unique']}" for row in rows.values()]
    emit_table(
        ["workload", *columns, "images encoded/unique"],
        [
            [name, *(str(row[column]) for column in columns), seen]
            for (name, row), seen in zip(rows.items(), images, strict=True)
        ],
    )
    say(f"Written to {OUTPUT}")


if __name__ == "__main__":
    main()
