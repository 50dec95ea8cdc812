"""The command `medbench import`: predictions of others become a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click

from medbench.harness.commands import as_table
from medbench.harness.outcomes import exit_code, show_outcome
from medbench.harness.predictions.formats import FORMATS
from medbench.harness.predictions.importing import About, Missing, import_run
from medbench.harness.predictions.rows import Source
from medbench.harness.predictions.submission import count_of
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.foundation.errors import UsageError

_FOLDER = click.Path(path_type=Path)


def _parameters(_: click.Context, __: click.Parameter, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        return count_of(given)
    except ValueError as error:
        way_out = "Write 7B, 350M or 7000000000."
        raise UsageError(f"--parameters {given!r} is no number of parameters.", way_out) from error


@click.command("import")
@click.option("--name", required=True, help="The model's name in tables.")
@click.option(
    "-t", "--task", "files", multiple=True, required=True, callback=as_table, metavar="TASK=FILE",
    help="A task and the file of its predictions; repeat.",
)  # fmt: skip
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the mini suite, else what the files hold]")
@click.option(
    "--from", "forms", multiple=True, metavar="[TASK=]FORMAT",
    help=f"Format of all files or one: {', '.join(FORMATS)}.  [default: by the file]",
)  # fmt: skip
@click.option(
    "--column", "columns", multiple=True, callback=as_table, metavar="[TASK:]OURS=THEIRS",
    help="Name of a table's column, of all files or one: prediction=answer, sample_id=qid; repeat.  [default: guessed]",
)  # fmt: skip
@click.option(
    "--references", multiple=True, metavar="[TASK=]FILE", help="The right answers, where the files have none."
)
@click.option("--boxes", type=click.Choice(list(BOX_SPACES)), help="How it writes boxes (REC).  [default: uni-med]")
@click.option(
    "--missing", type=click.Choice(get_args(Missing)), default="error", show_default=True,
    help="What samples without a prediction are: failures, or wrong answers.",
)  # fmt: skip
@click.option("--trained-on", metavar="TASK,...", help="Tasks whose train splits the model has seen; `none` of them.")
@click.option("--parameters", callback=_parameters, metavar="7B", help="How many it has.")
@click.option("--released", default="", metavar="YYYY[-MM[-DD]]", help="When it came out.")
@click.option("--open-weights/--no-open-weights", default=None, help="Whether everybody can get its weights.")
@click.option("--output-dir", type=_FOLDER, default="runs", show_default=True, help="Where the run's folder goes.")
@click.option("--no-lock", "lock", flag_value=False, default=True, help="Hold no lock, where the file system has none.")
@click.option(
    "--overwrite", type=click.Choice(["never", "always"]), default="never", show_default=True,
    help="What to do with what an earlier import of the same files left.",
)  # fmt: skip
def import_command(
    name: str, files: dict[str, str], forms: tuple[str, ...], columns: dict[str, str] | None,
    references: tuple[str, ...], boxes: str | None, trained_on: str | None, **options: Any,
) -> int:  # fmt: skip
    """Make a run of anybody's predictions, which stands beside others in all that medbench shows.

    Each prediction is matched with its sample by id, by question and image, or by order. What is not known of the
    model's answers is said wherever the run is shown.

    \b
    Example:  medbench import --name GPT-x --task slake-vqa=answers.csv --data-dir data
              medbench import --name GPT-x --task slake-vqa=a.csv --column prediction=said --column sample_id=qid
              medbench import --name M --task medqa=samples_medqa.jsonl --task pubmedqa=log.eval --data-dir data
    """
    about = {one: options.pop(one) for one in ("parameters", "released", "open_weights")}
    seen = None if trained_on is None else tuple(one for one in trained_on.split(",") if one and trained_on != "none")
    form, second = _by_task("--from", forms, files), _by_task("--references", references, files)
    sources = {
        task: Source(
            path=Path(file), form=form.get(task, ""), columns=_columns_of(task, columns or {}, files),
            references=Path(second[task]) if task in second else None,
        )
        for task, file in files.items()
    }  # fmt: skip
    outcome = import_run(About(name=name, trained_on=seen, **about), sources, boxes=boxes or "", **options)
    show_outcome(outcome, profile=False)
    return exit_code(outcome)


def _by_task(option: str, given: Sequence[str], files: Mapping[str, str]) -> dict[str, str]:
    """Return what is said for each task, by name or for all."""
    own: dict[str, str] = {}
    common = ""
    for word in given:
        task, equals, value = word.partition("=")
        if equals and task in files:
            own[task] = value
        elif common:
            raise UsageError(f"{option} {word} is the second one for all files.", f"Write {option} TASK=VALUE.")
        else:
            common = word
    return {**(dict.fromkeys(files, common) if common else {}), **own}


def _columns_of(task: str, columns: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    pairs = [(*ours.rpartition(":")[::2], theirs) for ours, theirs in columns.items()]
    if unknown := [whose for whose, _, _ in pairs if whose and whose not in files]:
        raise UsageError(f"--column {unknown[0]}:... names no task of --task.", f"There are {', '.join(files)}.")
    common, own = ({ours: name for whose, ours, name in pairs if whose == one} for one in ("", task))
    return {**common, **own}
