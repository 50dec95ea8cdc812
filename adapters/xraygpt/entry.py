"""XrayGPT behind the adapter contract: reports on chest X-rays.

The question is the task's own instruction. That of MIMIC-CXR, "Describe the given chest x-ray image in detail.", is the
first of the 15 questions which the authors' test program draws from at random; one that changes from sample to sample
would only add noise.

Sources of the prompts: `xraygpt/conversation/conversation.py` (the demo) and `test.py` with `prompts/alignment.txt` of
XrayGPT. The texts are pinned, token by token, by the parity fixtures.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from medbench.adapters.base import AdapterEntry, Answer, Argument, ModelCard
from medbench.adapters.converting import converter
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.registry import imported, imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

CARD = ModelCard(
    name="xraygpt",
    title="XrayGPT",
    kinds=frozenset({"report"}),
    weights=(
        "--checkpoint DIR with eva_vit_g.pth and blip2_pretrained_flant5xxl.pth (both from LAVIS), "
        "xraygpt_pretrained1.pth and the folder Vicuna_Radiology_fp16 (both from the authors), or made of them once by "
        "`medbench convert xraygpt`"
    ),
    licence="CC BY-NC-SA 4.0, with LLaMA's and MIMIC-CXR's own terms",
    memory="16 GB: Vicuna-7B 13.5 GB, EVA ViT-G/14 2 GB, the query transformer in float32 below 1 GB",
    trained_on=frozenset({"mimic-cxr", "mimic-cxr-impression", "mimic-cxr-both"}),
)
TURN_END = "###"
"""Ends every turn, the model's own included."""
SPEAKER = "Doctor:"
IMAGE_MARKS = ("<ImageHere>", "<image>")
"""What stands for an image in the authors' prompts; taken out of dataset texts."""
_IMAGE_TURN = "###Patient: <Img>"
_SYSTEM = (
    "You are an experienced Doctor, give the following medical scan: <Img>ImageContent</Img>. You will be able to see "
    "the medical scan once I provide it to you. Please answer my questions."
)
TEMPLATES: Mapping[str, tuple[str, str]] = {
    "demo": (_SYSTEM + _IMAGE_TURN, f"{TURN_END}{SPEAKER}"),
    "test": (_IMAGE_TURN, f" {TURN_END}{SPEAKER} "),
}
"""Text before the image, and text behind the question."""
ARGUMENTS: Mapping[str, Argument] = {
    "template": Argument(
        help="how the question is put: as the authors' demo does, or as their test program does",
        default="demo",
        choices=tuple(TEMPLATES),
    ),
    "preset": Argument(
        help="`greedy` with the task's own limit, or `author`: sampling with top_p 0.9 up to 300 tokens",
        default="greedy",
        choices=("greedy", "author"),
    ),
}
AUTHORS_DECODING: Mapping[str, float] = {"temperature": 1.0, "top_p": 0.9}
AUTHORS_TOKENS = 300


def prompt_texts(question: str, template: str) -> tuple[str, str]:
    """Return the texts before and behind the image, each to be tokenised by itself."""
    opening, closing = TEMPLATES[template]
    return opening, f"</Img> {question}{closing}"


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return what the model says: its own turn, behind the last `Doctor:` in it, as both programs of the authors do.

    The demo also calls a `ChatDoctor` XrayGPT, and the test program deletes `Impression:`, newlines and rules; neither
    is done here.
    """
    return Answer(text=text.partition(TURN_END)[0].rpartition(SPEAKER)[2].strip())


@converter("xraygpt")
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

    imported("medbench.adapters.xraygpt.convert:convert")(source, output, dtype=getattr(torch, dtype))
    say(f"Written to {output}. Run it: medbench run --model xraygpt --checkpoint {output} --tasks report")


ENTRY = AdapterEntry(
    card=CARD,
    load=imported_when_called("medbench.adapters.xraygpt.model:load_xraygpt"),
    parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}),
    arguments=ARGUMENTS,
    converter="medbench.adapters.xraygpt.entry:convert_command",
)
