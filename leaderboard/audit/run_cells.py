"""Runs and their prepared data as cells to audit; what cannot be read is said, task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from medbench.harness.results import Results, read_results
from medbench.harness.settings import Settings, load_settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.leaderboard.audit.items import Answered, Cell, long_texts, make_cell
from medbench.leaderboard.audit.thresholds import THRESHOLDS
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind

CLOSED_KINDS: frozenset[Kind] = frozenset({"rec", "cls"})
"""Boxes, and classes from a list."""
_FREE_TEXT: frozenset[Kind] = frozenset({"qa", "vqa", "report"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What a task's prepared data hold for an audit.

    Attributes:
        kind: Its kind.
        samples: Test samples by id.
        whole_split: Reference and case of every test sample.
        train_texts: Training references of all tasks at hand, and what else the user knows of; None where none are
            known of this task.
        train_references: The long ones of them, normalised; None likewise.
    """

    kind: Kind
    samples: Mapping[str, Sample]
    whole_split: Sequence[tuple[str | None, str]]
    train_texts: Sequence[str] | None
    train_references: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCells:
    """A run to audit.

    Attributes:
        path: Its folder.
        results: Its numbers.
        tables: Its scores, of the tasks that could be read.
        cells: Its answers, of the same tasks.
        problems: Why the other tasks could not be checked.
    """

    path: Path
    results: Results
    tables: Mapping[str, ScoreTable]
    cells: Mapping[str, Cell]
    problems: Mapping[str, str]


def read_run_cells(path: Path, data: Mapping[str, TaskData | str]) -> RunCells:
    """Read a run's answers beside its references.

    Args:
        path: Folder of a finished run.
        data: Prepared data by task, or why there are none.

    Raises:
        RunError: If the folder is no finished run.
        DataError: If its results are malformed.
    """
    results = read_results(path)
    tables: dict[str, ScoreTable] = {}
    cells: dict[str, Cell] = {}
    problems: dict[str, str] = {}
    for task in results.tasks:
        found = data.get(task, "Its data were not read.")
        if isinstance(found, str):
            problems[task] = found
            continue
        try:
            tables[task] = read_score_table(path, results, task)
            cells[task] = make_cell(
                _answers(tables[task], found), train_references=found.train_references, whole_split=found.whole_split
            )
        except MedbenchError as error:
            tables.pop(task, None)
            problems[task] = without_folder(path, error)
    return RunCells(path=path, results=results, tables=tables, cells=cells, problems=problems)


def without_folder(path: Path, error: MedbenchError) -> str:
    """Return what is wrong without the way to a folder."""
    return error.problem.replace(f"{path}/", "").replace(str(path), "the folder")


def _answers(table: ScoreTable, data: TaskData) -> list[Answered]:
    found = []
    seen: set[str] = set()
    for record in table.records:
        sample = data.samples.get(record.sample_id)
        if sample is None or record.sample_id in seen:
            what = "is no sample of the prepared data" if sample is None else "was scored twice"
            raise DataError(f"A sample {what}: {record.sample_id!r}.", "Score the run again: medbench score RUN")
        seen.add(record.sample_id)
        found.append(
            Answered(
                sample_id=record.sample_id,
                group=record.group,
                prediction=None if record.state in {"error", "empty"} else record.prediction,
                reference=sample.reference,
                question=" ".join(sample.inputs.values()),
                closed=bool(sample.choices) or data.kind in CLOSED_KINDS,
                truncated=record.state == "truncated",
            )
        )
    return found


def read_task_data(
    path: Path, results: Results, data_dir: Path | None, more_references: Sequence[str] = ()
) -> dict[str, TaskData | str]:
    """Read the prepared data that a run answered.

    Args:
        path: Folder of the run.
        results: Its results.
        data_dir: Where the prepared tasks are now, if not where the run found them.
        more_references: Training references that the user knows of beside those of the prepared tasks.

    Returns:
        By task of the run its data, or why they could not be read.
    """
    settings = load_settings(path / "run.yaml", {"data_dir": data_dir})
    loads = {task: _load(settings, results, task) for task in results.tasks}
    train = {task: load.train for task, load in loads.items() if not isinstance(load, str)}
    texts = tuple(chain(*train.values(), more_references))
    known = long_texts(texts, THRESHOLDS.min_words)
    return {
        task: load if isinstance(load, str) else _task_data(load, texts, known, knows_more=bool(more_references))
        for task, load in loads.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A task's test data, and its training references where its answers are free text."""

    test: TaskLoad
    train: tuple[str, ...]


def _load(settings: Settings, results: Results, task: str) -> _Loaded | str:
    try:
        (load,) = load_workload(replace(settings, tasks=(task,), limit=None)).loads
        if load.prepared.manifest.data_fingerprint != results.tasks[task].data:
            return "The prepared data are not those that the run answered."
        free = load.spec.kind in _FREE_TEXT
        train = tuple(sample.reference for sample in load.prepared.samples("train")) if free else ()
    except MedbenchError as error:
        return error.problem
    return _Loaded(test=load, train=train)


def _task_data(load: _Loaded, texts: Sequence[str], known: frozenset[str], *, knows_more: bool) -> TaskData:
    spec, samples = load.test.spec, load.test.samples
    is_known = bool(load.train) or knows_more
    return TaskData(
        kind=spec.kind,
        samples={sample.sample_id: sample for sample in samples},
        whole_split=[(sample.reference, sample.groups.get(spec.group_key, sample.sample_id)) for sample in samples],
        train_texts=texts if is_known else None,
        train_references=known if is_known else None,
    )


def refuse_unequal(task: str, ours: Cell, theirs: Cell, name: str) -> None:
    """Refuse to set a model beside one that answered other items.

    Raises:
        UsageError: With how many items only one of the two has, and the first of them.
    """
    mine, others = ({item.sample_id: item.group for item in cell.items} for cell in (ours, theirs))
    apart = sorted(mine.keys() ^ others.keys())
    if apart:
        raise UsageError(
            f"The peer {name} has other items of {task}: {len(mine.keys() - others.keys())} are missing, "
            f"{len(others.keys() - mine.keys())} are too many; the first is {apart[0]!r}.",
            "Give peers that answered the same items: the same data, and the same --limit.",
        )
    if mine != others:
        raise UsageError(
            f"The peer {name} puts the items of {task} into other cases.", "Give peers that answered the same data."
        )
