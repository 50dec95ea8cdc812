"""XrayGPT behind the adapter contract: reports on chest X-rays.

The question is the task's own instruction; that of MIMIC-CXR is the first of the authors' 15, of which their program
draws one at random.
"""

from medbench.adapters.base import AdapterEntry, Answer
from medbench.adapters.described import converter, described
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

TURN_END = "###"  # Ends every turn, the model's own included.
CARD, ARGUMENTS, _TOLD = described(__file__)
CONVERTER = converter(CARD.name, _TOLD["convert"], "medbench.adapters.xraygpt.model:convert")


def prompt_texts(question: str, template: str) -> tuple[str, str]:
    """Return the texts before and behind the image, each to be tokenised by itself."""
    opening, closing = _TOLD["templates"][template]
    return opening, f"</Img> {question}{closing}"


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return its own turn, behind the last `Doctor:` in it, as the authors do; nothing else is taken out."""
    return Answer(text=text.partition(TURN_END)[0].rpartition("Doctor:")[2].strip())


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.xraygpt.model:load_xraygpt"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype", "lora"}), arguments=ARGUMENTS,
    converter="medbench.adapters.xraygpt.entry:CONVERTER",
)  # fmt: skip
