"""Every chosen task's test split against every body of training data: what is read, and what is found."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medbench.harness.workload import MINI_NOTICE
from medbench.leaderboard.audit.data.findings import (
    MARK,
    Comparison,
    Consistency,
    Corpus,
    Null,
    Overlap,
    consistency,
    null_split,
)
from medbench.leaderboard.audit.data.images import Printer
from medbench.leaderboard.audit.data.items import Item, TaskItems, items_of, read_ids, row_count, training_rows
from medbench.leaderboard.audit.data.scan import CHECKS, ItemIndex, Scan, Tally
from medbench.leaderboard.audit.document import Verdict, strongest
from medbench.tasks.catalog import get_task, select_tasks
from medbench.tasks.foundation.console import meter, say
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.prepared import Prepared, load_prepared, prepared_names
from medbench.tasks.suite import prepare_mini_suite, suite_of

_PROGRESS_FROM = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataToAudit:
    """What is audited."""

    test: Sequence[TaskItems]  # test items of the audited tasks
    train: Sequence[TaskItems] = ()  # by task: of the audited ones, and of others that may hold their items
    files: Mapping[Path, Path] = field(default_factory=dict)  # the user's training data, and where their images start
    seed: int = 0  # of the null re-split
    images: bool = True  # whether images are looked at
    reveal: bool = False  # whether texts of credentialed datasets are shown
    prepared: Mapping[str, Prepared] = field(default_factory=dict)  # all prepared tasks by name
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the data of each task and file, by name

    @property
    def notes(self) -> list[str]:
        """What must be shown beside the verdicts."""
        used = [one for name, one in self.prepared.items() if name in self.fingerprints]
        return [MINI_NOTICE] if suite_of(used) == "mini" else []


def read_data(
    tasks: str | None = None, data_dir: Path | None = None, *, ids: Sequence[Path] = (), with_train: bool = True
) -> DataToAudit:
    """Read prepared data that are to be audited, with their training splits or without.

    `tasks` is a selection, None for all that are prepared, variants left out; `data_dir` None for the mini suite.
    Raises UsageError if a task is unknown; DataError if a task is not prepared, or a file is missing or broken.
    """
    data_dir = data_dir or prepare_mini_suite()
    if not data_dir.is_dir():
        raise DataError(
            f"The data folder {data_dir} does not exist.",
            "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR",
        )
    prepared = {name: load_prepared(data_dir, name) for name in prepared_names(data_dir)}
    chosen = _chosen(tasks, tuple(prepared))
    compared = [name for name in prepared if with_train and (name in chosen or not get_task(name).variant_of)]
    more_ids = read_ids(ids)
    return DataToAudit(
        test=[items_of(prepared[name], "test", more_ids.get(name, {})) for name in chosen],
        train=[items_of(prepared[name], "train", more_ids.get(name, {})) for name in compared],
        prepared=prepared,
        fingerprints={
            name: one.manifest.data_fingerprint for name, one in prepared.items() if name in {*chosen, *compared}
        },
    )


def _chosen(selection: str | None, present: tuple[str, ...]) -> tuple[str, ...]:
    if selection is None:
        return tuple(name for name in present if not get_task(name).variant_of)
    named = dict.fromkeys(select_tasks(selection))
    missing = [name for part in selection.split(",") if (name := part.strip()) in named and name not in present]
    if missing:
        raise DataError(
            f"Not prepared: {', '.join(missing)}.",
            f"Prepare it: medbench data prepare {missing[0]} --source DIR --data-dir DIR",
        )
    found = tuple(name for name in named if name in present)
    if not found:
        raise DataError(f"No task of {selection!r} is prepared.", f"Prepared are: {', '.join(present)}.")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverlaps:
    """All that was found of one task: repeats within its splits, its null if there is one, and overlaps."""

    task: TaskItems
    train_rows: int
    within: Mapping[str, Consistency]
    null: Null | None
    overlaps: tuple[Overlap, ...]

    @property
    def verdict(self) -> Verdict:
        """The strongest of its overlaps; `not_testable` before `no_evidence`."""
        return strongest(one.verdict for one in self.overlaps)

    @property
    def mark(self) -> str:
        """The mark of the dataset: set by prepared training data, not by the user's files."""
        prepared = (one for one in self.overlaps if one.corpus.origin != "file")
        return MARK if any(one.verdict == "strong" for one in prepared) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOverlaps:
    """What was found of all tasks, with what a report needs to show it: the tally of each body of training data."""

    data: DataToAudit
    tasks: tuple[TaskOverlaps, ...]
    index: ItemIndex
    tallies: Mapping[str, Tally]


