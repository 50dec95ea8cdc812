"""The audit of data: every chosen task's test split against every body of training data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medbench.leaderboard.audit.overlap.duplicates import Consistency, consistency
from medbench.leaderboard.audit.overlap.findings import MARK, Corpus, Null, Origin, Overlap, overlap_of
from medbench.leaderboard.audit.overlap.items import TaskItems
from medbench.leaderboard.audit.overlap.null_split import null_split
from medbench.leaderboard.audit.overlap.printing import Printer
from medbench.leaderboard.audit.overlap.scan import Scan, Tallies
from medbench.leaderboard.audit.overlap.tally import CHECKS, Tally
from medbench.leaderboard.audit.overlap.test_side import TestSide
from medbench.leaderboard.audit.overlap.training_files import row_count, training_rows
from medbench.leaderboard.audit.overlap.watching import watched
from medbench.leaderboard.audit.verdicts import EXIT_CODES, Verdict, strongest


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file of training data that the user named, and the folder of its pictures."""

    path: Path
    images: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAuditInput:
    """What is audited.

    Attributes:
        test: Test items of the audited tasks.
        train: Training items by task: of the audited tasks, and of others whose training data may hold their items.
        files: The user's own training data.
        seed: Of the null re-split.
        images: Whether pictures are looked at.
    """

    test: Sequence[TaskItems]
    train: Sequence[TaskItems]
    files: Sequence[TrainingFile] = ()
    seed: int = 0
    images: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAudit:
    """All that was found of one task.

    Attributes:
        task: The task's test items.
        train_rows: Rows of its own training data.
        within: Repeats and contradictions by split.
        null: What two parts of its training data share; None if there are too few.
        overlaps: By body of training data.
    """

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
class DataAudit:
    """An audit of data, with what a report needs to show it."""

    tasks: tuple[TaskAudit, ...]
    side: TestSide
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    seed: int = 0
    images: bool = True

    @property
    def code(self) -> int:
        """Exit code: 5 where nothing was found and something needed could not be seen."""
        return EXIT_CODES[strongest(task.verdict for task in self.tasks)]


def audit_data(given: DataAuditInput) -> DataAudit:
    """Compare test splits with training data.

    Raises:
        DataError: If a file of the user cannot be read.
    """
    printer = Printer(enabled=given.images)
    try:
        return _audit(given, printer)
    finally:
        printer.close()


def _audit(given: DataAuditInput, printer: Printer) -> DataAudit:
    side = TestSide(given.test, printer)
    nulls = _nulls(given, printer)
    found = [(corpus, tally) for corpus, tally in _scanned(given, side, printer)]
    tasks = []
    train = {task.task: task for task in given.train}
    for task in given.test:
        overlaps = tuple(
            overlap_of(side, task, _seen_by(task, corpus), tally, nulls.get(task.task), images=given.images)
            for corpus, tally in found
        )
        own = train.get(task.task)
        one_answer = task.kind != "report"
        within = {
            split: consistency(part.items, one_answer=one_answer)
            for split, part in (("test", task), ("train", own))
            if part is not None
        }
        tasks.append(
            TaskAudit(
                task=task,
                train_rows=len(own.items) if own else 0,
                within=within,
                null=nulls.get(task.task),
                overlaps=overlaps,
            )
        )
    tallies = {corpus.name: tally for corpus, tally in found}
    return DataAudit(tasks=tuple(tasks), side=side, tallies=tallies, seed=given.seed, images=given.images)


def _seen_by(task: TaskItems, corpus: Corpus) -> Corpus:
    """Return a body of training data as one task sees it: its own, that of another task, or a file."""
    origin: Origin = corpus.origin
    if corpus.origin != "file":
        origin = "own" if corpus.name == _train_name(task.task) else "task"
    return Corpus(name=corpus.name, origin=origin, family=corpus.family, rows=corpus.rows, withheld=corpus.withheld)


def _train_name(task: str) -> str:
    return f"{task} train"


def _scanned(given: DataAuditInput, side: TestSide, printer: Printer) -> Iterator[tuple[Corpus, Tally]]:
    for task in given.train:
        name = _train_name(task.task)
        with watched(task.items, name, len(task.items)) as rows:
            tallies = Scan(side, printer, keep_prints=True).feed(rows)
        yield from _by_language(name, "task", task.family, tallies, len(side.items), withheld=task.withheld)
    for file in given.files:
        with watched(training_rows(file.path, file.images), file.path.name, row_count(file.path)) as rows:
            tallies = Scan(side, printer, keep_prints=False).feed(rows)
        yield from _by_language(file.path.name, "file", "", tallies, len(side.items), withheld=False)


def _by_language(
    name: str, origin: Origin, family: str, tallies: Tallies, items: int, *, withheld: bool
) -> Iterator[tuple[Corpus, Tally]]:
    for language, tally in sorted(tallies.items()) or [("", Tally(items))]:
        shown = f"{name} [{language}]" if language else name
        yield Corpus(name=shown, origin=origin, family=family, rows=tally.rows, withheld=withheld), tally


def _nulls(given: DataAuditInput, printer: Printer) -> dict[str, Null]:
    sizes = {task.task: len(task.items) for task in given.test}
    splits = {task.task: null_split(task, sizes[task.task], given.seed) for task in given.train if task.task in sizes}
    nulls = {}
    for task, split in splits.items():
        if not split.test.items:
            continue
        side = TestSide([split.test], printer)
        tally = Tally(len(split.test.items))
        for part in Scan(side, printer, keep_prints=True).feed(split.rest).values():
            tally = part
        shares: dict[str, float] = {check: float(tally.shared[check].mean()) for check in CHECKS}
        shares |= {f"id:{name}": _share_of(tally, name) for name in tally.known_ids}
        nulls[task] = Null(
            unit=split.unit,
            decisive=split.unit == split.test.decisive,
            items=len(split.test.items),
            shares=shares,
        )
    return nulls


def _share_of(tally: Tally, name: str) -> float:
    flags = tally.in_groups.get(name)
    return 0.0 if flags is None else float(flags.mean())
