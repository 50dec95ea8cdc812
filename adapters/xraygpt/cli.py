"""The command `medbench convert xraygpt`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say


@click.command("xraygpt")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option(
    "--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), default="float16", show_default=True,
    help="Of the weights, but for the query transformer, which stays in float32.",
)  # fmt: skip
def convert_command(source: Path, output: Path, dtype: str) -> None:
    """Convert XrayGPT: from the authors' four files in SOURCE into one folder of transformers.

    \b
    Example:  medbench convert xraygpt DIR --output xraygpt
    """
    import torch

    from medbench.adapters.xraygpt.convert import convert

    convert(source, output, dtype=getattr(torch, dtype))
    say(f"Written to {output}. Run it: medbench run --model xraygpt --checkpoint {output} --tasks report")
