"""The commands of this room, from `leaderboard` to `push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import UsageError, refuse_secret
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.foundation.options import emit_json, format_option, json_option
from medbench.tasks.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from pandas import DataFrame

    from medbench.leaderboard.compare import Comparison
    from medbench.leaderboard.export.public import PublicCopy, PublicRun

FORMATS = ("eval-results", "every-eval-ever", "parquet", "folder")
_ONLY_FOR = {
    **dict.fromkeys(("dataset", "scale", "source_url", "date"), ("eval-results",)),
    **dict.fromkeys(("model_id", "organization", "relationship", "data_dir", "no_inputs"), ("every-eval-ever",)),
    "protocol": ("eval-results", "every-eval-ever"),
}
_PATH = click.Path(path_type=Path)
_FORMS = ("markdown", "csv", "latex", "json")
_LAYOUTS = click.Choice(["table2", "table3", "table5", "table6"])
_DATASET = "[TASK=]OWNER/NAME"
_MARGIN = click.FloatRange(0, 100)
_RELATIONSHIPS = click.Choice(["first_party", "third_party", "collaborative", "other"])
_ORDERS = click.Choice(["given", "name", "rank", "mean"])
_FIGURES = click.Choice(["forest", "radar", "heatmap", "routing", "coverage"])
_IMAGES = click.Choice(["svg", "pdf", "png"])
_WIDTHS = click.Choice(["column", "page"])
_DIGITS = click.IntRange(0, 4)
_POINTS = click.FloatRange(200, 2000)
_run = click.argument("run", type=_PATH)
_PROTOCOL = click.Choice(PROTOCOLS)
_pair_protocol = click.option(
    "--protocol",
    type=_PROTOCOL,
    default="strict",
    show_default=True,
    help="Whose definitions; a leaderboard shows both, and what a run prints is `paper`.",
)
_shared_tasks = click.option("-t", "--tasks", help="Names, kinds or globs, comma-separated.  [default: all shared]")

_some_tasks = click.option("-t", "--tasks", help="Names, kinds or globs, comma-separated.  [default: all]")


def _pairs(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    from medbench.harness.commands import as_table

    return as_table(context, option, given)


_names = click.option(
    "--name", "names", multiple=True, metavar="RUN=NAME", callback=_pairs,
    help="What a run is called: by its folder's name, its identity or its present name.",
)  # fmt: skip
_order = click.option(
    "--order", type=_ORDERS, default="given", show_default=True,
    help="Runs as given, by name, or the best first: by mean rank, or by the mean of primary metrics.",
)  # fmt: skip


class _ExportFormat(click.Choice):  # type: ignore[type-arg]
    """Says where the forms of a table are that an export does not have."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in _FORMS:
            raise UsageError(f"--format {value} is no export.", f"Use medbench leaderboard RUN --format {value}")
        chosen: str = super().convert(value, param, ctx)
        return chosen


def _write(output: Path, text: str) -> None:
    write_atomically(output, text)
    say(f"Written to {output}")


