"""Where an audit of outputs is put: `audit/` of the run's folder, or a folder that the user names."""

from pathlib import Path

from medbench.leaderboard.audit.document import Document, audit_text, run_document
from medbench.leaderboard.audit.page import render_audit
from medbench.leaderboard.audit.run_audit import OutputAudit, audit_run
from medbench.leaderboard.html import write_page
from medbench.leaderboard.runs import AUDIT_FILE
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.files import write_atomically

PAGE_NAME = "audit.md"


def write_audit(folder: Path, audit: OutputAudit, document: Document, *, command: str) -> None:
    """Write `audit.json`, `audit.md` and `audit.html` into a folder."""
    write_atomically(folder / AUDIT_FILE.name, audit_text(document))
    write_page(folder / PAGE_NAME, f"Leakage audit: {audit.model}", render_audit(audit, command=command))


def audit_after_run(path: Path) -> OutputAudit | None:
    """Audit a finished run's outputs against references and training references, and write `audit/` of its folder.

    It never fails a run: what goes wrong is said in one line, and None is returned. Credentialed texts are withheld.
    """
    try:
        audit = audit_run(path)
        write_audit(path / AUDIT_FILE.parent, audit, run_document(audit), command="medbench audit model RUN")
    except MedbenchError as error:
        # The answers and their scores are on disk; the audit can be made any time.
        warn(f"Outputs were not audited: {error.problem} Do it later: medbench audit model {path}")
        return None
    for line in warnings_of(audit):
        warn(line)
    return audit


def warnings_of(audit: OutputAudit) -> list[str]:
    """Return what nobody may overlook, a line for each task with evidence."""
    return [
        f"Leakage audit, {audit.titles[task]}: {verdict}. See audit/{PAGE_NAME}."
        for task, verdict in audit.verdicts.items()
        if verdict in {"suspicious", "strong"}
    ]
