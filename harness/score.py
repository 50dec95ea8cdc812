"""From answers to numbers: parse, decide the state, apply both protocols, summarise. Needs no model."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medbench.adapters.base import Answer, Parser
from medbench.adapters.catalog import ChosenModel, choose_model
from medbench.adapters.function import known_model
from medbench.adapters.guarding import understood
from medbench.harness import results
from medbench.harness.doubts import doubts_of_run
from medbench.harness.results import MetricResult, Results, TaskResult, Written
from medbench.harness.rundir import GenerationRecord, RunDirectory, is_cut_off, read_run, thinks
from medbench.harness.settings import Settings, load_settings
from medbench.harness.workload import TaskLoad, Workload, load_workload
from medbench.tasks import protocols
from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.answers.choice import choice_beside
from medbench.tasks.answers.thoughts import SIGNATURE, split_thought, thought_end
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError
from medbench.tasks.foundation.files import json_lines, write_atomically
from medbench.tasks.metrics.asked import Asked, notices_of, read_asked, refuse_useless
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import PROTOCOLS, Evaluation, Item, Protocol
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.statistics.intervals import interval

METRICS_FOLDER = "metrics"
"""Of a run: what metrics that were asked for keep for the next time, verdicts say."""
_UNSCORED = "could not be scored on"
_BOX_SIZES = ((0.01, "small, below 1 %"), (0.1, "medium, 1 to 10 %"), (math.inf, "large, 10 % and more"))
_DIGITS = 10  # Digits kept in files: more than any reader needs, fewer than the last bits that differ between machines.
_SHARE_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What scoring gave."""

    tasks: Mapping[str, TaskResult]  # The numbers of the tasks that were scored.
    failed: Mapping[str, MedbenchError]  # Why others were not: a scorer that fails takes nothing from other tasks.
    # Warnings of answers that look wrong, such as boxes that cover nothing, and of what a metric left out.
    doubts: tuple[str, ...]

    def notices(self) -> tuple[str, ...]:
        """Return a line for each task that was not scored, and the doubts."""
        failed = (f"{name} is not scored: {error.problem}" for name, error in self.failed.items())
        return (*failed, *self.doubts)

    def raise_if_failed(self, kept: str) -> None:
        """Raise an error for the tasks that were not scored, if there are any; `kept` says what there is."""
        if self.failed:
            first = next(iter(self.failed.values()))
            raise RunError(f"{', '.join(self.failed)} could not be scored: {first.problem}", f"{first.hint} {kept}")


def score_tasks(
    loads: Sequence[TaskLoad], directory: RunDirectory, model: ChosenModel, asked: Sequence[Asked] = ()
) -> Scores:
    """Score the recorded generations of tasks, also by the metrics that were `asked` for.

    Writes the scores of samples to `scores/<task>.jsonl`.
    """
    recorded = [_read_records(load, directory) for load in loads]
    predicted = [
        (load, records, [predict(*pair, load.spec, model.parse) for pair in zip(records, load.samples, strict=True)])
        for load, records in zip(loads, recorded, strict=True)
    ]
    errors = [item.error for _, _, items in predicted for item in items if item.error]
    if errors:
        warn(f"The model's parser failed on {len(errors)} answers, which are counted as errors. The first: {errors[0]}")
        say(f"They are read again, without the model, by: medbench score {directory.path}")
    with suppress(MedbenchError):
        # It only saves starts: where it fails, the task that it fails for says why.
        protocols.tokenise_together((load.spec.name, load.spec.kind, items) for load, _, items in predicted)
    tasks: dict[str, TaskResult] = {}
    failed: dict[str, MedbenchError] = {}
    doubts: list[str] = []
    for load, records, items in predicted:
        try:
            evaluations = _evaluated(load.spec, items, directory, asked, failed)
            tasks[load.spec.name], unscored = _score_task(load, records, items, evaluations, directory, model.boxes)
        except MedbenchError as error:
            failed[load.spec.name] = error
        else:
            doubts += [*unscored, *doubts_of_run(load, items, model)]
    return Scores(tasks=tasks, failed=failed, doubts=tuple(doubts))


