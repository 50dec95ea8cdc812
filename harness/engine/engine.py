"""The generation engine: requests in, outcomes out as they finish."""

from collections.abc import Iterable, Iterator

from medbench.adapters.base import LocalAdapter
from medbench.adapters.plain_generation import forget_decoding
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.continuous import ContinuousBatching
from medbench.harness.engine.grouping import in_order
from medbench.harness.engine.layout import text_config
from medbench.harness.engine.passes import why_not_packed
from medbench.harness.engine.pictures import Pictures
from medbench.harness.engine.request import Outcome, Request, failed, refuse_too_long
from medbench.harness.engine.static import StaticBatching
from medbench.harness.engine.upcoming import Upcoming
from medbench.harness.engine.vision import Vision
from medbench.harness.engine.whole import WholeBatching
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import UsageError

_SHARE_OF_BEGINNINGS = 4


class Engine:
    """Drives a local adapter: images once, shared beginnings once, finished rows replaced at once.

    A decoder that cannot be driven row by row is given static batches.

    Args:
        adapter: The model.
        budget: What may be held at once; made smaller when memory runs out.
        phases: Where time and counts are kept.
        continuous: False for static batches even where more is possible.
        fixed_steps: Whether decode steps have a fixed shape, which a GPU captures in CUDA graphs. Not with
            cross-attention, where the shape is that of every row's image.
        whole: Why the model must be answered by its own library as a whole; empty if it need not.

    Raises:
        UsageError: If the model can be driven in no way.
    """

    def __init__(
        self, adapter: LocalAdapter, budget: Budget, phases: Phases, *, continuous: bool = True,
        fixed_steps: bool = False, whole: str = "",
    ) -> None:  # fmt: skip
        forget_decoding(adapter.decoder)
        self._adapter = adapter
        self._phases = phases
        self._why_static = why_not_packed(adapter.decoder) if continuous else "static batches were asked for"
        self._why_whole = whole or adapter.only_whole
        if self._why_static and adapter.attention != "causal":
            self._why_whole = f"its visual tokens read one another, and {self._why_static}"
        if self._why_whole and type(adapter).written_whole is LocalAdapter.written_whole:
            raise UsageError(
                f"{adapter.title} cannot be driven: {self._why_whole}.", "This model cannot be run; name another."
            )
        self._fixed_steps = fixed_steps and not adapter.has_row_states
        self.budget = budget

    @property
    def why_static(self) -> str:
        """Why the decoder gets static batches; empty if its rows come and go, or if it is answered whole."""
        return "" if self._why_whole else self._why_static

    @property
    def why_whole(self) -> str:
        """Why the model's own library answers in batches; empty if the engine does."""
        return self._why_whole

    def generate(self, requests: Iterable[Request]) -> Iterator[list[Outcome]]:
        """Yield outcomes as they come; their order is the engine's."""
        refused: list[Outcome] = []
        searched: list[Request] = []
        with Pictures(self._adapter, self._phases) as pictures:
            vision = Vision(self._adapter, pictures, self._phases)
            answered = self._sorted_out(requests, refused, searched)
            if self._why_whole:
                yield from self._answer_whole(answered, vision)
                answered = iter(())
            yield from self._run(answered, pictures, vision, continuous=not self._why_static)
            if searched:
                yield from self._run(searched, pictures, vision, continuous=False)
        if refused:
            yield refused

    def _run(
        self, requests: Iterable[Request], pictures: Pictures, vision: Vision, *, continuous: bool
    ) -> Iterator[list[Outcome]]:
        windows = in_order(
            requests,
            share=continuous and self._adapter.shares_prefixes and not self._adapter.has_row_states,
            window_tokens=max(1, self.budget.tokens // _SHARE_OF_BEGINNINGS),
        )
        upcoming = Upcoming(windows, pictures)
        parts = (self._adapter, vision, upcoming, self.budget, self._phases)
        batching = ContinuousBatching(*parts, fixed_steps=self._fixed_steps) if continuous else StaticBatching(*parts)
        for outcomes in batching.run():
            self.budget = batching.budget
            yield outcomes

    def _answer_whole(self, requests: Iterable[Request], vision: Vision) -> Iterator[list[Outcome]]:
        windows = in_order(requests, share=False, window_tokens=1)
        batching = WholeBatching(self._adapter, vision, Upcoming(windows, None), self.budget, self._phases)
        for outcomes in batching.run():
            self.budget = batching.budget
            yield outcomes

    def _sorted_out(
        self, requests: Iterable[Request], refused: list[Outcome], searched: list[Request]
    ) -> Iterator[Request]:
        """Yield what can be answered row by row; note what is too long, and what needs a beam search."""
        limit = int(getattr(text_config(self._adapter.decoder), "max_position_embeddings", 0) or 0)
        for request in requests:
            error = refuse_too_long(request, limit)
            if error is not None:
                refused.append(error)
            elif request.decoding.beams > 1 and (
                self._why_whole or self._adapter.attention != "causal" or request.shift
            ):
                refused.append(failed(request, "A beam search cannot place this model's images; leave --beams out."))
            elif request.decoding.beams > 1:
                searched.append(request)
            else:
                yield request
