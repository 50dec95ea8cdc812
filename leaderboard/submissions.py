"""The command `medbench submissions`: folders that people handed in become runs, for a leaderboard's repository."""

import json
from pathlib import Path

import click

from medbench.harness.predictions.submission import SUBMISSION_FILE, import_submission, schema
from medbench.harness.results import percent
from medbench.leaderboard.runs import primary_metric
from medbench.tasks.foundation.console import emit, emit_table, show_error
from medbench.tasks.foundation.errors import MedbenchError, UsageError

_FOLDER = click.Path(path_type=Path)


@click.command("submissions")
@click.argument("folders", nargs=-1, type=_FOLDER)
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output-dir", type=_FOLDER, default="runs", show_default=True, help="Where the runs' folders go.")
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON schema of submission.yaml, and no more.")
def submissions_command(folders: tuple[Path, ...], data_dir: Path | None, output_dir: Path, wants_schema: bool) -> int:
    """Make a run of each submission: a folder with `submission.yaml` and files of predictions.

    FOLDERS are submissions, or folders that hold some. All are tried; the exit code is 1 if one is no run.

    \b
    Example:  medbench submissions submissions --data-dir data --output-dir runs
              medbench submissions submissions/my-vlm
    """
    if wants_schema:
        emit(json.dumps(schema(), indent=2))
        return 0
    found = [path for folder in folders for path in _submissions_in(folder)]
    if not found:
        raise UsageError(f"No {SUBMISSION_FILE} was found.", "Give folders of submissions; see docs/submissions.md.")
    rows, failed = [], 0
    for path in found:
        try:
            results = import_submission(path, data_dir=data_dir, output_dir=output_dir).results
        except MedbenchError as error:
            show_error(error)
            failed += 1
            continue
        rows += [
            [path.name, results.title, task.title, metric, percent(task.paper[metric])]
            for task in results.tasks.values()
            if (metric := primary_metric(task.kind, task.paper))
        ]
    if rows:
        emit_table(["submission", "model", "task", "metric", "% [95 %]"], rows, title="Protocol paper")
    return 1 if failed else 0


def _submissions_in(folder: Path) -> list[Path]:
    if (folder / SUBMISSION_FILE).is_file():
        return [folder]
    return sorted(file.parent for file in folder.glob(f"*/{SUBMISSION_FILE}"))
