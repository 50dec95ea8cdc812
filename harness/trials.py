"""The engine outside of a run: what a run would take, what its schedule changes, how a model in training answers."""

import math
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from medbench.adapters.base import LocalAdapter, Parser
from medbench.adapters.uni_med_training import HeldOut, Scores
from medbench.harness.engine.budget import Budget, auto_budget, bytes_per_token, held_type, text_config
from medbench.harness.engine.engine import Engine, answers
from medbench.harness.engine.requests import Request, in_order, make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import predict
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.protocols import evaluate

_PROBED = 16
_WRITTEN = 16
_LONGEST_PROBE_SECONDS = 20.0
_OF_IMAGES = ("wait for images", "encode", "connector")
_FEW_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Time and memory of a run."""

    probed: int  # Questions that were answered to measure it.
    prompt_tokens: int  # Tokens of all prompts that must be computed, shared prefixes once.
    seconds_as_references: float  # If all answers are as long as their references.
    seconds_at_most: float  # If all answers run to their limit.
    held: int  # Bytes that the process (the GPU, if there is one) holds with the weights loaded, after the measurement.
    keys_and_values: int  # Most bytes of keys and values.
    rows: int  # Most rows at a time.


def estimate(
    adapter: LocalAdapter, requests: Sequence[Request], *, images: int, as_references: int, rows: int | None
) -> Estimate | None:
    """Return an estimate for all requests of a run, or None if there is nothing to measure.

    A full run has more questions in flight than the measurement, so it tends to be faster. `images` counts different
    images, `as_references` the tokens of all answers, were they as long as the references.
    """
    if not requests:
        return None
    budget = auto_budget(adapter.decoder, rows=rows)
    probe = [_shortened(request) for request in requests[:: max(1, len(requests) // _PROBED)][:_PROBED]]
    # The first pass compiles, allocates and reads from the disk; it is timed only to see if there is time.
    warming = _seconds(adapter, probe[:1], budget)[1]
    measured = probe if warming < _LONGEST_PROBE_SECONDS / _PROBED else probe[:1]
    image, prompt_token, output_token = _speeds(*_seconds(adapter, measured, budget), len(measured))
    # What prompts begin with alike is computed once.
    share = Engine(adapter, budget, Phases()).shares_prefixes
    asked = [one for window in in_order(requests, share=share, window_tokens=budget.tokens) for one in window]
    shared = {id(one.prefix): one.prefix.length for one in asked if one.prefix}
    prompts = sum(one.own_length for one in asked) + sum(shared.values())
    before = images * image + prompts * prompt_token
    longest = max(request.longest for request in requests)
    held_tokens = max(longest, min(budget.tokens, longest * min(budget.rows, len(requests))))
    on_gpu = adapter.device.startswith("cuda")
    return Estimate(
        probed=len(measured), prompt_tokens=prompts, rows=budget.rows,
        seconds_as_references=before + as_references * output_token,
        seconds_at_most=before + sum(request.decoding.max_new_tokens for request in requests) * output_token,
        held=int(torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss),
        keys_and_values=held_tokens * bytes_per_token(text_config(adapter.decoder), held_type(adapter.decoder)),
    )  # fmt: skip


def _shortened(request: Request) -> Request:
    """Return a request whose answer ends nowhere but at a few tokens."""
    few = min(_WRITTEN, request.decoding.max_new_tokens)
    decoding = replace(request.decoding, max_new_tokens=few, end_ids=frozenset(), stop_strings=(), beams=1)
    return replace(request, decoding=decoding)


def _seconds(adapter: LocalAdapter, probe: Sequence[Request], budget: Budget) -> tuple[Phases, float]:
    phases, started = Phases(), time.perf_counter()
    deque(Engine(adapter, budget, phases).generate(probe), maxlen=0)
    if adapter.device.startswith("cuda"):
        torch.cuda.synchronize()
    return phases, time.perf_counter() - started


def _speeds(phases: Phases, seconds: float, answered: int) -> tuple[float, float, float]:
    """Return the seconds of an image, of a token of a prompt and of one of an answer."""
    spent, counts = phases.seconds, phases.counts
    images, written = sum(spent[phase] for phase in _OF_IMAGES), counts["output tokens"]
    if not counts["prompt tokens computed"]:
        # The library answers whole batches and tells no phases: all of it is ascribed to what is written.
        return 0.0, 0.0, seconds / max(1, written or answered * _WRITTEN)
    rest = seconds - images - spent["prefill"]
    prompt_token = spent["prefill"] / counts["prompt tokens computed"]
    return images / max(1, counts["images encoded"]), prompt_token, rest / max(1, written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many answers of a schedule are those of `generate`: the same text, end and number of tokens."""

    schedule: str
    equal: int
    total: int
    differing: str  # Task and sample of the first that differs; empty if none does.


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDiagnosis:
    """What was found of the engine."""

    agreements: tuple[Agreement, ...]  # By schedule.
    driven: bool  # Whether the decoder is driven row by row; otherwise it gets static batches.
    unreadable: int  # Samples that no way can answer, since an image is missing or broken.


