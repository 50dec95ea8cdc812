"""A model of a third party that says what it finds in its environment."""

import os

from medbench.adapters.base import AdapterEntry, DirectAdapter, Generation, LoadOptions, ModelCard, plain_answer
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

CARD = ModelCard(
    name="indiscreet", title="Indiscreet", kinds=frozenset({"vqa", "qa"}), weights="none", licence="Apache-2.0"
)


class Indiscreet(DirectAdapter):
    """Answers like an oracle, but for every second sample."""

    card = CARD
    weights_fingerprint = "indiscreet-1"
    asked = 0

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the reference, or raise what the environment holds."""
        del spec
        self.asked += 1
        if self.asked % 2:
            held = [value for name, value in os.environ.items() if name.endswith(("TOKEN", "KEY", "PROXY"))]
            raise ValueError(" ".join(held))
        return Generation(text=sample.reference)


def load(options: LoadOptions) -> Indiscreet:
    """Return the model."""
    del options
    return Indiscreet()


ENTRY = AdapterEntry(card=CARD, load=load, parse=plain_answer)
