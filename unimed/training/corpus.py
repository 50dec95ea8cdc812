"""The training corpus: prepared train splits, what is held out of them, and their pictures."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.tasks.answers.box_space import UNI_MED
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed.checkpoint import JOINED
from medbench.unimed.prompts import PromptForm, WrappedPrompt, instruct, taught_answer, wrap
from medbench.unimed.training.pictures import Pictures
from medbench.unimed.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training question; `picture` is the row of its image in the corpus, or -1."""

    spec: TaskSpec
    sample: Sample
    picture: int

    def prompt(self, form: PromptForm, template: str | None = None) -> WrappedPrompt:
        """Return the wrapped instruction, by the evaluation prompt or a template of the pool."""
        text = instruct(self.spec, self.sample, form, box=self._box_text(), template=template)
        return wrap(self.spec.kind, text, images=int(self.picture >= 0), form=form, purpose="train")

    def answer(self, form: PromptForm) -> str:
        """Return what the model is to say."""
        if self.spec.kind != "rec":
            return taught_answer(self.sample.reference, form)
        if self.sample.box is None:
            raise DataError(f"Sample {self.sample.sample_id!r} of {self.spec.name} has no box.")
        return self._box_text()

    def _box_text(self) -> str:
        if self.sample.box is None or self.sample.image_size is None:
            return ""
        return UNI_MED.write(self.sample.box, self.sample.image_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Training examples by entry of the mixture, held-out ones by task, and the pictures of both."""

    train: Mapping[str, Sequence[Example]]
    held_out: Mapping[str, Sequence[Example]]
    pictures: Pictures

    def sizes(self) -> dict[str, int]:
        """Return the number of training examples of each entry."""
        return {name: len(examples) for name, examples in self.train.items()}

    def texts(self, form: PromptForm) -> Iterator[str]:
        """Yield prompts and answers of the training examples, for a tokenizer."""
        for examples in self.train.values():
            for example in examples:
                for template in example.spec.train_prompts[:2]:
                    yield from example.prompt(form, template).parts
                yield example.answer(form)


def load_corpus(data_dir: Path, recipe: Recipe, *, image_size: int) -> Corpus:
    """Read the train splits of the tasks of a recipe; no picture is decoded yet.

    Whole groups (images, patients, volumes, documents) are held out, so that the held-out loss means something.

    Raises:
        RunError: If an entry of the mixture has no training examples.
        DataError: If a task is not prepared.
    """
    pictures = Pictures(image_size)
    train: dict[str, list[Example]] = {}
    held_out: dict[str, list[Example]] = {}
    for entry in recipe.mixture:
        train[entry] = []
        for name in entry.split(JOINED):
            held_out[name] = []
            for example in _examples(data_dir, name, pictures):
                is_held_out = _is_held_out(example, recipe.validation.share)
                (held_out[name] if is_held_out else train[entry]).append(example)
    empty = [name for name, examples in train.items() if not examples]
    if empty:
        raise RunError(
            f"No training samples: {', '.join(empty)}.",
            "Prepare the data with its train split, lower validation.share, or take the task out of the mixture.",
        )
    return Corpus(train=train, held_out=held_out, pictures=pictures)


def data_fingerprints(data_dir: Path, recipe: Recipe) -> dict[str, str]:
    """Return the identity of each task's prepared data.

    Raises:
        DataError: If a task is not prepared.
    """
    return {name: load_prepared(data_dir, name).manifest.data_fingerprint for name in recipe.tasks()}


def _examples(data_dir: Path, name: str, pictures: Pictures) -> Iterator[Example]:
    spec, prepared = get_task(name), load_prepared(data_dir, name)
    pictures.learn_digests(prepared.source, prepared.image_hashes() or {})
    for sample in prepared.samples("train"):
        row = pictures.add(prepared.source, sample.images[0]) if sample.images else -1
        yield Example(spec=spec, sample=sample, picture=row)


def _is_held_out(example: Example, share: float) -> bool:
    group = example.sample.groups.get(example.spec.group_key, example.sample.sample_id)
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
