"""From the recipe's mixture to tensors: what a step sees is a function of seed, step and process, made ahead."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch.nn.utils.rnn import pad_sequence

from medbench.unimed.configuration import CONNECTOR_TASKS
from medbench.unimed.modeling import IGNORED_LABEL
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import CONNECTOR_TASK
from medbench.unimed.training.corpus import Corpus, Example, FeatureCache
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.training.vision_stage import distorted, jittered

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
        prompt = _cut(prompt, longest_prompt, processor.image_token_id)
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


def _cut(ids: list[int], limit: int, image_token: int) -> list[int]:
    # Up to the last visual token at least.
    images = len(ids) - ids[::-1].index(image_token) if image_token in ids else 0
    return ids[: max(limit, images)]


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
