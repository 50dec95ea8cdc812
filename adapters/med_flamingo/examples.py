"""The examples that Med-Flamingo is shown before a question: the authors' six, or six of a task's train split.

The authors' are questions of VQA-RAD, whose images medbench does not have. The others depend on the train split alone:
in the order of a hash the first whose images open and are not another's, and whose text leaves room for five more.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medbench.adapters.base import LoadOptions
from medbench.adapters.med_flamingo.entry import AUTHORS, Parts, example_parts, question_of
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

SHOTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example, by its sample id or its image's name."""

    name: str
    parts: Parts
    images: tuple[Image.Image, ...]


def authors_examples(shots: str, folder: Path | None) -> tuple[Example, ...]:
    """Return the authors' six if they are shown; UsageError if there must be, or are, images that cannot be read."""
    if shots == "6" and folder is None:
        hint = "Give --model-arg demo_images=DIR, or shots=auto, which shows six of the task's train split instead."
        raise UsageError("shots=6 shows the authors' six examples for VQA, and their images are not given.", hint)
    if shots == "0" or folder is None:
        return ()
    try:
        return tuple(
            Example(name=name, parts=example_parts(question, answer), images=(open_image(folder, ImageRef(path=name)),))
            for name, question, answer in AUTHORS
        )
    except SampleError as error:
        names = ", ".join(name for name, _, _ in AUTHORS)
        problem = f"demo_images={folder} does not give the authors' images: {error.problem}"
        raise UsageError(problem, f"It needs {names}: from img/ of the model's repository, or from VQA-RAD.") from error


def drawn_examples(
    spec: TaskSpec, samples: Iterable[Sample], source: Path, fits: Callable[[Parts], bool]
) -> tuple[Example, ...]:
    """Return up to six examples of a task's train split, whose images start from `source` and whose text `fits`."""

    def order(sample: Sample) -> bytes:
        return hashlib.sha256(f"med-flamingo/{spec.name}/{sample.sample_id}".encode()).digest()

    chosen: list[Example] = []
    seen: set[ImageRef] = set()
    for sample in sorted(samples, key=order):
        parts = example_parts(question_of(sample, spec), sample.reference, len(sample.images))
        if seen.intersection(sample.images) or not sample.images or not sample.reference.strip() or not fits(parts):
            continue
        try:
            images = tuple(open_image(source, image) for image in sample.images)
        except SampleError:
            # A broken image is no example; another is found.
            continue
        chosen.append(Example(name=sample.sample_id, parts=parts, images=images))
        seen.update(sample.images)
        if len(chosen) == SHOTS:
            break
    return tuple(chosen)


def examples_of(
    spec: TaskSpec, options: LoadOptions, authors: tuple[Example, ...], fits: Callable[[Parts], bool]
) -> tuple[tuple[Example, ...], str]:
    """Return a task's examples, and a line that says which; DataError if six are insisted on and there are fewer."""
    shots, examples, origin = options.arguments.get("shots", "auto"), authors, "the authors'"
    if shots != "0" and (spec.kind != "vqa" or not authors):
        origin = "of its train split"
        examples = drawn_examples(spec, options.train_samples(spec.name), options.source_of(spec.name), fits)
        if shots == "6" and len(examples) < SHOTS:
            problem = f"The train split of {spec.name} has {len(examples)} usable examples; shots=6 needs {SHOTS}."
            raise DataError(problem, "Prepare the task with its train split, or give shots=auto or shots=0.")
    if not examples:
        return (), f"Med-Flamingo answers {spec.name} without examples."
    names = ", ".join(example.name for example in examples)
    return examples, f"Med-Flamingo is shown {len(examples)} examples for {spec.name}, {origin}: {names}"
