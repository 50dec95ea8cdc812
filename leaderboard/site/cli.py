"""The command `medbench site`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say, warn

DEFAULT_TITLE = "medbench leaderboard"


@click.command("site")
@click.argument("runs", metavar="RUNS_FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="A new folder, or that of an older site."
)
@click.option("--title", default=DEFAULT_TITLE, show_default=True, help="Heading of the first page.")
@click.option("--all-reports", is_flag=True, help="Copy reports too that may show data which may not be passed on.")
def site_command(runs: Path, output: Path, title: str, *, all_reports: bool) -> None:
    """Make a folder of runs into a static site that opens from disk and asks no network for anything.

    Runs of different suites, data or definitions never share a table. A run's report.html is copied if there is one,
    unless it may show texts or images that may not be passed on.

    \b
    Example:  medbench site runs --output site
    """
    from medbench.leaderboard.site.collect import collect
    from medbench.leaderboard.site.write import site_files, write_site

    found = collect(runs, all_reports=all_reports)
    files = site_files(found, title)
    write_site(output, files)
    for run in found.skipped:
        warn(f"Not shown: {run.name}: {run.reason}")
    for site_run in found.runs.values():
        if site_run.no_report:
            warn(f"The report of {site_run.results.run} was not copied: {site_run.no_report}.")
    tables = len(found.boards)
    say(f"{len(found.runs)} runs in {tables} {'table' if tables == 1 else 'tables'}: {output / 'index.html'}")
