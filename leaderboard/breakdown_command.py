"""The command `medbench breakdown`."""

from pathlib import Path
from typing import cast

import click

from medbench.tasks.foundation.console import emit, emit_table
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.protocols import PROTOCOLS, Protocol

COLUMNS = ("task", "label", "value", "metric", "score % [95 %]", "n", "of")


@click.command("breakdown")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--by", help="A label of the data.  [default: all that divide the samples into groups]")
@click.option("-t", "--tasks", help="Names, kinds or globs, comma-separated.  [default: all of the run]")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="paper", show_default=True, help="Whose definitions.")
@click.option("--every-metric", is_flag=True, help="All metrics, not only the primary one of each task.")
@click.option("--output", type=click.Path(path_type=Path), help="Write a markdown table to this file.")
def breakdown_command(
    run: Path, by: str | None, tasks: str | None, protocol: str, every_metric: bool, output: Path | None
) -> None:
    """Show RUN's numbers by the dataset's own labels: open or closed, modality, organ, size of the box.

    \b
    Example:  medbench breakdown runs/uni-med-mini-* --by modality
    """
    from medbench.harness.results import read_results
    from medbench.leaderboard.breakdown import break_down
    from medbench.leaderboard.breakdown_page import render_breakdown, rows
    from medbench.leaderboard.read_runs import chosen_tasks
    from medbench.leaderboard.score_table import read_score_table

    results = read_results(run)
    tables = [read_score_table(run, results, task) for task in chosen_tasks(tuple(results.tasks), tasks)]
    parts = break_down(results, tables, cast("Protocol", protocol), by=by, every_metric=every_metric)
    if output is not None:
        write_atomically(output, render_breakdown(results, cast("Protocol", protocol), parts))
    title = f"{results.model.title}, protocol {protocol}"
    if parts:
        emit_table(COLUMNS, rows(parts), title=title)
    else:
        emit(f"{title}: no label divides the samples of these tasks.")
