"""The training corpus: prepared train splits, pictures decoded once, and batches for the model."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tasks.answers.box_space import UNI_MED
from tasks.catalog import get_task
from tasks.foundation.errors import DataError
from tasks.images import open_image
from tasks.prepared import load_prepared
from tasks.sample import ImageRef, Sample
from tasks.spec import Kind, TaskSpec
from unimed.configuration import CONNECTOR_TASKS
from unimed.modeling import IGNORED_LABEL
from unimed.processing import CLIP_MEAN, CLIP_STD, UniMedProcessor
from unimed.prompts import CONNECTOR_TASK, wrap
from unimed.training.augmentation import distorted, jittered

Batch = dict[str, torch.Tensor]
CLASSIFIED: Kind = "cls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training question; `picture` is the row of its image in the corpus, or -1."""

    spec: TaskSpec
    sample: Sample
    picture: int

    def prompt(self, template: str | None = None) -> tuple[str, ...]:
        """Return the parts of the wrapped instruction, by the evaluation prompt or a template of the pool."""
        text = self.spec.instruction(self.sample, box=self._box_text(), template=template)
        return wrap(self.spec.kind, text, images=int(self.picture >= 0))

    def answer(self) -> str:
        """Return what the model is to say."""
        if self.spec.kind != "rec":
            return self.sample.reference
        if self.sample.box is None:
            raise DataError(f"Sample {self.sample.sample_id!r} of {self.spec.name} has no box.")
        return self._box_text()

    def _box_text(self) -> str:
        if self.sample.box is None or self.sample.image_size is None:
            return ""
        return UNI_MED.write(self.sample.box, self.sample.image_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Training and held-out examples by task, and the pictures as bytes [N, 3, S, S]."""

    train: Mapping[str, Sequence[Example]]
    held_out: Mapping[str, Sequence[Example]]
    pictures: torch.Tensor

    def texts(self) -> Iterator[str]:
        """Yield every prompt and answer of the training examples, for the tokenizer."""
        for examples in self.train.values():
            for example in examples:
                for template in example.spec.train_prompts[:2]:
                    yield from example.prompt(template)
                yield example.answer()


def load_corpus(data_dir: Path, task_names: Iterable[str], *, image_size: int, validation_share: float) -> Corpus:
    """Read the train splits of prepared tasks and decode their pictures.

    Whole groups (images, patients, volumes, documents) are held out, so that the held-out loss means something.
    """
    train: dict[str, list[Example]] = {}
    held_out: dict[str, list[Example]] = {}
    pictures = _Pictures(image_size)
    for name in task_names:
        spec, prepared = get_task(name), load_prepared(data_dir, name)
        train[name], held_out[name] = [], []
        for sample in prepared.samples("train"):
            row = pictures.row(prepared.source, sample.images[0]) if sample.images else -1
            part = held_out if _is_held_out(spec, sample, validation_share) else train
            part[name].append(Example(spec=spec, sample=sample, picture=row))
    return Corpus(train=train, held_out=held_out, pictures=pictures.stacked())


def _is_held_out(spec: TaskSpec, sample: Sample, share: float) -> bool:
    group = sample.groups.get(spec.group_key, sample.sample_id)
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


class _Pictures:
    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: dict[tuple[Path, ImageRef], int] = {}
        self._bytes: list[torch.Tensor] = []

    def row(self, source: Path, ref: ImageRef) -> int:
        key = (source, ref)
        if key not in self._rows:
            square = open_image(source, ref).resize((self._size, self._size), Image.Resampling.BICUBIC)
            self._rows[key] = len(self._bytes)
            self._bytes.append(torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1))
        return self._rows[key]

    def stacked(self) -> torch.Tensor:
        return torch.stack(self._bytes) if self._bytes else torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)


def make_batch(examples: Sequence[Example], corpus: Corpus, processor: UniMedProcessor, draw: random.Random) -> Batch:
    """Return right-padded `input_ids`, `attention_mask` and `labels` [B, L], `pixel_values` and `task_ids`.

    Args:
        examples: The rows.
        corpus: Where their pictures are.
        processor: Tokenizer and image sizes.
        draw: Chooses one instruction of the pool per row.
    """
    rows = [_encode(example, processor, draw) for example in examples]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), int(processor.tokenizer.pad_token_id))
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[index, :end] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : end] = torch.tensor(answer)
        mask[index, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **_visual_inputs(examples, corpus)}


def _encode(example: Example, processor: UniMedProcessor, draw: random.Random) -> tuple[list[int], list[int]]:
    parts = example.prompt(draw.choice(example.spec.train_prompts))
    return processor.prompt_ids(parts), processor.answer_ids(example.answer())


def _visual_inputs(examples: Sequence[Example], corpus: Corpus) -> Batch:
    seen = [example for example in examples if example.picture >= 0]
    if not seen:
        return {}
    pixels = normalised(corpus.pictures[[example.picture for example in seen]])
    tasks = [CONNECTOR_TASKS.index(CONNECTOR_TASK[example.spec.kind]) for example in seen]
    return {"pixel_values": pixels, "task_ids": torch.tensor(tasks)}


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """Return pixels [B, 3, S, S] of bytes [B, 3, S, S], normalised as `pixels_of` does it."""
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return (pictures.float() / 255.0 - mean) / std


def distort_classified(batch: Batch, examples: Sequence[Example], generator: torch.Generator) -> Batch:
    """Show other views of the pictures of classification rows; batches of other tasks stay as they are."""
    if not all(example.spec.kind == CLASSIFIED for example in examples) or "pixel_values" not in batch:
        return batch
    return {**batch, "pixel_values": distorted(jittered(batch["pixel_values"], generator), generator)}
