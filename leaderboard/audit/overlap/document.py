"""An audit of data as one JSON document: the same data and seed give the same bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from medbench.leaderboard.audit.normalise import MIN_WORDS, NORM_VERSION
from medbench.leaderboard.audit.overlap.audit import DataAudit, TaskAudit
from medbench.leaderboard.audit.overlap.findings import MARK_EXCESS, MARK_SHARE, Finding, Overlap
from medbench.leaderboard.audit.overlap.minhash import BANDS, PERMUTATIONS
from medbench.leaderboard.audit.overlap.pixels import MIN_QUALITY, MIN_SIDE, MIN_STD, NEAR, REVIEW, VIEWS
from medbench.leaderboard.audit.overlap.tally import Check, Witness
from medbench.leaderboard.audit.overlap.test_side import TestSide
from medbench.leaderboard.audit.overlap.texts import CONTAINMENT, GRAM, JACCARD, SHINGLE
from medbench.leaderboard.audit.verdicts import strongest

SCHEMA = 1
_SHOWN = 3
_SHOWN_WORDS = 60
_SHOWN_CHECKS: tuple[Check, ...] = ("item", "near_item", "text", "near_text", "image", "near_image", "review_image")
NOT_COVERED = (
    "pictures that were cropped, rotated or padded",
    "texts that were paraphrased or translated",
    "training data that are neither prepared here nor given with --train",
)


def document_of(audit: DataAudit, data: Mapping[str, str]) -> dict[str, Any]:
    """Return the document.

    Args:
        audit: The audit.
        data: Fingerprint of the data of each prepared task, and of each file, by name.
    """
    return {
        "schema": SCHEMA,
        "kind": "audit-data",
        "verdict": strongest(task.verdict for task in audit.tasks),
        "verdicts": {task.task.task: task.verdict for task in audit.tasks},
        "marks": {task.task.task: task.mark for task in audit.tasks if task.mark},
        "findings": [found for task in audit.tasks for found in _headlines(task)],
        "tasks": {task.task.task: _task(task, audit) for task in audit.tasks},
        "not_covered": list(NOT_COVERED),
        "settings": settings(audit),
        "data": dict(sorted(data.items())),
    }


def settings(audit: DataAudit) -> dict[str, Any]:
    """Return every threshold that the audit went by."""
    return {
        "normaliser": NORM_VERSION,
        "seed": audit.seed,
        "pictures": audit.images,
        "near_texts": {
            "containment": CONTAINMENT,
            "words_of_a_run": GRAM,
            "jaccard": JACCARD,
            "words_of_a_shingle": SHINGLE,
            "permutations": PERMUTATIONS,
            "bands": BANDS,
            "min_words": MIN_WORDS,
        },
        "near_pictures": {
            "near_bits": NEAR,
            "review_bits": REVIEW,
            "bits": 256,
            "views": list(VIEWS),
            "min_quality": MIN_QUALITY,
            "min_std": MIN_STD,
            "min_side": MIN_SIDE,
        },
        "mark": {"share": MARK_SHARE, "texts_above_null": MARK_EXCESS},
    }


def _headlines(task: TaskAudit) -> Iterator[dict[str, str]]:
    for overlap in task.overlaps:
        for reason in overlap.reasons:
            yield {
                "task": task.task.task,
                "corpus": overlap.corpus.name,
                "verdict": overlap.verdict,
                "text": f"{overlap.corpus.name}: {reason}",
            }


def _task(task: TaskAudit, audit: DataAudit) -> dict[str, Any]:
    return {
        "verdict": task.verdict,
        "mark": task.mark,
        "test_items": len(task.task.items),
        "train_items": task.train_rows,
        "decisive_id": task.task.decisive,
        "texts_withheld": task.task.withheld,
        "within": {split: asdict(found) for split, found in task.within.items()},
        "null": None if task.null is None else asdict(task.null),
        "overlaps": [_overlap(task, overlap, audit) for overlap in task.overlaps],
    }


def _overlap(task: TaskAudit, overlap: Overlap, audit: DataAudit) -> dict[str, Any]:
    return {
        "corpus": overlap.corpus.name,
        "origin": overlap.corpus.origin,
        "rows": overlap.corpus.rows,
        "verdict": overlap.verdict,
        "reasons": list(overlap.reasons),
        "checks": [_finding(one) for one in overlap.findings],
        "examples": list(_examples(task, overlap, audit)),
    }


def _finding(one: Finding) -> dict[str, Any]:
    found: dict[str, Any] = {"check": one.check, "title": one.title, "state": one.state, "note": one.note}
    if one.state == "unknown":
        return found
    found |= {"shared": one.shared, "of": one.of, "share": one.share, "null": one.null, "counts": one.counts}
    if one.of_groups is not None:
        found |= {"groups": one.groups, "of_groups": one.of_groups, "group_share": one.group_share}
    return found


def _examples(task: TaskAudit, overlap: Overlap, audit: DataAudit) -> Iterator[dict[str, str]]:
    tally, side = audit.tallies[overlap.corpus.name], audit.side
    numbers = side.range_of(task.task.task)
    hidden = task.task.withheld or overlap.corpus.withheld
    for check in _SHOWN_CHECKS:
        found = tally.witnesses.get(check, {})
        own = sorted(number for number in found if numbers.start <= number < numbers.stop)
        for number in own[:_SHOWN]:
            yield _example(side, check, number, found[number], hidden=hidden)


def _example(side: TestSide, check: Check, number: int, witness: Witness, *, hidden: bool) -> dict[str, str]:
    item = side.items[number]
    example = {"check": check, "test": item.item_id, "train": witness.row, "how": witness.score}
    if hidden:
        return example
    texts = {"test_text": " / ".join(filter(None, (*item.texts, item.answer))), "train_text": witness.text}
    return example | {name: _shortened(text) for name, text in texts.items() if text}


def _shortened(text: str) -> str:
    words = text.split()
    return " ".join(words[:_SHOWN_WORDS]) + (" ..." if len(words) > _SHOWN_WORDS else "")