@click.command("leaderboard")
@click.argument("runs", nargs=-1, type=_PATH)
@format_option(_FORMS, "markdown")
@click.option("--protocol", type=_PROTOCOL, help="One protocol alone.  [default: both; latex: paper]")
@click.option("--layout", type=_LAYOUTS, help="Rows as in a table of the Uni-Med paper.")
@click.option("--models-as-rows", is_flag=True, help="A row for each model (markdown, latex).")
@click.option("--primary", is_flag=True, help="Only the metric by which each task is decided.")
@click.option("--no-intervals", "intervals", is_flag=True, default=True, flag_value=False, help="Numbers alone.")
@_some_tasks
@_names
@_order
@click.option("--digits", type=_DIGITS, help="Decimals (markdown, latex).  [default: 2; latex: 1 where 2 do not fit]")
@click.option("--caption", help="What stands before what the marks mean (latex).")
@click.option("--label", help="What the text refers to the table by (latex).  [default: tab:medbench]")
@click.option(
    "--text-width", type=_POINTS, help="\\the\\textwidth or \\columnwidth to fit, points (latex).  [default: 345]"
)
@click.option("--mean", "grouped", is_flag=True, help="One column for all runs of a model: mean ± std.")
@click.option(
    "--reported", multiple=True,
    help="Numbers of a paper beside: table2a to table2e, table3, table5, table6, or a YAML file of your own.",
)  # fmt: skip
@click.option("--baseline", help="Name of the model that gains are counted against.")
@click.option("--data-audit", type=_PATH, help="audit-data.json of `medbench audit data`: marks ‡.")
@click.option("--output", type=_PATH, help="Write to this file.  [default: standard output]")
def leaderboard_command(
    runs: tuple[Path, ...], output: Path | None, form: str, *, primary: bool, intervals: bool, tasks: str | None,
    **wishes: Any,
) -> None:  # fmt: skip
    """Put RUNS side by side in one table, or the numbers of a paper alone.

    RUNS are folders of runs, or folders that hold some. What is not finished, or is of another suite than the others,
    is left out with a line.

    \b
    Example:  medbench leaderboard runs
              medbench leaderboard runs/uni-med-mini-* runs/blind-mini-*
              medbench leaderboard --reported table3 --layout table3 --format latex
              medbench leaderboard runs --format latex --primary --name uni-med-0123="Ours" --order rank
    """
    from medbench.leaderboard.numbers import Shown
    from medbench.leaderboard.pages import leaderboard
    from medbench.leaderboard.runs import gather

    given = {name: value for name, value in wishes.items() if value is not None}
    for name in ("caption", "label", "text_width", "digits"):
        if name in given and form not in ("latex", *(("markdown",) if name == "digits" else ())):
            raise UsageError(f"--{name.replace('_', '-')} says nothing of {form}.", "It is for --format latex.")
    shown = Shown(primary=primary, intervals=intervals, tasks=tasks)
    page = leaderboard(gather(runs).paths if runs else [], form=form, shown=shown, **given)
    if output is None:
        emit(page)
    else:
        _write(output, page)


@click.command("plot")
@click.argument("kind", type=_FIGURES)
@click.argument("runs", nargs=-1, required=True, type=_PATH)
@click.option("--format", "form", type=_IMAGES, help="svg, pdf or png.  [default: as --output ends, or pdf]")
@click.option("--output", type=_PATH, help="The file.  [default: KIND.FORMAT]")
@click.option("--width", type=_WIDTHS, default="page", show_default=True, help="One column of text, or the page.")
@click.option("--protocol", type=_PROTOCOL, default="paper", show_default=True, help="Whose definitions.")
@_some_tasks
@_names
@_order
def plot_command(kind: str, runs: tuple[Path, ...], form: str | None, output: Path | None, **wishes: Any) -> None:
    """Draw RUNS for a paper, primary metrics in percent; a run has the colour and the mark that it has in the report.

    `forest`: a panel for each task, with 95 % intervals. `radar`: a spoke for each task. `heatmap`: models by tasks.
    `routing`: how Uni-Med's connector weighed its experts, by kind of task. `coverage`: how many samples of each task
    were answered, and what became of the others. Needs the extra medbench[plot].

    \b
    Example:  medbench plot forest runs --output figures/forest.pdf
              medbench plot heatmap runs --width column --name uni-med-0123="Ours" --order rank --format svg
    """
    from medbench.leaderboard.plots import draw
    from medbench.leaderboard.runs import gather

    target = output or Path(f"{kind}.{form or 'pdf'}")
    if form and target.suffix != f".{form}":
        raise UsageError(f"{target.name} is no .{form}.", f"Write --output {target.with_suffix(f'.{form}')}.")
    draw(kind, gather(runs).paths, target, **wishes)
    say(f"Written to {target}")


