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

from medbench.adapters.base import AdapterEntry, Answer
from medbench.adapters.converting import converter
from medbench.adapters.described import described
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.registry import imported, imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

TURN_END = "###"
"""Ends every turn, the model's own included."""
SPEAKER = "Doctor:"
IMAGE_MARKS = ("<ImageHere>", "<image>")
"""What stands for an image in the authors' prompts; taken out of dataset texts."""
CARD, ARGUMENTS, _TOLD = described(__file__)
AUTHORS_DECODING: Mapping[str, float] = {"temperature": 1.0, "top_p": 0.9}
AUTHORS_TOKENS = 300


def prompt_texts(question: str, template: str) -> tuple[str, str]:
    """Return the texts before and behind the image, each to be tokenised by itself."""
    opening, closing = _TOLD["templates"][template]
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
    card=CARD, load=imported_when_called("medbench.adapters.xraygpt.model:load_xraygpt"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}), arguments=ARGUMENTS,
    converter="medbench.adapters.xraygpt.entry:convert_command",
)  # fmt: skip
