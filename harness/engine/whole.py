"""Batches that go through the model's own library as a whole, for models that cannot be taken apart."""

from collections.abc import Sequence

import torch

from medbench.harness.engine.batching import Batching
from medbench.harness.engine.choosing import Row
from medbench.harness.engine.grouping import Member
from medbench.harness.engine.request import Outcome, failed, out_of_memory
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image


class WholeBatching(Batching):
    """Answers members batch by batch through `LocalAdapter.written_whole`, greedily."""

    def _next(self) -> list[Member]:
        batch: list[Member] = []
        while (following := self._upcoming.peek()) is not None and self._fits([*batch, following]):
            batch.append(self._upcoming.take())
        return batch

    def _fits(self, members: Sequence[Member]) -> bool:
        longest = max(one.request.length + one.request.decoding.max_new_tokens for one in members)
        return len(members) == 1 or (len(members) <= self.budget.rows and len(members) * longest <= self.budget.tokens)

    def _advance(self, members: Sequence[Member]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        asked, rows = [], []
        for member in members:
            request = member.request
            if not request.decoding.greedy:
                outcomes.append(failed(request, "This model is answered whole, greedily; leave the sampling out."))
                continue
            try:
                images = [open_image(request.source, image) for image in request.sample.images]
            except SampleError as error:
                outcomes.append(failed(request, str(error)))
                continue
            asked.append((request.sample, request.spec, images))
            rows.append(Row(request=request))
        if not rows:
            return outcomes
        longest = max(row.request.decoding.max_new_tokens for row in rows)
        with self._phases.time("generate"):
            written = self._adapter.written_whole(asked, longest) or ()
        for row, ids in zip(rows, written, strict=True):
            row.take(ids, self._adapter.detokenise)
        return [*outcomes, *self._outcomes(rows)]

    def _shrink(self, members: Sequence[Member]) -> list[Outcome]:
        torch.cuda.empty_cache()
        self._phases.count("out of memory")
        if len(members) == 1:
            self.budget = self._first_budget
            return [out_of_memory(member.request) for member in members]
        self.budget = self.budget.halved(len(members))
        self._upcoming.put_back(members)
        return []
