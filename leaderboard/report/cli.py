"""The command `medbench report`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.files import write_atomically


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="The file.  [default: RUN/report.html; report.html for several]"
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the prepared tasks of RUNS are now.")
@click.option(
    "--images", "megabytes", type=click.IntRange(min=0), default=24, show_default=True,
    help="Embed small copies of images up to so many MB; 0 for none.",
)  # fmt: skip
@click.option("--reveal-credentialed", is_flag=True, help="Show texts and images of credentialed datasets too.")
def report_command(
    runs: tuple[Path, ...], output: Path | None, data_dir: Path | None, megabytes: int, *, reveal_credentialed: bool
) -> None:
    """Put RUNS of the same data into one HTML file to look through, without a network.

    Several runs are shown side by side, and the first is compared with each other one. RUNS may be folders that hold
    runs; what is not finished, or is of another suite than the others, is left out with a line.

    \b
    Example:  medbench report runs/uni-med-mini-0123456789ab
              medbench report runs/uni-med-* runs/blind-* --output both.html
    """
    from medbench.leaderboard.gathering import gather
    from medbench.leaderboard.report.document import ReportOptions
    from medbench.leaderboard.report.pictures import MEGABYTE, ImageBudget
    from medbench.leaderboard.report.write import REPORT_FILE, report_of

    budget = ImageBudget(size=megabytes * MEGABYTE) if megabytes else None
    found = gather(runs)
    found.tell()
    page = report_of(found.paths, ReportOptions(budget=budget, reveal_credentialed=reveal_credentialed), data_dir)
    target = output or (runs[0] / REPORT_FILE if list(runs) == found.paths and len(runs) == 1 else Path(REPORT_FILE))
    write_atomically(target, page)
    if reveal_credentialed:
        warn(f"{target} holds texts and images of credentialed datasets, if the runs have any. Do not pass it on.")
    say(f"Written to {target} ({len(page.encode()) / MEGABYTE:.1f} MB)")
