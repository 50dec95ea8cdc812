"""The blind baseline: the best answer that needs no look at the image or the question.

It says the most common answer of the train split, draws the mean box, and repeats the most common report.
A model that does not beat it has learned nothing that its evaluation shows.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from adapters.base import AdapterEntry, Answer, DirectAdapter, Generation, LoadOptions, ModelCard
from tasks.foundation.errors import DataError
from tasks.foundation.files import fingerprint
from tasks.sample import Box, Sample
from tasks.spec import TaskSpec

CARD = ModelCard(
    name="blind",
    title="Blind baseline",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="none: counts the train split of each task",
    licence="Apache-2.0",
    blind=True,
)


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
    if spec.kind == "rec":
        return " ".join(f"{fraction:.6f}" for fraction in _mean_box(train))
    return Counter(sample.reference for sample in train).most_common(1)[0][0]


def _mean_box(train: Sequence[Sample]) -> Sequence[float]:
    boxes = [
        sample.box.scaled(1 / sample.image_size[0], 1 / sample.image_size[1])
        for sample in train
        if sample.box is not None and sample.image_size is not None
    ]
    mean: list[float] = np.mean(np.asarray(boxes), axis=0).tolist()
    return mean


def parse(text: str, sample: Sample, spec: TaskSpec) -> Answer:
    """Return the answer; a box is four fractions of the image's width and height."""
    if spec.kind != "rec" or sample.image_size is None:
        return Answer(text=text)
    return Answer(text=text, box=_box_of_fractions(text, sample.image_size))


def _box_of_fractions(text: str, image_size: tuple[int, int]) -> Box | None:
    try:
        left, top, right, bottom = (float(word) for word in text.split())
    except ValueError:
        return None
    return Box(left, top, right, bottom).scaled(*map(float, image_size))


ENTRY = AdapterEntry(card=CARD, load=BlindBaseline, parse=parse)