@click.command("breakdown")
@_run
@click.option("--by", help="A label of the data.  [default: all that divide the samples into groups]")
@click.option("-t", "--tasks", help="Names, kinds or globs, comma-separated.  [default: all of the run]")
@click.option("--protocol", type=_PROTOCOL, default="paper", show_default=True, help="Whose definitions.")
@click.option("--every-metric", is_flag=True, help="All metrics, not only the primary one of each task.")
@click.option("--output", type=_PATH, help="Write a markdown table to this file.")
@json_option
def breakdown_command(
    run: Path, by: str | None, tasks: str | None, protocol: Protocol, every_metric: bool, output: Path | None,
    *, as_json: bool,
) -> None:  # fmt: skip
    """Show RUN's numbers by the dataset's own labels: open or closed, modality, organ, size of the box.

    \b
    Example:  medbench breakdown runs/uni-med-mini-* --by modality
    """
    from medbench.harness.results import read_results
    from medbench.leaderboard.pages import breakdown_as_markdown, part_rows
    from medbench.leaderboard.samples import break_down, read_score_tables

    results = read_results(run)
    tables = read_score_tables(run, results, tasks).values()
    parts = break_down(results, tables, protocol, by=by, every_metric=every_metric)
    if output is not None:
        write_atomically(output, breakdown_as_markdown(results, protocol, parts))
    title = f"{results.title}, protocol {protocol}"
    if as_json:
        about = {"run": results.run, "model": results.title, "protocol": protocol, "notices": results.notices}
        emit_json("breakdown", {**about, "rows": parts.to_dict("records")})
    elif len(parts):
        emit_table(("task", "label", "value", "metric", "score % [95 %]", "n", "of"), part_rows(parts), title=title)
    else:
        emit(f"{title}: no label divides the samples of these tasks.")


@click.command("compare")
@click.argument("run_a", type=_PATH)
@click.argument("run_b", type=_PATH)
@_pair_protocol
@_shared_tasks
@click.option("--output", type=_PATH, help="Write a markdown page with the samples that changed.")
@json_option
def compare_command(
    run_a: Path, run_b: Path, protocol: Protocol, tasks: str | None, output: Path | None, *, as_json: bool
) -> None:
    """Compare RUN_A with RUN_B on the samples that both scored.

    \b
    Example:  medbench compare runs/uni-med-mini-* runs/blind-mini-* --output compare.md
    """
    from medbench.leaderboard import pages, render
    from medbench.leaderboard.compare import compare_runs

    comparison = compare_runs(run_a, run_b, protocol=protocol, tasks=tasks)
    for notice in comparison.notices:
        warn(notice)
    if output is not None:
        _write(output, pages.comparison_as_markdown(comparison))
    if as_json:
        emit_json("compare", {**_compared(comparison, comparison.rows), "unpaired": comparison.unpaired})
        return
    heads = ("task", "metric", "first", "second", "difference [95 %]", "p", "p (Holm)", "verdict", "would show")
    first, second = comparison.names
    title = f"first: {first}, second: {second}, protocol {protocol}"
    emit_table(heads, pages.compared_rows(comparison), title=title)
    emit(pages.compared_summary(comparison))
    for remark in pages.compared_remarks(comparison):
        warn(remark)
    say(render.WORDING["compared"])


def _compared(found: "Comparison", rows: "DataFrame") -> dict[str, object]:
    """Return what two commands write of two runs; tasks that only one of them has are `left_out`."""
    about = {"runs": found.runs, "names": found.names, "protocol": found.protocol, "left_out": found.left_out}
    return {**about, "notices": found.notices, "rows": rows.to_dict("records")}


