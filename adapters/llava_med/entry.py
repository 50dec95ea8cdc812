"""LLaVA-Med behind the adapter contract: its card, what may be chosen, and how its authors put a question.

`llava-med` is version 1.5 in its published folder, and whatever else has the format of LLaVA 1.5 (HuatuoGPT-Vision,
LLaVA itself). `llava-med:v1.0` is LLaMA-7B with one of the published deltas, made whole by `medbench convert
llava-med`. Each data set has a delta of its own; any such folder is a checkpoint here, so a table with the fine-tuned
models is made of one run per checkpoint. Say of each what it was tuned on: `--model-arg trained_on=slake-vqa`.

Sources of the prompts: `llava/conversation.py` and the evaluation scripts of LLaVA-Med, release 1.5 and tag v1.0.0. The
texts here are pinned, token by token, by the parity fixtures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import TypeAdapter

from medbench.adapters.base import AdapterEntry, Answer
from medbench.adapters.converting import converter
from medbench.adapters.described import described
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.registry import imported, imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

TURN_END = "###"
"""Ends every turn of version 1.0, the model's own included."""
SPEAKER = "Assistant:"
AUTHORS_TOKENS = 1024
AUTHORS_DECODING: Mapping[str, Mapping[str, float]] = {"v1.5": {}, "v1.0": {"temperature": 0.7}}
DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A question with images, as text."""

    opening: str  # Text before the question and before images that precede it.
    closing: str  # Text behind all.
    images_first: bool = False  # Whether images precede the question, a line each, as in version 1.5.
    stops: tuple[str, ...] = ()  # Texts that end an answer.

    def parts(self, question: str, images: int) -> tuple[str, ...]:
        """Return the texts between which the images stand; each is to be tokenised by itself.

        The tokenizer of version 1.0 (transformers 4.28) drops white space on both sides of an image, so it is not here.
        """
        if not images:
            return (f"{self.opening}{question}{self.closing}",)
        if self.images_first:
            return (self.opening, *["\n"] * (images - 1), f"\n{question}{self.closing}")
        return (f"{self.opening}{question}".rstrip(), *[""] * (images - 1), self.closing.lstrip())


CARD, ARGUMENTS, _TOLD = described(__file__)
TEMPLATES = TypeAdapter(dict[str, dict[str, Template]]).validate_python(_TOLD["templates"])
"""By variant; the first one of each is what the authors evaluate with."""


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that are others in a variant."""
    return {"template": "simple", "vision_source": "base"} if variant == "v1.0" else {}


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return what the model wrote up to its end token or `###`, without a leading `Assistant:`.

    Version 1.0 writes that word itself since its prompt ends before it, and the authors leave it in. It is part of the
    turn, not of the answer, and it stays in the recorded text.
    """
    return Answer(text=text.strip().removeprefix(SPEAKER).strip())


@converter("llava-med")
@click.option("--base", type=click.Path(path_type=Path), help="Folder of LLaMA-7B, if SOURCE is a delta (v1.0).")
@click.option("--vision-tower", type=click.Path(path_type=Path), help="CLIP to put in place of the tower of v1.5.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the weights of v1.5.  [default: float16, as published]")
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
    given = [name for name, value in (("--vision-tower", vision_tower), ("--dtype", dtype)) if value is not None]
    if base is not None and given:
        raise UsageError(
            f"A delta is added in float16 and has no vision tower, but {', '.join(given)} was given.",
            "Leave it out; the run takes the tower as --model-arg vision_tower=DIR.",
        )
    import torch

    if base is not None:
        imported("medbench.adapters.llava_med.convert:convert_delta")(base, source, output)
        say(f"Written to {output}. Run it with OpenAI's CLIP ViT-L/14, which is in neither of the two folders:")
        say(f"medbench run --model llava-med:v1.0 --checkpoint {output} --model-arg vision_tower=DIR --tasks vqa")
        return
    imported("medbench.adapters.llava_med.convert:convert_v15")(
        source, output, vision_tower=vision_tower, dtype=getattr(torch, dtype or DTYPES[0])
    )
    say(f"Written to {output}. Run it: medbench run --model hf:{output} --tasks vqa")


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.llava_med.model:load_llava_med"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}), variants=_TOLD["variants"], arguments=ARGUMENTS,
    defaults=defaults, converter="medbench.adapters.llava_med.entry:convert_command",
)  # fmt: skip
