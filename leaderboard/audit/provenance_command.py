"""The command `medbench audit provenance`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import emit, say, warn

_FORMS = ("markdown", "json")
JSON_NAME = "audit-provenance.json"
PAGE_NAME = "audit-provenance.md"


@click.command("provenance")
@click.option("-m", "--model", required=True, help="A model of the catalogue, or of --manifest.")
@click.option(
    "-t", "--task", "--tasks", "tasks", help="Names, kinds or globs, comma-separated.  [default: all prepared]"
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of prepared tasks.  [default: the mini suite]"
)
@click.option("--manifest", type=click.Path(path_type=Path), help="YAML of your own declarations; comes before ours.")
@click.option("--output", type=click.Path(path_type=Path), help=f"Folder for {JSON_NAME} and {PAGE_NAME}.")
@click.option("--format", "form", type=click.Choice(_FORMS), default="markdown", show_default=True)
def provenance_command(
    *, model: str, tasks: str | None, data_dir: Path | None, manifest: Path | None, output: Path | None, form: str
) -> int:
    """Do a model's declared training data contain test items?

    What its card and our manifest declare, its own and inherited, is compared with the test items by fingerprint,
    version by version and language by language: another split of the same dataset may hold most of them. Where nobody
    has said which version it was, every known one is tried, and the answer is no more than `possible`.

    Exit codes: 0 nothing found, 3 possible, 4 confirmed, 5 not declared, or it cannot be told.

    \b
    Example:  medbench audit provenance --model radfm --data-dir data
    """
    from medbench.leaderboard.audit.overlap.prepared_input import DataSelection, audit_input, prepared_tasks
    from medbench.leaderboard.audit.provenance.audit import audit_provenance
    from medbench.leaderboard.audit.provenance.page import document_of, render_page
    from medbench.leaderboard.audit.provenance.sources import read_sources
    from medbench.leaderboard.html import write_page
    from medbench.tasks.foundation.files import canonical_json, write_atomically

    manifests = (*((read_sources(manifest),) if manifest else ()), read_sources())
    selection = DataSelection(tasks=tasks, data_dir=data_dir)
    given, fingerprints, notices = audit_input(selection, with_train=False)
    for notice in notices:
        warn(notice)
    audit = audit_provenance(model, given.test, prepared_tasks(selection), manifests)
    document = document_of(audit, fingerprints)
    texts = {"json": f"{canonical_json(document, indent=1)}\n", "markdown": render_page(document)}
    if output is not None:
        write_atomically(output / JSON_NAME, texts["json"])
        write_page(output / PAGE_NAME, "Leakage audit of declared training data", texts["markdown"])
        say(f"Wrote {output / JSON_NAME} and {output / PAGE_NAME}.")
    emit(texts[form])
    return audit.code
