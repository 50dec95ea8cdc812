"""A breakdown as rows for the terminal and as a markdown page; pure."""

from collections.abc import Sequence

from medbench.harness.results import Results
from medbench.leaderboard.breakdown import Part
from medbench.leaderboard.markdown import METRIC_TITLES, PROTOCOL_TEXTS, markdown_table, markdown_text, notes
from medbench.tasks.protocols import Protocol

_HEADER = ("Task", "Label", "Value", "Metric", "Score % [95 %]", "Scored", "Of")
_FEW = 15


def rows(parts: Sequence[Part]) -> list[list[str]]:
    """Return a line for each part."""
    return [
        [
            part.title, part.label, part.value, METRIC_TITLES.get(part.metric, part.metric), _score(part), str(part.n),
            str(part.samples),
        ]
        for part in parts
    ]  # fmt: skip


def _score(part: Part) -> str:
    if part.score is None:
        return "n/a"
    if part.interval is None:
        return f"{100 * part.score:.2f}"
    few = ", few clusters" if part.interval.clusters < _FEW else ""
    return f"{100 * part.score:.2f} [{100 * part.interval.low:.1f}, {100 * part.interval.high:.1f}{few}]"


def render_breakdown(results: Results, protocol: Protocol, parts: Sequence[Part]) -> str:
    """Return the page."""
    table = markdown_table(_HEADER, [[*map(markdown_text, row[:3]), *row[3:]] for row in rows(parts)])
    title = f"# {markdown_text(results.model.title)} by the labels of the data"
    return "\n\n".join([title, *notes(results.notices), PROTOCOL_TEXTS[protocol], table]) + "\n"
