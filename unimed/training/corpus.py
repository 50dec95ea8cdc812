"""The training corpus: prepared train splits, what is held out of them, their images, and features of these."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medbench.tasks.answers.box_space import UNI_MED
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import file_sha256, fingerprint
from medbench.tasks.images import locate, open_image
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed.checkpoint import JOINED
from medbench.unimed.processing import CLIP_MEAN, CLIP_STD
from medbench.unimed.prompts import PromptForm, WrappedPrompt, instruct, taught_answer, wrap
from medbench.unimed.training.recipe import Recipe

_file_digest = cache(file_sha256)
MEMORY_LIMIT = 2 << 30  # Bytes of decoded images that are kept; what is above is decoded again.


class Images:
    """Square 8-bit RGB images of a `size` by row: decoded when needed, up to `memory` bytes kept, known by content."""

    def __init__(self, size: int, memory: int = MEMORY_LIMIT) -> None:
        self.size, self._most = size, memory // (3 * size * size)
        self.digests: dict[tuple[Path, str], str] = {}  # Of image files; the others are hashed when asked for.
        self._rows: dict[tuple[Path, ImageRef], int] = {}
        self._places: list[tuple[Path, ImageRef]] = []
        self._kept: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, source: Path, ref: ImageRef) -> int:
        """Return the row of an image, the same for the same image."""
        row = self._rows.setdefault((source, ref), len(self._places))
        if row == len(self._places):
            self._places.append((source, ref))
        return row

    def place(self, row: int) -> tuple[Path, ImageRef]:
        """Return source folder and reference of a row."""
        return self._places[row]

    def digest(self, row: int) -> str:
        """Return the identity of an image's content: its file's hash and its place inside."""
        source, ref = self._places[row]
        of_file = self.digests.get((source, ref.path)) or _file_digest(locate(source, ref.path))
        return hashlib.sha256(f"{of_file}/{ref.member}/{ref.index}".encode()).hexdigest()

    def pixels(self, rows: Sequence[int]) -> torch.Tensor:
        """Return images [B, 3, S, S], float32, normalised as `pixels_of` does it; SampleError if one is damaged."""
        mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
        return (torch.stack([self._decoded(row) for row in rows]).float() / 255.0 - mean) / std

    def _decoded(self, row: int) -> torch.Tensor:
        if row in self._kept:
            return self._kept[row]
        square = open_image(*self._places[row]).resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1)
        if len(self._kept) < self._most:
            self._kept[row] = image
        return image


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training question; `image` is the row of its image in the corpus, or -1."""

    spec: TaskSpec
    sample: Sample
    image: int

    def prompt(self, form: PromptForm, template: str | None = None) -> WrappedPrompt:
        """Return the wrapped instruction, by the evaluation prompt or a template of the pool."""
        text = instruct(self.spec, self.sample, form, box=self._box_text(), template=template)
        return wrap(self.spec.kind, text, images=int(self.image >= 0), form=form, purpose="train")

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
    """Training examples by entry of the mixture, held-out ones by task, and the images of both."""

    train: Mapping[str, Sequence[Example]]
    held_out: Mapping[str, Sequence[Example]]
    images: Images

    def sizes(self) -> dict[str, int]:
        """Return the number of training examples of each entry."""
        return {name: len(examples) for name, examples in self.train.items()}

    def texts(self, form: PromptForm) -> Iterator[str]:
        """Yield prompts and answers of the training examples, for a tokenizer."""
        for example in chain.from_iterable(self.train.values()):
            for template in example.spec.train_prompts[:2]:
                yield from example.prompt(form, template).parts
            yield example.answer(form)


def load_corpus(data_dir: Path, recipe: Recipe, *, image_size: int) -> Corpus:
    """Read the train splits of a recipe's tasks; whole groups (images, patients, volumes, documents) are held out.

    RunError if an entry of the mixture has no training examples; DataError if a task is not prepared.
    """
    images = Images(image_size)
    train: dict[str, list[Example]] = {entry: [] for entry in recipe.mixture}
    held_out: dict[str, list[Example]] = {name: [] for name in recipe.tasks()}
    for entry, name in [(joined, name) for joined in recipe.mixture for name in joined.split(JOINED)]:
        spec, prepared = get_task(name), load_prepared(data_dir, name)
        images.digests |= {(prepared.source, path): of for path, of in (prepared.image_hashes() or {}).items()}
        for sample in prepared.samples("train"):
            row = images.add(prepared.source, sample.images[0]) if sample.images else -1
            group = sample.groups.get(spec.group_key, sample.sample_id)
            place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
            chosen = held_out[name] if place < recipe.validation.share else train[entry]
            chosen.append(Example(spec=spec, sample=sample, image=row))
    empty = [name for name, examples in train.items() if not examples]
    if empty:
        hint = "Prepare the data with its train split, lower validation.share, or take the task out of the mixture."
        raise RunError(f"No training samples: {', '.join(empty)}.", hint)
    return Corpus(train=train, held_out=held_out, images=images)


Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(slots=True)
class FeatureCache:
    """Feature tensors by the digest of their image.

    One file per image, written whole or not at all: processes and trainings may share the folder. At the limit nothing
    more is stored. A file of the wrong size is computed again; a full disk ends the storing, not the training.
    """

    folder: Path  # Of this tower, see `feature_folder`.
    shape: tuple[int, ...]  # Of one image's features.
    dtype: torch.dtype  # Of the stored values.
    limit: int  # Bytes that the folder may hold.
    _used: int = -1

    def get(self, digest: str) -> torch.Tensor | None:
        """Return the features of an image, or None."""
        try:
            values = np.fromfile(self._path(digest), dtype=np.uint8)
        except OSError:
            return None
        whole = len(values) == self._bytes_each()
        return torch.from_numpy(values).view(self.dtype).reshape(self.shape) if whole else None

    def put(self, digest: str, features: torch.Tensor) -> None:
        """Store the features of an image if there is room."""
        if self._used < 0:
            self._used = sum(file.stat().st_size for file in self.folder.rglob("*.bin")) if self.limit else 0
        if self._used + self._bytes_each() > self.limit:
            return
        path = self._path(digest)
        partial = path.with_name(f".{digest}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            features.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(partial)
            partial.replace(path)
            self._used += self._bytes_each()
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            self.limit = 0
            warn(f"Features are no longer stored in {self.folder}: {error.strerror or error}. The training goes on.")

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.bin"

    def _bytes_each(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def feature_folder(root: Path, tower: torch.nn.Module, settings: Mapping[str, object]) -> Path:
    """Return the folder of a tower's features: another weight or setting (size, resampler, type) is another folder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return root / "features" / fingerprint({"weights": digest.hexdigest(), **settings})


@torch.no_grad()
def features_of(
    digests: Sequence[str], found: Sequence[torch.Tensor | None], pixels: torch.Tensor, encode: Encode,
    cache: FeatureCache
) -> torch.Tensor:  # fmt: skip
    """Return features [I, ...] of images: `found` ones, the others computed of `pixels` [J, 3, S, S] and stored."""
    computed = iter(encode(pixels).to(cache.dtype) if len(pixels) else ())
    rows = []
    for digest, known in zip(digests, found, strict=True):
        features = next(computed) if known is None else known
        if known is None:
            cache.put(digest, features)
        rows.append(features.to(pixels.device))
    return torch.stack(rows)
