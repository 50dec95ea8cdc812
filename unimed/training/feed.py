"""Micro-batches made ahead: while the model takes a step, the next texts are tokenised and pictures decoded."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.training.batches import Batch, Limits, distort_classified, picture_rows, template_of, text_batch
from medbench.unimed.training.corpus import Corpus, Example
from medbench.unimed.training.features import FeatureCache
from medbench.unimed.training.mixture import Draw
from medbench.unimed.training.recipe import Recipe

AHEAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A micro-batch on the CPU.

    Attributes:
        draw: Where it comes from.
        kind: The kind of its tasks.
        batch: Texts.
        digests: Identities of its pictures, where features are cached.
        found: Their cached features, None where there were none.
        pixels: Of the pictures without cached features [J, 3, S, S]; None if there are none.
    """

    draw: Draw
    kind: str
    batch: Batch
    digests: tuple[str, ...] = ()
    found: tuple[torch.Tensor | None, ...] = ()
    pixels: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kitchen:
    """Makes micro-batches; nothing in it changes, so any thread may use it."""

    recipe: Recipe
    corpus: Corpus
    processor: UniMedProcessor
    cache: FeatureCache | None
    rank: int

    def make(self, draw: Draw) -> Ready:
        """Return the micro-batch of a draw."""
        examples = [self.corpus.train[draw.name][index] for index in draw.indices]
        turns = zip(examples, draw.turns, strict=True)
        templates = [template_of(example, self.recipe.seed, turn) for example, turn in turns]
        limits = Limits(prompt=self.recipe.max_prompt_tokens, answer=self.recipe.max_answer_tokens)
        batch = text_batch(examples, templates, self.processor, limits)
        kind, rows = examples[0].spec.kind, picture_rows(examples)
        if not rows:
            return Ready(draw=draw, kind=kind, batch=batch)
        if self.cache is None:
            return Ready(draw=draw, kind=kind, batch=batch, pixels=self._pixels(examples, rows, draw))
        digests = tuple(self.corpus.pictures.digest(row) for row in rows)
        found = tuple(self.cache.get(digest) for digest in digests)
        missing = [row for row, features in zip(rows, found, strict=True) if features is None]
        pixels = self.corpus.pictures.pixels(missing) if missing else None
        return Ready(draw=draw, kind=kind, batch=batch, digests=digests, found=found, pixels=pixels)

    def _pixels(self, examples: list[Example], rows: list[int], draw: Draw) -> torch.Tensor:
        pixels = self.corpus.pictures.pixels(rows)
        if not self.recipe.augment_classification:
            return pixels
        coin = torch.Generator().manual_seed(seed_of(self.recipe.seed, draw.step, self.rank) + draw.part)
        return distort_classified(pixels, examples, coin)


def seed_of(seed: int, step: int, rank: int) -> int:
    """Return the seed of everything random in one process's step: dropout, and other views of pictures."""
    return ((seed * 1_000_003 + step) * 1_009 + rank) * 64 % 2**63


def feed(kitchen: Kitchen, draws: Iterator[Draw]) -> Iterator[Ready]:
    """Yield micro-batches in the order of their draws, a few made ahead by another thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as cook:
        waiting: deque[Future[Ready]] = deque(cook.submit(kitchen.make, draw) for draw in islice(draws, AHEAD))
        try:
            for draw in draws:
                yield waiting.popleft().result()
                waiting.append(cook.submit(kitchen.make, draw))
        finally:
            for future in waiting:
                future.cancel()
