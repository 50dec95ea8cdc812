"""Who leads on a metric. Decided here alone, for boards, tables and ranks: on the samples that the runs share.

A run that scored less than 80 % of the samples that any run scored takes no part, and nothing is decided on less than
half of them: machines do not fail at random, and what they left would decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medbench.harness.results import MetricResult
from medbench.leaderboard.score_table import Column, ScoreTable
from medbench.tasks.metrics.metric import FloatArray, Metric

Standing = Literal["best", "second", "none"]
_DIGITS = 4
"""Numbers that look the same in a table share their standing."""
_FLOOR = 0.0
"""What a model scores that gets nothing right, on every metric here: it leads nobody, alone or with others."""
_TAKES_PART = 0.8
_LEAST_SHARED = 0.5
_PAIR = 2
"""One run leads nobody."""
_NOT_KNOWN = "which samples each run scored is not known, since its scores by sample are not at hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """Runs on the samples of a metric that they share.

    Attributes:
        metric: The metric.
        statistics: By run, the sufficient statistics [S, K] of the shared samples; None for a run that takes no part.
        groups: Clusters of the shared samples, S names.
        scored: How many samples any of the runs scored.
        counts: By run, how many it scored; None for a run that does not have the metric.
        reason: Why the runs cannot be compared; empty if they can.
    """

    metric: Metric
    statistics: tuple[FloatArray | None, ...]
    groups: tuple[str, ...]
    scored: int
    counts: tuple[int | None, ...]
    reason: str = ""

    @property
    def values(self) -> tuple[float | None, ...]:
        """The metric on the shared samples by run; None for a run that takes no part."""
        found = [None if one is None else float(self.metric.compute(one.sum(axis=0))) for one in self.statistics]
        return tuple(None if value is None or np.isnan(value) else value for value in found)

    def remark(self, names: Sequence[str]) -> str:
        """Return what must be said of the comparison: why there is none, or on which samples; empty if on all."""
        if self.reason:
            return self.reason
        left = [
            f"{name} ({count} of {self.scored} samples)"
            for name, one, count in zip(names, self.statistics, self.counts, strict=True)
            if one is None and count is not None
        ]
        parts = [f"without {', '.join(left)}"] if left else []
        if len(self.groups) < self.scored:
            parts.append(f"on the {len(self.groups)} of {self.scored} samples that all of them scored")
        return f"compared {', '.join(parts)}" if parts else ""


def field_of(runs: Sequence[tuple[ScoreTable, Column] | None]) -> Field:
    """Return runs on the samples that they share.

    Args:
        runs: Scores of each run and the metric among them; None for one that takes no part. One at least does.
    """
    places = [None if run is None else _places(*run) for run in runs]
    scored = set().union(*(one for one in places if one is not None))
    taking = [one if one and len(one) >= _TAKES_PART * len(scored) else None for one in places]
    there = [one for one in taking if one is not None]
    shared = [name for name in there[0] if all(name in one for one in there)] if there else []
    reason = _reason(len(scored), sum(one is not None for one in places), len(there), len(shared))
    tables = [run[0] for run, found in zip(runs, taking, strict=True) if run and found]
    groups = {record.sample_id: record.group for table in tables[:1] for record in table.records}
    return Field(
        metric=next(run[1].metric for run in runs if run is not None),
        statistics=tuple(
            run[1].statistics[[found[name] for name in shared]] if run and found and not reason else None
            for run, found in zip(runs, taking, strict=True)
        ),
        groups=tuple(groups[name] for name in shared),
        scored=len(scored),
        counts=tuple(None if one is None else len(one) for one in places),
        reason=reason,
    )


def _places(table: ScoreTable, column: Column) -> dict[str, int]:
    return {table.records[row].sample_id: place for place, row in enumerate(column.rows)}


def _reason(scored: int, runs: int, taking: int, shared: int) -> str:
    if not scored:
        return "nothing was scored"
    if runs > 1 and taking < _PAIR:
        return f"fewer than two of the runs scored {100 * _TAKES_PART:.0f} % of the {scored} samples"
    if shared < _LEAST_SHARED * scored:
        return f"the runs have only {shared} of {scored} samples in common"
    return ""


def values_without_scores(cells: Sequence[MetricResult | None]) -> tuple[tuple[float | None, ...], str]:
    """Return the numbers that may be compared where no scores by sample are at hand, and else why there are none.

    They may if equally many samples were scored and none failed: then they are the same samples of the same data.
    """
    there = [cell for cell in cells if cell is not None and cell.value is not None]
    if len(there) > 1 and (len({cell.n for cell in there}) > 1 or any(cell.errors for cell in there)):
        return (None,) * len(cells), _NOT_KNOWN
    return tuple(None if cell is None else cell.value for cell in cells), ""


def standings_of(values: Sequence[float | None]) -> tuple[Standing, ...]:
    """Return who leads among numbers that may be compared; None takes no part.

    Nobody leads alone, and nobody who gets nothing right. Equal ones share their standing.
    """
    none: Standing = "none"
    there = [round(value, _DIGITS) for value in values if value is not None]
    if len(there) < _PAIR:
        return (none,) * len(values)
    ranked = sorted({value for value in there if value > _FLOOR}, reverse=True)
    return tuple(none if value is None else _standing(ranked, round(value, _DIGITS)) for value in values)


def _standing(ranked: Sequence[float], value: float) -> Standing:
    words: tuple[Standing, ...] = ("best", "second")
    place = ranked.index(value) if value in ranked else len(words)
    return words[place] if place < len(words) else "none"
