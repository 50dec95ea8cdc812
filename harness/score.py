"""From recorded generations to per-sample scores: parse, decide the state, apply both protocols. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adapters.base import Parser
from harness.records import GenerationRecord
from harness.rundir import RunDirectory
from harness.workload import TaskLoad
from tasks.foundation.errors import RunError
from tasks.foundation.files import json_lines, write_atomically
from tasks.metrics.metric import Scorable
from tasks.protocols import PROTOCOLS, Evaluation, Item, Protocol, State, evaluate
from tasks.sample import Box, Sample
from tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTask:
    """A task with its predictions and what both protocols make of them.

    Attributes:
        load: The task.
        items: One per sample, in order.
        groups: The unit of resampling of each item.
        evaluations: By protocol, one per metric.
    """

    load: TaskLoad
    items: Sequence[Item]
    groups: Sequence[str]
    evaluations: Mapping[Protocol, Sequence[Evaluation]]


def score_task(load: TaskLoad, directory: RunDirectory, parse: Parser) -> ScoredTask:
    """Score the recorded generations of a task and write them to `scores/<task>.jsonl`."""
    spec = load.spec
    records = directory.generations(spec.name, [sample.sample_id for sample in load.samples]).read()
    if len(records) != len(load.samples):
        raise RunError(
            f"{len(load.samples) - len(records)} of {len(load.samples)} samples of {spec.name} have no record in "
            f"{directory.path}.",
            "Give the command of the run again: it answers what is missing.",
        )
    items = [predict(records[sample.sample_id], sample, spec, parse) for sample in load.samples]
    evaluations = {protocol: evaluate(spec.name, spec.kind, protocol, items) for protocol in PROTOCOLS}
    groups = [sample.groups.get(spec.group_key, sample.sample_id) for sample in load.samples]
    scored = ScoredTask(load=load, items=items, groups=groups, evaluations=evaluations)
    write_atomically(directory.scores(spec.name), json_lines(_score_records(load.samples, scored)))
    return scored


def predict(record: GenerationRecord, sample: Sample, spec: TaskSpec, parse: Parser) -> Item:
    """Return the prediction in a record with its state; a failure is a state, never an answer."""
    if record.error:
        return Item(state="error", scorable=_scorable(sample, "", None))
    answer = parse(record.text, sample, spec)
    scorable = _scorable(sample, answer.text, _finite(answer.box))
    return Item(state=_state(record, scorable, spec), scorable=scorable)


def _state(record: GenerationRecord, scorable: Scorable, spec: TaskSpec) -> State:
    if not scorable.prediction.strip():
        return "empty"
    if record.stop == "length":
        return "truncated"
    if spec.kind == "rec" and scorable.predicted_box is None:
        return "unparsed"
    return "ok"


def _finite(box: Box | None) -> Box | None:
    return box if box is not None and all(math.isfinite(edge) for edge in box) else None


def _scorable(sample: Sample, text: str, box: Box | None) -> Scorable:
    return Scorable(
        prediction=text,
        reference=sample.reference,
        predicted_box=box,
        reference_box=sample.box,
        labels=sample.labels,
    )


def _score_records(samples: Sequence[Sample], scored: ScoredTask) -> list[dict[str, Any]]:
    by_protocol = {
        protocol: _statistics_by_item(len(samples), evaluations) for protocol, evaluations in scored.evaluations.items()
    }
    return [
        {
            "sample_id": sample.sample_id,
            "group": scored.groups[index],
            "state": scored.items[index].state,
            "prediction": scored.items[index].scorable.prediction,
            "box": scored.items[index].scorable.predicted_box,
            **{protocol: columns[index] for protocol, columns in by_protocol.items()},
        }
        for index, sample in enumerate(samples)
    ]


def _statistics_by_item(count: int, evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for evaluation in evaluations:
        values = evaluation.per_sample()
        for row, statistics, value in zip(evaluation.indices, evaluation.statistics, values, strict=True):
            rows[row][evaluation.metric.metric_id] = {
                "statistics": [float(number) for number in statistics],
                "value": None if np.isnan(value) else float(value),
            }
    return rows
