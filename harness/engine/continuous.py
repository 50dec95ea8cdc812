"""Continuous batching: finished rows leave, waiting prompts enter, and what they share is computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from adapters.base import LocalAdapter
from harness.engine.budget import Budget
from harness.engine.choosing import Row, outcome_of, write_next
from harness.engine.grouping import Beginning, Member
from harness.engine.passes import Passes, Reading
from harness.engine.prompts import Embedder
from harness.engine.request import Outcome, out_of_memory
from harness.engine.slots import SlotCache
from harness.engine.upcoming import Upcoming
from harness.engine.vision import Vision
from harness.phases import Phases

_ADMIT_FROM_SHARE_FREE = 4
_PADDING_SHARE = 0.03
_LEAST_PREFILL = 128


@dataclass(slots=True, eq=False)
class _Slot:
    """A member and its answer."""

    member: Member
    row: Row


class ContinuousBatching:
    """Answers members of `Upcoming`, `budget.rows` of them at a time.

    Args:
        adapter: The model.
        reading: How its decoder reads keys.
        vision: Prepares images.
        upcoming: What is to be answered.
        budget: What may be held at once; made smaller when memory runs out.
        phases: Where time and counts are kept.
    """

    def __init__(
        self,
        adapter: LocalAdapter,
        reading: Reading,
        vision: Vision,
        upcoming: Upcoming,
        budget: Budget,
        phases: Phases,
    ) -> None:
        self._adapter = adapter
        self._reading = reading
        self._vision = vision
        self._embedder = Embedder(adapter, vision)
        self._upcoming = upcoming
        self._phases = phases
        self._slots: list[_Slot] = []
        self._first_budget = self.budget = budget
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        layers = int(self._adapter.decoder.config.num_hidden_layers)
        self._cache = SlotCache(layers, self.budget.rows)
        self._passes = Passes(self._adapter.decoder, self._cache, self._reading)

    def run(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as rows finish; their order is the engine's."""
        while self._upcoming.peek() is not None or self._slots:
            chunk: list[Member] = []
            try:
                with torch.inference_mode():
                    if self._has_room():
                        chunk = self._next_chunk()
                        outcomes = self._admit(chunk)
                    else:
                        outcomes = self._step()
            except torch.OutOfMemoryError:
                outcomes = self._shrink(chunk)
            if outcomes:
                yield outcomes

    def _has_room(self) -> bool:
        """Return whether to admit now: a quarter of all rows at once, so that prompts come in batches worth a pass."""
        following = self._upcoming.peek()
        if following is None or not self._slots:
            return following is not None
        capacity = self._capacity([following])
        return capacity - len(self._slots) >= max(1, capacity // _ADMIT_FROM_SHARE_FREE)

    def _capacity(self, joining: Sequence[Member]) -> int:
        """Return how many rows fit when each may become as long as the longest of all."""
        requests = [slot.member.request for slot in self._slots] + [member.request for member in joining]
        longest = max(request.length + request.decoding.max_new_tokens for request in requests)
        return max(1, min(self.budget.rows, self.budget.tokens // longest))

    def _fits(self, joining: Sequence[Member]) -> bool:
        return len(self._slots) + len(joining) <= self._capacity(joining)

    def _next_chunk(self) -> list[Member]:
        chunk: list[Member] = []
        while (following := self._upcoming.peek()) is not None and self._fits([*chunk, following]):
            chunk.append(self._upcoming.take())
        return chunk

    def _admit(self, chunk: Sequence[Member]) -> list[Outcome]:
        sound, outcomes = self._vision.sound(chunk)
        self._keep_beginnings(sound)
        for batch in _batches(sound, self.budget.prefill):
            self._prefill(batch)
        self._upcoming.forget(chunk)
        return [*outcomes, *self._leave()]

    def _keep_beginnings(self, members: Sequence[Member]) -> None:
        kept = self._upcoming.kept
        new = [
            one for one in dict.fromkeys(member.beginning for member in members) if one is not None and one not in kept
        ]
        for batch in _of_equal_length(new, self.budget.prefill):
            embeddings = self._embedder.beginnings(batch)
            first = len(self._slots)
            with self._phases.time("prefill"):
                self._passes.prefill(first, embeddings, [0] * len(batch))
                for place, beginning in enumerate(batch):
                    kept[beginning] = self._cache.keep(first + place, beginning.length)
            self._count_prefill([beginning.length for beginning in batch])

    def _prefill(self, batch: Sequence[Member]) -> None:
        embeddings = self._embedder.own(batch)
        first = len(self._slots)
        starts = []
        with self._phases.time("prefill"):
            for row, member in enumerate(batch, start=first):
                if member.beginning is not None:
                    self._cache.begin(row, self._upcoming.kept[member.beginning])
                    self._phases.count("prompt tokens shared", member.beginning.length)
                starts.append(0 if member.beginning is None else member.beginning.length)
            logits = self._passes.prefill(first, embeddings, starts)
        self._count_prefill([member.own_length for member in batch])
        slots = [_Slot(member, Row(request=member.request)) for member in batch]
        write_next([slot.row for slot in slots], logits, self._adapter.detokenise)
        self._slots += slots

    def _count_prefill(self, lengths: Sequence[int]) -> None:
        self._phases.count("prompt tokens computed", sum(lengths))
        self._phases.count("prefill tokens run", len(lengths) * max(lengths))
        self._phases.count("prefills")

    def _step(self) -> list[Outcome]:
        rows = [slot.row for slot in self._slots]
        with self._phases.time("decode"):
            logits = self._passes.step([row.written[-1] for row in rows], [row.length for row in rows])
            write_next(rows, logits, self._adapter.detokenise)
        self._phases.count("decode steps")
        self._phases.count("decode row steps", len(rows))
        return self._leave()

    def _leave(self) -> list[Outcome]:
        """Take finished rows out; the last rows move into their slots."""
        done = [slot.row for slot in self._slots if slot.row.stop is not None]
        if not done:
            return []
        remaining = len(self._slots) - len(done)
        holes = [place for place, slot in enumerate(self._slots[:remaining]) if slot.row.stop is not None]
        movers = [place for place in range(remaining, len(self._slots)) if self._slots[place].row.stop is None]
        with self._phases.time("move rows"):
            reach = max((self._slots[place].row.length for place in movers), default=0)
            self._cache.move(movers, holes, reach)
        for hole, mover in zip(holes, movers, strict=True):
            self._slots[hole] = self._slots[mover]
        del self._slots[remaining:]
        self._phases.count("prompt tokens", sum(row.request.length for row in done))
        self._phases.count("output tokens", sum(len(row.written) for row in done))
        self._phases.count("answers", len(done))
        with self._phases.time("detokenise"):
            return [outcome_of(row, self._adapter.detokenise) for row in done]

    def _shrink(self, chunk: Sequence[Member]) -> list[Outcome]:
        """Start all rows again, half as many at a time; a row that was alone fails."""
        members = list(dict.fromkeys([*(slot.member for slot in self._slots), *chunk]))
        self._slots.clear()
        self._upcoming.kept.clear()
        self._phases.count("out of memory")
        # The old cache goes before a new one is made.
        del self._passes, self._cache
        torch.cuda.empty_cache()
        if len(members) > 1:
            self.budget = self.budget.halved(len(members))
            self._upcoming.put_back(members)
            self._begin_afresh()
            return []
        # What was impossible alone is what took the memory: the others need no smaller budget for it.
        self.budget = self._first_budget
        self._upcoming.forget(members)
        self._begin_afresh()
        return [out_of_memory(member.request) for member in members]


def _batches(members: Sequence[Member], tokens: int) -> Iterator[list[Member]]:
    """Yield members of like lengths, longest first; a small batch takes shorter ones in rather than stay small."""
    batch: list[Member] = []
    own = 0
    for member in sorted(members, key=lambda one: -one.own_length):
        longest = batch[0].own_length if batch else member.own_length
        run = (len(batch) + 1) * longest
        padding = run - own - member.own_length
        if batch and (run > tokens or (padding > _PADDING_SHARE * run and own >= _LEAST_PREFILL)):
            yield batch
            batch, own = [], 0
        batch.append(member)
        own += member.own_length
    if batch:
        yield batch


def _of_equal_length(beginnings: Sequence[Beginning], tokens: int) -> Iterator[list[Beginning]]:
    by_length: dict[int, list[Beginning]] = {}
    for beginning in beginnings:
        by_length.setdefault(beginning.length, []).append(beginning)
    for length, alike in by_length.items():
        together = max(1, tokens // length)
        for start in range(0, len(alike), together):
            yield alike[start : start + together]
