"""From recorded generations to per-sample scores: parse, decide the state, apply both protocols. Needs no model."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from medbench.adapters.base import Parser
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.guarding import understood
from medbench.harness.records import GenerationRecord
from medbench.harness.results import Written
from medbench.harness.rundir import RunDirectory
from medbench.harness.workload import TaskLoad
from medbench.harness.written import is_cut_off, written_on
from medbench.tasks.answers.box_space import BoxSpace, doubt_about_boxes
from medbench.tasks.answers.choice import choice_beside
from medbench.tasks.answers.thoughts import take_apart
from medbench.tasks.ceiling import rec_ceilings
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError
from medbench.tasks.foundation.files import json_lines, write_atomically
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import PROTOCOLS, Evaluation, Item, Protocol, evaluate, state_of, tokenise_together
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

_BOX_SIZES = ((0.01, "small, below 1 %"), (0.1, "medium, 1 to 10 %"))
_LARGE = "large, 10 % and more"
Ceilings = Mapping[Protocol, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTask:
    """A task with its predictions and what both protocols make of them.

    Attributes:
        load: The task.
        items: One per sample, in order.
        groups: The unit of resampling of each item.
        evaluations: By protocol, one per metric.
        written: How much the model wrote.
        ceilings: For REC, by protocol and metric: the score of a perfect model that writes boxes as this one does.
    """

    load: TaskLoad
    items: Sequence[Item]
    groups: Sequence[str]
    evaluations: Mapping[Protocol, Sequence[Evaluation]]
    ceilings: Ceilings
    written: Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What scoring gave.

    Attributes:
        tasks: The tasks that were scored.
        failed: Why the others were not, by task: a scorer that fails takes nothing away from other tasks.
    """

    tasks: Sequence[ScoredTask]
    failed: Mapping[str, MedbenchError]

    def notices(self) -> tuple[str, ...]:
        """Return a line for each task that was not scored."""
        return tuple(f"{name} is not scored: {error.problem}" for name, error in self.failed.items())

    def raise_if_failed(self, kept: str) -> None:
        """Raise an error for the tasks that were not scored, if there are any; `kept` says what there is."""
        if self.failed:
            first = next(iter(self.failed.values()))
            raise RunError(f"{', '.join(self.failed)} could not be scored: {first.problem}", f"{first.hint} {kept}")


def score_tasks(loads: Sequence[TaskLoad], directory: RunDirectory, model: ChosenModel) -> Scores:
    """Score the recorded generations of tasks and write them to `scores/<task>.jsonl`."""
    recorded = [(load, read_records(load, directory)) for load in loads]
    predicted = [(load, records, read_items(load, records, model.parse)) for load, records in recorded]
    _tell_of_parser([item.error for _, _, items in predicted for item in items if item.error], directory)
    with suppress(MedbenchError):
        # It only saves starts: where it fails, the task that it fails for says why.
        tokenise_together((load.spec.name, load.spec.kind, items) for load, _, items in predicted)
    tasks: list[ScoredTask] = []
    failed: dict[str, MedbenchError] = {}
    for load, records, items in predicted:
        try:
            tasks.append(_score_items(load, items, written_on(records), directory, model.boxes))
        except MedbenchError as error:
            failed[load.spec.name] = error
    return Scores(tasks=tasks, failed=failed)


def _tell_of_parser(errors: Sequence[str], directory: RunDirectory) -> None:
    if errors:
        warn(f"The model's parser failed on {len(errors)} answers, which are counted as errors. The first: {errors[0]}")
        say(f"They are read again, without the model, by: medbench score {directory.path}")


def doubts_about_boxes(scored: Sequence[ScoredTask], model: ChosenModel) -> tuple[str, ...]:
    """Return a warning for each task most of whose boxes cover nothing, which is what the wrong space looks like."""
    space = model.boxes
    if space is None:
        return ()
    declared_by = (
        "--model-arg boxes=NAME" if "boxes" in model.entry.arguments else f"the adapter {model.entry.card.name}"
    )
    doubts = (
        doubt_about_boxes(task.load.spec.name, _sized_boxes(task), space=space.name, declared_by=declared_by)
        for task in scored
        if task.load.spec.kind == "rec"
    )
    return tuple(filter(None, doubts))