def _read_records(load: TaskLoad, directory: RunDirectory) -> list[GenerationRecord]:
    records, asked = directory.of_task(load).read(), len(load.samples)
    if len(records) != asked:
        missing = f"{asked - len(records)} of {asked} samples of {load.spec.name} have no record in {directory.path}."
        raise RunError(missing, "Give the command of the run again: it answers what is missing.")
    return list(records.values())


def predict(record: GenerationRecord, sample: Sample, spec: TaskSpec, parse: Parser) -> Item:
    """Return the prediction in a record with its state; a failure is a state, never an answer."""
    said = split_thought(record.text)
    try:
        answer = Answer(text="") if record.error else understood(parse, said.answer, sample, spec)
    except SampleError as error:
        return Item(state="error", scorable=_scorable(sample, "", None), error=str(error))
    box = answer.box if answer.box is not None and all(map(math.isfinite, answer.box)) else None
    scorable = _scorable(sample, answer.text, box)
    if record.error:
        return Item(state="error", scorable=scorable)
    if record.served is not None and record.served.withheld in {"refusal", "content filter"}:
        return Item(state="refused", scorable=scorable)
    state = "truncated" if is_cut_off(said, record) else protocols.state_of(scorable, spec.kind)
    return Item(state=state, scorable=scorable)


def _scorable(sample: Sample, text: str, box: Box | None) -> Scorable:
    return Scorable(
        prediction=text, reference=sample.reference, choices=sample.choices,
        choice=choice_beside(text, sample.choices, sample.reference), predicted_box=box, reference_box=sample.box,
        labels=sample.labels, question=sample.inputs.get("question", ""),
    )  # fmt: skip


def _evaluated(
    spec: TaskSpec, items: Sequence[Item], directory: RunDirectory, asked: Sequence[Asked],
    failed: dict[str, MedbenchError],
) -> dict[Protocol, tuple[Evaluation, ...]]:  # fmt: skip
    """Return the evaluations of a task; an asked metric that fails is in `failed`, and costs no other its number."""
    found = {protocol: protocols.evaluate(spec.name, spec.kind, protocol, items) for protocol in PROTOCOLS}
    for one in asked:
        try:
            metrics = one.metrics(spec, directory.path / METRICS_FOLDER)
            found["strict"] += protocols.evaluate(spec.name, spec.kind, "strict", items, metrics)
        except MedbenchError as error:
            failed[f"{spec.name} by {one.name}"] = error
    return found


def _score_task(
    load: TaskLoad, records: Sequence[GenerationRecord], items: Sequence[Item],
    evaluations: Mapping[Protocol, Sequence[Evaluation]], directory: RunDirectory, boxes: BoxSpace | None,
) -> tuple[TaskResult, list[str]]:  # fmt: skip
    """Return the numbers of a task, and a line for each metric that could not score all that was answered."""
    spec, manifest = load.spec, load.prepared.manifest
    numbers = numbers_of(spec, evaluations, items, load.samples, unit=spec.group_key, boxes=boxes)
    write_atomically(directory.scores(spec.name), json_lines(_score_records(load, items, evaluations)))
    unscored = [
        f"{spec.title}: {one.metric.metric_id} ({protocol}) {_UNSCORED} {one.unscored} answers. Its number "
        f"is over the other {len(one.indices)}; with theirs it would lie in its bounds."
        for protocol, found in evaluations.items()
        for one in found
        if one.unscored
    ]
    result = TaskResult(
        title=spec.title, kind=spec.kind, version=spec.version, data=manifest.data_fingerprint,
        licence=manifest.licence, samples=len(items), states=protocols.count_states(items),
        written=written_on(records), paper=numbers["paper"], strict=numbers["strict"],
    )  # fmt: skip
    return result, unscored


