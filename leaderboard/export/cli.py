"""The commands `medbench export` and `medbench push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import UsageError

if TYPE_CHECKING:
    from medbench.leaderboard.export.public import PublicRun
    from medbench.leaderboard.export.public_copy import PublicCopy

FORMATS = ("eval-results", "every-eval-ever", "parquet", "folder")
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")
_ONLY_FOR = {
    **dict.fromkeys(("dataset", "scale", "source_url", "date"), ("eval-results",)),
    **dict.fromkeys(("model_id", "organization", "relationship", "data_dir", "no_inputs"), ("every-eval-ever",)),
    "protocol": ("eval-results", "every-eval-ever"),
}


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder; for Parquet, a file.")
@click.option("--protocol", type=click.Choice(["paper", "strict"]), help="Of the numbers.  [default: paper]")
@click.option(
    "--dataset", multiple=True, metavar="[TASK=]OWNER/NAME", help="Dataset on the Hub that numbers belong to."
)
@click.option("--scale", type=click.Choice(["percent", "fraction"]), help="What its leaderboard counts in. [percent]")
@click.option("--source-url", help="Where the evaluation can be seen.")
@click.option("--date", help="When it was run, e.g. 2026-05-31.  [default: the commit's]")
@click.option("--model-id", metavar="OWNER/NAME", help="The model's name on the Hub.")
@click.option("--organization", help="Who evaluated.")
@click.option("--relationship", type=click.Choice(RELATIONSHIPS), help="How they stand to the model's makers.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the prepared tasks are now.")
@click.option("--no-inputs", is_flag=True, default=None, help="Write no questions and right answers.")
def export_command(run: Path, form: str, output: Path, **options: Any) -> None:
    """Write the results of RUN in a format that others read.

    `eval-results`: `.eval_results/*.yaml` for a model's repository on the Hub. `every-eval-ever`: a document and the
    samples in the schema that several harnesses share. `parquet`: scores by sample. `folder`: the files that `medbench
    push` uploads. Texts of data under an agreement, or whose licence does not say that they may be passed on, are never
    written, and neither are paths.

    \b
    Example:  medbench export runs/RUN --format parquet --output scores.parquet
              medbench export runs/RUN --format eval-results --dataset slake-vqa=OWNER/NAME --output model-repo
    """
    from medbench.leaderboard.export.public import read_public, write_files, write_parquet
    from medbench.leaderboard.export.public_copy import public_copy

    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given:
        if form not in _ONLY_FOR[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} says nothing of {form}.", f"It is for {' and '.join(_ONLY_FOR[name])}."
            )
    public = read_public(run)
    if form == "eval-results":
        _eval_results(output, public, given)
    elif form == "every-eval-ever":
        _every_eval_ever(output, public, given)
    elif form == "parquet":
        rows = write_parquet(output, public)
        say(f"Written: {output} ({rows:,} rows)")
        _say_held_back(public)
    else:
        copy = public_copy(public)
        for path in write_files(output, copy.files):
            say(f"Written: {path}")
        _show_left_out(copy)
    for notice in public.results.notices:
        warn(notice)


def _eval_results(output: Path, run: "PublicRun", given: dict[str, Any]) -> None:
    from medbench.leaderboard.export import eval_results as hub
    from medbench.leaderboard.export.public import write_files

    given["datasets"] = hub.read_datasets(given.pop("dataset", ()))
    options = hub.EvalResultsOptions(**given)
    for path in write_files(output, hub.eval_result_files(run.results, options)):
        say(f"Written: {path}")
    left = hub.without_dataset(run.results, options)
    if left:
        say(f"Left out, since no dataset on the Hub is known for them: {', '.join(left)}. Name one with --dataset.")


def _every_eval_ever(output: Path, run: "PublicRun", given: dict[str, Any]) -> None:
    from medbench.harness.results import RESULTS_FILE
    from medbench.leaderboard.export.every_eval import UNKNOWN, EveryEvalOptions, names_of, write_every_eval

    data_dir, no_inputs = given.pop("data_dir", None), given.pop("no_inputs", False)
    options = EveryEvalOptions(timestamp=int((run.path / RESULTS_FILE).stat().st_mtime), **given)
    for path in write_every_eval(output, run, options, data_dir=data_dir, with_inputs=not no_inputs):
        say(f"Written: {path}")
    if names_of(run, options).model.startswith(f"{UNKNOWN}/"):
        say("Who made the model is not known; say it with --model-id OWNER/NAME before you pass the files on.")
    _say_held_back(run)


def _say_held_back(run: "PublicRun") -> None:
    for task, terms in run.terms.items():
        if terms.reason:
            say(f"Without the texts of {task}: {terms.reason}.")


def _show_left_out(copy: "PublicCopy") -> None:
    if copy.left_out:
        emit_table(["stays here", "because"], copy.left_out)


@click.command("push")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--repo", required=True, metavar="OWNER/NAME", help="A dataset repository on the Hugging Face Hub.")
@click.option("--yes", is_flag=True, help="Really upload.  [default: only show what would go]")
@click.option("--public", is_flag=True, help="If the repository is made now, let everybody see it.  [default: private]")
def push_command(run: Path, repo: str, yes: bool, public: bool) -> None:
    """Upload the results of RUN to a dataset repository on the Hugging Face Hub, into a folder of the run's name.

    Without --yes nothing is uploaded: every file is listed with its size, and what stays here and why. Images, texts of
    data under an agreement, paths and secrets of this machine never go. The login is the Hub's own: hf auth login.

    \b
    Example:  medbench push runs/RUN --repo OWNER/medbench-results
              medbench push runs/RUN --repo OWNER/medbench-results --yes
    """
    from huggingface_hub import HfApi

    from medbench.leaderboard.export.eval_results import checked_repo
    from medbench.leaderboard.export.public import read_public
    from medbench.leaderboard.export.public_copy import public_copy, upload

    checked_repo(repo)
    shown = read_public(run)
    copy = public_copy(shown)
    rows = [[name, f"{len(text.encode()):,}"] for name, text in copy.files.items()]
    emit_table(["file", "bytes"], rows, title=f"To huggingface.co/datasets/{repo}")
    _show_left_out(copy)
    for notice in shown.results.notices:
        warn(notice)
    if not yes:
        say("Nothing was uploaded. Give --yes to upload.")
        return
    upload(copy, repo, HfApi(), private=not public)
    say(f"Uploaded: https://huggingface.co/datasets/{repo}")
