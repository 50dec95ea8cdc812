"""The command `medbench convert llava-med`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import UsageError

_DTYPES = ("float16", "bfloat16", "float32")


@click.command("llava-med")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--base", type=click.Path(path_type=Path), help="Folder of LLaMA-7B, if SOURCE is a delta (v1.0).")
@click.option("--vision-tower", type=click.Path(path_type=Path), help="CLIP to put in place of the tower of v1.5.")
@click.option("--dtype", type=click.Choice(_DTYPES), help="Of the weights of v1.5.  [default: float16, as published]")
def convert_command(
    source: Path, output: Path, base: Path | None, vision_tower: Path | None, dtype: str | None
) -> None:
    """Convert LLaVA-Med: a delta of v1.0 into a whole checkpoint, or v1.5 into a plain folder of transformers.

    A delta needs LLaMA-7B (--base), and is added shard by shard. The folder made of v1.5 is for other programs, say for
    a server: `--model llava-med` takes the published folder as it is.

    \b
    Example:
    medbench convert llava-med DELTA --base LLAMA_7B --output llava-med-v1.0
    medbench convert llava-med llava-med-v1.5-mistral-7b --output llava-med-v1.5-hf
    """
    if base is not None:
        _refuse_options_of_v15(vision_tower, dtype)
        from medbench.adapters.llava_med.delta import convert_delta

        convert_delta(base, source, output)
        say(f"Written to {output}. Run it with OpenAI's CLIP ViT-L/14, which is in neither of the two folders:")
        say(f"medbench run --model llava-med:v1.0 --checkpoint {output} --model-arg vision_tower=DIR --tasks vqa")
        return
    import torch

    from medbench.adapters.llava_med.hugging_face import convert_v15

    convert_v15(source, output, vision_tower=vision_tower, dtype=getattr(torch, dtype or _DTYPES[0]))
    say(f"Written to {output}. Run it: medbench run --model hf:{output} --tasks vqa")


def _refuse_options_of_v15(vision_tower: Path | None, dtype: str | None) -> None:
    given = [name for name, value in (("--vision-tower", vision_tower), ("--dtype", dtype)) if value is not None]
    if given:
        raise UsageError(
            f"A delta is added in float16 and has no vision tower, but {', '.join(given)} was given.",
            "Leave it out; the run takes the tower as --model-arg vision_tower=DIR.",
        )
