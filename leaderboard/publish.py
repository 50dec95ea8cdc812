"""The pages of a run's own folder."""

from pathlib import Path

from harness.results import read_results
from leaderboard.board import make_board
from leaderboard.markdown import render_markdown
from tasks.foundation.files import write_atomically


def publish_run(path: Path) -> None:
    """Write `leaderboard.md` of one run from its `results.json`."""
    write_atomically(path / "leaderboard.md", render_markdown(make_board([read_results(path)])))
