"""The command of this room: `medbench train`."""

from pathlib import Path

import click

from tasks.foundation.console import say, warn


@click.command("train")
@click.option("--config", default="mini", show_default=True, help="A recipe: a preset's name or a YAML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder for the checkpoint.")
def train_command(config: str, overrides: tuple[str, ...], data_dir: Path | None, output: Path) -> None:
    """Train Uni-Med by a recipe.

    \b
    Example:  medbench train --config mini --output checkpoints/mini
              medbench run --model uni-med --checkpoint checkpoints/mini --tasks all
    """
    from tasks.suite import prepare_mini_suite
    from unimed.training.curve import draw_curve
    from unimed.training.loop import LOG_FILE, train
    from unimed.training.recipe import load_recipe

    recipe = load_recipe(config, overrides)
    if data_dir is None:
        warn("MINI SUITE: no --data-dir was given, so the train split of the bundled mini suite is used.")
        data_dir = prepare_mini_suite()
    train(recipe, data_dir, output)
    say(draw_curve(output / LOG_FILE, output / "learning_curve.svg"))
    say(f"The checkpoint is in {output}. Run it: medbench run --model uni-med --checkpoint {output} --tasks all")