def _sized_boxes(task: ScoredTask) -> list[tuple[Box, tuple[int, int]]]:
    pairs = zip(task.load.samples, task.items, strict=True)
    found = ((item.scorable.predicted_box, sample.image_size) for sample, item in pairs)
    return [(box, size) for box, size in found if box is not None and size is not None]


def read_records(load: TaskLoad, directory: RunDirectory) -> list[GenerationRecord]:
    """Return a task's records, one per sample, in order.

    Raises:
        RunError: If one is missing.
    """
    spec = load.spec
    records = directory.generations(spec.name, [sample.sample_id for sample in load.samples]).read()
    if len(records) != len(load.samples):
        raise RunError(
            f"{len(load.samples) - len(records)} of {len(load.samples)} samples of {spec.name} have no record in "
            f"{directory.path}.",
            "Give the command of the run again: it answers what is missing.",
        )
    return [records[sample.sample_id] for sample in load.samples]


def read_items(load: TaskLoad, records: Sequence[GenerationRecord], parse: Parser) -> list[Item]:
    """Return the predictions in a task's records, one per sample."""
    return [predict(record, sample, load.spec, parse) for record, sample in zip(records, load.samples, strict=True)]


def _score_items(
    load: TaskLoad, items: Sequence[Item], written: Written, directory: RunDirectory, boxes: BoxSpace | None
) -> ScoredTask:
    spec = load.spec
    scored = ScoredTask(
        load=load,
        items=items,
        groups=[sample.groups.get(spec.group_key, sample.sample_id) for sample in load.samples],
        evaluations={protocol: evaluate(spec.name, spec.kind, protocol, items) for protocol in PROTOCOLS},
        ceilings=_ceilings(spec, load.samples, boxes),
        written=written,
    )
    write_atomically(directory.scores(spec.name), json_lines(_score_records(load.samples, scored)))
    return scored


def _ceilings(spec: TaskSpec, samples: Sequence[Sample], boxes: BoxSpace | None) -> Ceilings:
    if spec.kind != "rec" or boxes is None:
        return {}
    right = [(sample.box, sample.image_size) for sample in samples if sample.box and sample.image_size]
    return {protocol: rec_ceilings(spec.name, right, boxes, protocol) for protocol in PROTOCOLS}


def predict(record: GenerationRecord, sample: Sample, spec: TaskSpec, parse: Parser) -> Item:
    """Return the prediction in a record with its state; a failure is a state, never an answer."""
    if record.error:
        return Item(state="error", scorable=_scorable(sample, "", None))
    said = take_apart(record.text)
    try:
        answer = understood(parse, said.answer, sample, spec)
    except SampleError as error:
        return Item(state="error", scorable=_scorable(sample, "", None), error=str(error))
    scorable = _scorable(sample, answer.text, _finite(answer.box))
    if record.served is not None and record.served.withheld in {"refusal", "content filter"}:
        return Item(state="refused", scorable=scorable)
    state = "truncated" if is_cut_off(said, record) else state_of(scorable, spec.kind)
    return Item(state=state, scorable=scorable)


def _finite(box: Box | None) -> Box | None:
    return box if box is not None and all(math.isfinite(edge) for edge in box) else None


def _scorable(sample: Sample, text: str, box: Box | None) -> Scorable:
    return Scorable(
        prediction=text,
        reference=sample.reference,
        choices=sample.choices,
        choice=choice_beside(text, sample.choices, sample.reference),
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
            "labels": labels_of(sample),
            **({"error": scored.items[index].error} if scored.items[index].error else {}),
            **{protocol: columns[index] for protocol, columns in by_protocol.items()},
        }
        for index, sample in enumerate(samples)
    ]


def labels_of(sample: Sample) -> dict[str, str]:
    """Return the dataset's own labels of a sample, and for boxes how much of the image they take."""
    if sample.box is None or sample.image_size is None:
        return dict(sample.labels)
    width, height = sample.image_size
    share = (sample.box.right - sample.box.left) * (sample.box.bottom - sample.box.top) / (width * height)
    size = next((name for most, name in _BOX_SIZES if share < most), _LARGE)
    return {**sample.labels, "box_size": size}


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