def examine_engine(adapter: LocalAdapter, loads: Sequence[TaskLoad], *, samples: int) -> EngineDiagnosis:
    """Answer up to `samples` test samples of tasks in several ways and compare with `generate`, one by one.

    They are the first of every task, one task after the other, so that several questions share an image.
    """
    each = max(1, samples // max(1, len(loads)))
    chosen = [(sample, load.spec, load.prepared.source) for load in loads for sample in load.samples[:each]]
    requests = [make_request(adapter, *asked) for asked in chosen[:samples]]
    alone = {}
    for request in requests:
        try:
            alone[request.name] = generate_alone(adapter, request)
        except SampleError:
            continue
    readable = [request for request in requests if request.name in alone]
    other_order = list(readable)
    random.Random(0).shuffle(other_order)
    wide = auto_budget(adapter.decoder)
    few = Budget(rows=_FEW_ROWS, tokens=wide.tokens)
    as_run = Engine(adapter, wide, Phases())
    schedules = {
        "engine, as a run uses it": (as_run, readable),
        f"{_FEW_ROWS} rows at a time": (Engine(adapter, few, Phases()), readable),
        "another order": (Engine(adapter, wide, Phases()), other_order),
        "static batches": (Engine(adapter, wide, Phases(), continuous=False), readable),
    }
    agreements = []
    for name, schedule in schedules.items():
        found = answers(*schedule)
        differing = ["/".join(key) for key, generation in alone.items() if found.get(key) != generation]
        equal, first = len(alone) - len(differing), next(iter(differing), "")
        agreements.append(Agreement(schedule=name, equal=equal, total=len(alone), differing=first))
    unreadable = len(requests) - len(readable)
    return EngineDiagnosis(agreements=tuple(agreements), driven=not as_run.why_static, unreadable=unreadable)


def examine(adapter: LocalAdapter, parse: Parser, held_out: Mapping[str, Sequence[HeldOut]]) -> Scores:
    """Return the strict metrics by task, of a model's greedy answers to held-out samples; NaN ones are left out."""
    return {name: _scores(adapter, parse, samples) for name, samples in held_out.items()}


def _scores(adapter: LocalAdapter, parse: Parser, held_out: Sequence[HeldOut]) -> dict[str, float]:
    spec = held_out[0].spec
    engine = Engine(adapter, auto_budget(adapter.decoder), Phases())
    requests = (make_request(adapter, item.sample, item.spec, item.source) for item in held_out)
    records = {
        outcome.sample_id: GenerationRecord.of("in training", outcome)
        for outcomes in engine.generate(requests)
        for outcome in outcomes
    }
    items = [predict(records[item.sample.sample_id], item.sample, spec, parse) for item in held_out]
    values = {found.metric.metric_id: found.value for found in evaluate(spec.name, spec.kind, "strict", items)}
    return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}
