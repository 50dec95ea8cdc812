"""Decode steps of a fixed shape: the same tensors in the same places, so that a CUDA graph may replay them.

A graph repeats the kernels it saw, with the addresses it saw. So nothing here depends on what a tensor holds: rows hold
whole prompts, every chunk is read to its end under a mask, and rows that are not there are computed with the others.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from medbench.harness.engine.packing import CHUNK, NEVER, Block, DecodeBlock, PassPlan, Target
from medbench.harness.engine.passes import Passes
from medbench.harness.engine.slots import KVSlots


class FixedPlan(PassPlan):
    """The plan of a decode step of rows in slots 0 to `rows` - 1, the longest of which reach `chunks` chunks.

    To be filled in: the last token of each row [R], where its keys go (`places`), and its position (`steps`).
    """

    def __init__(self, rows: int, chunks: int, device: torch.device) -> None:
        self.count = rows
        self.tokens, self.places, self.steps = (torch.zeros(rows, dtype=torch.long, device=device) for _ in range(3))
        self.positions = self.steps[None]
        self.row_of = self.read = torch.arange(rows, device=device)
        self.sharers = self.row_of[:0]
        self.decoding = tuple(DecodeBlock(rows=slice(rows), chunk=chunk, reach=CHUNK) for chunk in range(chunks))
        self.targets = ()
        self._columns = torch.arange(CHUNK, device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def begin(self) -> None:
        """Compute again what depends on `places`."""
        self._masks.clear()
        chunks, places = self.places // CHUNK, self.places % CHUNK
        self.targets = tuple(
            Target(chunk=one.chunk, tokens=one.rows, slots=self.row_of, places=places, only=chunks == one.chunk)
            for one in self.decoding
        )

    def mask(self, of: Block, window: int | None) -> torch.Tensor | None:
        """Return the mask [R, 1, 1, CHUNK] of what decoding rows read."""
        if not isinstance(of, DecodeBlock):
            raise TypeError(f"A decode step has no {type(of).__name__}.")
        key = (of.chunk, window)
        if key not in self._masks:
            distance = self.places[:, None] - (self._columns + of.chunk * CHUNK)
            allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            mask = torch.zeros(allowed.shape, device=self.places.device)
            self._masks[key] = mask.masked_fill_(~allowed, NEVER)[:, None, None]
        return self._masks[key]


class FixedSteps:
    """Decode steps over slots that hold whole prompts; captured in CUDA graphs on a GPU, else computed as they are."""

    def __init__(self, decoder: PreTrainedModel, slots: KVSlots, passes: Passes, rows: int) -> None:
        self._embeddings = decoder.get_input_embeddings()
        self._device = decoder.device
        self._slots = slots
        self._passes = passes
        self._rows = rows
        self._plans: dict[tuple[int, int], FixedPlan] = {}
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None

    def run(self, tokens: list[int], places: list[int], positions: list[int]) -> torch.Tensor:
        """Append the last token of each row, at its place; return logits [R, V], which the next step overwrites."""
        chunks = max(places) // CHUNK + 1
        # A power of two, so that few graphs serve any number of rows.
        rows = min(1 << (len(tokens) - 1).bit_length(), self._rows, self._slots.reach(chunks))
        plan = self._plans.setdefault((rows, chunks), FixedPlan(rows, chunks, self._device))
        # Rows that are not there write to their first place, which a row that comes overwrites.
        missing = [0] * (rows - len(tokens))
        for tensor, values in ((plan.tokens, tokens), (plan.places, places), (plan.steps, positions)):
            tensor.copy_(torch.tensor(values + missing))
        logits = self._compute(plan) if self._device.type != "cuda" else self._replay((rows, chunks), plan)
        return logits[: len(tokens)]

    def _compute(self, plan: FixedPlan) -> torch.Tensor:
        plan.begin()
        return self._passes.follow(plan, self._embeddings(plan.tokens)[None])

    def _replay(self, key: tuple[int, int], plan: FixedPlan) -> torch.Tensor:
        if key not in self._graphs:
            self._graphs[key] = self._capture(plan)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits

    def _capture(self, plan: FixedPlan) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Record a step, after one on a stream of its own in which libraries and compilers make themselves ready."""
        beside = torch.cuda.Stream(self._device)
        beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(beside):
            self._compute(plan)
        torch.cuda.current_stream(self._device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._compute(plan)
        self._pool = self._pool or graph.pool()
        return graph, logits
