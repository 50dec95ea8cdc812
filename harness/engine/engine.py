"""The generation engine: requests in, outcomes out as they finish."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from medbench.adapters.base import Generation, LocalAdapter
from medbench.adapters.plain_generation import forget_decoding
from medbench.harness.engine.allocation import keep_freed_memory
from medbench.harness.engine.batching import Batching, RequestQueue
from medbench.harness.engine.budget import Budget, longest_read
from medbench.harness.engine.continuous import ContinuousBatching
from medbench.harness.engine.images import Images
from medbench.harness.engine.passes import why_not_packed
from medbench.harness.engine.products import pack_weights, use_onednn
from medbench.harness.engine.requests import Name, Outcome, Request, failed, in_order
from medbench.harness.engine.static import StaticBatching, WholeBatching
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import UsageError

_SHARE_OF_PREFIXES = 4


class GenerationEngine(Protocol):
    """What answers requests, whatever computes: all that a run needs of an engine."""

    def generate(self, requests: Iterable[Request]) -> Iterator[list[Outcome]]:
        """Yield an outcome for every request, in lists as they come and in any order; read requests as they are needed.

        A request that cannot be answered gets an outcome with an error and costs no other its answer. Which tokens are
        chosen depends on the request alone: neither on its neighbours nor on the schedule. Raises UsageError or
        RunError for what concerns all of them.
        """


def answers(engine: GenerationEngine, requests: Iterable[Request]) -> dict[Name, Generation]:
    """Return what an engine answers; what got no answer is left out."""
    outcomes = (outcome for some in engine.generate(requests) for outcome in some)
    return {(one.task, one.sample_id): one.generation for one in outcomes if one.generation is not None}


class Engine(GenerationEngine):
    """Drives a local adapter: images once, shared prefixes once, finished rows replaced at once.

    `why_static` says why a decoder is given static batches (`continuous=False`: any is), `why_whole` why a model is
    answered by its own library. As a `library` all is left to transformers' `generate`, batch by batch. The budget
    becomes smaller when memory runs out. UsageError if a model can be driven in no way.
    """

    def __init__(
        self, adapter: LocalAdapter, budget: Budget, phases: Phases, *, continuous: bool = True,
        whole: str = "", library: bool = False,
    ) -> None:  # fmt: skip
        forget_decoding(adapter.decoder)
        self._adapter = adapter
        self._phases = phases
        why_static = why_not_packed(adapter.decoder) if continuous else "static batches were asked for"
        if library:
            why_static = "transformers' own `generate` was asked for"
        self.why_whole = whole or adapter.only_whole
        if why_static and adapter.attention != "causal":
            self.why_whole = f"its visual tokens read one another, and {why_static}"
        if self.why_whole and type(adapter).written_whole is LocalAdapter.written_whole:
            problem = f"{adapter.title} cannot be driven: {self.why_whole}."
            raise UsageError(problem, "This model cannot be run; name another.")
        self.why_static = "" if self.why_whole else why_static
        self._library = library
        self.budget = budget

    @property
    def shares_prefixes(self) -> bool:
        """Whether prompts that begin alike compute that beginning once."""
        driven = not self.why_static and not self.why_whole
        return driven and self._adapter.shares_prefixes and not self._adapter.has_row_states

    def generate(self, requests: Iterable[Request]) -> Iterator[list[Outcome]]:
        """Yield outcomes as they come; their order is the engine's."""
        refused: list[Outcome] = []
        searched: list[Request] = []
        if not self._library:
            keep_freed_memory()
            if self._adapter.exclusive:
                use_onednn(self._adapter)
        with Images(self._adapter, self._phases) as images:
            yield from self._run(self._sorted_out(requests, refused, searched), images)
            if searched:
                yield from self._run(searched, images, search=True)
        if refused:
            yield refused

    def _run(self, requests: Iterable[Request], images: Images, *, search: bool = False) -> Iterator[list[Outcome]]:
        tokens = 1 if self.why_whole else max(1, self.budget.tokens // _SHARE_OF_PREFIXES)
        share = self.shares_prefixes and not search
        windows = in_order(requests, share=share, window_tokens=tokens, attention=self._adapter.attention)
        queue = RequestQueue(windows, (lambda _: None) if self.why_whole else images.expect)
        parts = (self._adapter, images, queue, self.budget, self._phases)
        batching: Batching
        if self.why_whole:
            batching = WholeBatching(*parts)
        elif self.why_static or search:
            batching = StaticBatching(*parts, library=self._library)
        else:
            if self._adapter.exclusive:
                pack_weights(self._adapter.decoder)
            batching = ContinuousBatching(*parts)
        for outcomes in batching.run():
            self.budget = batching.budget
            yield outcomes

    def _sorted_out(
        self, requests: Iterable[Request], refused: list[Outcome], searched: list[Request]
    ) -> Iterator[Request]:
        """Yield what can be answered row by row; note what is too long, and what needs a beam search."""
        limit = longest_read(self._adapter.decoder)
        for request in requests:
            if 0 < limit < request.longest:
                answer = f"the answer may have {request.decoding.max_new_tokens}"
                problem = f"The prompt has {request.length} tokens and {answer}, but the model reads {limit}."
                refused.append(failed(request, problem, "prompt"))
            elif request.decoding.beams == 1 and not (self._library and request.shift):
                yield request
            elif self.why_whole or self._adapter.attention != "causal" or request.shift:
                what, option = ("A beam search", "beams") if request.decoding.beams > 1 else ("`generate`", "engine")
                problem = f"{what} cannot place this model's images; leave --{option} out."
                refused.append(failed(request, problem, "prompt"))
            else:
                searched.append(request)
