"""Runs read for a comparison: results and the scores behind them."""

from collections.abc import Collection
from pathlib import Path

from harness.results import read_results
from leaderboard.compare import Side, shared_tasks
from leaderboard.score_table import read_score_table
from tasks.catalog import select_tasks
from tasks.foundation.errors import UsageError


def read_pair(first: Path, second: Path, tasks: str | None) -> tuple[Side, Side]:
    """Return two runs with the scores of the tasks that they share.

    Args:
        first: Folder of one run.
        second: Folder of the other.
        tasks: Names, kinds or globs, comma-separated; None for all.

    Raises:
        UsageError: If the runs cannot be compared, or share none of the tasks.
        RunError: If a folder is no run, or lacks scores.
    """
    results = read_results(first), read_results(second)
    shared = shared_tasks(*results)
    wanted = _wanted(shared, tasks)
    ours, theirs = (
        Side(results=found, tables={name: read_score_table(path, found, name) for name in wanted})
        for path, found in zip((first, second), results, strict=True)
    )
    return ours, theirs


def _wanted(shared: Collection[str], tasks: str | None) -> tuple[str, ...]:
    if tasks is None:
        return tuple(shared)
    wanted = tuple(name for name in select_tasks(tasks) if name in shared)
    if not wanted:
        raise UsageError(f"The two runs share none of {tasks}.", f"They share {', '.join(shared)}.")
    return wanted
