"""Whose texts and pictures nobody may be shown without asking: data under a signed agreement."""

from harness.results import Results
from tasks.catalog import TASKS, get_task
from tasks.prepared import is_prepared, load_prepared
from tasks.suite import prepare_mini_suite


def is_credentialed(results: Results, task: str) -> bool:
    """Return whether a task of a run has data under a signed agreement.

    The mini suite's phantoms are free, whatever task they stand in for. They are known by their fingerprint, since a
    folder may hold them beside real data. Of a task that is not known here nobody can say, so it counts as one.
    """
    if task in TASKS and not get_task(task).credentialed:
        return False
    return not is_bundled(results, task)


def is_bundled(results: Results, task: str) -> bool:
    """Return whether a run answered the mini suite's own samples of a task."""
    if results.suite != "mini" or task not in TASKS:
        return False
    bundled = prepare_mini_suite()
    return (
        is_prepared(bundled, task)
        and load_prepared(bundled, task).manifest.data_fingerprint == results.tasks[task].data
    )
