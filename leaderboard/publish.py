"""The pages of a run's own folder."""

from pathlib import Path

from harness.results import read_results
from leaderboard.audit.write import audit_after_run
from leaderboard.board import make_board
from leaderboard.leaks import leaks_of
from leaderboard.markdown import render_markdown
from leaderboard.report.document import ReportOptions
from leaderboard.report.pictures import AT_THE_END_OF_A_RUN
from leaderboard.report.write import REPORT_FILE, report_of
from tasks.foundation.console import warn
from tasks.foundation.errors import MedbenchError
from tasks.foundation.files import write_atomically


def publish_run(path: Path) -> None:
    """Audit a run's outputs, then write `leaderboard.md` and `report.html` from all of its folder."""
    audit_after_run(path)
    results = read_results(path)
    write_atomically(path / "leaderboard.md", render_markdown(make_board([results], leaks_of([path], [results]))))
    try:
        page = report_of([path], ReportOptions(budget=AT_THE_END_OF_A_RUN))
        write_atomically(path / REPORT_FILE, page)
    except MedbenchError as error:
        # The answers and their scores are on disk; a page to look at them can be made any time.
        warn(f"{REPORT_FILE} was not written: {error.problem} Make it later: medbench report {path}")
