"""The command `medbench train`; it stands here because looking at held-out answers needs the engine and the scorers."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import emit_table, say, warn
from medbench.tasks.foundation.errors import UsageError


@click.command("train")
@click.option("--config", default="mini", show_default=True, help="A recipe: official, paper, mini, or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the checkpoints and the finished model.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --output.")
@click.option("--dry-run", is_flag=True, help="Print parameters, memory and steps; load no weights, train nothing.")
def train_command(
    config: str,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    output: Path | None,
    resume: bool,
    dry_run: bool,
) -> None:
    """Train Uni-Med by a recipe.

    \b
    Example:  medbench train --config mini --output checkpoints/mini
              medbench run --model uni-med --checkpoint checkpoints/mini --tasks all
    Stopped?  medbench train --config mini --output checkpoints/mini --resume
    Several GPUs:  accelerate launch -m medbench.harness.cli train --config official ...
    """
    from medbench.adapters.uni_med_training import plan_uni_med, train_uni_med
    from medbench.harness.examine import examine

    if dry_run:
        plan = plan_uni_med(config, overrides, data_dir)
        say(plan.heading)
        for columns, rows in plan.tables:
            emit_table(columns, rows)
        say(plan.closing)
        return
    if output is None:
        raise UsageError("There is no --output.", "Give a folder for the checkpoints, or --dry-run to train nothing.")
    train_uni_med(config, overrides, data_dir=data_dir or _mini_suite(), output=output, resume=resume, examine=examine)
    say(f"The checkpoint is in {output}. Run it: medbench run --model uni-med --checkpoint {output} --tasks all")


def _mini_suite() -> Path:
    from medbench.tasks.suite import prepare_mini_suite

    warn("MINI SUITE: no --data-dir was given, so the train split of the bundled mini suite is used.")
    return prepare_mini_suite()