def numbers_of(
    spec: TaskSpec, evaluations: Mapping[Protocol, Sequence[Evaluation]], items: Sequence[Item],
    samples: Sequence[Sample], *, unit: str, boxes: BoxSpace | None,
) -> dict[Protocol, dict[str, MetricResult]]:  # fmt: skip
    """Return, by protocol, each metric's number; `unit` (`image`, `patient`) is what its interval resamples.

    The ceiling is the score of a perfect model that writes the right boxes in the space `boxes`.
    """
    groups = [sample.groups.get(unit, sample.sample_id) for sample in samples]
    right = [(one.box, one.image_size) for one in samples if one.box and one.image_size and spec.kind == "rec"]
    numbers: dict[Protocol, dict[str, MetricResult]] = {}
    for protocol, found in evaluations.items():
        limits = protocols.rec_ceilings(spec.name, right, boxes, protocol) if boxes is not None and right else {}
        made = (_metric_result(one, items, groups, unit, limits.get(one.metric.metric_id, math.nan)) for one in found)
        numbers[protocol] = {one.metric.metric_id: result for one, result in zip(found, made, strict=True)}
    return numbers


def _metric_result(
    evaluation: Evaluation, items: Sequence[Item], groups: Sequence[str], unit: str, ceiling: float
) -> MetricResult:
    metric = evaluation.metric
    clusters = [groups[index] for index in evaluation.indices]
    value = evaluation.value if clusters else math.nan
    found = None if math.isnan(value) else interval(metric, evaluation.statistics, clusters)
    states = Counter(item.state for item in items if metric.applies(item.scorable))
    read, there = states["ok"], states.total() - states["error"]
    made = (
        None
        if found is None
        else results.IntervalInfo(
            method=found.method, clusters=found.clusters, design_effect=_number(found.design_effect, _SHARE_DIGITS)
        )
    )
    return MetricResult(
        value=_number(value), ci=None if found is None else (_fraction(found.low), _fraction(found.high)),
        interval=made, n=len(clusters), errors=states["error"] + evaluation.unscored, unparsed=states["unparsed"],
        truncated=states["truncated"], empty=states["empty"], refused=states["refused"],
        bounds=evaluation.bounds and (_fraction(evaluation.bounds[0]), _fraction(evaluation.bounds[1])),
        answered=round(read / there, _DIGITS) if there else None,
        among_answered=_number(evaluation.value_among_answered), ceiling=_number(ceiling), traits=metric.traits,
        signature=f"{metric.signature}|{SIGNATURE}|ci=clustered:{unit}|n={len(clusters)}",
    )  # fmt: skip


def _number(value: float, digits: int = _DIGITS) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _fraction(value: float) -> float:
    return round(min(1.0, max(0.0, value)), _DIGITS)


def _score_records(
    load: TaskLoad, items: Sequence[Item], evaluations: Mapping[Protocol, Sequence[Evaluation]]
) -> Iterator[dict[str, Any]]:
    # One record at a time: together they take many times the room of the file.
    names = [(protocol, one.metric.metric_id) for protocol, found in evaluations.items() for one in found]
    columns = [_scores_by_row(one, len(items)) for found in evaluations.values() for one in found]
    for sample, item, *scores in zip(load.samples, items, *columns, strict=True):
        record: dict[str, Any] = {
            "sample_id": sample.sample_id, "group": sample.groups.get(load.spec.group_key, sample.sample_id),
            "state": item.state, "prediction": item.scorable.prediction, "box": item.scorable.predicted_box,
            "labels": labels_of(sample),
            **({"error": item.error} if item.error else {}), **{protocol: {} for protocol in evaluations},
        }  # fmt: skip
        for (protocol, metric), score in zip(names, scores, strict=True):
            if score is not None:
                record[protocol][metric] = score
        yield record


def _scores_by_row(one: Evaluation, rows: int) -> Iterator[dict[str, Any] | None]:
    """Yield the score of each row by a metric, None where the metric does not apply."""
    scored = zip(one.indices, one.statistics, one.per_sample(), strict=True)
    upcoming = next(scored, None)
    for row in range(rows):
        if upcoming is None or upcoming[0] != row:
            yield None
            continue
        _, statistics, value = upcoming
        yield {"statistics": statistics.tolist(), "value": None if np.isnan(value) else float(value)}
        upcoming = next(scored, None)


