"""A model of a third party whose process dies: at a sample, while it loads, or when the test kills it."""

import os
import signal
import time

from medbench.adapters.base import AdapterEntry, DirectAdapter, Generation, LoadOptions, ModelCard, plain_answer
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

CARD = ModelCard(
    name="doomed", title="Doomed", kinds=frozenset({"vqa", "qa", "cls"}), weights="none", licence="Apache-2.0"
)


class Doomed(DirectAdapter):
    """Answers like an oracle, slowly."""

    card = CARD
    weights_fingerprint = "doomed-1"

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the reference, if the process still lives then."""
        del spec
        time.sleep(float(os.environ.get("DOOMED_SECONDS", "0")))
        if sample.sample_id == os.environ.get("DOOMED_SAMPLE"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Generation(text=sample.reference)


def load(options: LoadOptions) -> Doomed:
    """Return the model, or end the process."""
    del options
    if "DOOMED_LOAD" in os.environ:
        raise SystemExit("no weights on this disk")
    return Doomed()


ENTRY = AdapterEntry(card=CARD, load=load, parse=plain_answer)
