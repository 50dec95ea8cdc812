"""From folders of runs to `report.html`."""

from collections.abc import Sequence
from pathlib import Path

from medbench.leaderboard.report.document import ReportOptions, make_document, tasks_of
from medbench.leaderboard.report.page import render_page
from medbench.leaderboard.report.sources import RunSource, TaskSource, read_run_source, read_task_source

REPORT_FILE = "report.html"


def read_sources(
    paths: Sequence[Path], data_dir: Path | None, *, reveal: bool
) -> tuple[list[RunSource], dict[str, TaskSource]]:
    """Read runs and the data that they answered; raises like `read_run_source`."""
    runs = [read_run_source(path) for path in paths]
    return runs, {task: read_task_source(task, runs, data_dir, reveal=reveal) for task in tasks_of(runs)}


def report_of(paths: Sequence[Path], options: ReportOptions, data_dir: Path | None = None) -> str:
    """Return the report of runs as HTML.

    Args:
        paths: Folders of runs of the same data.
        options: What it holds.
        data_dir: Where the prepared tasks are now, if not where the runs found them.

    Raises:
        RunError: If a folder is no run, or was not scored yet.
        DataError: If its results are malformed.
        UsageError: If the runs may not stand side by side.
    """
    runs, data = read_sources(paths, data_dir, reveal=options.reveal_credentialed)
    document, images = make_document(runs, data, options)
    return render_page(document, images)
