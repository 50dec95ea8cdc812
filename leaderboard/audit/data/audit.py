"""`medbench audit data`: every chosen task's test split against every body of training data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medbench.harness.workload import MINI_NOTICE
from medbench.leaderboard.audit.data import findings
from medbench.leaderboard.audit.data.items import Item, TaskItems, items_of, read_ids, row_count, training_rows
from medbench.leaderboard.audit.data.scan import CHECKS, CONTAINMENT, GRAM, ItemIndex, Scan, Tally
from medbench.leaderboard.audit.document import WORDS, Audit, Example, TaskVerdict, Verdict, plain, strongest, wording
from medbench.leaderboard.audit.normalise import MIN_WORDS, NORM_VERSION
from medbench.tasks import alike as looked
from medbench.tasks.catalog import get_task, select_tasks
from medbench.tasks.foundation.console import meter, say
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.prepared import Prepared, load_prepared, prepared_names
from medbench.tasks.suite import prepare_mini_suite, suite_of

_PROGRESS_FROM = 5000
_SHOWN_WORDS = 60
_SETTINGS = {
    "normaliser": NORM_VERSION,
    "near texts": {"containment": CONTAINMENT, "words of a run": GRAM, "least words": MIN_WORDS},
    "near images": {
        "near bits": looked.NEAR, "review bits": looked.REVIEW, "bits": 256, "views": list(looked.VIEWS),
        "least quality": looked.MIN_QUALITY, "least standard deviation": looked.MIN_STD, "least side": looked.MIN_SIDE,
    },
    "mark": {"share": findings.MARK_SHARE, "texts above the null": findings.MARK_EXCESS},
}  # fmt: skip


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
        problem = f"The data folder {data_dir} does not exist."
        raise DataError(problem, "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR")
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
        problem = f"Not prepared: {', '.join(missing)}."
        raise DataError(problem, f"Prepare it: medbench data prepare {missing[0]} --source DIR --data-dir DIR")
    found = tuple(name for name in named if name in present)
    if not found:
        raise DataError(f"No task of {selection!r} is prepared.", f"Prepared are: {', '.join(present)}.")
    return found


def audit_data(
    *, train: Sequence[Path] = (), images: Path | None = None, ids: Sequence[Path] = (), read_images: bool = True,
    seed: int = 0, reveal: bool = False, **prepared: Any,
) -> Audit:  # fmt: skip
    """Compare test splits with training data.

    `images` is where images of `train` start (None: the folder of each file), `ids` are files of ids that the native
    data lack; `prepared` are `tasks` and `data_dir`, as for `read_data`. Raises UsageError if a task is unknown, or two
    files of training data have one name; DataError if a task is not prepared, or a file is missing or broken.
    """
    if images is not None and not train:
        raise UsageError("--images goes with --train.", "Images of prepared tasks are where they were prepared from.")
    if len({path.name for path in train}) < len(train):
        raise UsageError("Two files of training data have the same name.", "Rename one: reports tell them by name.")
    for path in (*train, *ids):
        if not path.is_file():
            raise DataError(f"{path} is missing.", "Check the path that was given.")
    data = read_data(ids=ids, **prepared)
    files = {path: images or path.parent for path in train}
    digests = {path.name: file_sha256(path) for path in (*train, *ids)}
    return report_overlaps(
        replace(
            data, files=files, seed=seed, images=read_images, reveal=reveal,
            fingerprints={**data.fingerprints, **digests},
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverlaps:
    """All that was found of one task: repeats within its splits, its null if there is one, and overlaps."""

    task: TaskItems
    train_rows: int
    within: Mapping[str, findings.Consistency]
    null: findings.Null | None
    overlaps: tuple[findings.Overlap, ...]

    @property
    def verdict(self) -> Verdict:
        """The strongest of its overlaps; `not_testable` before `no_evidence`."""
        return strongest(one.verdict for one in self.overlaps)

    @property
    def mark(self) -> str:
        """The mark of the dataset: set by prepared training data, not by the user's files."""
        prepared = (one for one in self.overlaps if one.corpus.origin != "file")
        return findings.MARK if any(one.verdict == "strong" for one in prepared) else ""


def find_overlaps(data: DataToAudit) -> list[TaskOverlaps]:
    """Compare test items with training data. Raises DataError if a file of the user cannot be read."""
    with closing(looked.Printer(enabled=data.images)) as printer:
        index = ItemIndex(data.test, printer)
        nulls, found = dict(_nulls(data, printer)), list(_scanned(data, index, printer))
    own = {task.task: task for task in data.train}
    return [
        TaskOverlaps(
            task=task, train_rows=len(own[task.task].items) if task.task in own else 0,
            within={
                split: findings.consistency(part.items, one_answer=task.kind != "report")
                for split, part in (("test", task), ("train", own.get(task.task)))
                if part is not None
            },
            null=nulls.get(task.task),
            overlaps=tuple(
                findings.Comparison(
                    index, task, replace(corpus, origin="own" if corpus.task == task.task else corpus.origin), tally,
                    nulls.get(task.task), data.images,
                ).overlap()
                for corpus, tally in found
            ),
        )
        for task in data.test
    ]  # fmt: skip


