"""What of a run's data may be shown and passed on: `medbench.tasks.terms` for the data that its results name."""

from collections.abc import Mapping
from functools import cache

from medbench.harness.results import Results
from medbench.tasks.catalog import TASKS
from medbench.tasks.prepared import load_prepared, prepared_names
from medbench.tasks.suite import prepare_mini_suite
from medbench.tasks.terms import Terms, needs_agreement, terms_of_data


def is_credentialed(results: Results, task: str) -> bool:
    """Return whether the data of a task of a run count as under a signed agreement, so that nobody is shown them."""
    return needs_agreement(task) and not is_bundled(results, task)


def terms_of(results: Results, task: str) -> Terms:
    """Return what may be passed on of a task of a run: by the fingerprint of its data, and what their owner said."""
    found = results.tasks[task]
    return terms_of_data(task, found.data, bundled=is_bundled(results, task), licence=found.licence)


def is_bundled(results: Results, task: str) -> bool:
    """Return whether a run answered the mini suite's own samples of a task.

    They are known by their fingerprint, since a folder may hold them beside real data.
    """
    return results.suite == "mini" and task in TASKS and _bundled_data().get(task) == results.tasks[task].data


@cache
def _bundled_data() -> Mapping[str, str]:
    """Return the fingerprints of the bundled suite's data by task."""
    folder = prepare_mini_suite()
    return {name: load_prepared(folder, name).manifest.data_fingerprint for name in prepared_names(folder)}
