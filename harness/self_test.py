"""Before the first answer: do two prompts get the same tokens together in the engine as one by one in the library?

It catches what makes whole tables wrong: padding on the wrong side, pictures in the wrong order, positions that slip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from adapters.base import Generation, LocalAdapter
from harness.engine.alone import generate_alone
from harness.engine.budget import Budget
from harness.engine.engine import Engine
from harness.engine.request import GREEDY, Request
from harness.phases import Phases
from tasks.foundation.errors import RunError, SampleError

_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What the test found.

    Attributes:
        equal: Answers that are equal.
        total: Answers that were compared.
        whole: Why the model must be answered by its own library; empty if the engine may.
    """

    equal: int = 0
    total: int = 0
    whole: str = ""

    def as_json(self) -> dict[str, int]:
        """Return what env.json says."""
        return {"equal": self.equal, "of": self.total}


def self_test(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> Tested:
    """Answer two requests of unlike lengths, a few tokens each, together by the engine and one by one by the library.

    Args:
        adapter: The model.
        requests: Some of the run.
        budget: Of the engine.

    Raises:
        RunError: If they differ in float32 and the library has no batches of its own; the run would be worth nothing.
    """
    asked = [_shortened(request) for request in _two_of(requests)]
    try:
        alone = {(request.spec.name, request.sample.sample_id): generate_alone(adapter, request) for request in asked}
        engine = Engine(adapter, replace(budget, rows=max(2, budget.rows)), Phases())
        outcomes = [outcome for some in engine.generate(asked) for outcome in some]
    except (SampleError, torch.OutOfMemoryError):
        # Broken pictures and prompts that are too long are the run's to report.
        return Tested()
    together = {(outcome.task, outcome.sample_id): outcome.generation for outcome in outcomes}
    if not all(together.values()):
        return Tested()
    equal = sum(_said(alone[name]) == _said(together.get(name)) for name in alone)
    if equal == len(alone) or adapter.dtype != "float32":
        return Tested(equal=equal, total=len(alone))
    return Tested(equal=equal, total=len(alone), whole=_consequence(adapter))


def _consequence(adapter: LocalAdapter) -> str:
    if type(adapter).written_whole is not LocalAdapter.written_whole:
        return "in the engine it wrote other tokens than in its own library"
    raise RunError(
        f"{adapter.title} writes other tokens in the engine than one by one, so no number of it could be trusted.",
        "See which by `medbench doctor engine --model ...`, and report it.",
    )


def _two_of(requests: Sequence[Request]) -> list[Request]:
    """Return the shortest and the longest, of those with pictures if there are two."""
    seeing = [request for request in requests if request.prompt.images()]
    chosen = sorted(seeing if len(seeing) > 1 else requests, key=lambda request: request.length)
    return list({id(request): request for request in (*chosen[:1], *chosen[-1:])}.values())


def _shortened(request: Request) -> Request:
    decoding = request.decoding
    fewer = min(_TOKENS, decoding.max_new_tokens)
    plain = replace(
        decoding, max_new_tokens=fewer, temperature=GREEDY.temperature, top_k=GREEDY.top_k, top_p=GREEDY.top_p,
        repetition_penalty=GREEDY.repetition_penalty, beams=GREEDY.beams,
    )  # fmt: skip
    return replace(request, decoding=plain)


def _said(generation: Generation | None) -> tuple[str, int] | None:
    return None if generation is None else (generation.text, generation.output_tokens)
