"""The mixed sweep with bfloat16 weights and float32 keys on two threads, against the official loop in both.

Wall time. A processor without bfloat16 instructions is slow at it: the last line tells how fast its products of
matrices are in either type. `python -m benchmarks.engine_bf16`, some minutes.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.engine_ideal import gemm_peak
from benchmarks.engine_loads import mixed
from benchmarks.engine_model import MidSize
from benchmarks.engine_peers import Answers, engine_answers, official_loop
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.requests import Request
from medbench.harness.phases import Phases
from medbench.tasks.foundation.console import emit_table, say

THREADS = 2
BUDGET = Budget(rows=96, tokens=1 << 17)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        requests = mixed(Path(folder))
        plain, half = MidSize(), MidSize(dtype="bfloat16")
        rows = [
            ("official loop, float32", *_timed(plain, requests, official=True)),
            ("engine, float32", *_timed(plain, requests, official=False)),
            ("official loop, bfloat16", *_timed(half, requests, official=True)),
            ("engine, bfloat16 with float32 keys", *_timed(half, requests, official=False)),
        ]
    first, reference = rows[0][1], rows[1][2]
    emit_table(
        ["way", "seconds", "against official float32", "answers of float32"],
        [
            [way, f"{seconds:.1f}", f"{first / seconds:.2f}", f"{_equal(answers, reference)}/{len(requests)}"]
            for way, seconds, answers in rows
        ],
    )
    peaks = {dtype: gemm_peak(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    say(f"Products of matrices, GFLOP/s: {', '.join(f'{dtype} {peak:.0f}' for dtype, peak in peaks.items())}")


def _timed(model: MidSize, requests: Sequence[Request], *, official: bool) -> tuple[float, Answers]:
    started = time.perf_counter()
    answers = official_loop(model, requests) if official else engine_answers(model, requests, BUDGET, Phases())
    return time.perf_counter() - started, answers


def _equal(answers: Answers, reference: Answers) -> int:
    return sum(answers[key] == ids for key, ids in reference.items())


if __name__ == "__main__":
    main()
