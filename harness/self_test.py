"""Before the first answer: do two prompts get the same tokens together in the engine as one by one in the library?

It catches what makes whole tables wrong: padding on the wrong side, pictures in the wrong order, positions that slip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from medbench.adapters.base import Generation, LocalAdapter
from medbench.harness.engine.alone import NoNumbersError, generate_alone
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import GREEDY, Request
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError, SampleError

_TOKENS = 8
# Where so many from one end cannot be answered, the data are broken and not a picture.
_TRIED = 16
Name = tuple[str, str]
Said = tuple[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What the test found.

    Attributes:
        equal: Answers that are equal.
        total: Answers that were compared.
        whole: Why the model must be answered by its own library; empty if the engine may.
        one_by_one: Whether even its own library writes other tokens to batches, so that every sample is its own.
        skipped: Why nothing was compared, where there was something to ask.
    """

    equal: int = 0
    total: int = 0
    whole: str = ""
    one_by_one: bool = False
    skipped: str = ""

    def as_json(self) -> dict[str, int | str]:
        """Return what env.json says."""
        return {"equal": self.equal, "of": self.total, **({"skipped": self.skipped} if self.skipped else {})}


def self_test(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> Tested:
    """Answer two requests of unlike lengths, a few tokens each, together by the engine and one by one by the library.

    Requests that cannot be answered (a broken picture, a prompt that is too long) are the run's to report; the next
    ones are asked in their place. In 16 bits a difference has no consequence, since sums in another order decide close
    calls.

    Args:
        adapter: The model.
        requests: Some of the run.
        budget: Of the engine.

    Raises:
        RunError: If they differ in float32 and the library has no batches of its own, or if neither has logits that are
            numbers; the run would be worth nothing.
    """
    try:
        asked, alone, problem = _answered_alone(adapter, requests)
        equal = _equal(adapter, asked, budget, alone) if asked else None
    except torch.OutOfMemoryError:
        return Tested(skipped="memory ran out")
    if equal is None:
        return Tested(skipped=problem or ("an answer failed" if asked else ""))
    if equal == len(alone) or adapter.dtype != "float32":
        return Tested(equal=equal, total=len(alone))
    whole = _why_whole(adapter, budget)
    together = _equal(adapter, asked, budget, alone, whole=whole)
    return Tested(equal=equal, total=len(alone), whole=whole, one_by_one=together != len(alone))


def _answered_alone(adapter: LocalAdapter, requests: Sequence[Request]) -> tuple[list[Request], dict[Name, Said], str]:
    """Return the shortest and the longest request that can be answered, the answers, and the last problem met.

    Raises:
        RunError: If no answer has logits that are numbers.
    """
    asked: list[Request] = []
    alone: dict[Name, Said] = {}
    problem, broken = "", False
    ordered = _by_length(requests)
    for candidates in (ordered, ordered[::-1]):
        for request in map(_shortened, candidates[:_TRIED]):
            if _name_of(request) in alone:
                break
            try:
                alone[_name_of(request)] = _said(generate_alone(adapter, request))
            except SampleError as error:
                problem, broken = error.problem, broken or isinstance(error, NoNumbersError)
                continue
            asked.append(request)
            break
    if broken and not alone:
        raise _no_numbers(adapter)
    return asked, alone, problem


def _no_numbers(adapter: LocalAdapter) -> RunError:
    return RunError(
        f"{adapter.title} cannot be run in {adapter.dtype}: all logits of the self-test are NaN or infinite, so "
        "every answer would be noise.",
        "The weights are broken: download them again."
        if adapter.dtype == "float32"
        else "Give --dtype float32 or bfloat16, which hold larger numbers.",
    )


def _equal(
    adapter: LocalAdapter, asked: Sequence[Request], budget: Budget, alone: Mapping[Name, Said], whole: str = ""
) -> int | None:
    """Return how many answers are the same together as alone, or None if one failed."""
    engine = Engine(adapter, replace(budget, rows=max(2, budget.rows)), Phases(), whole=whole)
    outcomes = [outcome for some in engine.generate(asked) for outcome in some]
    if not all(outcome.generation for outcome in outcomes):
        return None
    return sum(_said(outcome.generation) == alone[outcome.task, outcome.sample_id] for outcome in outcomes)


def _why_whole(adapter: LocalAdapter, budget: Budget) -> str:
    """Return why a model that failed the test is answered by its own library from now on."""
    if type(adapter).written_whole is not LocalAdapter.written_whole:
        by_itself = Engine(adapter, budget, Phases()).why_whole
        return by_itself or "in the engine it wrote other tokens than in its own library"
    raise RunError(
        f"{adapter.title} writes other tokens in the engine than one by one, so no number of it could be trusted.",
        "See which by `medbench doctor engine --model ...`, and report it.",
    )


def _by_length(requests: Sequence[Request]) -> list[Request]:
    """Return the requests, shortest first; those with pictures alone if there are two."""
    seeing = [request for request in requests if request.prompt.images()]
    return sorted(seeing if len(seeing) > 1 else requests, key=lambda request: request.length)


def _shortened(request: Request) -> Request:
    decoding = request.decoding
    fewer = min(_TOKENS, decoding.max_new_tokens)
    plain = replace(
        decoding, max_new_tokens=fewer, temperature=GREEDY.temperature, top_k=GREEDY.top_k, top_p=GREEDY.top_p,
        repetition_penalty=GREEDY.repetition_penalty, beams=GREEDY.beams,
    )  # fmt: skip
    return replace(request, decoding=plain)


def _name_of(request: Request) -> Name:
    return request.spec.name, request.sample.sample_id


def _said(generation: Generation | None) -> Said:
    return None if generation is None else (generation.text, generation.output_tokens)
