"""The command `medbench convert radfm`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say


@click.command("radfm")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True,
    help="Of the language model's weights; vision stays in float32.",
)  # fmt: skip
def convert_command(source: Path, output: Path, dtype: str) -> None:
    """Convert RadFM: from the authors' 53 GB of float32 into a folder of half the size that loads at once.

    SOURCE holds pytorch_model.bin and tokenizer.model. No more than a shard of it is in memory.

    \b
    Example:  medbench convert radfm DIR --output radfm-bf16
    """
    from medbench.adapters.radfm.convert import convert

    convert(source, output, dtype=dtype)
    say(f"Written to {output}. Run it: medbench run --model radfm --checkpoint {output} --tasks vqa")
