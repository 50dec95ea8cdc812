"""The command group `medbench audit`: five questions, one set of options for what is shown and written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from medbench.harness.commands import as_table
from medbench.leaderboard.audit.document import EXIT_CODES, show
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.options import NamedGroup, format_option
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.spec import Kind

Command = Callable[..., Any]
_path = click.Path(path_type=Path)
_file = partial(click.option, type=_path)
_reveal = click.option("--reveal", is_flag=True, help="Show texts of credentialed datasets too.")
_data_now = _file("--data-dir", help="Where the prepared tasks of RUN are now.")


@click.group("audit", cls=NamedGroup)
def audit_group() -> None:
    """Look for leaks, with evidence: in outputs, in data, in what was declared.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 could not check.

    \b
    Example:  medbench audit model runs/uni-med-mini-*
              medbench audit data --task slake-vqa --data-dir data
    """


def _shown(default: str, *, folder: str = "") -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        printed = format_option(["table", "markdown", "json", "html"], default)
        return _file("--output", help=f"Folder for JSON, markdown and HTML, or one such file.{folder}")(
            printed(command)
        )

    return add


def _prepared(command: Command) -> Command:
    folder = _file("--data-dir", help="Folder of prepared tasks.  [default: the mini suite]")
    what = "Names, kinds or globs, comma-separated.  [default: all prepared]"
    return click.option("-t", "--task", "--tasks", "tasks", help=what)(folder(command))


@audit_group.command("model", short_help="Did a model's outputs repeat test references?")
@click.argument("run", required=False, type=_path)
@_file("--predictions", help="Instead of a run: a file with sample_id, group, prediction, reference.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="What --predictions answer.  [default: report]")
@click.option("-t", "--task", help="The same by the name of a task.")
@click.option("--from", "source", help="Format of --predictions, as in `medbench score`.  [default: by the file]")
@click.option(
    "--column", "columns", multiple=True, callback=as_table, metavar="OURS=THEIRS",
    help="Name of a table's column: prediction=answer; repeat.  [default: guessed]",
)  # fmt: skip
@_file("--references", help="The right answers by sample_id, where --predictions has none.")
@_file(
    "--train-references",
    help="Known training references, JSON lines with reference; of a run beside those of its prepared tasks.",
)
@_file(
    "--peers", multiple=True,
    help="Another run (or file) that answered the same items; further ones may follow as plain words.",
)  # fmt: skip
@click.argument("more_peers", nargs=-1, type=_path)
@_data_now
@_reveal
@_shown("table", folder="  [default: RUN/audit]")
def model_command(
    run: Path | None, *, predictions: Path | None, kind: Kind | None, task: str | None, source: str | None,
    columns: dict[str, str] | None, references: Path | None, peers: tuple[Path, ...],
    more_peers: tuple[Path, ...], output: Path | None, form: str, **options: Any,
) -> int:  # fmt: skip
    """Did the outputs of RUN repeat test references more often than an honest model could?

    Only references count that are long, not among known training references, one case's own, and said by the model of
    no other case. With three peers or more their rate replaces the tolerated one, if it is higher.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing could be tested.

    \b
    Example:  medbench audit model runs/uni-med-mini-* --peers runs/blind-mini-* runs/radfm-mini-*
              medbench audit model --predictions answers.csv --references right.csv --column prediction=said
    """
    from medbench.harness.predictions.rows import Source
    from medbench.leaderboard.audit.outputs.audit import audit_predictions, audit_run
    from medbench.leaderboard.runs import AUDIT_FILE

    if predictions is not None:
        # Without a run the first plain word is a peer as well.
        others = (*peers, *((run,) if run is not None else ()), *more_peers)
        train = options["train_references"]
        kind = kind or (get_task(task).kind if task else "report")
        file = Source(path=predictions, form=source or "", references=references, columns=columns or {})
        audit = audit_predictions(file, kind, train_references=train, peers=others)
        return show(audit, form, output, name=AUDIT_FILE.stem)
    if run is None:
        raise UsageError("Nothing to audit was given.", "Give the folder of a run, or --predictions FILE.")
    if more_peers and not peers:
        raise UsageError(
            f"Several runs were given: {', '.join(map(str, (run, *more_peers)))}.",
            "Audit one after the other, or give the others as its peers: --peers RUN RUN.",
        )
    if any((kind, task, source, columns, references)):
        problem = "--kind, --task, --from, --column and --references go with --predictions."
        raise UsageError(problem, "A run knows its tasks and answers: leave them out.")
    audit = audit_run(run, peers=(*peers, *more_peers), **options)
    return show(audit, form, output or run / AUDIT_FILE.parent, name=AUDIT_FILE.stem)


@audit_group.command(
    "selftest", short_help="Is a planted leak found in your own predictions, and a shuffled control not?"
)
@click.argument("run", type=_path)
@_data_now
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which cases are drawn.")
@_shown("table")
def selftest_command(run: Path, *, data_dir: Path | None, seed: int, output: Path | None, form: str) -> int:
    """Would a leak in RUN's outputs be found?

    Writes the references of 10 % of the cases into a copy of the run's own answers, which must be found, and deals
    these answers to other cases, which must not. The run's files stay as they are.

    Exit codes: 0 found where it can be tested, 5 nothing could be tested, 1 the audit does not work on these data.

    \b
    Example:  medbench audit selftest runs/uni-med-mini-0123456789ab
    """
    from medbench.leaderboard.audit.outputs.audit import selftest
    from medbench.tasks.foundation.console import say

    audit = selftest(run, data_dir, seed=seed)
    show(audit, form, output, name="audit-selftest")
    outcomes = {one.title: one.facts["outcome"] for one in audit.tasks.values()}
    failed = [title for title, outcome in outcomes.items() if outcome == "missed"]
    if failed:
        raise RunError(
            f"The audit does not tell a planted leak from its control on {', '.join(failed)}.",
            "Do not rely on its verdicts there; look at the answers, and report this with the run's audit.json.",
        )
    if "found" in outcomes.values():
        return 0
    say("Not testable: no task has enough cases in which a match could prove something.")
    return EXIT_CODES["not_testable"]


@audit_group.command("data", short_help="Do test and training data overlap?")
@_prepared
@_file("--train", multiple=True, help="Your own training data, JSON lines; repeat.")
@_file("--images", help="Where images of --train start.  [default: its folder]")
@_file("--ids", multiple=True, help="Ids that the native files lack: JSON lines with task, sample_id and, say, lesion.")
@click.option("--no-images", is_flag=True, help="Leave images unread; checks that need them are then unknown.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the null re-split.")
@_reveal
@_shown("markdown")
def data_command(output: Path | None, form: str, *, no_images: bool, **options: Any) -> int:
    """Do test and training data overlap?

    Texts, images, ids and whole items of each test split are looked for in its own training split, in those of all
    other prepared tasks, and in your own training data, beside what two parts of the training data share anyway. An id
    that is missing makes a check unknown, never clean.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing found and something needed could not be checked.

    \b
    Example:  medbench audit data --task slake-vqa --data-dir data --train Slake1.0/train.json
    """
    from medbench.leaderboard.audit.data.audit import audit_data

    return show(audit_data(read_images=not no_images, **options), form, output, name="audit-data")


@audit_group.command("probe", short_help="What do answers rest on? A run beside one that asked in another way.")
@click.argument("run", type=_path)
@click.argument("probed", type=_path, required=False)
@click.option("--peer", "peers", type=(_path, _path), multiple=True, metavar="RUN PROBED", help="Another model's pair.")
@_file("--wrong-gold", help="JSON lines {task, sample_id} of items whose key is known to be wrong.")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="strict", show_default=True, help="Whose definitions."
)
@_shown("table")
def probe_command(run: Path, *, output: Path | None, form: str, **options: Any) -> int:
    """Read RUN beside PROBED, a run of the same model with `medbench run --probe NAME`.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing could be tested.

    \b
    Example:  medbench run --model M --tasks medqa-options --probe options-shuffled
              medbench audit probe RUN PROBED --peer RUN_B PROBED_B --peer RUN_C PROBED_C --peer RUN_D PROBED_D
    """
    from medbench.leaderboard.audit.probes import audit_probe

    return show(audit_probe(run, **options), form, output, name="audit-probe")


@audit_group.command("provenance", short_help="Do a model's declared training data contain test items?")
@click.option("-m", "--model", required=True, help="A model of the catalogue, or of --manifest.")
@_prepared
@_file("--manifest", help="YAML of your own declarations; comes before ours.")
@_shown("markdown")
def provenance_command(output: Path | None, form: str, **options: Any) -> int:
    """Do a model's declared training data contain test items?

    What its card and our manifest declare, its own and inherited, is compared with the test items by fingerprint,
    version by version and language by language: another split of the same dataset may hold most of them. Where nobody
    has said which version it was, every known one is tried, and the answer is no more than `possible`.

    Exit codes: 0 nothing found, 3 possible, 4 confirmed, 5 not declared, or it cannot be told.

    \b
    Example:  medbench audit provenance --model radfm --data-dir data
    """
    from medbench.leaderboard.audit.data.declared import audit_provenance

    return show(audit_provenance(**options), form, output, name="audit-provenance")
