"""The command of this room: `medbench leaderboard`."""

from pathlib import Path
from typing import Any

import click

from medbench.tasks.foundation.console import emit, say
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.protocols import PROTOCOLS

LAYOUT_NAMES = ("table2", "table3", "table5", "table6")


@click.command("leaderboard")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["markdown", "csv", "latex", "json"]), default="markdown", show_default=True
)
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="One protocol alone.  [default: both; latex: paper]")
@click.option("--layout", type=click.Choice(LAYOUT_NAMES), help="Rows as in a table of the Uni-Med paper.")
@click.option("--models-as-rows", is_flag=True, help="A row for each model (markdown).")
@click.option("--mean", "grouped", is_flag=True, help="One column for all runs of a model: mean ± std.")
@click.option(
    "--reported",
    multiple=True,
    help="Numbers of a paper beside: table2a to table2e, table3, table5, table6, or a YAML file of your own.",
)
@click.option("--baseline", help="Name of the model that gains are counted against.")
@click.option(
    "--data-audit", type=click.Path(path_type=Path), help="audit-data.json of `medbench audit data`: marks ‡."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file.  [default: standard output]")
def leaderboard_command(runs: tuple[Path, ...], output: Path | None, **wishes: Any) -> None:
    """Put RUNS side by side in one table, or the numbers of a paper alone.

    RUNS are folders of runs, or folders that hold some. What is not finished, or is of another suite than the others,
    is left out with a line.

    \b
    Example:  medbench leaderboard runs
              medbench leaderboard runs/uni-med-mini-* runs/blind-mini-*
              medbench leaderboard --reported table3 --layout table3 --format latex
    """
    from medbench.leaderboard.gathering import Gathered, gather
    from medbench.leaderboard.page import Wanted, make_page

    found = gather(runs) if runs else Gathered()
    found.tell()
    page = make_page(found.paths, Wanted(**wishes))
    if output is None:
        emit(page)
        return
    write_atomically(output, page)
    say(f"Written to {output}")
