"""`.eval_results/*.yaml`: a run's numbers as the Hub shows them on a model's page and on a benchmark's leaderboard.

The layout is that of https://huggingface.co/docs/hub/eval-results, written and read back by huggingface_hub's own
classes. An entry has one value, so each metric of a task is an entry; what the layout has no field for (protocol,
interval, counts, definition, notices) stands in `notes`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from medbench.harness.results import MetricResult, Results, TaskResult
from medbench.leaderboard.render import WORDING, beside
from medbench.leaderboard.runs import NOT_OK
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.download.sources import SOURCES, HubSource
from medbench.tasks.foundation.errors import RunError, UsageError, unknown_name
from medbench.tasks.protocols import Protocol

FOLDER = ".eval_results"
ALL_TASKS = "*"
# As https://huggingface.co/docs/huggingface_hub/package_reference/utilities checks names.
_REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")
_LONGEST_REPO = 96
Scale = Literal["percent", "fraction"]
_FACTOR: Mapping[Scale, tuple[float, int]] = {"percent": (100.0, 2), "fraction": (1.0, 4)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResultsOptions:
    """What the user says of the numbers."""

    protocol: Protocol = "paper"  # the two are never mixed in one file
    datasets: Mapping[str, str] | None = None  # on the Hub, by task; `*` stands for all others
    scale: Scale = "percent"  # what the benchmark's leaderboard counts in
    source_url: str = ""  # where the evaluation can be seen
    date: str = ""  # ISO 8601; empty leaves it to the commit


def read_datasets(words: Sequence[str]) -> dict[str, str]:
    """Return the Hub datasets in words `TASK=OWNER/NAME` or `OWNER/NAME`, which stands for all tasks.

    A word that names no task or no dataset is a UsageError.
    """
    found = {}
    for word in words:
        task, mark, repo = word.partition("=")
        task, repo = (task, repo) if mark else (ALL_TASKS, word)
        if task != ALL_TASKS and task not in TASKS:
            raise unknown_name("task", task, TASKS)
        found[task] = checked_repo(repo)
    return found


def checked_repo(repo: str) -> str:
    """Return the name of a repository on the Hub; a UsageError if it is none."""
    if not _REPO.fullmatch(repo) or len(repo) > _LONGEST_REPO or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise UsageError(f"{repo!r} is no repository on the Hub.", "Write OWNER/NAME.")
    return repo


def eval_result_files(results: Results, options: EvalResultsOptions) -> dict[str, str]:
    """Return the files of a run, as it may be shown, by path, one for each Hub dataset.

    It is a UsageError if no task has one, as those of the mini suite have none.
    """
    entries: dict[str, list[EvalResultEntry]] = defaultdict(list)
    for name, task in results.tasks.items():
        dataset = _dataset_of(results, name, options)
        if dataset is not None:
            entries[dataset] += _entries(results, name, task, dataset, options)
    entries = {dataset: found for dataset, found in entries.items() if found}
    if not entries:
        way_out = "Name where the data are: --dataset OWNER/NAME, or --dataset TASK=OWNER/NAME for each task."
        raise UsageError(WORDING["no_dataset"][results.suite], way_out)
    named = {f"{FOLDER}/{dataset.replace('/', '--')}.yaml": found for dataset, found in sorted(entries.items())}
    return {name: _as_yaml(found) for name, found in named.items()}


def without_dataset(results: Results, options: EvalResultsOptions) -> tuple[str, ...]:
    """Return the tasks of a run that have no dataset on the Hub, so that no file can name them."""
    return tuple(name for name in results.tasks if _dataset_of(results, name, options) is None)


def _dataset_of(results: Results, task: str, options: EvalResultsOptions) -> str | None:
    """Return the Hub dataset that a task's numbers belong to, or None.

    What the catalogue knows holds only for a whole run of the paper's data: numbers of the mini suite, of a part of
    the samples or of other data would stand on a dataset's leaderboard that they do not belong to.
    """
    given = options.datasets or {}
    if task in given or ALL_TASKS in given:
        return given.get(task, given.get(ALL_TASKS))
    if results.suite != "paper" or results.limit is not None or task not in TASKS:
        return None
    source = SOURCES.get(get_task(task).variant_of or task)
    return source.repo if isinstance(source, HubSource) else None


def _entries(
    results: Results, name: str, task: TaskResult, dataset: str, options: EvalResultsOptions
) -> Iterator[EvalResultEntry]:
    factor, digits = _FACTOR[options.scale]
    for metric_id, metric in task.metrics(options.protocol).items():
        if metric.value is not None:
            # The Hub's names are in snake case.
            task_id = re.sub(r"[-.@]", "_", f"{name}_{metric_id}").lower()
            yield EvalResultEntry(
                dataset_id=dataset, task_id=task_id, value=round(factor * metric.value, digits),
                date=options.date or None, source_url=options.source_url or None,
                source_name="medbench" if options.source_url else None, notes=_notes(results, metric, options),
            )  # fmt: skip


def _notes(results: Results, metric: MetricResult, options: EvalResultsOptions) -> str:
    factor, digits = _FACTOR[options.scale]
    low, high = (f"{factor * edge:.{digits}f}" for edge in metric.ci or (0, 0))
    parts = [
        f"medbench protocol {options.protocol}", f"95% interval {low} to {high}" if metric.ci else "", f"n={metric.n}",
        *(f"{why}={getattr(metric, why)}" for why in NOT_OK if getattr(metric, why)),
        *beside(metric.answered, metric.bounds),
        f"the first {results.limit} samples only" if results.limit is not None else "", metric.signature,
        *results.notices,
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)


def _as_yaml(entries: Sequence[EvalResultEntry]) -> str:
    text = yaml.safe_dump(eval_result_entries_to_yaml(list(entries)), sort_keys=False, allow_unicode=True, width=10_000)
    if parse_eval_result_entries(yaml.safe_load(text)) != list(entries):
        raise RunError(
            "huggingface_hub reads other results than it wrote.", "Report this with `medbench --version` and the run."
        )
    return text
