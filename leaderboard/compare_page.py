"""A comparison as a markdown page and as rows for the terminal; pure, the same bytes for the same comparison."""

import math
from collections.abc import Container, Sequence

from medbench.leaderboard.compare import VERDICTS, Changed, Compared, Comparison
from medbench.leaderboard.markdown import METRIC_TITLES, PROTOCOL_TEXTS, markdown_table, markdown_text

COLUMNS = ("task", "metric", "first", "second", "difference [95 %]", "p", "p (Holm)", "verdict", "would show")
LEGEND = (
    "Differences in percentage points, first minus second, on the samples that both scored, with 95 % intervals that "
    "heed images, patients, volumes or documents. The verdict is by the task's primary metric, its p adjusted by Holm "
    "over the tasks; other metrics describe. `too few clusters`: with so many images, patients, volumes or documents "
    "the test finds nothing after Holm, whatever the answers. `would show`: the smallest true difference that would "
    "have led to a verdict with a probability of 80 %, `nothing` if none would."
)
_HEADER = ("Difference [95 %]", "p", "p (Holm)", "Verdict", "Would show")
_WITHHELD = "(withheld: data under a signed agreement)"
_SHOWN = 20
_LONGEST = 120
_SMALLEST_P = 0.0001


def rows(comparison: Comparison) -> list[list[str]]:
    """Return a line for each metric."""
    return [_row(row) for row in comparison.rows]


def _row(row: Compared) -> list[str]:
    found = row.found
    return [
        row.title,
        METRIC_TITLES.get(row.metric, row.metric),
        f"{100 * row.first:.2f}",
        f"{100 * row.second:.2f}",
        f"{100 * found.value:+.2f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
        p_text(found.p),
        "" if row.p_adjusted is None else p_text(row.p_adjusted),
        row.verdict_text,
        "nothing" if math.isnan(row.detectable) else f"{100 * row.detectable:.1f}",
    ]


def p_text(p: float) -> str:
    """Return a p value; none smaller than what exchanges can show."""
    return f"< {_SMALLEST_P}" if p < _SMALLEST_P else f"{p:.4f}"


def summary(comparison: Comparison) -> str:
    """Return the verdicts in one sentence."""
    verdicts = [row.verdict for row in comparison.rows if row.verdict is not None]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    told = [f"{verdict} on {count}" for verdict, count in counts.items() if count or verdict != "too few clusters"]
    first, second = comparison.names
    return f"{first} against {second}: {', '.join(told)} of {len(verdicts)} tasks."


def render_comparison(comparison: Comparison) -> str:
    """Return the page."""
    first, second = map(markdown_text, comparison.names)
    parts = [
        f"# {first} against {second}",
        *(f"> **{markdown_text(notice)}**" for notice in comparison.notices),
        markdown_text(summary(comparison)),
        PROTOCOL_TEXTS[comparison.protocol],
        LEGEND,
        _table(comparison),
        *map(markdown_text, remarks(comparison)),
        "## Samples that changed",
        _changes(comparison),
        f"Runs: `{comparison.runs[0]}` and `{comparison.runs[1]}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(comparison: Comparison) -> str:
    header = ["Task", "Metric", *map(markdown_text, comparison.names), *_HEADER]
    return markdown_table(header, [[markdown_text(row[0]), *row[1:]] for row in rows(comparison)])


def remarks(comparison: Comparison) -> list[str]:
    """Return what was left out of the comparison."""
    remarks = []
    if comparison.left_out:
        remarks.append(f"Only one of the two has {', '.join(comparison.left_out)}.")
    if comparison.unpaired:
        counts = "; ".join(
            f"{task}: {ours} by the first, {theirs} by the second"
            for task, (ours, theirs) in comparison.unpaired.items()
        )
        remarks.append(f"Samples that only one of the two scored, and that are left out. {counts}.")
    return remarks


def _changes(comparison: Comparison) -> str:
    if not comparison.changed:
        return "None by the primary metrics."
    gained = sum(change.gain > 0 for change in comparison.changed)
    counted = f"{len(comparison.changed)} samples, {gained} of them gains of the first."
    by_task: dict[str, list[Changed]] = {}
    for change in comparison.changed:
        by_task.setdefault(change.task, []).append(change)
    shown = [change for changes in by_task.values() for change in _largest(changes)]
    header = ["Task", "Sample", "Gain", *map(markdown_text, comparison.names)]
    table = markdown_table(header, [_change_row(change, comparison.withheld) for change in shown])
    return f"{counted} The largest of each task, at most {_SHOWN}:\n\n{table}"


def _largest(changes: Sequence[Changed]) -> list[Changed]:
    return sorted(changes, key=lambda change: (-abs(change.gain), change.sample_id))[:_SHOWN]


def _change_row(change: Changed, withheld: Container[str]) -> list[str]:
    texts = (_WITHHELD,) * 2 if change.task in withheld else (_short(change.first), _short(change.second))
    return [markdown_text(change.task), markdown_text(change.sample_id), f"{100 * change.gain:+.1f}", *texts]


def _short(text: str) -> str:
    return markdown_text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...") or "(empty)"
