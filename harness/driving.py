"""A local model in a run: its engine, the budget that the run learned, and how far answers depend on batches."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, cast

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.alone import generate_alone
from medbench.harness.engine.budget import Budget, auto_budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.passes import compile_layers
from medbench.harness.engine.requests import Outcome, Request, Sampling, make_request
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.self_test import Tested, self_test
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import SampleError, UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.sample import Sample

_FEWEST, _MOST = 4, 24
_LOOKED_AT = 64


def choosing_of(settings: Settings, adapter: LocalAdapter) -> Sampling:
    """Return how a run's tokens are chosen: as the model's preset says, unless the user says otherwise."""
    chosen = settings.decoding() or adapter.decoding
    return Sampling(seed=settings.seed, **cast("Any", dict(chosen)))


def drive(
    adapter: LocalAdapter, requests: Iterator[Request], directory: RunDirectory, phases: Phases, settings: Settings
) -> Iterator[list[Outcome]]:
    """Yield outcomes as they come; what the engine learns about memory stays with the run."""
    if settings.compile:
        compile_layers(adapter.decoder)
    budget = _remembered(directory.budget, auto_budget(adapter.decoder, rows=settings.batch_size))
    graphs = settings.compile and adapter.device.startswith("cuda")
    first, requests = _some_of(requests)
    tested = self_test(adapter, first, budget)
    _tell(tested, adapter)
    if tested.one_by_one:
        budget = replace(budget, rows=1)
    engine = Engine(adapter, budget, phases, fixed_steps=graphs, whole=tested.whole)
    if engine.why_whole:
        _refuse_choosing(choosing_of(settings, adapter), adapter)
        say(f"The model's own library answers, batch by batch: {engine.why_whole}.")
    if engine.why_static:
        say(f"Static batches instead of continuous ones: {engine.why_static}.")
    for outcomes in engine.generate(requests):
        if engine.budget != budget:
            budget = engine.budget
            write_atomically(directory.budget, canonical_json(_as_json(budget)) + "\n")
        yield outcomes
    phases.notes |= {
        "batching": _batching(engine),
        "self-test": tested.as_json(),
        "budget": _as_json(engine.budget),
        "compiled": settings.compile,
        "cuda graphs": graphs,
        **adapter.observed(),
    }


def _refuse_choosing(choosing: Sampling, adapter: LocalAdapter) -> None:
    if not choosing.greedy:
        raise UsageError(
            f"{adapter.title} is answered by its own library, which takes the likeliest token.",
            "Leave out --temperature, --top-k, --top-p, --repetition-penalty and --beams.",
        )


def _tell(tested: Tested, adapter: LocalAdapter) -> None:
    """Say what the self-test found; aloud where answers differ."""
    if tested.skipped:
        warn(f"Self-test not done, nothing could be answered: {tested.skipped}")
    if not tested.total:
        return
    line = f"Self-test: {tested.equal} of {tested.total} answers are those of one-by-one generation in {adapter.dtype}."
    (say if tested.equal == tested.total else warn)(line)
    if tested.one_by_one:
        warn("Even its own library writes other tokens to batches than one by one: every sample is asked alone.")


def _some_of(requests: Iterator[Request]) -> tuple[list[Request], Iterator[Request]]:
    """Return the first requests, and all of them again."""
    first = list(islice(requests, _LOOKED_AT))
    return first, chain(first, requests)


def _batching(engine: Engine) -> str:
    if engine.why_whole:
        return f"whole: {engine.why_whole}"
    return f"static: {engine.why_static}" if engine.why_static else "continuous"


def _as_json(budget: Budget) -> dict[str, int]:
    return {"rows": budget.rows, "tokens": budget.tokens, "prefill": budget.prefill}


def _remembered(path: Path, budget: Budget) -> Budget:
    """Return a budget no larger than what an earlier part of the run learned to hold."""
    if not path.exists():
        return budget
    try:
        learned = json.loads(path.read_text(encoding="utf-8"))
        return Budget(
            rows=min(budget.rows, int(learned["rows"])),
            tokens=min(budget.tokens, int(learned["tokens"])),
            prefill=min(budget.prefill, int(learned["prefill"])),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        # It only spares a retry: a file cut short is no reason to stop.
        return budget


def note_agreement(
    adapter: LocalAdapter, loads: Sequence[TaskLoad], directory: RunDirectory, phases: Phases, settings: Settings
) -> None:
    """Note how many answers of a run in low precision are also those of `generate`, one by one.

    In float32 schedules do not change an answer, so nothing is measured.
    """
    if adapter.dtype == "float32" or not choosing_of(settings, adapter).greedy:
        return
    equal = total = 0
    # One by one is slow: a tenth of a small run, no more than a few answers of a large one.
    compared = min(_MOST, max(_FEWEST, sum(len(load.samples) for load in loads) // 10))
    with phases.time("agreement"):
        for load, sample, text in islice(_answered(loads, directory), compared):
            try:
                alone = generate_alone(adapter, make_request(adapter, sample, load.spec, load.prepared.source))
            except (SampleError, torch.OutOfMemoryError):
                # A comparison that is not possible costs no answer.
                continue
            equal += alone.text == text
            total += 1
    phases.notes["agreement"] = {"with": "generate, one by one", "dtype": adapter.dtype, "equal": equal, "of": total}
    say(f"In {adapter.dtype} {equal} of {total} answers are those of one-by-one generation.")


def _answered(loads: Sequence[TaskLoad], directory: RunDirectory) -> Iterator[tuple[TaskLoad, Sample, str]]:
    """Yield samples that have answers, one of every task in turn."""
    for turn in zip_longest(*(_of_task(load, directory) for load in loads)):
        yield from (one for one in turn if one is not None)


def _of_task(load: TaskLoad, directory: RunDirectory) -> Iterator[tuple[TaskLoad, Sample, str]]:
    records = directory.generations(load.spec.name, [sample.sample_id for sample in load.samples]).read()
    for sample in load.samples:
        record = records.get(sample.sample_id)
        if record is not None and not record.error:
            yield load, sample, record.text
