"""The mixture `image_centric`: a step's micro-batches ask about the same images, one task each.

Every sample is shown as often as by `Mixture`, in expectation over seeds. There a micro-batch of B shows a sample of
entry e B·r_e times, r_e = w_e / (W·N_e). Here a step visits a bundle of images with the probability of its samples
together, M = sum of r_e over them, and a micro-batch is of entry e with probability r_e·m_e / M, all m_e samples of e
in the bundle alike: M · r_e·m_e / M · B / m_e is B·r_e again. Images with one entry, and texts, are drawn by `Mixture`.
"""

import random
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, count, cycle, islice
from math import ceil

from medbench.tasks.foundation.errors import RunError
from medbench.unimed.training.corpus import Corpus, Draw, Mixture
from medbench.unimed.training.recipe import Recipe

Pools = Mapping[str, Sequence[int]]
"""Samples by entry, those about an image or a bundle of images."""
_SEVERAL = 2


def mixture_of(
    recipe: Recipe, corpus: Corpus, *, rank: int = 0, workers: int = 1, together: bool = False
) -> "Mixture | ImageMixture":
    """Return the mixture that a recipe asks for; RunError if it is by image and entries share none."""
    if recipe.draws == "official":
        return Mixture(
            corpus.sizes(), recipe.mixture, micro_batch=recipe.micro_batch, seed=recipe.seed, rank=rank,
            workers=workers, together=together,
        )  # fmt: skip
    images = {name: [corpus.images.known_as(one.image) for one in of] for name, of in corpus.train.items()}
    return ImageMixture(
        images, recipe.mixture, micro_batch=recipe.micro_batch, seed=recipe.seed, rank=rank, workers=workers,
        together=together,
    )  # fmt: skip


class ImageMixture:
    """Samples bundles of images that several entries ask about, and the other samples as `Mixture` does.

    `images` are what the samples of each entry show, None for texts; the rest is as of `Mixture`. A bundle is as few
    images as fill a micro-batch of each of their entries. Bundles are put together anew in each epoch, which visits
    them as evenly as their probabilities allow.
    """

    def __init__(
        self, images: Mapping[str, Sequence[Hashable]], weights: Mapping[str, float], *, micro_batch: int, seed: int,
        rank: int = 0, workers: int = 1, together: bool = False,
    ) -> None:  # fmt: skip
        self._micro_batch, self._rank, self._workers, self._seed = micro_batch, rank, workers, seed
        self._pick_seed = seed if together else seed + rank
        self._rates = {name: weight / len(images[name]) for name, weight in weights.items()}
        asked: dict[Hashable, dict[str, list[int]]] = {}
        for name in weights:
            for index, image in enumerate(images[name]):
                # A text is an image of its own.
                key = (name, index) if image is None else image
                asked.setdefault(key, {}).setdefault(name, []).append(index)
        self._shared: dict[tuple[str, ...], list[Pools]] = {}
        self._others: dict[str, list[int]] = {}
        for pools in asked.values():
            if len(pools) >= _SEVERAL:
                self._shared.setdefault(tuple(pools), []).append(pools)
            else:
                for name, indices in pools.items():
                    self._others.setdefault(name, []).extend(indices)
        if not self._shared:
            problem = "No image is asked about by two entries of the mixture, so image_centric has nothing to draw."
            hint = "Add tasks about the same images (`medbench data profile` shows them), or set draws=official."
            raise RunError(problem, hint)
        rest = {name: self._rates[name] * len(indices) for name, indices in self._others.items()}
        sizes = {name: len(indices) for name, indices in self._others.items()}
        self._rest_mass = sum(rest.values())
        self._rest = Mixture(
            sizes, rest, micro_batch=micro_batch, seed=seed, rank=rank, workers=workers, together=together
        )

    def draws(self, *, parts: int, first_step: int = 0) -> Iterator[Draw]:
        """Yield micro-batches, `parts` per optimizer step, without end; the first ones of `first_step`."""
        rest = self._rest.draws(parts=parts)
        for step, bundle in enumerate(chain.from_iterable(map(self._visits, count()))):
            if bundle is None:
                drawn = [self._of_others(one) for one in islice(rest, parts)]
            elif step >= first_step:
                drawn = self._about(bundle, step, parts)
            if step >= first_step:
                yield from (replace(one, step=step, part=part) for part, one in enumerate(drawn))

    def _visits(self, epoch: int) -> list[Pools | None]:
        """Return the bundle of each step of an epoch, None where the other samples are drawn."""
        draw = random.Random(f"{self._pick_seed}/images/{epoch}")
        bundles = [bundle for alike in self._shared.values() for bundle in self._bundles(alike, draw)]
        masses = [self._mass(bundle) for bundle in bundles]
        steps = ceil(len(bundles) * (1 + self._rest_mass / sum(masses)))
        places = spread([self._rest_mass, *masses], steps, draw)
        draw.shuffle(places)
        return [bundles[place - 1] if place else None for place in places]

    def _bundles(self, images: Sequence[Pools], draw: random.Random) -> list[Pools]:
        """Put together images that the same entries ask about; what is left at the end joins the last bundle."""
        bundles: list[dict[str, list[int]]] = []
        for pools in draw.sample(images, len(images)):
            if not bundles or min(map(len, bundles[-1].values())) >= self._micro_batch:
                bundles.append({name: [] for name in pools})
            for name, indices in pools.items():
                bundles[-1][name] += indices
        if len(bundles) > 1 and min(map(len, bundles[-1].values())) < self._micro_batch:
            for name, indices in bundles.pop().items():
                bundles[-1][name] += indices
        return list[Pools](bundles)

    def _mass(self, pools: Pools) -> float:
        return sum(self._rates[name] * len(indices) for name, indices in pools.items())

    def _about(self, bundle: Pools, step: int, parts: int) -> list[Draw]:
        """Return the micro-batches of a step about one bundle; of each entry no sample twice before all were shown."""
        draw = random.Random(f"{self._pick_seed}/entries/{step}")
        names = list(bundle)
        chosen = spread([self._rates[name] * len(bundle[name]) for name in names], parts, draw)
        deal = random.Random(f"{self._seed + self._rank}/samples/{step}")
        orders = {name: cycle(deal.sample(indices, len(indices))) for name, indices in bundle.items()}
        dealt = step * parts * self._micro_batch
        drawn = []
        for part, name in enumerate(names[place] for place in chosen):
            indices = tuple(islice(orders[name], self._micro_batch))
            # Below zero: `Mixture` counts turns of the same entry from zero on.
            numbers = range(dealt + part * self._micro_batch, dealt + (part + 1) * self._micro_batch)
            turns = tuple(-1 - number * self._workers - self._rank for number in numbers)
            drawn.append(Draw(step=step, part=part, name=name, indices=indices, turns=turns))
        return drawn

    def _of_others(self, drawn: Draw) -> Draw:
        others = self._others[drawn.name]
        return replace(drawn, indices=tuple(others[index] for index in drawn.indices))


def spread(weights: Sequence[float], draws: int, draw: random.Random) -> list[int]:
    """Return places, in their order, each as often as its share of `draws`, rounded up or down by one random number.

    In expectation the share is exact (systematic sampling).
    """
    bounds, offset = list(accumulate(weights)), draw.random()
    points = ((number + offset) / draws * bounds[-1] for number in range(draws))
    return [min(bisect_right(bounds, point), len(bounds) - 1) for point in points]
