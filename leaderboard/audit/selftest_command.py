"""The command `medbench audit selftest`."""

from pathlib import Path

import click

from medbench.leaderboard.audit.verdicts import EXIT_CODES
from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import RunError

_COLUMNS = ("task", "cases that count", "planted in", "planted leak", "dealt to other cases", "outcome")


@click.command("selftest")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the prepared tasks of RUN are now.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which cases are drawn.")
def selftest_command(run: Path, data_dir: Path | None, seed: int) -> int:
    """Would a leak in RUN's outputs be found?

    Writes the references of 10 % of the cases into a copy of the run's own answers, which must be found, and deals
    these answers to other cases, which must not. Nothing is written to disk.

    Exit codes: 0 found where it can be tested, 5 nothing could be tested, 1 the audit does not work on these data.

    \b
    Example:  medbench audit selftest runs/uni-med-mini-0123456789ab
    """
    from medbench.leaderboard.audit.selftest import outcomes

    found = outcomes(run, data_dir, seed=seed)
    rows = [
        [
            one.title, str(one.clusters), str(one.planted_cases), one.planted.replace("_", " "),
            one.shuffled.replace("_", " "), one.outcome,
        ]
        for one in found.tasks
    ]  # fmt: skip
    emit_table(_COLUMNS, rows, title="Self-test of the leakage audit")
    for title, why in found.problems.items():
        warn(f"{title}: could not be checked: {why}")
    failed = [one.title for one in found.tasks if one.outcome == "missed"]
    if failed:
        raise RunError(
            f"The audit does not tell a planted leak from its control on {', '.join(failed)}.",
            "Do not rely on its verdicts there; look at the answers, and report this with the run's audit.json.",
        )
    if not any(one.outcome == "found" for one in found.tasks):
        say("Not testable: no task has enough cases in which a match could prove something.")
        return EXIT_CODES["not_testable"]
    return 0
