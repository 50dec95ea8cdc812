"""`medbench audit data`: every chosen task's test split against every body of training data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medbench.harness.workload import MINI_NOTICE
from medbench.leaderboard.audit.data.findings import (
    MARK,
    MARK_EXCESS,
    MARK_SHARE,
    Comparison,
    Consistency,
    Corpus,
    Finding,
    Null,
    Overlap,
    consistency,
    null_split,
)
from medbench.leaderboard.audit.data.images import MIN_QUALITY, MIN_SIDE, MIN_STD, NEAR, REVIEW, VIEWS, Printer
from medbench.leaderboard.audit.data.items import Item, TaskItems, items_of, read_ids
from medbench.leaderboard.audit.data.rows import row_count, training_rows
from medbench.leaderboard.audit.data.scan import CHECKS, Check, ItemIndex, Scan, Tally
from medbench.leaderboard.audit.data.texts import CONTAINMENT, GRAM
from medbench.leaderboard.audit.document import (
    FOUND,
    WORDS,
    Audit,
    Example,
    Table,
    TaskVerdict,
    Verdict,
    percent,
    strongest,
)
from medbench.leaderboard.audit.normalise import MIN_WORDS, NORM_VERSION
from medbench.tasks.catalog import get_task, select_tasks
from medbench.tasks.foundation.console import meter, say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.prepared import Prepared, load_prepared, prepared_names
from medbench.tasks.suite import prepare_mini_suite, suite_of

_SHOWN = 3
_SHOWN_WORDS = 60
_SHOWN_CHECKS: tuple[Check, ...] = ("item", "near_item", "text", "near_text", "image", "near_image", "review_image")
_PROGRESS_FROM, _PROGRESS_STEP = 5000, 1024
_QUESTION = (
    f"Do test and training data overlap? {MARK} marks a dataset whose training data hold more than 1 % of its test "
    "items or groups, or share texts 5 points above what two parts of the training data share: the null."
)
_LIMITS = (
    "images that were cropped, rotated or padded",
    "texts that were paraphrased or translated",
    "training data that are neither prepared here nor given with --train",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSelection:
    """What the command line says.

    Attributes:
        tasks: A selection of tasks; None for all that are prepared, variants left out.
        data_dir: Prepared tasks; None for the mini suite.
        train: The user's own training data.
        images: Where their images start; None for the folder of each file.
        ids: Files of ids that the native data lack.
        read_images: Whether images are looked at.
        seed: Of the null re-split.
        reveal: Whether texts of credentialed datasets are shown.
    """

    tasks: str | None = None
    data_dir: Path | None = None
    train: tuple[Path, ...] = ()
    images: Path | None = None
    ids: tuple[Path, ...] = ()
    read_images: bool = True
    seed: int = 0
    reveal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file of training data that the user named, and the folder of its images."""

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
        images: Whether images are looked at.
        reveal: Whether texts of credentialed datasets are shown.
        prepared: All prepared tasks by name.
        fingerprints: Of the data of each task and file, by name.
        notes: What must be shown beside the verdicts.
    """

    test: Sequence[TaskItems]
    train: Sequence[TaskItems] = ()
    files: Sequence[TrainingFile] = ()
    seed: int = 0
    images: bool = True
    reveal: bool = False
    prepared: Mapping[str, Prepared] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def revealed(self) -> bool:
        """Whether texts of credentialed datasets are among what is shown."""
        return self.reveal and any(task.credentialed for task in (*self.test, *self.train))


def read_data(selection: DataSelection, *, with_train: bool = True) -> DataAuditInput:
    """Read what is to be audited, with the training splits or without them.

    Raises:
        UsageError: If a task is unknown, or two files of training data have one name.
        DataError: If a task is not prepared, or a file is missing or broken.
    """
    files = _training_files(selection)
    data_dir = selection.data_dir or prepare_mini_suite()
    if not data_dir.is_dir():
        raise DataError(
            f"The data folder {data_dir} does not exist.",
            "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR",
        )
    prepared = {name: load_prepared(data_dir, name) for name in prepared_names(data_dir)}
    chosen = _chosen(selection.tasks, tuple(prepared))
    compared = [name for name in prepared if with_train and (name in chosen or not get_task(name).variant_of)]
    ids = read_ids(selection.ids)
    used = {name: one for name, one in prepared.items() if name in chosen or name in compared}
    return DataAuditInput(
        test=[items_of(prepared[name], "test", ids.get(name, {})) for name in chosen],
        train=[items_of(prepared[name], "train", ids.get(name, {})) for name in compared],
        files=files,
        seed=selection.seed,
        images=selection.read_images,
        reveal=selection.reveal,
        prepared=prepared,
        fingerprints={
            **{name: one.manifest.data_fingerprint for name, one in used.items()},
            **{path.name: file_sha256(path) for path in (*selection.train, *selection.ids)},
        },
        notes=(MINI_NOTICE,) if suite_of(used.values()) == "mini" else (),
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


def _training_files(selection: DataSelection) -> list[TrainingFile]:
    names = [path.name for path in selection.train]
    if len(set(names)) < len(names):
        raise UsageError("Two files of training data have the same name.", "Rename one: reports tell them by name.")
    for path in (*selection.train, *selection.ids):
        if not path.is_file():
            raise DataError(f"{path} is missing.", "Check the path that was given.")
    return [TrainingFile(path=path, images=selection.images or path.parent) for path in selection.train]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverlaps:
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
class DataOverlaps:
    """What was found of all tasks, with what a report needs to show it."""

    given: DataAuditInput
    tasks: tuple[TaskOverlaps, ...]
    index: ItemIndex
    tallies: Mapping[str, Tally]


def find_overlaps(given: DataAuditInput) -> DataOverlaps:
    """Compare test splits with training data.

    Raises:
        DataError: If a file of the user cannot be read.
    """
    printer = Printer(enabled=given.images)
    try:
        index = ItemIndex(given.test, printer)
        nulls = _nulls(given, printer)
        found = list(_scanned(given, index, printer))
        own = {task.task: task for task in given.train}
        tasks = tuple(_of_task(task, own.get(task.task), found, index, nulls, given.images) for task in given.test)
        tallies = {corpus.name: tally for corpus, tally in found}
        return DataOverlaps(given=given, tasks=tasks, index=index, tallies=tallies)
    finally:
        printer.close()


def _of_task(
    task: TaskItems, own: TaskItems | None, found: Sequence[tuple[Corpus, Tally]], index: ItemIndex,
    nulls: Mapping[str, Null], images: bool,
) -> TaskOverlaps:  # fmt: skip
    null = nulls.get(task.task)
    splits = {"test": task, "train": own}
    return TaskOverlaps(
        task=task,
        train_rows=len(own.items) if own else 0,
        within={
            split: consistency(part.items, one_answer=task.kind != "report")
            for split, part in splits.items()
            if part is not None
        },
        null=null,
        overlaps=tuple(
            Comparison(
                index=index,
                task=task,
                corpus=replace(corpus, origin="own") if corpus.name == _train_name(task.task) else corpus,
                tally=tally,
                null=null,
                images=images,
            ).overlap()
            for corpus, tally in found
        ),
    )


def _train_name(task: str) -> str:
    return f"{task} train"


def _scanned(given: DataAuditInput, index: ItemIndex, printer: Printer) -> Iterator[tuple[Corpus, Tally]]:
    for task in given.train:
        corpus = Corpus(
            name=_train_name(task.task), origin="task", family=task.family, credentialed=task.credentialed
        )  # fmt: skip
        with _watched(task.items, corpus.name, len(task.items)) as rows:
            yield from _by_language(corpus, Scan(index, printer, keep_prints=True).feed(rows), len(index.items))
    for file in given.files:
        corpus = Corpus(name=file.path.name, origin="file")
        with _watched(training_rows(file.path, file.images), corpus.name, row_count(file.path)) as rows:
            yield from _by_language(corpus, Scan(index, printer).feed(rows), len(index.items))


def _by_language(corpus: Corpus, tallies: Mapping[str, Tally], items: int) -> Iterator[tuple[Corpus, Tally]]:
    for language, tally in sorted(tallies.items()) or [("", Tally(items))]:
        name = f"{corpus.name} [{language}]" if language else corpus.name
        yield replace(corpus, name=name, rows=tally.rows), tally


@contextmanager
def _watched(rows: Iterable[Item], name: str, total: int) -> Iterator[Iterable[Item]]:
    """Give the rows and say what they are compared for; a few thousand need no display of their progress."""
    if total < _PROGRESS_FROM:
        say(f"Comparing with {name}.")
        yield rows
        return
    with meter(f"Comparing with {name}", total) as progress:

        def counted() -> Iterator[Item]:
            done = 0
            for done, row in enumerate(rows, start=1):
                yield row
                if done % _PROGRESS_STEP == 0:
                    progress.advance(_PROGRESS_STEP)
            progress.advance(done % _PROGRESS_STEP)

        yield counted()


def _nulls(given: DataAuditInput, printer: Printer) -> dict[str, Null]:
    sizes = {task.task: len(task.items) for task in given.test}
    nulls = {}
    for task in given.train:
        split = null_split(task, sizes.get(task.task, 0), given.seed)
        if not split.test.items:
            continue
        index = ItemIndex([split.test], printer)
        tallies = Scan(index, printer, keep_prints=True).feed(split.rest)
        tally = next(iter(tallies.values()), Tally(len(index.items)))
        shares = {check: float(tally.shared[check].mean()) for check in CHECKS}
        ids = {f"id:{name}": float(tally.by_id(name).mean()) for name in tally.known_ids}
        nulls[task.task] = Null(
            unit=split.unit,
            decisive=split.unit == split.test.decisive,
            items=len(split.test.items),
            shares={**shares, **ids},
        )
    return nulls


def audit_data(selection: DataSelection) -> Audit:
    """Read the data that the command line names, compare them, and return the audit."""
    return report_overlaps(find_overlaps(read_data(selection)))


def report_overlaps(found: DataOverlaps) -> Audit:
    """Return what was found as an audit."""
    given = found.given
    examples = [one for task in found.tasks for one in _examples(task, found)]
    unknown = [
        f"{task.task.task} in {overlap.corpus.name}: {one.title} **unknown**, {one.note}"
        for task in found.tasks
        for overlap in task.overlaps
        for one in overlap.findings
        if one.state == "unknown"
    ]
    verdicts = {task.task.task: _verdict_of(task, given) for task in found.tasks}
    return Audit(
        kind="data",
        title="Leakage audit of data",
        question=_QUESTION,
        tasks=verdicts,
        incomplete=any(one.verdict == "not_testable" for one in verdicts.values()),
        tables=[_matrix(found.tasks), *(table for task in found.tasks for table in _tables(task, given))],
        examples=examples,
        notes=given.notes,
        limits=[*unknown, *_LIMITS],
        marks={task.task.task: task.mark for task in found.tasks if task.mark},
        settings=_settings(given),
        revealed=given.revealed,
    )


def _verdict_of(task: TaskOverlaps, given: DataAuditInput) -> TaskVerdict:
    reasons = [
        f"{overlap.corpus.name}: {reason}"
        for overlap in task.overlaps
        if overlap.verdict == task.verdict
        for reason in overlap.reasons
    ]
    return TaskVerdict(
        verdict=task.verdict,
        title=task.task.task,
        text="; ".join(reasons),
        details={
            "mark": task.mark,
            "test_items": len(task.task.items),
            "train_items": task.train_rows,
            "decisive_id": task.task.decisive,
            "texts_withheld": _is_withheld(task.task.credentialed, given),
            "within": {split: asdict(one) for split, one in task.within.items()},
            "null": None if task.null is None else asdict(task.null),
            "overlaps": [
                {
                    "corpus": overlap.corpus.name,
                    "origin": overlap.corpus.origin,
                    "rows": overlap.corpus.rows,
                    "verdict": overlap.verdict,
                    "reasons": list(overlap.reasons),
                    "checks": [_check(one) for one in overlap.findings],
                }
                for overlap in task.overlaps
            ],
        },
    )


def _check(one: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {"check": one.check, "title": one.title, "state": one.state, "note": one.note}
    if one.state == "unknown":
        return found
    found |= {"shared": one.shared, "of": one.of, "share": one.share, "null": one.null, "counts": one.counts}
    if one.of_groups is not None:
        found |= {"groups": one.groups, "of_groups": one.of_groups, "group_share": one.group_share}
    return found


def _matrix(tasks: Sequence[TaskOverlaps]) -> Table:
    rows = [
        [f"{task.task.task}{task.mark}", WORDS[task.verdict], str(len(task.task.items)), str(task.train_rows)]
        for task in tasks
    ]
    return Table(columns=("task", "verdict", "test", "train"), rows=rows, right=2)


def _tables(task: TaskOverlaps, given: DataAuditInput) -> Iterator[Table]:
    others = [one for one in task.overlaps if one.corpus.origin == "task" and one.verdict not in FOUND]
    silent = [one.corpus.name for one in others if one.verdict == "no_evidence"]
    bullets = [
        _null_text(task),
        *(
            ["Texts are withheld: access to them needs a signed agreement. --reveal shows them."]
            if _is_withheld(task.task.credentialed, given)
            else []
        ),
        *_within_texts(task.within),
        *([f"No evidence in: {', '.join(silent)}."] if silent else []),
    ]
    yield Table(title=f"{task.task.task}{task.mark}", bullets=bullets)
    for overlap in task.overlaps:
        if overlap not in others:
            rows = [[one.title, *_cells(one), one.note or "-"] for one in overlap.findings]
            title = f"{task.task.task} in {overlap.corpus.name}: {WORDS[overlap.verdict]}"
            yield Table(title=title, columns=("check", "shared", "null", "note"), rows=rows)


def _null_text(task: TaskOverlaps) -> str:
    null = task.null
    if null is None:
        return "Null: none, there are too few training items to split."
    kept = f"whole by {null.unit}" if null.unit != "item" else "item by item"
    weak = "" if null.decisive else f"; not by {task.task.decisive}, so that it may hide a leak"
    return f"Null: {null.items} training items held out {kept} and compared with the rest{weak}."


def _within_texts(within: Mapping[str, Consistency]) -> Iterator[str]:
    for split, one in within.items():
        if one.exact_duplicates or one.contradicting_groups:
            yield (
                f"Within {split}: {one.exact_duplicates} of {one.rows} rows repeat another exactly; "
                f"{one.contradicting_groups} questions have contradicting answers ({one.contradicting_rows} rows), "
                f"so that exact match cannot exceed {percent(one.ceiling, 2)}."
            )


def _cells(one: Finding) -> tuple[str, str]:
    if one.state != "checked":
        return one.state.replace("_", " "), "-"
    parts = [f"{one.shared} of {one.of} items ({percent(one.share)})"] if one.of else []
    if one.of_groups is not None:
        parts.append(f"{one.groups} of {one.of_groups} groups ({percent(one.group_share)})")
    return ", ".join(parts), percent(one.null)


def _is_withheld(credentialed: bool, given: DataAuditInput) -> bool:
    return credentialed and not given.reveal


def _examples(task: TaskOverlaps, found: DataOverlaps) -> Iterator[Example]:
    index, numbers = found.index, found.index.range_of(task.task.task)
    for overlap in task.overlaps:
        hidden = _is_withheld(task.task.credentialed or overlap.corpus.credentialed, found.given)
        for check in _SHOWN_CHECKS:
            witnesses = found.tallies[overlap.corpus.name].witnesses.get(check, {})
            for number in sorted(number for number in witnesses if number in numbers)[:_SHOWN]:
                item, witness = index.items[number], witnesses[number]
                test_text = " / ".join(filter(None, (*item.texts, item.answer)))
                texts = {"test text": _shortened(test_text), "training text": _shortened(witness.text)}
                yield Example(
                    task=task.task.task,
                    facts={
                        "corpus": overlap.corpus.name,
                        "check": check,
                        "test": item.item_id,
                        "train": witness.row,
                        "how": witness.score,
                    },
                    texts={} if hidden else {name: text for name, text in texts.items() if text},
                )


def _shortened(text: str) -> str:
    words = text.split()
    return " ".join(words[:_SHOWN_WORDS]) + (" ..." if len(words) > _SHOWN_WORDS else "")


def _settings(given: DataAuditInput) -> dict[str, Any]:
    return {
        "normaliser": NORM_VERSION,
        "seed": given.seed,
        "images": given.images,
        "near texts": {"containment": CONTAINMENT, "words of a run": GRAM, "least words": MIN_WORDS},
        "near images": {
            "near bits": NEAR,
            "review bits": REVIEW,
            "bits": 256,
            "views": list(VIEWS),
            "least quality": MIN_QUALITY,
            "least standard deviation": MIN_STD,
            "least side": MIN_SIDE,
        },
        "mark": {"share": MARK_SHARE, "texts above the null": MARK_EXCESS},
        "data": dict(sorted(given.fingerprints.items())),
    }
