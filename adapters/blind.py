"""The blind baseline: the best answer that needs no look at the image or the question.

A model that does not beat it has learned nothing that its evaluation shows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from medbench.adapters.base import AdapterEntry, DirectAdapter, Generation, LoadOptions, answer_with_box
from medbench.adapters.described import described
from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.catalog import benchmark_names
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

CARD = replace(described(__file__)[0], trained_on=frozenset(benchmark_names()))
BOXES = BoxSpace(name="fraction", units=1, digits=6)


class BlindBaseline(DirectAdapter):
    """Majority answer, mean box, most common report, from the train split of each task."""

    card = CARD

    def __init__(self, options: LoadOptions) -> None:
        self._train_samples = options.train_samples
        self._answers: dict[str, str] = {}
        self.weights_fingerprint = fingerprint({"blind": 1})

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return the answer that is the same for all samples of the task."""
        del sample
        if spec.name not in self._answers:
            self._answers[spec.name] = _best_guess(spec, self._train_samples(spec.name))
        return Generation(text=self._answers[spec.name])


def _best_guess(spec: TaskSpec, train: Sequence[Sample]) -> str:
    if not train:
        raise DataError(f"The train split of {spec.name} is empty.", "The blind baseline counts it; prepare it first.")
    if spec.kind != "rec":
        return Counter(sample.reference for sample in train).most_common(1)[0][0]
    boxes = [
        sample.box.scaled(1 / sample.image_size[0], 1 / sample.image_size[1])
        for sample in train if sample.box is not None and sample.image_size is not None
    ]  # fmt: skip
    return BOXES.write(Box(*np.mean(np.asarray(boxes), axis=0).tolist()), (1, 1))


ENTRY = AdapterEntry(card=CARD, load=BlindBaseline, parse=partial(answer_with_box, BOXES), boxes=BOXES)
