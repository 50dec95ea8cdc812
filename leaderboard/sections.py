"""Further sections of a leaderboard in markdown: ranks, gains over a baseline, the paper's tables; pure."""

from collections.abc import Sequence

from medbench.leaderboard.gains import Gain, gains_over
from medbench.leaderboard.layouts import Layout
from medbench.leaderboard.markdown import METRIC_TITLES, markdown_table, markdown_text, remark_list, render_table
from medbench.leaderboard.ranking import Rank, Ranking
from medbench.leaderboard.table import Table
from medbench.tasks.catalog import get_task
from medbench.tasks.spec import Kind


def render_ranks(names: Sequence[str], ranking: Ranking) -> str:
    """Return the ranks with their intervals, and why tasks have none."""
    if not ranking.tasks and not ranking.left_out:
        return ""
    told = (
        "By the primary metric of each task on the samples that the runs share, with the 95 % interval of ranks when "
        "test cases are drawn again. They are of each rank alone: whether two runs differ, `medbench compare` tells. "
        "Kinds of tasks weigh alike in the mean, which counts the tasks on which all have a rank."
    )
    parts = [
        "## Ranks",
        told,
        _rank_table(names, ranking) if ranking.tasks else "",
        remark_list({one.title: one.remark for one in ranking.tasks}),
        remark_list({title: f"no rank: {reason}" for title, reason in ranking.left_out.items()}),
    ]
    return "\n\n".join(part for part in parts if part)


def _rank_table(names: Sequence[str], ranking: Ranking) -> str:
    rows = [
        [markdown_text(one.title), METRIC_TITLES.get(one.metric, one.metric), *map(_rank, one.ranks)]
        for one in ranking.tasks
    ]
    if ranking.overall:
        rows.append(["**All tasks**", "mean rank", *map(_mean_rank, ranking.overall)])
    return markdown_table(["Task", "Metric", *map(markdown_text, names)], rows, right=len(names))


def _rank(rank: Rank | None) -> str:
    if rank is None:
        return ""
    low, high = f"{rank.low:g}", f"{rank.high:g}"
    return f"{rank.rank:g}" if low == high else f"{rank.rank:g} ({low} to {high})"


def _mean_rank(rank: Rank) -> str:
    return f"{rank.rank:.2f} ({rank.low:.2f} to {rank.high:.2f})"


def render_gains(table: Table, baseline: str) -> str:
    """Return the gain of each model over a baseline, by kind of task and in total.

    Raises:
        UsageError: If there is no such baseline.
    """
    kinds: list[Kind] = list(dict.fromkeys(get_task(line.task).kind for line in table.lines))
    by_kind = [gains_over(table, baseline, kind) for kind in kinds]
    total = gains_over(table, baseline)
    rows = [
        [
            markdown_text(column.name),
            *(_percent(gains[place].relative) for gains in by_kind),
            _percent(total[place].relative), _percent(total[place].geometric), _points(total[place]),
            str(total[place].datasets),
        ]
        for place, column in enumerate(table.columns)
    ]  # fmt: skip
    header = ["Model", *(f"Δ {kind}" for kind in kinds), "Δ", "Δ geometric", "points", "data sets"]
    told = (
        f"Against {markdown_text(baseline)}. Δ is the paper's: the mean of (ours - baseline) / baseline over data "
        "sets, which those with low baselines dominate, and which can be positive both ways. `geometric`: exp(mean of "
        "log ratios) - 1. `points`: mean difference in percentage points. Starred numbers count on neither side, and "
        "runs are compared on the samples that they share."
    )
    left_out = {
        column.name: f"without {', '.join(gain.left_out)}, of which not the same samples were scored"
        for column, gain in zip(table.columns, total, strict=True)
        if gain.left_out
    }
    shown = markdown_table(header, rows, right=len(header) - 1)
    parts = ["## Gain over a baseline", told, shown, remark_list(left_out)]
    return "\n\n".join(part for part in parts if part)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f} %"


def _points(gain: Gain) -> str:
    return "" if gain.points is None else f"{100 * gain.points:+.2f}"


def render_layout(table: Table, layout: Layout, baseline: str | None) -> str:
    """Return one of the paper's tables, with the gain over a baseline where the paper has it and one is named.

    Raises:
        UsageError: If there is no such baseline.
    """
    parts = [f"## In the shape of {layout.name}", render_table(table, models_as_rows=layout.models_as_rows)]
    if layout.gains and baseline is not None:
        parts.append(render_gains(table, baseline))
    return "\n\n".join(parts)
