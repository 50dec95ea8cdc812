"""The training corpus, its images and their features; what a step sees is a function of seed, step and process."""

import hashlib
import math
import os
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence

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
from medbench.unimed.configuration import CONNECTOR_TASKS, Scale
from medbench.unimed.modeling import IGNORED_LABEL
from medbench.unimed.processing import CLIP_SCALE, UniMedProcessor
from medbench.unimed.prompts import CONNECTOR_TASK, PromptForm, WrappedPrompt, instruct, taught_answer, wrap
from medbench.unimed.training.recipe import Recipe

_file_digest = cache(file_sha256)
MEMORY_LIMIT = 2 << 30  # Bytes of decoded images that are kept; what is above is decoded again.
TURN = 0.26  # Radians, about 15 degrees.
ZOOM, SHIFT = 0.15, 0.1  # Shares of the image's side.
JITTER = 0.2  # Of brightness and contrast.


class Images:
    """Square 8-bit RGB images of a `size` by row: decoded when needed, up to `memory` bytes kept, known by content."""

    def __init__(self, size: int, memory: int = MEMORY_LIMIT, *, scale: Scale = CLIP_SCALE) -> None:
        self.size, self.scale, self._most = size, scale, memory // (3 * size * size)
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

    def known_as(self, row: int) -> Hashable:
        """Return what tells an image from others without reading a file, None for the row of none (-1)."""
        if row < 0:
            return None
        source, ref = self._places[row]
        return self.digests.get((source, ref.path), (source, ref.path)), ref.member, ref.index

    def digest(self, row: int) -> str:
        """Return the identity of an image's content: its file's hash and its place inside."""
        source, ref = self._places[row]
        of_file = self.digests.get((source, ref.path)) or _file_digest(locate(source, ref.path))
        return hashlib.sha256(f"{of_file}/{ref.member}/{ref.index}".encode()).hexdigest()

    def pixels(self, rows: Sequence[int]) -> torch.Tensor:
        """Return images [B, 3, S, S], float32, normalised as `pixels_of` does it; SampleError if one is damaged."""
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in self.scale)
        return (torch.stack([self._decoded(row) for row in rows]).float() / 255.0 - mean) / std

    def _decoded(self, row: int) -> torch.Tensor:
        if row in self._kept:
            return self._kept[row]
        square = open_image(*self._places[row]).resize((self.size, self.size), Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1)
        if len(self._kept) < self._most:
            self._kept[row] = image
        return image


