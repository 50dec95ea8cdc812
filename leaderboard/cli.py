"""The command of this room: `medbench leaderboard`."""

from pathlib import Path

import click

from tasks.foundation.console import emit, say
from tasks.foundation.files import write_atomically


@click.command("leaderboard")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["markdown"]), default="markdown", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file.  [default: standard output]")
def leaderboard_command(runs: tuple[Path, ...], form: str, output: Path | None) -> None:
    """Put RUNS side by side in one table.

    \b
    Example:  medbench leaderboard runs/uni-med-mini-* runs/blind-mini-*
    """
    from harness.results import read_results
    from leaderboard.board import make_board
    from leaderboard.markdown import render_markdown

    renderers = {"markdown": render_markdown}
    page = renderers[form](make_board([read_results(run) for run in runs]))
    if output is None:
        emit(page)
        return
    write_atomically(output, page)
    say(f"Written to {output}")
