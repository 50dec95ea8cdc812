"""Runs read for a comparison: results and the scores behind them."""

from collections.abc import Collection, Sequence
from pathlib import Path

from medbench.harness.results import Results, read_results
from medbench.leaderboard.board import Scores
from medbench.leaderboard.compare import Side, shared_tasks
from medbench.leaderboard.score_table import read_score_table
from medbench.tasks.catalog import select_tasks
from medbench.tasks.foundation.errors import UsageError


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
    wanted = chosen_tasks(shared, tasks)
    ours, theirs = (
        Side(results=found, tables={name: read_score_table(path, found, name) for name in wanted})
        for path, found in zip((first, second), results, strict=True)
    )
    return ours, theirs


def read_scores(paths: Sequence[Path], runs: Sequence[Results]) -> Scores:
    """Return the scores by sample of runs.

    Raises:
        RunError: If a run lacks scores, or they were written by an older version.
        DataError: If they are malformed.
    """
    return {
        run.run: {task: read_score_table(path, run, task) for task in run.tasks}
        for path, run in zip(paths, runs, strict=True)
    }


def chosen_tasks(there: Collection[str], tasks: str | None) -> tuple[str, ...]:
    """Return those of the tasks at hand that a user named; all if nothing was named.

    Raises:
        UsageError: If none of them is there.
    """
    if tasks is None:
        return tuple(there)
    wanted = tuple(name for name in select_tasks(tasks) if name in there)
    if not wanted:
        raise UsageError(f"There is none of {tasks}.", f"There are {', '.join(there)}.")
    return wanted
