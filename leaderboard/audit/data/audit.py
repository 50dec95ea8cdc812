"""`medbench audit data`: overlaps of test and training data as an audit."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medbench.leaderboard.audit.data.findings import MARK_EXCESS, MARK_SHARE, Consistency, Finding
from medbench.leaderboard.audit.data.images import MIN_QUALITY, MIN_SIDE, MIN_STD, NEAR, REVIEW, VIEWS
from medbench.leaderboard.audit.data.overlaps import DataOverlaps, DataToAudit, TaskOverlaps, find_overlaps, read_data
from medbench.leaderboard.audit.data.scan import CONTAINMENT, GRAM, Check
from medbench.leaderboard.audit.document import (
    FOUND,
    WORDS,
    Audit,
    Example,
    Table,
    TaskVerdict,
    percent,
    strongest,
    table_of,
    wording,
)
from medbench.leaderboard.audit.normalise import MIN_WORDS, NORM_VERSION
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256

_SHOWN = 3
_SHOWN_WORDS = 60
_SHOWN_CHECKS: tuple[Check, ...] = ("item", "near_item", "text", "near_text", "image", "near_image", "review_image")
_SETTINGS = {
    "normaliser": NORM_VERSION,
    "near texts": {"containment": CONTAINMENT, "words of a run": GRAM, "least words": MIN_WORDS},
    "near images": {
        "near bits": NEAR, "review bits": REVIEW, "bits": 256, "views": list(VIEWS), "least quality": MIN_QUALITY,
        "least standard deviation": MIN_STD, "least side": MIN_SIDE,
    },
    "mark": {"share": MARK_SHARE, "texts above the null": MARK_EXCESS},
}  # fmt: skip


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
    asked = replace(
        data, files=files, seed=seed, images=read_images, reveal=reveal, fingerprints={**data.fingerprints, **digests}
    )
    return report_overlaps(find_overlaps(asked))


def report_overlaps(found: DataOverlaps) -> Audit:
    """Return what was found as an audit; texts of credentialed data are left out unless they are to be revealed."""
    data = found.data
    unknown = [
        f"{task.task.task} in {overlap.corpus.name}: {one.title} **unknown**, {one.note}"
        for task in found.tasks
        for overlap in task.overlaps
        for one in overlap.findings
        if one.state == "unknown"
    ]
    matrix = table_of(
        found.tasks,
        {
            "task": lambda task: f"{task.task.task}{task.mark}",
            "verdict": lambda task: WORDS[task.verdict],
            "test": lambda task: len(task.task.items),
            "train": lambda task: task.train_rows,
        },
        right=2,
    )
    credentialed = any(task.credentialed for task in (*data.test, *data.train))
    verdict = WORDS[strongest(task.verdict for task in found.tasks)]
    return Audit(
        kind="data", title="Leakage audit of data", question=f"Verdict: **{verdict}**. {wording('data')['question']}",
        tasks={task.task.task: _task_verdict(task, data) for task in found.tasks},
        incomplete=any(task.verdict == "not_testable" for task in found.tasks),
        tables=[matrix, *(part for task in found.tasks for part in _parts(task, data))],
        examples=[one for task in found.tasks for one in _examples(task, found)],
        notes=data.notes, limits=[*unknown, *wording("data")["limits"]],
        marks={task.task.task: task.mark for task in found.tasks if task.mark},
        settings=_SETTINGS
        | {"seed": data.seed, "images": data.images, "data": dict(sorted(data.fingerprints.items()))},
        revealed=data.reveal and credentialed,
    )  # fmt: skip


def _task_verdict(task: TaskOverlaps, data: DataToAudit) -> TaskVerdict:
    telling = [one for one in task.overlaps if one.verdict == task.verdict]
    details = {
        "mark": task.mark, "test_items": len(task.task.items), "train_items": task.train_rows,
        "decisive_id": task.task.decisive, "texts_withheld": task.task.credentialed and not data.reveal,
        "within": {split: asdict(one) for split, one in task.within.items()},
        "null": None if task.null is None else asdict(task.null),
        "overlaps": [
            {
                "corpus": one.corpus.name, "origin": one.corpus.origin, "rows": one.corpus.rows, "verdict": one.verdict,
                "reasons": one.reasons, "checks": [_check(finding) for finding in one.findings],
            }
            for one in task.overlaps
        ],
    }  # fmt: skip
    text = "; ".join(f"{one.corpus.name}: {reason}" for one in telling for reason in one.reasons)
    return TaskVerdict(title=task.task.task, verdict=task.verdict, text=text, details=details)


def _check(one: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {"check": one.check, "title": one.title, "state": one.state, "note": one.note}
    if one.state == "unknown":
        return found
    found |= {"shared": one.shared, "of": one.of, "share": one.share, "null": one.null, "counts": one.counts}
    if one.of_groups is not None:
        found |= {"groups": one.groups, "of_groups": one.of_groups, "group_share": one.group_share}
    return found


def _parts(task: TaskOverlaps, data: DataToAudit) -> Iterator[Table]:
    others = [one for one in task.overlaps if one.corpus.origin == "task" and one.verdict not in FOUND]
    silent = ", ".join(one.corpus.name for one in others if one.verdict == "no_evidence")
    null, decisive = task.null, task.task.decisive
    told = "Null: none, there are too few training items to split."
    if null is not None:
        kept = f"whole by {null.unit}" if null.unit != "item" else "item by item"
        weak = "" if null.decisive else f"; not by {decisive}, so that it may hide a leak"
        told = f"Null: {null.items} training items held out {kept} and compared with the rest{weak}."
    lines = [
        told,
        wording("data")["withheld"] if task.task.credentialed and not data.reveal else "",
        *(_within_text(split, one) for split, one in task.within.items()),
        f"No evidence in: {silent}." if silent else "",
    ]
    yield Table(title=f"{task.task.task}{task.mark}", bullets=[line for line in lines if line])
    for overlap in task.overlaps:
        if overlap not in others:
            yield table_of(
                overlap.findings,
                {
                    "check": lambda one: one.title,
                    "shared": _shared,
                    "null": lambda one: percent(one.null) if one.state == "checked" else "-",
                    "note": lambda one: one.note or "-",
                },
                title=f"{task.task.task} in {overlap.corpus.name}: {WORDS[overlap.verdict]}",
            )


def _within_text(split: str, one: Consistency) -> str:
    if not one.exact_duplicates and not one.contradicting_groups:
        return ""
    return (
        f"Within {split}: {one.exact_duplicates} of {one.rows} rows repeat another exactly; {one.contradicting_groups} "
        f"questions have contradicting answers ({one.contradicting_rows} rows), so that exact match cannot exceed "
        f"{percent(one.ceiling, 2)}."
    )


def _shared(one: Finding) -> str:
    if one.state != "checked":
        return one.state.replace("_", " ")
    parts = [f"{one.shared} of {one.of} items ({percent(one.share)})"] if one.of else []
    if one.of_groups is not None:
        parts.append(f"{one.groups} of {one.of_groups} groups ({percent(one.group_share)})")
    return ", ".join(parts)


def _examples(task: TaskOverlaps, found: DataOverlaps) -> Iterator[Example]:
    numbers = found.index.range_of(task.task.task)
    for overlap in task.overlaps:
        hidden = (task.task.credentialed or overlap.corpus.credentialed) and not found.data.reveal
        for check in _SHOWN_CHECKS:
            witnesses = found.tallies[overlap.corpus.name].witnesses.get(check, {})
            for number in sorted(number for number in witnesses if number in numbers)[:_SHOWN]:
                item, witness = found.index.items[number], witnesses[number]
                whole = {
                    "test text": " / ".join(filter(None, dict.fromkeys((*item.texts, item.answer)))),
                    "training text": witness.text,
                }
                yield Example(
                    task=task.task.task,
                    facts={
                        "corpus": overlap.corpus.name, "check": check, "test": item.item_id, "train": witness.row,
                        "how": witness.score,
                    },
                    texts={name: _shortened(text) for name, text in whole.items() if text and not hidden},
                )  # fmt: skip


def _shortened(text: str) -> str:
    words = text.split()
    return " ".join(words[:_SHOWN_WORDS]) + (" ..." if len(words) > _SHOWN_WORDS else "")
