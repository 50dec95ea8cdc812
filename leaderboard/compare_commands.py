"""The commands `medbench compare` and `medbench gate`."""

from pathlib import Path
from typing import cast

import click

from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.protocols import PROTOCOLS, Protocol

_protocol_option = click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="strict", show_default=True, help="Whose definitions."
)
_tasks_option = click.option("-t", "--tasks", help="Names, kinds or globs, comma-separated.  [default: all shared]")


@click.command("compare")
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@_protocol_option
@_tasks_option
@click.option("--output", type=click.Path(path_type=Path), help="Write a markdown page with the samples that changed.")
def compare_command(run_a: Path, run_b: Path, protocol: str, tasks: str | None, output: Path | None) -> None:
    """Compare RUN_A with RUN_B on the samples that both scored.

    \b
    Example:  medbench compare runs/uni-med-mini-* runs/blind-mini-* --output compare.md
    """
    from medbench.leaderboard.compare import compare
    from medbench.leaderboard.compare_page import COLUMNS, LEGEND, remarks, render_comparison, rows, summary
    from medbench.leaderboard.read_runs import read_pair

    comparison = compare(*read_pair(run_a, run_b, tasks), cast("Protocol", protocol))
    for notice in comparison.notices:
        warn(notice)
    first, second = comparison.names
    emit_table(COLUMNS, rows(comparison), title=f"first: {first}, second: {second}, protocol {protocol}")
    emit(summary(comparison))
    for remark in remarks(comparison):
        warn(remark)
    say(LEGEND)
    if output is not None:
        write_atomically(output, render_comparison(comparison))
        say(f"Written to {output}")


@click.command("gate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--baseline", required=True, type=click.Path(path_type=Path), help="The run to be as good as.")
@click.option(
    "--margin", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="Accepted loss, percentage points."
)
@_protocol_option
@_tasks_option
def gate_command(run: Path, baseline: Path, margin: float, protocol: str, tasks: str | None) -> int:
    """Tell a script whether RUN may replace the baseline, by the primary metric of each task.

    Exit codes: 0 no task loses more than the margin, 3 a task is worse, 4 the data cannot tell.

    \b
    Example:  medbench gate runs/candidate --baseline runs/released --margin 1
    """
    from medbench.leaderboard.compare import compare
    from medbench.leaderboard.compare_page import p_text
    from medbench.leaderboard.gate import EXIT_CODES, decide
    from medbench.leaderboard.read_runs import read_pair

    found = decide(compare(*read_pair(run, baseline, tasks), cast("Protocol", protocol)), margin / 100)
    rows = [
        [
            row.title, row.metric, f"{100 * row.found.value:+.2f}",
            f"[{100 * row.found.low:+.1f}, {100 * row.found.high:+.1f}]", p_text(row.p_adjusted or 0.0), decision,
        ]
        for row, decision in found.rows
    ]  # fmt: skip
    columns = ("task", "metric", "difference", "95 %", "p (Holm)", "decision")
    emit_table(columns, rows, title=f"Margin {margin:g} points, protocol {protocol}")
    for reason in found.reasons:
        say(reason)
    emit(found.decision)
    return EXIT_CODES[found.decision]
