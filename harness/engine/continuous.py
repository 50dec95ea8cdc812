"""Continuous batching: finished rows leave, waiting prompts enter, and what they share is computed once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.batching import Batching, RequestQueue
from medbench.harness.engine.budget import Budget, held_type
from medbench.harness.engine.images import ImageEncoder
from medbench.harness.engine.packing import CHUNK, CachedPrefix, NewTokens
from medbench.harness.engine.passes import FixedSteps, Passes
from medbench.harness.engine.requests import Outcome, PrefixedRequest, SharedPrefix, layout_of, out_of_memory
from medbench.harness.engine.sampling import Row, write_next
from medbench.harness.engine.slots import KVSlots, Move, SlotCapacity
from medbench.harness.phases import Phases


@dataclass(slots=True, eq=False)
class _Slot:
    """A request, its answer, the prefix that it continues and what it reads by cross-attention."""

    asked: PrefixedRequest
    row: Row
    prefix: CachedPrefix | None
    state: object

    @property
    def own_length(self) -> int:
        """Tokens whose keys are in the slot."""
        return self.row.length - (self.prefix.length if self.prefix else 0)

    @property
    def shift(self) -> int:
        """Positions minus tokens of what is in the slot."""
        return self.row.request.shift - (self.prefix.layout.shift if self.prefix else 0)


class ContinuousBatching(Batching):
    """Answers the requests of a queue, `budget.rows` of them at a time.

    Every pass writes the next token of each row and, while tokens of the budget are left, reads prompts that wait. With
    `fixed_steps` passes without prompts have a fixed shape, and rows hold copies of what they share.
    """

    def __init__(
        self, adapter: LocalAdapter, encoder: ImageEncoder, queue: RequestQueue, budget: Budget, phases: Phases, *,
        fixed_steps: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(adapter, encoder, queue, budget, phases)
        self._slots: list[_Slot] = []
        self._suspended: Budget | None = None
        self._copies = fixed_steps
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        decoder = self._adapter.decoder
        capacity = SlotCapacity(self.budget.rows, self.budget.tokens, held_type(decoder))
        self._cache = KVSlots(capacity)
        self._passes = Passes(decoder, self._cache)
        self._steps = FixedSteps(decoder, self._cache, self._passes, self.budget.rows) if self._copies else None
        self._cached: dict[SharedPrefix, CachedPrefix] = {}
        self._free: list[int] = []

    @property
    def _holds_rows(self) -> bool:
        return bool(self._slots)

    def _next(self) -> list[PrefixedRequest]:
        """Take requests as long as their rows fit and their prompts are worth this pass."""
        joining: list[PrefixedRequest] = []
        longest = max((self._longest(slot.asked) for slot in self._slots), default=0)
        shared = sum(cached.length for cached in self._cached.values())
        new: set[SharedPrefix] = set()
        # Many rows must not keep prompts out for good.
        tokens = min(len(self._slots), self.budget.prefill // 2)
        while (following := self._queue.peek()) is not None:
            longest = max(longest, self._longest(following))
            prefix = following.prefix
            computed = prefix if prefix is not None and prefix not in self._cached and prefix not in new else None
            cost = following.own_length + (computed.length if computed else 0)
            rows = len(self._slots) + len(joining)
            fits = rows < self.budget.rows and (rows + 1) * longest + shared <= self.budget.tokens
            # The last prompt may be too long by half, so that passes are neither much smaller nor larger than meant.
            if rows and not (fits and tokens + cost // 2 <= self.budget.prefill):
                break
            if computed is not None:
                new.add(computed)
                shared += computed.length
            tokens += cost
            joining.append(self._queue.take())
        return joining

    def _longest(self, one: PrefixedRequest) -> int:
        """Return how many places a request's own slot may take: whole chunks."""
        length = one.request.length if self._copies else one.own_length
        return CHUNK * math.ceil((length + one.request.decoding.max_new_tokens) / CHUNK)

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Run one pass; return the outcomes of what cannot be answered and of rows that end with it."""
        sound, outcomes = self._encoder.sound(requests)
        if outcomes:
            self._forget([one for one in requests if one not in sound])
        if sound or self._slots:
            self._pass(sorted(sound, key=lambda one: -one.own_length))
        return [*outcomes, *self._leave()]

    def _pass(self, joining: Sequence[PrefixedRequest]) -> None:
        """Write the next token of every row, and the first of those that join."""
        rows = [slot.row for slot in self._slots]
        prefixes = self._new_prefixes(joining)
        prompts = self._prompts(joining)
        joined = [
            _Slot(one, Row(request=one.request), None if part.copies else part.prefix, state)
            for one, (part, _), state in zip(joining, prompts, self._embedder.states(joining), strict=True)
        ]
        states = [slot.state for slot in [*self._slots, *joined]] if self._adapter.has_row_states else None
        computed = sum(one.own_length for one in joining) + sum(cached.length for cached, _ in prefixes)
        tokens_of_tasks = Counter(row.request.spec.name for row in rows)
        for one in joining:
            tokens_of_tasks[one.request.spec.name] += one.own_length
        with self._phases.share({"prefill": computed, "decode": len(rows)}, tokens_of_tasks):
            tokens = [row.written[-1] for row in rows]
            if joining or self._steps is None:
                steps = [
                    NewTokens(slot=number, place=slot.own_length, length=1, prefix=slot.prefix, shift=slot.shift)
                    for number, slot in enumerate(self._slots)
                ]
                logits = self._passes.run(tokens, steps, prompts, prefixes, states)
            else:
                places = [slot.own_length for slot in self._slots]
                logits = self._steps.run(tokens, places, [slot.row.position for slot in self._slots])
        self._slots += joined
        with self._phases.time("choose"):
            write_next([slot.row for slot in self._slots], logits, self._adapter.detokenise)
        self._phases.count("prefill tokens run", sum(len(own) for _, own in [*prompts, *prefixes]))
        self._phases.count("passes")
        self._phases.count("decode steps", bool(rows))
        self._phases.count("decode row steps", len(rows))
        self._phases.count("prompt tokens computed", computed)

    def _new_prefixes(self, requests: Sequence[PrefixedRequest]) -> list[tuple[CachedPrefix, torch.Tensor]]:
        """Give slots to prefixes that nobody has computed yet, and embed them."""
        needed = dict.fromkeys(one.prefix for one in requests)
        new = [prefix for prefix in needed if prefix is not None and prefix not in self._cached]
        new.sort(key=lambda prefix: prefix.length)
        for prefix in new:
            slot = self._free.pop() if self._free else len(self._cached)
            layout = layout_of(prefix.segments, self._adapter.attention)
            self._cached[prefix] = CachedPrefix(slot=slot, length=prefix.length, layout=layout)
        embeddings = self._embedder.prefixes(new)
        return [(self._cached[prefix], own) for prefix, own in zip(new, embeddings, strict=True)]

    def _prompts(self, requests: Sequence[PrefixedRequest]) -> list[tuple[NewTokens, torch.Tensor]]:
        """Give slots behind those of all rows to requests, and embed what is their own."""
        parts = []
        for slot, one in enumerate(requests, start=len(self._slots)):
            prefix = self._cached[one.prefix] if one.prefix is not None else None
            copies = self._copies and prefix is not None
            place = prefix.length if prefix is not None and copies else 0
            layout = layout_of(one.own, self._adapter.attention)
            parts.append(
                NewTokens(slot=slot, place=place, length=one.own_length, prefix=prefix, copies=copies, layout=layout)
            )
        return list(zip(parts, self._embedder.own(requests), strict=True))

    def _leave(self) -> list[Outcome]:
        """Take finished rows out; the last rows move into their slots."""
        done = [slot for slot in self._slots if slot.row.stop is not None]
        if not done:
            return []
        remaining = len(self._slots) - len(done)
        holes = [place for place, slot in enumerate(self._slots[:remaining]) if slot.row.stop is not None]
        movers = [place for place in range(remaining, len(self._slots)) if self._slots[place].row.stop is None]
        pairs = list(zip(holes, movers, strict=True))
        with self._phases.time("move rows"):
            self._cache.move([Move(mover, hole, self._slots[mover].own_length) for hole, mover in pairs])
        for hole, mover in pairs:
            self._slots[hole] = self._slots[mover]
        del self._slots[remaining:]
        self._forget([slot.asked for slot in done])
        if self._suspended is not None:
            self.budget, self._suspended = self._suspended, None
            self._begin_afresh()
        shared = (slot.asked.prefix.length for slot in done if slot.asked.prefix is not None)
        self._phases.count("prompt tokens shared", sum(shared))
        return self._outcomes([slot.row for slot in done])

    def _forget(self, requests: Sequence[PrefixedRequest]) -> None:
        """Free the slots of prefixes that only these requests needed."""
        for prefix in self._queue.forget(requests):
            cached = self._cached.pop(prefix, None)
            if cached is not None:
                self._free.append(cached.slot)
                self._cache.drop(cached.slot)

    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Start all rows again, half as many at a time; a row that was alone fails."""
        asked = list(dict.fromkeys([*(slot.asked for slot in self._slots), *requests]))
        self._slots.clear()
        self._phases.count("out of memory")
        # The old cache goes before a new one is made.
        del self._steps, self._passes, self._cache
        torch.cuda.empty_cache()
        failed: list[Outcome] = []
        if len(asked) > 1:
            self.budget = self.budget.halved(len(asked))
            self._queue.put_back(asked)
        elif self.budget.rows > 1:
            # The last of many rows: their slots took the memory. Alone in fresh ones it may well fit.
            self._suspended = self.budget
            self.budget = replace(self.budget, rows=1)
            self._queue.put_back(asked)
        else:
            # What was impossible alone is what took the memory: the others need no smaller budget for it.
            self.budget = self._suspended or self._first_budget
            self._suspended = None
            self._queue.forget(asked)
            failed = [out_of_memory(one.request) for one in asked]
        self._begin_afresh()
        return failed
