"""An audit of provenance as JSON and as a markdown page."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from medbench.leaderboard.audit.normalise import NORM_VERSION
from medbench.leaderboard.audit.overlap.findings import MARK_SHARE
from medbench.leaderboard.audit.overlap.page import table
from medbench.leaderboard.audit.provenance.audit import ProvenanceAudit, TaskProvenance
from medbench.leaderboard.audit.verdicts import strongest

SCHEMA = 1
_LEGEND = (
    "Test items were looked for, by fingerprint, in the training data that the model declares, and in those of the "
    "models that it was adapted from."
)
NOT_COVERED = (
    "whether the declarations are true and whole",
    "what the language model underneath read as plain text, where nobody has said",
)
LEVELS = {"strong": "L5", "suspicious": "L3", "not_testable": "L0"}
_WORDS = {
    "strong": "confirmed",
    "suspicious": "possible",
    "no_evidence": "no evidence",
    "not_testable": "not testable",
}


def document_of(audit: ProvenanceAudit, data: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON document.

    Args:
        audit: The audit.
        data: Fingerprint of the data of each prepared task by name.
    """
    return {
        "schema": SCHEMA,
        "kind": "audit-provenance",
        "model": audit.model,
        "title": audit.title,
        "verdict": strongest(task.verdict for task in audit.tasks),
        "verdicts": {task.task: task.verdict for task in audit.tasks},
        "levels": {task.task: level_of(task) for task in audit.tasks},
        "in_domain": sorted(task.task for task in audit.tasks if task.declared),
        "tasks": {task.task: _task(task) for task in audit.tasks},
        "note": audit.note,
        "not_covered": list(NOT_COVERED),
        "settings": {"normaliser": NORM_VERSION, "share": MARK_SHARE},
        "data": dict(sorted(data.items())),
    }


def level_of(task: TaskProvenance) -> str:
    """Return L5 (confirmed by fingerprint), L3 (possible), L1 (declared, nothing shared), L0 (cannot be told) or ``."""
    return LEVELS.get(task.verdict, "L1" if task.declared else "")


def _task(task: TaskProvenance) -> dict[str, Any]:
    return {
        "declared": task.declared,
        "verdict": task.verdict,
        "note": task.note,
        "overlaps": [{**asdict(one), "through": list(one.through)} for one in task.overlaps],
    }


def render_page(document: Mapping[str, Any]) -> str:
    """Return the page of a document."""
    return "\n".join(
        [
            f"# Audit of provenance: {document['title']}",
            "",
            f"Verdict: **{_WORDS[document['verdict']]}**. {_LEGEND}",
            *([f"\n{document['note']}"] if document["note"] else []),
            "",
            *_matrix(document),
            "",
            *_overlaps(document),
            "",
            "## What was not checked",
            "",
            *(f"- {what}" for what in document["not_covered"]),
            "",
        ]
    )


def _matrix(document: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            task,
            document["levels"][task] or "-",
            _WORDS[found["verdict"]],
            "yes" if found["declared"] else "no",
            _why(found),
        ]
        for task, found in document["tasks"].items()
    ]
    yield table(["task", "level", "verdict", "declared", "why"], rows)


def _why(found: Mapping[str, Any]) -> str:
    if found["note"]:
        return str(found["note"])
    same = [one for one in found["overlaps"] if one["verdict"] == found["verdict"]]
    return "; ".join(_shared(one) for one in same)


def _shared(one: Mapping[str, Any]) -> str:
    where = f"{one['dataset']} {one['version']} {one['split']}" + (f" [{one['language']}]" if one["language"] else "")
    if one["verdict"] == "not_testable":
        return f"{where}: {one['note']}"
    whether = "" if one["stated"] else ", if it was this version"
    counts = f"{one['items']} of {one['of']} items, {one['groups']} of {one['of_groups']} groups"
    return f"{where}: {counts}{whether}"


def _overlaps(document: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [
            task,
            f"{one['dataset']} {one['version']}" + ("" if one["stated"] else " (version not stated)"),
            f"{one['split']} {one['language']}".strip(),
            " from ".join(one["through"]),
            "unknown" if one["verdict"] == "not_testable" else f"{one['items']} of {one['of']}",
            "unknown" if one["verdict"] == "not_testable" else f"{one['pictures']} of {one['of']}",
            "unknown" if one["verdict"] == "not_testable" else f"{one['groups']} of {one['of_groups']}",
            _WORDS[one["verdict"]],
            "; ".join(filter(None, (one["evidence"], one["note"]))) or "-",
        ]
        for task, found in document["tasks"].items()
        for one in found["overlaps"]
    ]
    if rows:
        yield "## Declared training data"
        yield ""
        header = [
            "task",
            "dataset",
            "split",
            "declared by",
            "items",
            "items' pictures",
            "groups",
            "verdict",
            "evidence",
        ]
        yield table(header, rows)