def labels_of(sample: Sample) -> dict[str, str]:
    """Return the dataset's own labels of a sample, and for boxes how much of the image they take."""
    box, size = sample.box, sample.image_size
    if box is None or size is None:
        return dict(sample.labels)
    share = (box.right - box.left) * (box.bottom - box.top) / math.prod(size)
    return {**sample.labels, "box_size": next(name for most, name in _BOX_SIZES if share < most)}


def written_on(records: Sequence[GenerationRecord]) -> Written:
    """Return how much a model wrote on a task, over the samples that did not fail."""
    answers = [record for record in records if not record.error]
    thinking = cut = 0
    written = thought = 0.0
    for record in answers:
        said = split_thought(record.text)
        thinking += thinks(said, record)
        cut += is_cut_off(said, record) and not said.answer
        # In tokens; by characters where nobody counted the tokens of a thought.
        characters = len(record.text) + len(record.reasoning)
        by_characters = (thought_end(record.text) + len(record.reasoning)) / characters if characters else 0.0
        length = record.output_tokens or characters
        written += length
        thought += min(record.thought_tokens, length) or length * by_characters
    at_limit = sum(record.stop == "length" for record in answers)
    share = round(thought / written, _SHARE_DIGITS) if thinking and written else None
    return Written(answers=len(answers), at_limit=at_limit, thinking=thinking, cut_thoughts=cut, thought_share=share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """What a run's folder says of the run, without its model."""

    directory: RunDirectory
    settings: Settings
    workload: Workload
    model: ChosenModel


def reopen(path: Path, data_dir: Path | None = None, tasks: Collection[str] | None = None) -> Reopened:
    """Return a run, all of it or some of its `tasks`, from its `run.yaml`; `data_dir` is where the tasks are now.

    RunError if the data are not those that it had.
    """
    document = read_run(path)
    parts = document["identity_of"]
    settings = load_settings(path / "run.yaml", {"data_dir": data_dir})
    names = tuple(name for name in parts["tasks"] if tasks is None or name in tasks)
    workload = load_workload(replace(settings, tasks=names, limit=parts["limit"]))
    for load in workload.loads:
        if load.prepared.manifest.data_fingerprint != parts["tasks"][load.spec.name]["data"]:
            problem = f"The prepared {load.spec.name} in {workload.data_dir} is not the data that the run answered."
            raise RunError(problem, "Give the folder of the run's data with --data-dir.")
    # What the arguments were then, not what would follow today from files that may be gone.
    arguments, own = parts.get("arguments", {}), parts.get("own model")
    boxes, given = arguments.get("boxes", ""), {**settings.model_args, **arguments}
    model = choose_model(parts["model"], given) if own is None else known_model(own, boxes)
    directory = RunDirectory(path=path, identity=document["identity"])
    return Reopened(directory=directory, settings=settings, workload=workload, model=model)


def rescore(
    path: Path, data_dir: Path | None = None, metrics: Mapping[str, Mapping[str, str]] | None = None
) -> Results:
    """Score a run's generations again with today's metrics and write `scores/` and `results.json`.

    `data_dir` is where the tasks are now; `metrics` are asked for beside those that were before, with their arguments;
    an empty table leaves these out. RunError if the run is not finished, or the data are not those that it had.
    """
    before = results.read_results(path)
    wanted = {} if metrics is not None and not metrics else {**before.metrics, **(metrics or {})}
    asked = read_asked(wanted)
    run = reopen(path, data_dir, before.tasks)
    for line in (*refuse_useless(asked, [load.spec for load in run.workload.loads]), *notices_of(asked)):
        warn(line)
    scores = score_tasks(run.workload.loads, run.directory, run.model, asked)
    scores.raise_if_failed(f"{path / results.RESULTS_FILE} is as it was.")
    for doubt in scores.doubts:
        warn(doubt)
    # What a metric could not score is told anew, of those that are still asked for.
    known = (one for one in before.notices if _UNSCORED not in one)
    told = (*known, *notices_of(asked), *scores.doubts, *results.felt_limits(scores.tasks))
    notices = tuple(dict.fromkeys(told))
    found = replace(before, tasks=scores.tasks, notices=notices, metrics=wanted)
    results.write_results(path / results.RESULTS_FILE, found)
    return found
