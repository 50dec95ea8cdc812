"""The command `medbench audit model`."""

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from medbench.leaderboard.audit.verdicts import exit_code
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.spec import Kind

if TYPE_CHECKING:
    from medbench.leaderboard.audit.document import Document
    from medbench.leaderboard.audit.run_audit import OutputAudit

_FORMS = ("table", "json", "markdown")


@click.command("model")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--predictions", type=click.Path(path_type=Path),
    help="Instead of a run: JSON lines with sample_id, group, prediction, reference.",
)  # fmt: skip
@click.option("--kind", type=click.Choice(get_args(Kind)), help="What --predictions answer.  [default: report]")
@click.option(
    "--train-references", type=click.Path(path_type=Path),
    help="Known training references, JSON lines with reference; of a run beside those of its prepared tasks.",
)  # fmt: skip
@click.option(
    "--peers", multiple=True, type=click.Path(path_type=Path),
    help="Another run (or file) that answered the same items; further ones may follow as plain words.",
)  # fmt: skip
@click.argument("more_peers", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the prepared tasks of RUN are now.")
@click.option("--reveal", is_flag=True, help="Show texts of credentialed datasets too.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the report.  [default: RUN/audit]")
@click.option("--format", "form", type=click.Choice(_FORMS), default="table", show_default=True)
def model_command(
    run: Path | None,
    *,
    predictions: Path | None,
    kind: str | None,
    train_references: Path | None,
    peers: tuple[Path, ...],
    more_peers: tuple[Path, ...],
    data_dir: Path | None,
    reveal: bool,
    output: Path | None,
    form: str,
) -> int:
    """Did the outputs of RUN repeat test references more often than an honest model could?

    Only references count that are long, not among known training references, one case's own, and said by the model of
    no other case. With three peers or more their rate replaces the tolerated one, if it is higher.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing could be tested.

    \b
    Example:  medbench audit model runs/uni-med-mini-* --peers runs/blind-mini-* runs/radfm-mini-*
              medbench audit model --predictions answers.jsonl --train-references train.jsonl --format json
    """
    others = (*peers, *more_peers)
    if predictions is not None:
        # Without a run the first plain word is a peer as well.
        return _predictions(
            predictions, cast("Kind", kind or "report"), train_references,
            (*peers, *((run,) if run is not None else ()), *more_peers), output, form,
        )  # fmt: skip
    if run is None:
        raise UsageError("Nothing to audit was given.", "Give the folder of a run, or --predictions FILE.")
    _refuse_more_runs(run, peers, more_peers)
    if kind is not None:
        raise UsageError("--kind goes with --predictions.", "A run knows the kinds of its tasks: leave it out.")
    return _run(run, others, train_references, data_dir, output, form, reveal=reveal)


def _refuse_more_runs(run: Path, peers: tuple[Path, ...], more: tuple[Path, ...]) -> None:
    if more and not peers:
        raise UsageError(
            f"Several runs were given: {', '.join(map(str, (run, *more)))}.",
            "Audit one after the other, or give the others as its peers: --peers RUN RUN.",
        )


def _run(
    path: Path, peers: tuple[Path, ...], train: Path | None, data_dir: Path | None, output: Path | None, form: str,
    *, reveal: bool,
) -> int:  # fmt: skip
    from medbench.leaderboard.audit.document import run_document
    from medbench.leaderboard.audit.predictions_file import read_train_references
    from medbench.leaderboard.audit.run_audit import audit_run
    from medbench.leaderboard.audit.write import write_audit
    from medbench.leaderboard.runs import AUDIT_FILE

    more = read_train_references(train) if train is not None else []
    audit = audit_run(path, peers=peers, data_dir=data_dir, more_references=more, reveal=reveal)
    document = run_document(audit)
    folder = output or path / AUDIT_FILE.parent
    command = _command("RUN", peers=len(peers), train=train is not None, reveal=reveal)
    write_audit(folder, audit, document, command=command)
    _show(audit, document, form, command)
    if audit.revealed:
        warn(f"{folder} holds texts of credentialed datasets. Do not pass it on.")
    say(f"Written to {folder}")
    return exit_code(audit.verdicts.values(), incomplete=bool(audit.problems))


def _predictions(
    path: Path, kind: Kind, train: Path | None, peers: tuple[Path, ...], output: Path | None, form: str
) -> int:
    from medbench.leaderboard.audit.document import predictions_document
    from medbench.leaderboard.audit.predictions_audit import audit_predictions
    from medbench.leaderboard.audit.write import write_audit

    audit = audit_predictions(path, kind, train_references=train, peers=peers)
    document = predictions_document(audit)
    command = _command(f"--predictions FILE --kind {kind}", peers=len(peers), train=train is not None, reveal=False)
    if output is not None:
        write_audit(output, audit, document, command=command)
    _show(audit, document, form, command)
    if output is not None:
        say(f"Written to {output}")
    return exit_code(audit.verdicts.values(), incomplete=bool(audit.problems))


def _command(what: str, *, peers: int, train: bool, reveal: bool) -> str:
    words = [
        "medbench audit model",
        what,
        *(["--peers", *["PEER"] * peers] if peers else []),
        *(["--train-references FILE"] if train else []),
        *(["--reveal"] if reveal else []),
    ]
    return " ".join(words)


def _show(audit: "OutputAudit", document: "Document", form: str, command: str) -> None:
    from medbench.leaderboard.audit.document import audit_text
    from medbench.leaderboard.audit.page import render_audit
    from medbench.leaderboard.audit.terminal import COLUMNS, rows, sentences

    if form == "json":
        emit(audit_text(document))
        return
    if form == "markdown":
        emit(render_audit(audit, command=command))
        return
    for note in audit.notes:
        warn(note)
    emit_table(COLUMNS, rows(audit), title=f"Leakage audit of outputs: {audit.model}")
    for line in sentences(audit):
        say(line)