def _scanned(data: DataToAudit, index: ItemIndex, printer: looked.Printer) -> Iterator[tuple[findings.Corpus, Tally]]:
    """Yield each body of training data with what it shares; each language is a body of its own."""
    sources: list[tuple[findings.Corpus, Iterable[Item], int]] = []
    for task in data.train:
        corpus = findings.Corpus(
            name=f"{task.task} train", task=task.task, origin="task", family=task.family, credentialed=task.credentialed
        )
        sources.append((corpus, task.items, len(task.items)))
    for path, images in data.files.items():
        sources.append((findings.Corpus(name=path.name, origin="file"), training_rows(path, images), row_count(path)))
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


def _nulls(data: DataToAudit, printer: looked.Printer) -> Iterator[tuple[str, findings.Null]]:
    sizes = {task.task: len(task.items) for task in data.test}
    for task in data.train:
        test, rest, unit = findings.null_split(task, sizes.get(task.task, 0), data.seed)
        if test.items:
            index, decisive = ItemIndex([test], printer), unit == task.decisive
            tallies = Scan(index, printer, keep_prints=True).feed(rest)
            tally = next(iter(tallies.values()), Tally(len(index.items)))
            checks = (*CHECKS, *(f"id:{name}" for name in tally.known_ids))
            shares = {check: float(tally.shared[check].mean()) for check in checks}
            yield task.task, findings.Null(unit=unit, decisive=decisive, items=len(test.items), shares=shares)


def report_overlaps(data: DataToAudit) -> Audit:
    """Compare test items with training data, and return what was found.

    Texts of credentialed data are left out unless they are to be revealed. Raises like `find_overlaps`.
    """
    found = find_overlaps(data)
    unknown = [
        f"{task.task.task} in {overlap.corpus.name}: {one.title} **unknown**, {one.note}"
        for task in found
        for overlap in task.overlaps
        for one in overlap.findings
        if one.state == "unknown"
    ]
    text, verdict = wording("data"), WORDS[strongest(task.verdict for task in found)]
    shown = {"seed": data.seed, "images": data.images, "data": dict(sorted(data.fingerprints.items()))}
    return Audit(
        kind="data", title="Leakage audit of data", question=f"Verdict: **{verdict}**. {text['question']}",
        tasks={task.task.task: _task_verdict(task, reveal=data.reveal) for task in found},
        columns=("task", "verdict", "test", "train"), right=2, notes=data.notes, limits=[*unknown, *text["limits"]],
        incomplete=any(task.verdict == "not_testable" for task in found), settings=_SETTINGS | shown,
        examples=[one for task in found for one in _examples(task, reveal=data.reveal)],
        marks={task.task.task: task.mark for task in found if task.mark},
        revealed=data.reveal and any(task.credentialed for task in (*data.test, *data.train)),
    )  # fmt: skip


def _task_verdict(found: TaskOverlaps, *, reveal: bool) -> TaskVerdict:
    task = found.task
    details = {
        "mark": found.mark, "test_items": len(task.items), "train_items": found.train_rows,
        "decisive_id": task.decisive, "texts_withheld": task.credentialed and not reveal,
        "within": plain(found.within), "null": plain(found.null),
        "overlaps": [
            {
                "corpus": one.corpus.name, "origin": one.corpus.origin, "rows": one.corpus.rows, "verdict": one.verdict,
                "reasons": one.reasons, "checks": list(map(_check, one.findings)),
            }
            for one in found.overlaps
        ],
    }  # fmt: skip
    telling = [one for one in found.overlaps if one.verdict == found.verdict]
    text = "; ".join(f"{one.corpus.name}: {reason}" for one in telling for reason in one.reasons)
    cells = (f"{task.task}{found.mark}", WORDS[found.verdict], len(task.items), found.train_rows)
    return TaskVerdict(title=task.task, verdict=found.verdict, short=text, text=text, cells=cells, details=details)


def _check(one: findings.Finding) -> dict[str, Any]:
    told = ["check", "title", "state", "note"]
    if one.state != "unknown":
        told += ["shared", "of", "share", "null", "counts"]
        told += ["groups", "of_groups", "group_share"] if one.of_groups is not None else []
    return {name: getattr(one, name) for name in told}


def _examples(found: TaskOverlaps, *, reveal: bool) -> Iterator[Example]:
    for overlap in found.overlaps:
        hidden = (found.task.credentialed or overlap.corpus.credentialed) and not reveal
        for check, item, witness in overlap.witnesses:
            ours = " / ".join(filter(None, dict.fromkeys((*item.texts, item.answer))))
            whole = {} if hidden else {"test text": ours, "training text": witness.text}
            facts = {
                "corpus": overlap.corpus.name, "check": check, "test": item.item_id, "train": witness.row,
                "how": witness.score,
            }  # fmt: skip
            texts = {name: _shortened(text) for name, text in whole.items() if text}
            yield Example(task=found.task.task, facts=facts, texts=texts)


def _shortened(text: str) -> str:
    words = text.split()
    return " ".join(words[:_SHOWN_WORDS]) + (" ..." if len(words) > _SHOWN_WORDS else "")