def distorted(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pixels [B, 3, S, S], each image mirrored, turned, zoomed and shifted at random; edges are reflected."""

    def spread() -> torch.Tensor:
        return 2 * torch.rand(len(pixels), generator=generator) - 1

    turn, zoom = spread() * TURN, 1 + spread() * ZOOM
    across, down = spread().sign(), spread().sign()
    # Affine maps [B, 2, 3] from output to input coordinates (-1 to 1).
    first = torch.stack([turn.cos() * zoom * across, -turn.sin() * zoom, 2 * SHIFT * spread()], dim=1)
    second = torch.stack([turn.sin() * zoom, turn.cos() * zoom * down, 2 * SHIFT * spread()], dim=1)
    grid = nn.functional.affine_grid(torch.stack([first, second], dim=1), list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def jittered(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pixels [B, 3, S, S], each image with another brightness and contrast."""
    noise = JITTER * (2 * torch.rand(2, len(pixels), 1, 1, 1, generator=generator) - 1)
    return pixels * (1 + noise[0]) + noise[1]


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


def load_corpus(data_dir: Path, recipe: Recipe, *, image_size: int, scale: Scale = CLIP_SCALE) -> Corpus:
    """Read the train splits of a recipe's tasks; whole groups (images, patients, volumes, documents) are held out.

    RunError if an entry of the mixture has no training examples; DataError if a task is not prepared.
    """
    images = Images(image_size, scale=scale)
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


Batch = dict[str, torch.Tensor]
AHEAD = 3
LONGEST_PROMPT, LONGEST_ANSWER = 3800, 1024  # In tokens; what is above is cut on the right, as in the official code.


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One micro-batch."""

    step: int
    part: int  # Place of the micro-batch within its step.
    name: str  # Entry of the mixture that all its samples come from, as in the official code.
    indices: tuple[int, ...]  # Samples of that entry.
    turns: tuple[int, ...]  # Per sample, draws from the entry before it: the seed of what else is random about it.


class Mixture:
    """Samples entries by weight, and within an entry every sample once before any comes again.

    `sizes` are the samples of each entry, `weights` in the order that the draws run over. Each process's draws are
    seeded with `seed + rank`, as in the official code, and each deals its own share of an entry's order. Sharded
    weights need all processes `together` to draw the same entry: the same parameters must have a gradient everywhere.
    """

    def __init__(
        self, sizes: Mapping[str, int], weights: Mapping[str, float], *, micro_batch: int, seed: int, rank: int = 0,
        workers: int = 1, together: bool = False,
    ) -> None:  # fmt: skip
        self._sizes, self._weights = dict(sizes), dict(weights)
        self._micro_batch, self._seed, self._rank, self._workers = micro_batch, seed, rank, workers
        self._pick_seed = seed if together else seed + rank
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def picks(self) -> Iterator[str]:
        """Yield the entries that are drawn, without end; equals the official sequence for the official weights."""
        draw = random.Random(self._pick_seed)
        names, weights = list(self._weights), list(self._weights.values())
        while True:
            yield draw.choices(names, weights)[0]

    def draws(self, *, parts: int, first_step: int = 0) -> Iterator[Draw]:
        """Yield micro-batches, `parts` per optimizer step, without end; the first ones of `first_step`."""
        dealt = dict.fromkeys(self._weights, 0)
        for count, name in enumerate(self.picks()):
            start = dealt[name]
            dealt[name] += self._micro_batch
            if count < first_step * parts:
                continue
            turns = tuple(turn * self._workers + self._rank for turn in range(start, dealt[name]))
            indices = tuple(self._index(name, turn) for turn in turns)
            yield Draw(step=count // parts, part=count % parts, name=name, indices=indices, turns=turns)

    def _index(self, name: str, turn: int) -> int:
        epoch, place = divmod(turn, self._sizes[name])
        if self._orders.get(name, (-1,))[0] != epoch:
            order = list(range(self._sizes[name]))
            random.Random(f"{self._seed}/{name}/{epoch}").shuffle(order)
            self._orders[name] = (epoch, order)
        return self._orders[name][1][place]


def text_batch(
    examples: Sequence[Example], templates: Sequence[str], processor: UniMedProcessor, *,
    longest_prompt: int = LONGEST_PROMPT, longest_answer: int = LONGEST_ANSWER
) -> Batch:  # fmt: skip
    """Return right-padded `input_ids`, `attention_mask` and `labels` [B, L], and `task_ids` [I] of the images."""
    ids, mask, labels = [], [], []
    for example, template in zip(examples, templates, strict=True):
        prompt = processor.prompt_ids(example.prompt(processor.form, template))
        # Cut on the right, but never into an image.
        seen = len(prompt) - prompt[::-1].index(processor.image_token_id) if example.image >= 0 else 0
        prompt = prompt[: max(longest_prompt, seen)]
        answer = processor.answer_ids(example.answer(processor.form), longest_answer)
        ids.append(torch.tensor(prompt + answer))
        mask.append(torch.ones(len(prompt) + len(answer), dtype=torch.long))
        labels.append(torch.tensor([IGNORED_LABEL] * len(prompt) + answer))
    padded = partial(pad_sequence, batch_first=True)
    batch = {
        "input_ids": padded(ids, padding_value=int(processor.tokenizer.pad_token_id)),
        "attention_mask": padded(mask), "labels": padded(labels, padding_value=IGNORED_LABEL),
    }  # fmt: skip
    tasks = [CONNECTOR_TASKS.index(CONNECTOR_TASK[example.spec.kind]) for example in examples if example.image >= 0]
    return {**batch, "task_ids": torch.tensor(tasks)} if tasks else batch


def image_rows(examples: Sequence[Example]) -> list[int]:
    """Return the rows of the examples' images, in the order of their placeholders."""
    return [example.image for example in examples if example.image >= 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """A micro-batch on the CPU."""

    name: str  # Entry of the mixture, or task, that it comes from.
    texts: Batch  # What `text_batch` gives.
    digests: tuple[str, ...] = ()  # Identities of its images, where features are cached.
    found: tuple[torch.Tensor | None, ...] = ()  # Their cached features, None where there were none.
    pixels: torch.Tensor | None = None  # Of the images without cached features [J, 3, S, S]; None if there are none.


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMaker:
    """Makes micro-batches; nothing in it changes, so any thread may use it."""

    recipe: Recipe
    corpus: Corpus
    processor: UniMedProcessor
    cache: FeatureCache | None
    rank: int

    def make(self, draw: Draw) -> MicroBatch:
        """Return the micro-batch of a draw."""
        recipe, images, pixels = self.recipe, self.corpus.images, None
        examples = [self.corpus.train[draw.name][index] for index in draw.indices]
        templates = []
        for one, turn in zip(examples, draw.turns, strict=True):
            templates.append(random.Random(f"{recipe.seed}/{one.spec.name}/{turn}").choice(one.spec.train_prompts))
        longest = {"longest_prompt": recipe.max_prompt_tokens, "longest_answer": recipe.max_answer_tokens}
        texts, rows = text_batch(examples, templates, self.processor, **longest), image_rows(examples)
        if not rows:
            return MicroBatch(name=draw.name, texts=texts)
        if self.cache is None:
            pixels = images.pixels(rows)
            # Other tasks than classification may ask for sides or sizes.
            if recipe.augment_classification and all(example.spec.kind == "cls" for example in examples):
                coin = torch.Generator().manual_seed(seed_of(recipe.seed, draw.step, self.rank) + draw.part)
                pixels = distorted(jittered(pixels, coin), coin)
            return MicroBatch(name=draw.name, texts=texts, pixels=pixels)
        digests = tuple(map(images.digest, rows))
        found = tuple(map(self.cache.get, digests))
        missing = [row for row, features in zip(rows, found, strict=True) if features is None]
        pixels = images.pixels(missing) if missing else None
        return MicroBatch(name=draw.name, texts=texts, digests=digests, found=found, pixels=pixels)

    def ahead(self, draws: Iterator[Draw]) -> Iterator[MicroBatch]:
        """Yield micro-batches in the order of their draws, a few made ahead by another thread."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            waiting: deque[Future[MicroBatch]] = deque(pool.submit(self.make, draw) for draw in islice(draws, AHEAD))
            try:
                for draw in draws:
                    yield waiting.popleft().result()
                    waiting.append(pool.submit(self.make, draw))
            finally:
                pool.shutdown(cancel_futures=True)


def seed_of(seed: int, step: int, rank: int) -> int:
    """Return the seed of everything random in one process's step: dropout, and other views of images."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) * 64 % 2**63
