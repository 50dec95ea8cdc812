"""RadFM behind the adapter contract: its card, what may be chosen, and its prompts.

A prompt is a question with its images before it or, by a slip that the model was trained with, before its last
character: `Is the liver enlarged<image>...</image>?`. Chest X-rays always stood there; for others a coin was tossed.
"""

from medbench.adapters.base import AdapterEntry, plain_answer
from medbench.adapters.described import converter, described
from medbench.adapters.wording import bare_question, without_marks
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

CARD, ARGUMENTS, _TOLD = described(__file__)
CONVERTER = converter(CARD.name, _TOLD["convert"], "medbench.adapters.radfm.model:convert")
CHEST_TASKS = "mimic-cxr"  # What the names of the tasks begin with whose images are chest X-rays with reports.


def question_of(sample: Sample, spec: TaskSpec) -> str:
    """Return the words that RadFM was taught: the bare question, the authors' own for reports, else the task's."""
    if spec.name.startswith(CHEST_TASKS):
        return str(_TOLD["chest impression" if spec.name.endswith("impression") else "chest report"])
    return without_marks(bare_question(sample, spec))


def prompt_parts(sample: Sample, spec: TaskSpec, image_position: str) -> tuple[str | ImageRef, ...]:
    """Return texts and images in order; images at `start`, at `end`, or (`auto`) at the end for chest X-rays alone."""
    question = question_of(sample, spec)
    if not sample.images:
        return (question,)
    at_end = spec.name.startswith(CHEST_TASKS) if image_position == "auto" else image_position == "end"
    cut = max(0, len(question) - 1) if at_end else 0
    return (question[:cut], *sample.images, question[cut:])


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.radfm.model:load_radfm"), parse=plain_answer,
    takes=frozenset({"checkpoint", "device", "dtype", "lora"}), arguments=ARGUMENTS,
    converter="medbench.adapters.radfm.entry:CONVERTER",
)  # fmt: skip
