"""Which samples a step sees: a pure function of seed, step and worker, so that a resumed training goes on exactly."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One micro-batch.

    Attributes:
        step: Optimizer step.
        part: Place of the micro-batch within its step.
        name: Entry of the mixture that all its samples come from, as in the official code.
        indices: Samples of that entry.
        turns: How often the entry was drawn from before, per sample; seeds what else is random about the sample.
    """

    step: int
    part: int
    name: str
    indices: tuple[int, ...]
    turns: tuple[int, ...]


class Mixture:
    """Samples entries by weight, and within an entry every sample once before any comes again.

    Args:
        sizes: Samples of each entry.
        weights: Sampling weight of each entry, in the order that the draws run over.
        micro_batch: Samples per draw.
        seed: Of everything; each worker's draws are seeded with `seed + rank`, as in the official code.
        rank: This worker.
        workers: All workers; each deals its own share of an entry's order.
        together: Whether all workers draw the same entry, as sharded weights need it: one gradient is put together from
            all workers, so the same parameters must have one everywhere.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        *,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        workers: int = 1,
        together: bool = False,
    ) -> None:
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
        """Yield micro-batches from a step on, without end.

        Args:
            parts: Micro-batches per optimizer step.
            first_step: Steps that were taken before.
        """
        dealt = dict.fromkeys(self._weights, 0)
        for count, name in enumerate(self.picks()):
            start = dealt[name]
            dealt[name] += self._micro_batch
            if count < first_step * parts:
                continue
            turns = tuple(turn * self._workers + self._rank for turn in range(start, dealt[name]))
            yield Draw(
                step=count // parts,
                part=count % parts,
                name=name,
                indices=tuple(self._index(name, turn) for turn in turns),
                turns=turns,
            )

    def _index(self, name: str, turn: int) -> int:
        epoch, place = divmod(turn, self._sizes[name])
        if self._orders.get(name, (-1,))[0] != epoch:
            order = list(range(self._sizes[name]))
            random.Random(f"{self._seed}/{name}/{epoch}").shuffle(order)
            self._orders[name] = (epoch, order)
        return self._orders[name][1][place]
