"""From per-sample scores to the numbers of `results.json`."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medbench.harness.model_info import ModelInfo
from medbench.harness.results import IntervalInfo, MetricResult, Results, TaskResult
from medbench.harness.score import ScoredTask
from medbench.tasks.answers.thoughts import SIGNATURE
from medbench.tasks.protocols import Evaluation, Item, Protocol, count_states
from medbench.tasks.statistics.intervals import Interval, interval
from medbench.tasks.suite import SuiteName

_LIMIT_HINT = "Raise it with --max-new-tokens N, or for some tasks with --max-new-tokens {}=N: it will be another run."
_DIGITS = 10
"""Digits kept in files: more than any reader needs, fewer than the last bits that differ between machines."""


def summarise_task(scored: ScoredTask) -> TaskResult:
    """Return the numbers of a task under both protocols."""
    spec = scored.load.spec
    return TaskResult(
        title=spec.title,
        kind=spec.kind,
        version=spec.version,
        data=scored.load.prepared.manifest.data_fingerprint,
        licence=scored.load.prepared.manifest.licence,
        samples=len(scored.items),
        states=dict(count_states(scored.items)),
        written=scored.written,
        paper=_metric_results(scored, "paper"),
        strict=_metric_results(scored, "strict"),
    )


def _metric_results(scored: ScoredTask, protocol: Protocol) -> dict[str, MetricResult]:
    ceilings = scored.ceilings.get(protocol, {})
    return {
        evaluation.metric.metric_id: metric_result(
            evaluation,
            scored.items,
            scored.groups,
            unit=scored.load.spec.group_key,
            ceiling=ceilings.get(evaluation.metric.metric_id),
        )
        for evaluation in scored.evaluations[protocol]
    }


def metric_result(
    evaluation: Evaluation,
    items: Sequence[Item],
    groups: Sequence[str],
    *,
    unit: str,
    ceiling: float | None,
) -> MetricResult:
    """Return one number with its interval, its counts and its signature.

    Args:
        evaluation: The metric on the items.
        items: All N predictions of the task.
        groups: The unit of resampling of each, N names.
        unit: What a group is (`image`, `patient`), for the signature.
        ceiling: What a perfect model scores, where its notation limits it.
    """
    metric = evaluation.metric
    clusters = [groups[index] for index in evaluation.indices]
    value = evaluation.value if len(evaluation.indices) else float("nan")
    found = None if np.isnan(value) else interval(metric, evaluation.statistics, clusters)
    states = _states_where_it_applies(items, evaluation)
    return MetricResult(
        value=None if np.isnan(value) else round(value, _DIGITS),
        ci=None if found is None else (_fraction(found.low), _fraction(found.high)),
        interval=None if found is None else _interval_info(found),
        n=len(clusters),
        errors=states["error"],
        unparsed=states["unparsed"],
        truncated=states["truncated"],
        empty=states["empty"],
        refused=states["refused"],
        bounds=None
        if evaluation.bounds is None
        else (_fraction(evaluation.bounds[0]), _fraction(evaluation.bounds[1])),
        answered=_share(states["ok"], states.total() - states["error"]),
        among_answered=_number(evaluation.value_among_answered),
        ceiling=None if ceiling is None or np.isnan(ceiling) else round(ceiling, _DIGITS),
        signature=f"{metric.signature}|{SIGNATURE}|ci=clustered:{unit}|n={len(clusters)}",
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, _DIGITS) if whole else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, _DIGITS)


def _fraction(value: float) -> float:
    return round(min(1.0, max(0.0, value)), _DIGITS)


def _interval_info(found: Interval) -> IntervalInfo:
    effect = found.design_effect
    return IntervalInfo(
        method=found.method, clusters=found.clusters, design_effect=None if np.isnan(effect) else round(effect, 4)
    )


def _states_where_it_applies(items: Sequence[Item], evaluation: Evaluation) -> Counter[str]:
    return Counter(item.state for item in items if evaluation.metric.applies(item.scorable))


def summarise(
    tasks: Sequence[ScoredTask], *, run: str, model: ModelInfo, suite: SuiteName, limit: int | None, seed: int,
    notices: tuple[str, ...], unsupported: tuple[str, ...], probe: str = "",
) -> Results:  # fmt: skip
    """Return the results of a run."""
    found = {scored.load.spec.name: summarise_task(scored) for scored in tasks}
    return Results(
        run=run,
        model=model,
        suite=suite,
        limit=limit,
        seed=seed,
        notices=tuple(dict.fromkeys((*notices, *felt_limits(found)))),
        tasks=found,
        unsupported=unsupported,
        probe=probe,
    )


def felt_limits(tasks: Mapping[str, TaskResult]) -> tuple[str, ...]:
    """Return a line for each task whose numbers the limit of tokens decides, not the model alone."""
    lines = []
    for name, task in tasks.items():
        written = task.written
        if written is not None and written.limit_is_felt:
            thoughts = f", {written.cut_thoughts} of them in the midst of a thought" if written.cut_thoughts else ""
            share = 100 * written.at_limit / written.answers
            lines.append(
                f"{name}: {written.at_limit} of {written.answers} answers ({share:.0f} %) were cut off by the limit of "
                f"tokens{thoughts}; under `strict` they count as wrong. {_LIMIT_HINT.format(name)}"
            )
    return tuple(lines)
