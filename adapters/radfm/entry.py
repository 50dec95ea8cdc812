"""RadFM behind the adapter contract: its card, what may be chosen, and its prompts.

A prompt is a question with its images in it, and nothing around them. The authors put the images before a question or,
by a slip that the model was trained with, before its last character: `Is the liver enlarged<image>...</image>?`. Chest
X-rays always stood there; for the others a coin was tossed.

In bfloat16 the weights take 26 GB (13.0 G parameters of LLaMA), vision in float32 0.43 GB; the keys and values of one
token 0.8 MB. A GPU of 40 GB is enough; in float32 the model takes 53 GB.
"""

from pathlib import Path

import click

from medbench.adapters.base import AdapterEntry, plain_answer
from medbench.adapters.converting import converter
from medbench.adapters.described import described
from medbench.adapters.wording import bare_question, without_marks
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.registry import imported, imported_when_called
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

CARD, ARGUMENTS, _ = described(__file__)
DTYPES = ("bfloat16", "float16", "float32")
CHEST_TASKS = "mimic-cxr"
"""What the names of the tasks begin with whose images are chest X-rays with reports."""
CHEST_REPORT = "Can you provide a radiology report for this medical image?"
"""The first of the authors' published questions for reports."""
CHEST_IMPRESSION = "Could you provide an impression for this chest scan?"
"""From the authors' published answers; they asked so for an impression alone."""


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the words that RadFM was taught: the bare question, the authors' own for reports, else the task's."""
    if spec.name.startswith(CHEST_TASKS):
        return CHEST_IMPRESSION if spec.name.endswith("impression") else CHEST_REPORT
    return without_marks(bare_question(sample, spec))


def prompt_parts(sample: Sample, spec: TaskSpec, image_position: str) -> tuple[str | ImageRef, ...]:
    """Return the question as texts and images in order; without images it is one text.

    The images are at the `start`, at the `end`, or (`auto`) at the end for chest X-rays alone.
    """
    question = question_of(sample, spec)
    if not sample.images:
        return (question,)
    at_end = spec.name.startswith(CHEST_TASKS) if image_position == "auto" else image_position == "end"
    cut = max(0, len(question) - 1) if at_end else 0
    return (question[:cut], *sample.images, question[cut:])


@converter("radfm")
@click.option(
    "--dtype", type=click.Choice(DTYPES), default=DTYPES[0], show_default=True,
    help="Of the language model's weights; vision stays in float32.",
)  # fmt: skip
def convert_command(source: Path, output: Path, dtype: str) -> None:
    """Convert RadFM: from the authors' 53 GB of float32 into a folder of half the size that loads at once.

    SOURCE holds pytorch_model.bin and tokenizer.model. No more than a shard of it is in memory.

    \b
    Example:  medbench convert radfm DIR --output radfm-bf16
    """
    imported("medbench.adapters.radfm.convert:convert")(source, output, dtype=dtype)
    say(f"Written to {output}. Run it: medbench run --model radfm --checkpoint {output} --tasks vqa")


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.radfm.model:load_radfm"), parse=plain_answer,
    takes=frozenset({"checkpoint", "device", "dtype"}), arguments=ARGUMENTS,
    converter="medbench.adapters.radfm.entry:convert_command",
)  # fmt: skip
