"""Continuous batching: finished rows leave, waiting prompts enter, and what they share is computed once."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from medbench.adapters.base import LocalAdapter
from medbench.harness.engine.batching import Batching
from medbench.harness.engine.budget import Budget, held_type
from medbench.harness.engine.choosing import Row, write_next
from medbench.harness.engine.fixed import FixedSteps
from medbench.harness.engine.grouping import Beginning, Member
from medbench.harness.engine.layout import layout_of, text_config
from medbench.harness.engine.packing import CHUNK, Held, Part
from medbench.harness.engine.passes import Passes
from medbench.harness.engine.request import Outcome, out_of_memory
from medbench.harness.engine.slots import Move, Room, SlotCache
from medbench.harness.engine.upcoming import Upcoming
from medbench.harness.engine.vision import Vision
from medbench.harness.phases import Phases


@dataclass(slots=True, eq=False)
class _Slot:
    """A member, its answer, the beginning that it continues and what it reads by cross-attention."""

    member: Member
    row: Row
    after: Held | None
    state: object

    @property
    def own_length(self) -> int:
        """Tokens whose keys are in the slot."""
        return self.row.length - (self.after.length if self.after else 0)

    @property
    def shift(self) -> int:
        """Positions minus tokens of what is in the slot."""
        return self.row.request.shift - (self.after.layout.shift if self.after else 0)


class ContinuousBatching(Batching):
    """Answers members of `Upcoming`, `budget.rows` of them at a time.

    Every pass writes the next token of each row and, while tokens of the budget are left, reads prompts that wait.

    Args:
        adapter: The model.
        vision: Prepares images.
        upcoming: What is to be answered.
        budget: What may be held at once; made smaller when memory runs out.
        phases: Where time and counts are kept.
        fixed_steps: Whether passes without prompts have a fixed shape. Then rows hold copies of what they share.
    """

    def __init__(
        self, adapter: LocalAdapter, vision: Vision, upcoming: Upcoming, budget: Budget, phases: Phases, *,
        fixed_steps: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(adapter, vision, upcoming, budget, phases)
        self._slots: list[_Slot] = []
        self._suspended: Budget | None = None
        self._copies = fixed_steps
        self._begin_afresh()

    def _begin_afresh(self) -> None:
        decoder = self._adapter.decoder
        layers = int(text_config(decoder).num_hidden_layers)
        self._cache = SlotCache(layers, Room(self.budget.rows, self.budget.tokens, held_type(decoder)))
        self._passes = Passes(decoder, self._cache)
        self._steps = FixedSteps(decoder, self._cache, self._passes, self.budget.rows) if self._copies else None
        self._held: dict[Beginning, Held] = {}
        self._free: list[int] = []

    @property
    def _holds_rows(self) -> bool:
        return bool(self._slots)

    def _next(self) -> list[Member]:
        """Take members as long as their rows fit and their prompts are worth this pass."""
        joining: list[Member] = []
        longest = max((self._longest(slot.member) for slot in self._slots), default=0)
        shared = sum(held.length for held in self._held.values())
        new: set[Beginning] = set()
        # Many rows must not keep prompts out for good.
        tokens = min(len(self._slots), self.budget.prefill // 2)
        while (member := self._upcoming.peek()) is not None:
            longest = max(longest, self._longest(member))
            cost = member.own_length
            if member.beginning is not None and member.beginning not in self._held and member.beginning not in new:
                cost += member.beginning.length
            rows = len(self._slots) + len(joining)
            fits = rows < self.budget.rows and (rows + 1) * longest + shared <= self.budget.tokens
            # The last prompt may be too long by half, so that passes are neither much smaller nor larger than meant.
            if rows and not (fits and tokens + cost // 2 <= self.budget.prefill):
                break
            if member.beginning is not None and cost > member.own_length:
                new.add(member.beginning)
                shared += member.beginning.length
            tokens += cost
            joining.append(self._upcoming.take())
        return joining

    def _longest(self, member: Member) -> int:
        """Return how many places a member's own slot may take: whole chunks."""
        length = member.request.length if self._copies else member.own_length
        return CHUNK * math.ceil((length + member.request.decoding.max_new_tokens) / CHUNK)

    def _advance(self, joining: Sequence[Member]) -> list[Outcome]:
        """Run one pass; return the outcomes of what cannot be answered and of rows that end with it."""
        sound, outcomes = self._vision.sound(joining)
        if outcomes:
            self._forget([member for member in joining if member not in sound])
        if sound or self._slots:
            self._pass(sorted(sound, key=lambda member: -member.own_length))
        return [*outcomes, *self._leave()]

    def _pass(self, joining: Sequence[Member]) -> None:
        """Write the next token of every row, and the first of those that join."""
        rows = [slot.row for slot in self._slots]
        beginnings = self._beginnings(joining)
        prompts = self._prompts(joining)
        joined = [
            _Slot(member, Row(request=member.request), None if part.copies else part.after, state)
            for member, (part, _), state in zip(joining, prompts, self._embedder.states(joining), strict=True)
        ]
        states = [slot.state for slot in [*self._slots, *joined]] if self._adapter.has_row_states else None
        computed = sum(member.own_length for member in joining) + sum(held.length for held, _ in beginnings)
        with self._phases.share({"prefill": computed, "decode": len(rows)}, self._tokens_of_tasks(joining)):
            tokens = [row.written[-1] for row in rows]
            if joining or self._steps is None:
                logits = self._passes.run(tokens, self._next_places(), prompts, beginnings, states)
            else:
                places = [slot.own_length for slot in self._slots]
                logits = self._steps.run(tokens, places, [slot.row.position for slot in self._slots])
        self._slots += joined
        with self._phases.time("choose"):
            write_next([slot.row for slot in self._slots], logits, self._adapter.detokenise)
        self._phases.count("prefill tokens run", sum(len(own) for _, own in [*prompts, *beginnings]))
        self._count(len(rows), computed)

    def _tokens_of_tasks(self, joining: Sequence[Member]) -> Counter[str]:
        tokens = Counter(slot.member.request.spec.name for slot in self._slots)
        for member in joining:
            tokens[member.request.spec.name] += member.own_length
        return tokens

    def _next_places(self) -> list[Part]:
        return [
            Part(slot=place, place=slot.own_length, length=1, after=slot.after, shift=slot.shift)
            for place, slot in enumerate(self._slots)
        ]

    def _beginnings(self, members: Sequence[Member]) -> list[tuple[Held, torch.Tensor]]:
        """Give slots to beginnings that nobody has computed yet, and embed them."""
        needed = dict.fromkeys(member.beginning for member in members)
        new = [one for one in needed if one is not None and one not in self._held]
        new.sort(key=lambda beginning: beginning.length)
        for beginning in new:
            slot = self._free.pop() if self._free else len(self._held)
            layout = layout_of(beginning.segments, self._adapter.attention)
            self._held[beginning] = Held(slot=slot, length=beginning.length, layout=layout)
        embeddings = self._embedder.beginnings(new)
        return [(self._held[beginning], own) for beginning, own in zip(new, embeddings, strict=True)]

    def _prompts(self, members: Sequence[Member]) -> list[tuple[Part, torch.Tensor]]:
        """Give slots behind those of all rows to members, and embed what is their own."""
        first = len(self._slots)
        embeddings = self._embedder.own(members)
        parts = [self._part(slot, member) for slot, member in enumerate(members, start=first)]
        return list(zip(parts, embeddings, strict=True))

    def _part(self, slot: int, member: Member) -> Part:
        after = self._held[member.beginning] if member.beginning is not None else None
        copies = self._copies and after is not None
        place = after.length if after is not None and copies else 0
        layout = layout_of(member.own, self._adapter.attention)
        return Part(slot=slot, place=place, length=member.own_length, after=after, copies=copies, layout=layout)

    def _count(self, rows: int, computed: int) -> None:
        self._phases.count("passes")
        self._phases.count("decode steps", bool(rows))
        self._phases.count("decode row steps", rows)
        self._phases.count("prompt tokens computed", computed)

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
        self._forget([slot.member for slot in done])
        if self._suspended is not None:
            self.budget, self._suspended = self._suspended, None
            self._begin_afresh()
        shared = (slot.member.beginning.length for slot in done if slot.member.beginning is not None)
        self._phases.count("prompt tokens shared", sum(shared))
        return self._outcomes([slot.row for slot in done])

    def _forget(self, members: Sequence[Member]) -> None:
        """Free the slots of beginnings that only these members needed."""
        for beginning in self._upcoming.forget(members):
            held = self._held.pop(beginning, None)
            if held is not None:
                self._free.append(held.slot)
                self._cache.drop([held.slot])

    def _shrink(self, joining: Sequence[Member]) -> list[Outcome]:
        """Start all rows again, half as many at a time; a row that was alone fails."""
        members = list(dict.fromkeys([*(slot.member for slot in self._slots), *joining]))
        self._slots.clear()
        self._phases.count("out of memory")
        # The old cache goes before a new one is made.
        del self._steps, self._passes, self._cache
        torch.cuda.empty_cache()
        if len(members) > 1:
            self.budget = self.budget.halved(len(members))
            self._upcoming.put_back(members)
            failed: list[Outcome] = []
        elif self.budget.rows > 1:
            # The last of many rows: their slots took the memory. Alone in fresh ones it may well fit.
            self._suspended = self.budget
            self.budget = replace(self.budget, rows=1)
            self._upcoming.put_back(members)
            failed = []
        else:
            # What was impossible alone is what took the memory: the others need no smaller budget for it.
            self.budget = self._suspended or self._first_budget
            self._suspended = None
            self._upcoming.forget(members)
            failed = [out_of_memory(member.request) for member in members]
        self._begin_afresh()
        return failed