@click.command("gate")
@_run
@click.option("--baseline", required=True, type=_PATH, help="The run to be as good as.")
@click.option("--margin", type=_MARGIN, default=1.0, show_default=True, help="Accepted loss, percentage points.")
@_pair_protocol
@_shared_tasks
@json_option
def gate_command(
    run: Path, baseline: Path, margin: float, protocol: Protocol, tasks: str | None, *, as_json: bool
) -> int:
    """Tell a script whether RUN may replace the baseline, by the primary metric of each task.

    Exit codes: 0 no task loses more than the margin, 3 a task is worse, 4 the data cannot tell.

    \b
    Example:  medbench gate runs/candidate --baseline runs/released --margin 1
    """
    from medbench.leaderboard.compare import EXIT_CODES, compare_runs, decide
    from medbench.leaderboard.render import p_text
    from medbench.leaderboard.samples import rows_of

    comparison = compare_runs(run, baseline, protocol=protocol, tasks=tasks)
    found = decide(comparison, margin / 100)
    if as_json:
        about = {"decision": found.decision, "margin": margin / 100, "reasons": found.reasons}
        emit_json("gate", {**_compared(comparison, found.rows), **about})
        return EXIT_CODES[found.decision]
    rows = [
        [
            row.title, row.metric, f"{100 * row.difference:+.2f}", f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]",
            p_text(row.p_adjusted), row.decision,
        ]
        for row in rows_of(found.rows)
    ]  # fmt: skip
    columns = ("task", "metric", "difference", "95 %", "p (Holm)", "decision")
    emit_table(columns, rows, title=f"Margin {margin:g} points, protocol {protocol}")
    for reason in found.reasons:
        say(reason)
    emit(found.decision)
    return EXIT_CODES[found.decision]


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=_PATH)
@click.option("--output", type=_PATH, help="The file.  [default: RUN/report.html; report.html for several]")
@click.option("--data-dir", type=_PATH, help="Where the prepared tasks of RUNS are now.")
@click.option(
    "--images", "megabytes", type=click.IntRange(min=0), default=24, show_default=True,
    help="Embed small copies of images up to so many MB; 0 for none.",
)  # fmt: skip
@click.option("--reveal-credentialed", is_flag=True, help="Show texts and images of credentialed datasets too.")
def report_command(
    runs: tuple[Path, ...], output: Path | None, data_dir: Path | None, megabytes: int, *, reveal_credentialed: bool
) -> None:
    """Put RUNS of the same data into one HTML file to look through, without a network.

    Several runs are shown side by side, and the first is compared with each other one. RUNS may be folders that hold
    runs; what is not finished, or is of another suite than the others, is left out with a line.

    \b
    Example:  medbench report runs/uni-med-mini-0123456789ab
              medbench report runs/uni-med-* runs/blind-* --output both.html
    """
    from medbench.leaderboard.report.document import MEGABYTE, REPORT_FILE, ImageBudget, report_of
    from medbench.leaderboard.runs import gather

    budget = ImageBudget(size=megabytes * MEGABYTE) if megabytes else None
    found = gather(runs)
    pieces = report_of(found.paths, data_dir, budget=budget, reveal=reveal_credentialed)
    target = output or (runs[0] / REPORT_FILE if list(runs) == found.paths and len(runs) == 1 else Path(REPORT_FILE))
    write_atomically(target, pieces)
    if reveal_credentialed:
        warn(f"{target} holds texts and images of credentialed datasets, if the runs have any. Do not pass it on.")
    say(f"Written to {target} ({target.stat().st_size / MEGABYTE:.1f} MB)")


@click.command("site")
@click.argument("runs", metavar="RUNS_FOLDER", type=_PATH)
@click.option("--output", type=_PATH, required=True, help="A new folder, or that of an older site.")
@click.option("--title", default="medbench leaderboard", show_default=True, help="Heading of the first page.")
@click.option(
    "--reported", multiple=True, metavar="TABLE|FILE",
    help="Numbers of a paper beside runs of its suite, such as table3, or a YAML file; repeatable.",
)  # fmt: skip
@click.option("--all-reports", is_flag=True, help="Copy reports too that may show data which may not be passed on.")
def site_command(runs: Path, output: Path, title: str, reported: tuple[str, ...], *, all_reports: bool) -> None:
    """Make a folder of runs into a static site that opens from disk and asks no network for anything.

    Runs of different suites, data or definitions never share a table. A run's report.html is copied if there is one,
    unless it may show texts or images that may not be passed on.

    \b
    Example:  medbench site runs --output site
    """
    from medbench.leaderboard.paper import read_publication
    from medbench.leaderboard.site import collect, reports_of, site_files, write_site

    published = [read_publication(name) for name in reported]
    found = collect(runs, all_reports=all_reports)
    write_site(output, site_files(found, title, published), reports_of(found))
    for name, reason in found.skipped:
        warn(f"Not shown: {name}: {reason}")
    for site_run in found.runs.values():
        if site_run.no_report:
            warn(f"The report of {site_run.public.results.run} was not copied: {site_run.no_report}.")
    tables = "1 table" if len(found.boards) == 1 else f"{len(found.boards)} tables"
    say(f"{len(found.runs)} runs in {tables}: {output / 'index.html'}")


