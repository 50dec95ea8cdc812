"""The audit of anybody's predictions, from files alone."""

from collections.abc import Sequence
from pathlib import Path

from medbench.leaderboard.audit.items import Cell, long_texts, make_cell
from medbench.leaderboard.audit.predictions_file import PredictionsFile, read_predictions, read_train_references
from medbench.leaderboard.audit.run_audit import OutputAudit, PeerAnswers, audit_tasks
from medbench.leaderboard.audit.run_cells import refuse_unequal
from medbench.leaderboard.audit.thresholds import THRESHOLDS
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.spec import Kind


def audit_predictions(
    path: Path, kind: Kind, *, train_references: Path | None = None, peers: Sequence[Path] = ()
) -> OutputAudit:
    """Audit a file of predictions.

    Args:
        path: The file.
        kind: What was asked.
        train_references: A file of known training references.
        peers: Files of other models on the same items.

    Raises:
        DataError: If a file is broken.
        UsageError: If a peer has other items.
    """
    texts = None if train_references is None else read_train_references(train_references)
    read = read_predictions(path, kind)
    cell = _cell(read, texts)
    others = [_peer(cell, peer, kind, texts) for peer in peers]
    facts = {"file sha256": file_sha256(path)}
    if train_references is not None:
        facts["training references sha256"] = file_sha256(train_references)
    return OutputAudit(
        run="",
        model=path.name,
        facts=facts,
        titles={kind: kind},
        tasks=audit_tasks(
            {kind: cell}, peers={kind: others}, tables={}, train_texts={kind: texts}, withheld=frozenset()
        ),
        problems={},
        notes=read.notes,
        thresholds=THRESHOLDS,
        revealed=False,
    )


def _cell(read: PredictionsFile, texts: Sequence[str] | None) -> Cell:
    known = None if texts is None else long_texts(texts, THRESHOLDS.min_words)
    return make_cell(read.items, train_references=known)


def _peer(cell: Cell, path: Path, kind: Kind, texts: Sequence[str] | None) -> PeerAnswers:
    theirs = _cell(read_predictions(path, kind), texts)
    refuse_unequal(kind, cell, theirs, path.name)
    return PeerAnswers(name=path.name, run=file_sha256(path)[:12], cell=theirs)
