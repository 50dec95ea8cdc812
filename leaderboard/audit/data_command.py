"""The command `medbench audit data`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from medbench.tasks.foundation.console import emit, say, warn
from medbench.tasks.foundation.errors import UsageError

if TYPE_CHECKING:
    from medbench.leaderboard.audit.overlap.audit import DataAudit, DataAuditInput
    from medbench.leaderboard.audit.overlap.prepared_input import DataSelection

_FORMS = ("markdown", "json")
JSON_NAME = "audit-data.json"
PAGE_NAME = "audit-data.md"


@click.command("data")
@click.option(
    "-t", "--task", "--tasks", "tasks", help="Names, kinds or globs, comma-separated.  [default: all prepared]"
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of prepared tasks.  [default: the mini suite]"
)
@click.option(
    "--train", multiple=True, type=click.Path(path_type=Path), help="Your own training data, JSON lines; repeat."
)
@click.option(
    "--images", type=click.Path(path_type=Path), help="Where pictures of --train start.  [default: its folder]"
)
@click.option(
    "--ids", multiple=True, type=click.Path(path_type=Path),
    help="Ids that the native files lack: JSON lines with task, sample_id and, say, lesion.",
)  # fmt: skip
@click.option("--no-images", is_flag=True, help="Leave pictures unread; checks that need them are then unknown.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the null re-split.")
@click.option("--reveal", is_flag=True, help="Show texts of credentialed datasets too.")
@click.option("--output", type=click.Path(path_type=Path), help=f"Folder for {JSON_NAME} and {PAGE_NAME}.")
@click.option("--format", "form", type=click.Choice(_FORMS), default="markdown", show_default=True)
def data_command(
    *,
    tasks: str | None,
    data_dir: Path | None,
    train: tuple[Path, ...],
    images: Path | None,
    ids: tuple[Path, ...],
    no_images: bool,
    seed: int,
    reveal: bool,
    output: Path | None,
    form: str,
) -> int:
    """Do test and training data overlap?

    Texts, pictures, ids and whole items of each test split are looked for in its own training split, in those of all
    other prepared tasks, and in your own training data, beside what two parts of the training data share anyway. An id
    that is missing makes a check unknown, never clean.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing found and something needed could not be checked.

    \b
    Example:  medbench audit data --task slake-vqa --data-dir data --train Slake1.0/train.json
    """
    from medbench.leaderboard.audit.overlap.prepared_input import DataSelection

    if images is not None and not train:
        raise UsageError("--images goes with --train.", "Pictures of prepared tasks are where they were prepared from.")
    selection = DataSelection(
        tasks=tasks, data_dir=data_dir, train=train, images=images, ids=ids, pictures=not no_images, seed=seed,
        reveal=reveal,
    )  # fmt: skip
    return _audit(selection, output, form)


def _audit(selection: "DataSelection", output: Path | None, form: str) -> int:
    from medbench.leaderboard.audit.overlap.audit import audit_data
    from medbench.leaderboard.audit.overlap.prepared_input import audit_input

    given, fingerprints, notices = audit_input(selection)
    for notice in notices:
        warn(notice)
    audit = audit_data(given)
    _show(audit, fingerprints, output, form)
    if selection.reveal and _holds_credentialed(given):
        warn("This report holds texts of credentialed datasets. Do not pass it on.")
    return audit.code


def _holds_credentialed(given: "DataAuditInput") -> bool:
    return any(task.credentialed for task in (*given.test, *given.train))


def _show(audit: "DataAudit", fingerprints: dict[str, str], output: Path | None, form: str) -> None:
    from medbench.leaderboard.audit.overlap.document import document_of
    from medbench.leaderboard.audit.overlap.page import render_page
    from medbench.leaderboard.html import write_page
    from medbench.tasks.foundation.files import canonical_json, write_atomically

    document = document_of(audit, fingerprints)
    texts = {"json": f"{canonical_json(document, indent=1)}\n", "markdown": render_page(document)}
    if output is not None:
        write_atomically(output / JSON_NAME, texts["json"])
        write_page(output / PAGE_NAME, "Leakage audit of data", texts["markdown"])
        say(f"Wrote {output / JSON_NAME} and {output / PAGE_NAME}.")
    emit(texts[form])
