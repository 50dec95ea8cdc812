"""The examples that Med-Flamingo is shown before a question: the authors' six, or six of a task's train split.

The authors' are questions of VQA-RAD, whose pictures medbench does not have: they lie in `img/` of the model's
repository and among VQA-RAD's own. What is drawn depends on nothing but the task's train split: the samples are put
into the order of a hash, and the first are taken whose pictures open, whose text is short enough to leave room for five
more, and whose picture is not another example's already.

By default (`auto`) VQA gets the authors' examples where their pictures are given, and everything else six of the task's
own train split, none if there are none: the model learned to follow examples and has no published prompt without them,
so that the default is few-shot also for those who have no more than the data. `6` insists, `0` shows none.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from medbench.adapters.med_flamingo.prompts import SHOTS, Words, question_of
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

Shots = Literal["auto", "0", "6"]
_SEED = "med-flamingo"
AUTHORS: tuple[tuple[str, str, str], ...] = (
    ("synpic50962.jpg", "What is/are the structure near/in the middle of the brain?", "pons"),
    ("synpic52767.jpg", "Is there evidence of a right apical pneumothorax on this chest x-ray?", "yes"),
    ("synpic30324.jpg", "Is/Are there air in the patient's peritoneal cavity?", "no"),
    ("synpic21044.jpg", "Does the heart appear enlarged?", "yes"),
    ("synpic54802.jpg", "What side are the infarcts located?", "bilateral"),
    ("synpic57813.jpg", "Which image modality is this?", "mr flair"),
)
"""Picture, question and answer of the authors' demonstration, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSource:
    """Where examples come from.

    Attributes:
        shots: How many are shown.
        demo_images: Folder of the pictures of the authors' examples; None if there is none.
        train_samples: Train split of a task by name.
        source_of: Folder that the images of a task start from, by its name.
    """

    shots: Shots
    demo_images: Path | None
    train_samples: Callable[[str], Sequence[Sample]]
    source_of: Callable[[str], Path]


def refuse_missing_pictures(source: ExampleSource) -> None:
    """Look at the pictures of the authors' examples, before a model is loaded.

    Raises:
        UsageError: If they are insisted on and not given, or a given folder lacks one.
    """
    if source.shots == "6" and source.demo_images is None:
        raise UsageError(
            "shots=6 shows the authors' six examples for VQA, and their pictures are not given.",
            "Give --model-arg demo_images=DIR, or shots=auto, which shows six of the task's train split instead.",
        )
    authors_examples(source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example.

    Attributes:
        name: Sample id, or the picture's name.
        words: Its texts.
        images: Its pictures.
    """

    name: str
    words: Words
    images: tuple[Image.Image, ...]


def authors_examples(source: ExampleSource) -> tuple[Example, ...]:
    """Return the authors' six with their pictures; none without a folder of them, or where no examples are shown.

    Raises:
        UsageError: If a picture is missing or broken.
    """
    folder = source.demo_images
    if folder is None or source.shots == "0":
        return ()
    return tuple(
        Example(name=name, words=Words(question=question, answer=answer), images=(_authors_picture(folder, name),))
        for name, question, answer in AUTHORS
    )


def _authors_picture(folder: Path, name: str) -> Image.Image:
    try:
        return open_image(folder, ImageRef(path=name))
    except SampleError as error:
        names = ", ".join(name for name, _, _ in AUTHORS)
        raise UsageError(
            f"demo_images={folder} does not give the authors' pictures: {error.problem}",
            f"It needs {names}: from img/ of the model's repository, or from VQA-RAD.",
        ) from error


def drawn_examples(
    spec: TaskSpec, samples: Iterable[Sample], source: Path, fits: Callable[[Words], bool]
) -> tuple[Example, ...]:
    """Return up to six examples of a task's train split.

    Args:
        spec: The task.
        samples: Its train split.
        source: Folder that its images start from.
        fits: Whether the texts are short enough.
    """
    chosen: list[Example] = []
    seen: set[ImageRef] = set()
    for sample in _shuffled(spec, samples):
        words = Words(question=question_of(sample, spec), answer=sample.reference, images=len(sample.images))
        if seen.intersection(sample.images) or not sample.images or not sample.reference.strip() or not fits(words):
            continue
        images = tuple(_opened(source, sample.images))
        if len(images) == len(sample.images):
            chosen.append(Example(name=sample.sample_id, words=words, images=images))
            seen.update(sample.images)
        if len(chosen) == SHOTS:
            break
    return tuple(chosen)


def _shuffled(spec: TaskSpec, samples: Iterable[Sample]) -> list[Sample]:
    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"{_SEED}/{spec.name}/{sample.sample_id}".encode()).digest()

    return sorted(samples, key=place)


def _opened(source: Path, images: Sequence[ImageRef]) -> Iterator[Image.Image]:
    """Yield pictures up to the first that does not open: a broken one is no example, and another is found."""
    for image in images:
        try:
            yield open_image(source, image)
        except SampleError:
            return


class ExampleShelf:
    """The examples of every task, chosen when it is first asked about.

    Args:
        source: Where they come from.
        fits: Whether the texts of one are short enough.

    Raises:
        UsageError: If a folder of the authors' pictures is given that lacks one.
    """

    def __init__(self, source: ExampleSource, fits: Callable[[Words], bool]) -> None:
        self._source = source
        self._fits = fits
        self._authors = authors_examples(source)
        self._chosen: dict[str, tuple[Example, ...]] = {}

    def __contains__(self, task: str) -> bool:
        return task in self._chosen

    def of(self, spec: TaskSpec) -> tuple[Example, ...]:
        """Return the examples of a task.

        Raises:
            DataError: If they are insisted on and its train split does not have six.
        """
        if spec.name not in self._chosen:
            self._chosen[spec.name] = self._choose(spec)
        return self._chosen[spec.name]

    def chosen(self, task: str) -> tuple[Example, ...]:
        """Return the examples of a task that was asked about before."""
        return self._chosen[task]

    def notice(self, spec: TaskSpec) -> str:
        """Return which examples a task has, for those who read its numbers."""
        examples = self.of(spec)
        if not examples:
            return f"Med-Flamingo answers {spec.name} without examples."
        origin = "the authors'" if examples is self._authors else "of its train split"
        return f"Med-Flamingo is shown {len(examples)} examples for {spec.name}, {origin}: " + ", ".join(
            example.name for example in examples
        )

    def _choose(self, spec: TaskSpec) -> tuple[Example, ...]:
        if self._source.shots == "0":
            return ()
        if spec.kind == "vqa" and self._authors:
            return self._authors
        samples, folder = self._source.train_samples(spec.name), self._source.source_of(spec.name)
        drawn = drawn_examples(spec, samples, folder, self._fits)
        if self._source.shots == "6" and len(drawn) < SHOTS:
            raise DataError(
                f"The train split of {spec.name} has {len(drawn)} usable examples; shots=6 needs {SHOTS}.",
                "Prepare the task with its train split, or give shots=auto or shots=0.",
            )
        return drawn