@click.command("export")
@_run
@click.option("--format", "form", type=_ExportFormat(FORMATS), required=True)
@click.option("--output", type=_PATH, required=True, help="A folder; for Parquet, a file.")
@click.option("--protocol", type=_PROTOCOL, help="Of the numbers.  [default: paper]")
@click.option("--dataset", multiple=True, metavar=_DATASET, help="Dataset on the Hub that numbers belong to.")
@click.option("--scale", type=click.Choice(["percent", "fraction"]), help="What its leaderboard counts in. [percent]")
@click.option("--source-url", help="Where the evaluation can be seen.")
@click.option("--date", help="When it was run, e.g. 2026-05-31.  [default: the commit's]")
@click.option("--model-id", metavar="OWNER/NAME", help="The model's name on the Hub.")
@click.option("--organization", help="Who evaluated.")
@click.option("--relationship", type=_RELATIONSHIPS, help="How they stand to the model's makers.")
@click.option("--data-dir", type=_PATH, help="Where the prepared tasks are now.")
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
    from medbench.leaderboard.export.public import public_copy, read_public, write_files, write_parquet

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if wrong := next((name for name in given if form not in _ONLY_FOR[name]), None):
        way_out = f"It is for {' and '.join(_ONLY_FOR[wrong])}."
        raise UsageError(f"--{wrong.replace('_', '-')} says nothing of {form}.", way_out)
    refuse_secret(list(given.values()), "An option")
    public = read_public(run)
    if form == "eval-results":
        _eval_results(output, public, given)
    elif form == "every-eval-ever":
        _every_eval_ever(output, public, given)
    elif form == "parquet":
        say(f"Written: {output} ({write_parquet(output, public):,} rows)")
        _say_held_back(public)
    else:
        copy = public_copy(public)
        _say_written(write_files(output, copy.files))
        _show_left_out(copy)
    for notice in public.results.notices:
        warn(notice)


def _eval_results(output: Path, run: "PublicRun", given: dict[str, Any]) -> None:
    from medbench.leaderboard.export import formats
    from medbench.leaderboard.export.public import write_files

    options = formats.EvalResultsOptions(datasets=formats.read_datasets(given.pop("dataset", ())), **given)
    _say_written(write_files(output, formats.eval_result_files(run.results, options)))
    if left := formats.without_dataset(run.results, options):
        say(f"Left out, since no dataset on the Hub is known for them: {', '.join(left)}. Name one with --dataset.")


def _every_eval_ever(output: Path, run: "PublicRun", given: dict[str, Any]) -> None:
    from medbench.harness.results import RESULTS_FILE
    from medbench.leaderboard.export import formats

    data_dir, no_inputs = given.pop("data_dir", None), given.pop("no_inputs", False)
    options = formats.EveryEvalOptions(timestamp=int((run.path / RESULTS_FILE).stat().st_mtime), **given)
    _say_written(formats.write_every_eval(output, run, options, data_dir=data_dir, with_inputs=not no_inputs))
    if formats.names_of(run, options).model.startswith(f"{formats.UNKNOWN}/"):
        say("Who made the model is not known; say it with --model-id OWNER/NAME before you pass the files on.")
    _say_held_back(run)


def _say_written(files: tuple[Path, ...]) -> None:
    for path in files:
        say(f"Written: {path}")


def _say_held_back(run: "PublicRun") -> None:
    for task, terms in run.terms.items():
        if terms.reason:
            say(f"Without the texts of {task}: {terms.reason}.")


def _show_left_out(copy: "PublicCopy") -> None:
    if copy.left_out:
        emit_table(["stays here", "because"], copy.left_out)


@click.command("push")
@_run
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

    from medbench.leaderboard.export.formats import checked_repo
    from medbench.leaderboard.export.public import public_copy, read_public, upload

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
