"""May this run replace the baseline? An answer for a script: yes, no, or that the data cannot tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from medbench.leaderboard.compare import Compared, Comparison
from medbench.tasks.statistics.paired import ALPHA

Decision = Literal["pass", "worse", "undecidable"]
EXIT_CODES: dict[Decision, int] = {"pass": 0, "worse": 3, "undecidable": 4}


_UNSCORED = 0.01
"""Share of the baseline's samples that a candidate may leave unscored without making it a doubt.

Unscored are failures, and under `paper` reports without text.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The answer.

    Attributes:
        decision: For all tasks together.
        rows: Primary metrics with the decision of each.
        reasons: What keeps the data from telling, besides their number.
    """

    decision: Decision
    rows: tuple[tuple[Compared, Decision], ...]
    reasons: tuple[str, ...]


def decide(comparison: Comparison, margin: float) -> Gate:
    """Decide by the primary metric of each task whether the first run is worse than the second.

    `worse`: significantly worse (Holm over the tasks) by more than `margin`. `pass`: the interval excludes a loss of
    more than `margin`, and nearly all of what the baseline scored was scored. Otherwise the data cannot tell: more
    samples are needed, or a larger margin.

    Args:
        comparison: The candidate first, the baseline second.
        margin: The loss that is accepted, a fraction.
    """
    rows = tuple((row, _decision(row, margin)) for row in comparison.rows if row.p_adjusted is not None)
    reasons = tuple(_reasons(comparison))
    decisions = {decision for _, decision in rows}
    doubtful = "undecidable" in decisions or reasons or not rows
    overall: Decision = "worse" if "worse" in decisions else "undecidable" if doubtful else "pass"
    return Gate(decision=overall, rows=rows, reasons=reasons)


def _reasons(comparison: Comparison) -> Iterator[str]:
    samples = {row.task: row.found.samples for row in comparison.rows if row.p_adjusted is not None}
    for task, (_, by_baseline) in comparison.unpaired.items():
        both = samples.get(task, 0)
        if by_baseline > _UNSCORED * (both + by_baseline):
            yield f"{task}: {by_baseline} samples that the baseline scored were not scored for the candidate."


def _decision(row: Compared, margin: float) -> Decision:
    significant = row.p_adjusted is not None and row.p_adjusted < ALPHA
    if significant and row.found.value < -margin:
        return "worse"
    return "pass" if row.found.low >= -margin else "undecidable"
