"""The pages of a run's own folder, and of several runs together."""

from collections.abc import Sequence
from pathlib import Path

from medbench.harness.results import percent, read_results
from medbench.leaderboard.audit.outputs.audit import audit_after_run
from medbench.leaderboard.board import Board, make_board
from medbench.leaderboard.gathering import gather
from medbench.leaderboard.leaks import leaks_of
from medbench.leaderboard.markdown import render_markdown
from medbench.leaderboard.page import Wanted, make_page
from medbench.leaderboard.primary import PRIMARY
from medbench.leaderboard.report.document import ReportOptions
from medbench.leaderboard.report.pictures import AT_THE_END_OF_A_RUN
from medbench.leaderboard.report.write import REPORT_FILE, report_of
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
    write_atomically(path / PAGE, render_markdown(make_board([results], leaks_of([path], [results]))))
    try:
        page = report_of([path], ReportOptions(budget=AT_THE_END_OF_A_RUN))
        write_atomically(path / REPORT_FILE, page)
    except MedbenchError as error:
        # The answers and their scores are on disk; a page to look at them can be made any time.
        warn(f"{REPORT_FILE} was not written: {error.problem} Make it later: medbench report {path}")


def publish_together(paths: Sequence[Path], folder: Path) -> None:
    """Write `leaderboard.md` of several runs into a folder, and show their primary metrics.

    A file of that name is replaced if it is such a page, which is said; anybody's other file stays as it is.
    """
    found = gather(paths)
    found.tell()
    board = make_board(found.runs, leaks_of(found.paths, found.runs))
    for protocol in PROTOCOLS:
        columns = ["task", "metric", *(f"{name}, % [95 %]" for name in board.names)]
        emit_table(columns, _primary_rows(board, protocol), title=f"Primary metrics, {protocol} protocol")
    target = folder / PAGE
    replaced = target.exists()
    if replaced and not _is_ours(target):
        target = folder / f"leaderboard-{fingerprint([run.run for run in found.runs])[:8]}.md"
        replaced = target.exists()
    write_atomically(target, make_page(found.paths, Wanted()))
    say(f"The leaderboard of these runs: {target}{' (in place of an older one)' if replaced else ''}")


def _primary_rows(board: Board, protocol: Protocol) -> list[list[str]]:
    kinds = {task: result.kind for run in board.runs for task, result in run.tasks.items()}
    return [
        [row.title, row.metric, *("" if cell is None else percent(cell) for cell in row.cells)]
        for row in board.rows[protocol]
        if row.metric == PRIMARY[kinds[row.task]]
    ]


def _is_ours(page: Path) -> bool:
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return all(heading in text for heading in _OWN_HEADINGS)
