"""The pages of a run's own folder, and of several runs together."""

from collections.abc import Sequence
from pathlib import Path

from medbench.harness.results import Results, percent, read_results
from medbench.leaderboard.audit.outputs.audit import audit_after_run
from medbench.leaderboard.numbers import make_board
from medbench.leaderboard.pages import board_as_markdown, leaderboard
from medbench.leaderboard.report.document import AT_THE_END_OF_A_RUN, REPORT_FILE, report_of
from medbench.leaderboard.runs import PRIMARY, distinct_names, gather, in_catalogue_order, leaks_of
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.files import fingerprint, write_atomically
from medbench.tasks.protocols import PROTOCOLS, Protocol

PAGE = "leaderboard.md"
_OWN_HEADINGS = ("# Leaderboard", "## What happened to the samples", "## Definitions")


def publish_run(path: Path) -> None:
    """Audit a run's outputs, then write `leaderboard.md` and `report.html` from all of its folder."""
    audit_after_run(path)
    results = read_results(path)
    write_atomically(path / PAGE, board_as_markdown(make_board([results], leaks_of([path], [results]))))
    try:
        write_atomically(path / REPORT_FILE, report_of([path], budget=AT_THE_END_OF_A_RUN))
    except MedbenchError as error:
        # The answers and their scores are on disk; a page to look at them can be made any time.
        warn(f"{REPORT_FILE} was not written: {error.problem} Make it later: medbench report {path}")


def publish_together(paths: Sequence[Path], folder: Path) -> None:
    """Show primary metrics of several runs and write their `leaderboard.md`; only such a page is replaced."""
    found = gather(paths)
    columns = ["task", "metric", *(f"{name}, % [95 %]" for name in distinct_names(found.runs))]
    for protocol in PROTOCOLS:
        emit_table(columns, _primary_rows(found.runs, protocol), title=f"Primary metrics, {protocol} protocol")
    target = folder / PAGE
    replaced = target.exists()
    if replaced and not _is_ours(target):
        target = folder / f"leaderboard-{fingerprint([run.run for run in found.runs])[:8]}.md"
        replaced = target.exists()
    write_atomically(target, leaderboard(found.paths))
    say(f"The leaderboard of these runs: {target}{' (in place of an older one)' if replaced else ''}")


def _primary_rows(runs: Sequence[Results], protocol: Protocol) -> list[list[str]]:
    rows = []
    for task in in_catalogue_order(name for run in runs for name in run.tasks):
        found = [run.tasks.get(task) for run in runs]
        first = next(one for one in found if one)
        cells = [one.metrics(protocol).get(PRIMARY[first.kind]) if one else None for one in found]
        if any(cells):
            rows.append([first.title, PRIMARY[first.kind], *("" if cell is None else percent(cell) for cell in cells)])
    return rows


def _is_ours(page: Path) -> bool:
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return all(heading in text for heading in _OWN_HEADINGS)
