"""Continuous batching: finished rows leave, waiting prompts enter, and what they share is computed once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.batching import Batching, RequestQueue, Row, write_next
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.images import Images
from medbench.harness.engine.packing import NewTokens
from medbench.harness.engine.passes import Passes, store_for
from medbench.harness.engine.requests import Outcome, PrefixedRequest, SharedPrefix, layout_of
from medbench.harness.engine.timing import WAITED, timed
from medbench.harness.phases import Phases


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot(Row):
    """A row with what it came from, the prefix that it continues and what it reads by cross-attention."""

    asked: PrefixedRequest
    prefix: SharedPrefix | None
    state: object

    def last_token(self, slot: int) -> NewTokens:
        """Return where the last token goes, which the decoder has not read."""
        elsewhere, shift = (self.prefix.length, self.prefix.layout.shift) if self.prefix else (0, 0)
        place = self.length - elsewhere
        return NewTokens(slot=slot, place=place, length=1, prefix=self.prefix, shift=self.request.shift - shift)


class ContinuousBatching(Batching):
    """Answers the requests of a queue, `budget.rows` of them at a time.

    Every pass writes the next token of each row and, while tokens of the budget are left, reads prompts that wait.
    """

    _makes_room = True

    def __init__(
        self, adapter: LocalAdapter, images: Images, queue: RequestQueue, budget: Budget, phases: Phases
    ) -> None:
        super().__init__(adapter, images, queue, budget, phases)
        self._let_go()

    def _let_go(self) -> None:
        decoder = self._adapter.decoder
        self._slots: list[_Slot] = []
        self._cache = store_for(decoder, self.budget)
        self._passes = Passes(decoder, self._cache)
        self._phases.notes["keys and values"] = self._cache.name
        self._cached: set[SharedPrefix] = set()
        super()._let_go()

    def _under_way(self) -> list[PrefixedRequest]:
        return [slot.asked for slot in self._slots]

    def _next(self) -> list[PrefixedRequest]:
        """Take requests as long as their rows fit and their prompts are worth this pass."""
        joining: list[PrefixedRequest] = []
        rows = [slot.asked for slot in self._slots]
        held = set(self._cached)
        # Many rows must not keep prompts out for good.
        tokens = min(len(self._slots), self.budget.prefill // 2)
        while (following := self._queue.peek()) is not None:
            new = {following.prefix} - held if following.prefix else set()
            cost = following.own_length + sum(prefix.length for prefix in new)
            fits = len(rows) < self.budget.rows
            fits = fits and self._cache.places([*rows, following], held | new) <= self.budget.tokens
            # The last prompt may be too long by half, so that passes are neither much smaller nor larger than meant.
            if rows and not (fits and tokens + cost // 2 <= self.budget.prefill):
                break
            held |= new
            tokens += cost
            joining.append(self._queue.take())
            rows.append(following)
        return joining

    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        sound, outcomes = self._images.sound(requests)
        if sound or self._slots:
            self._pass(sorted(sound, key=lambda one: -one.own_length))
        # Not before: if memory runs out, these come again as well.
        self._forget([one for one in requests if one not in sound])
        return [*outcomes, *self._leave()]

    def _pass(self, joining: Sequence[PrefixedRequest]) -> None:
        rows = self._slots
        prefixes = self._new_prefixes(joining)
        prompts = self._prompts(joining)
        joined = [
            _Slot(request=one.request, asked=one, prefix=part.prefix, state=state)
            for one, (part, _), state in zip(joining, prompts, self._images.states(joining), strict=True)
        ]
        states = [slot.state for slot in [*rows, *joined]] if self._adapter.has_row_states else None
        computed = sum(one.own_length for one in joining) + sum(prefix.length for prefix, _ in prefixes)
        tokens_of_tasks = Counter(row.request.spec.name for row in rows)
        for one in joining:
            tokens_of_tasks[one.request.spec.name] += one.own_length
        shares = {"prefill": computed, "decode": len(rows)}
        with timed(self._phases, self._adapter.decoder.device, shares, tokens_of_tasks):
            tokens = [row.written[-1] for row in rows]
            steps = [row.last_token(slot) for slot, row in enumerate(rows)]
            logits = self._passes.run(tokens, steps, prompts, prefixes, states)
        self._slots = [*rows, *joined]
        with self._phases.time(WAITED):
            write_next(self._slots, logits, self._adapter.detokenise)
        self._phases.count("prefill tokens run", sum(len(own) for _, own in [*prompts, *prefixes]))
        self._phases.count("passes")
        self._phases.count("decode steps", bool(rows))
        self._phases.count("decode row steps", len(rows))
        self._phases.count("prompt tokens computed", computed)

    def _new_prefixes(self, requests: Sequence[PrefixedRequest]) -> list[tuple[SharedPrefix, torch.Tensor]]:
        needed = dict.fromkeys(one.prefix for one in requests if one.prefix and one.prefix not in self._cached)
        new = sorted(filter(None, needed), key=lambda prefix: prefix.length)
        self._cached |= set(new)
        embeddings = self._images.embed([(*one.place, one.segments) for one in new])
        return list(zip(new, embeddings, strict=True))

    def _prompts(self, requests: Sequence[PrefixedRequest]) -> list[tuple[NewTokens, torch.Tensor]]:
        parts = []
        for slot, one in enumerate(requests, start=len(self._slots)):
            layout = layout_of(one.own, self._adapter.attention)
            parts.append(NewTokens(slot=slot, place=0, length=one.own_length, prefix=one.prefix, layout=layout))
        return list(zip(parts, self._images.own(requests), strict=True))

    def _leave(self) -> list[Outcome]:
        done = [slot for slot in self._slots if slot.stop is not None]
        if not done:
            return []
        for place, slot in enumerate(self._slots):
            if slot.stop is not None:
                self._cache.leave(place, spoilt=slot.broken)
        remaining = len(self._slots) - len(done)
        holes = [place for place, slot in enumerate(self._slots[:remaining]) if slot.stop is not None]
        movers = [place for place in range(remaining, len(self._slots)) if self._slots[place].stop is None]
        pairs = list(zip(holes, movers, strict=True))
        with self._phases.time("move rows"):
            self._cache.move([(mover, hole, self._slots[mover].last_token(mover).place) for hole, mover in pairs])
        for hole, mover in pairs:
            self._slots[hole] = self._slots[mover]
        del self._slots[remaining:]
        self._forget([slot.asked for slot in done])
        if self._suspended is not None:
            self.budget, self._suspended = self._suspended, None
            self._let_go()
        self._phases.count("prompt tokens shared", sum(one.asked.prefix.length for one in done if one.asked.prefix))
        return self._outcomes(done)

    def _forget(self, requests: Sequence[PrefixedRequest]) -> None:
        for prefix in self._queue.forget(requests):
            self._cached.discard(prefix)
            self._cache.drop(prefix)
