"""A look at a model in training: it answers held-out samples through the engine, and the protocol scores them."""

import math
from collections.abc import Mapping, Sequence

from medbench.adapters.base import LocalAdapter, Parser
from medbench.adapters.uni_med_training import HeldOut, Scores
from medbench.harness.engine.budget import auto_budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import make_request
from medbench.harness.phases import Phases
from medbench.harness.records import GenerationRecord
from medbench.harness.score import predict
from medbench.tasks.protocols import Protocol, evaluate

PROTOCOL: Protocol = "strict"
RUN = "in training"


def examine(adapter: LocalAdapter, parse: Parser, held_out: Mapping[str, Sequence[HeldOut]]) -> Scores:
    """Return the strict metrics by task, of greedy answers to the evaluation prompts; NaN ones are left out."""
    return {name: _scores(adapter, parse, samples) for name, samples in held_out.items()}


def _scores(adapter: LocalAdapter, parse: Parser, held_out: Sequence[HeldOut]) -> dict[str, float]:
    spec = held_out[0].spec
    engine = Engine(adapter, auto_budget(adapter.decoder), Phases())
    records = {
        outcome.sample_id: GenerationRecord.of(RUN, outcome)
        for outcomes in engine.generate(make_request(adapter, item.sample, item.spec, item.source) for item in held_out)
        for outcome in outcomes
    }
    items = [predict(records[item.sample.sample_id], item.sample, spec, parse) for item in held_out]
    values = {found.metric.metric_id: found.value for found in evaluate(spec.name, spec.kind, PROTOCOL, items)}
    return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}