def find_overlaps(data: DataToAudit) -> DataOverlaps:
    """Compare test items with training data. Raises DataError if a file of the user cannot be read."""
    printer = Printer(enabled=data.images)
    try:
        index = ItemIndex(data.test, printer)
        nulls = _nulls(data, printer)
        found = list(_scanned(data, index, printer))
    finally:
        printer.close()
    own = {task.task: task for task in data.train}
    tasks = []
    for task in data.test:
        mine = own.get(task.task)
        splits = {"test": task, **({"train": mine} if mine else {})}
        comparisons = (
            Comparison(
                index=index, task=task, tally=tally, null=nulls.get(task.task), images=data.images,
                corpus=replace(corpus, origin="own") if corpus.name == _train_name(task) else corpus,
            )
            for corpus, tally in found
        )  # fmt: skip
        within = {split: consistency(part.items, one_answer=task.kind != "report") for split, part in splits.items()}
        tasks.append(
            TaskOverlaps(
                task=task, train_rows=len(mine.items) if mine else 0, within=within, null=nulls.get(task.task),
                overlaps=tuple(one.overlap() for one in comparisons),
            )
        )  # fmt: skip
    return DataOverlaps(
        data=data, tasks=tuple(tasks), index=index, tallies={corpus.name: tally for corpus, tally in found}
    )


def _train_name(task: TaskItems) -> str:
    return f"{task.task} train"


def _scanned(data: DataToAudit, index: ItemIndex, printer: Printer) -> Iterator[tuple[Corpus, Tally]]:
    """Yield each body of training data with what it shares; each language is a body of its own."""
    sources: list[tuple[Corpus, Iterable[Item], int]] = [
        (
            Corpus(name=_train_name(task), origin="task", family=task.family, credentialed=task.credentialed),
            task.items,
            len(task.items),
        )
        for task in data.train
    ]
    sources += [
        (Corpus(name=path.name, origin="file"), training_rows(path, images), row_count(path))
        for path, images in data.files.items()
    ]
    for corpus, rows, count in sources:
        scan, message = Scan(index, printer, keep_prints=corpus.origin == "task"), f"Comparing with {corpus.name}"
        # A few thousand rows need no display of their progress.
        if count < _PROGRESS_FROM:
            say(f"{message}.")
            tallies = scan.feed(rows)
        else:
            with meter(message, count) as progress:
                tallies = scan.feed(rows, done=progress.advance)
        for language, tally in sorted(tallies.items()) or [("", Tally(len(index.items)))]:
            name = f"{corpus.name} [{language}]" if language else corpus.name
            yield replace(corpus, name=name, rows=tally.rows), tally


def _nulls(data: DataToAudit, printer: Printer) -> dict[str, Null]:
    sizes = {task.task: len(task.items) for task in data.test}
    nulls = {}
    for task in data.train:
        split = null_split(task, sizes.get(task.task, 0), data.seed)
        if split.test.items:
            index = ItemIndex([split.test], printer)
            tallies = Scan(index, printer, keep_prints=True).feed(split.rest)
            tally = next(iter(tallies.values()), Tally(len(index.items)))
            shares: dict[str, float] = {check: float(tally.shared[check].mean()) for check in CHECKS}
            shares |= {f"id:{name}": float(tally.by_id(name).mean()) for name in tally.known_ids}
            nulls[task.task] = Null(
                unit=split.unit, decisive=split.unit == task.decisive, items=len(split.test.items), shares=shares
            )
    return nulls
