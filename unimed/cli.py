"""The command of this room: `medbench convert uni-med`."""

from pathlib import Path

import click

from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import UsageError


@click.command("uni-med")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder, or a .pth file.")
@click.option("--vision-weights", help="eva_vit_g.pth, or a folder with BLIP-2's safetensors.")
@click.option("--language-model", help="Folder or Hub name of the LLaMA that the checkpoint was trained on.")
@click.option("--vision", "sizes", multiple=True, metavar="KEY=VALUE", help="A size of another ViT than EVA ViT-G/14.")
@click.option("--standalone", is_flag=True, help="Write all weights, not only the trained ones: for the Hub.")
@click.option("--merge-lora", is_flag=True, help="Also fold LoRA into the language model (folders only).")
@click.option("--adapter", type=click.Path(path_type=Path), help="Folder of a LoRA in peft's format to put in.")
def convert_command(
    source: Path, output: Path, vision_weights: str | None, language_model: str | None, sizes: tuple[str, ...],
    standalone: bool, merge_lora: bool, adapter: Path | None
) -> None:  # fmt: skip
    """Convert a Uni-Med checkpoint.

    From the authors' format (checkpoint_0.pth) into a folder, from a folder into the authors' format, or from a folder
    on base weights into a whole model or into one with another LoRA: by what SOURCE and --output are called.

    \b
    Example:
    medbench convert uni-med checkpoint_0.pth --vision-weights eva_vit_g.pth --language-model LLAMA --output DIR
    medbench convert uni-med DIR --output checkpoint_0.pth
    medbench convert uni-med DIR --standalone --output WHOLE
    medbench convert uni-med DIR --adapter LORA --output OTHER
    """
    from medbench.unimed.checkpoint import BaseWeights
    from medbench.unimed.convert import from_authors, to_authors, to_whole, with_adapter

    if output.exists():
        raise UsageError(f"{output} is there already.", "Give another --output.")
    if source.suffix == ".pth":
        if vision_weights is None or language_model is None:
            hint = "Give --vision-weights and --language-model as well."
            raise UsageError("The authors' format holds no base weights.", hint)
        base = BaseWeights(language_model=language_model, vision=vision_weights)
        from_authors(source, output, base, vision=_numbers(sizes), standalone=standalone)
    elif output.suffix == ".pth":
        unused = to_authors(source, output)
        if unused:
            warn(f"Not written, since nothing reads it: {', '.join(unused)}. The official loader does not miss it.")
        say(f"Written to {output}, without an optimizer's state.")
        return
    elif adapter is not None:
        with_adapter(source, adapter, output)
    elif standalone or merge_lora:
        to_whole(source, output, merge_lora=merge_lora)
    else:
        hint = "Give --standalone, --merge-lora or --adapter, or an --output named *.pth."
        raise UsageError(f"{source} and {output} are both folders.", hint)
    say(f"Written to {output}. Run it: medbench run --model uni-med --checkpoint {output} --tasks all")


def _numbers(settings: tuple[str, ...]) -> dict[str, int]:
    numbers = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if not value.isdigit():
            raise UsageError(f"--vision {setting!r} is no number.", "Write --vision num_attention_heads=16.")
        numbers[name] = int(value)
    return numbers
