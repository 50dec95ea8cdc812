"""A local model in a run: its self-test, its engine, and what the run learned of memory.

Before the first answer two prompts are answered together by the engine and one by one by the library. It catches what
makes whole tables wrong: padding on the wrong side, images in the wrong order, positions that slip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Any, cast

import torch

from medbench.adapters.base import Generation, LocalAdapter
from medbench.harness.engine.budget import Budget, auto_budget
from medbench.harness.engine.choice import EngineChoice, choose_engine, vllm_arguments
from medbench.harness.engine.engine import Engine, answers
from medbench.harness.engine.faults import Survived
from medbench.harness.engine.passes import compile_layers
from medbench.harness.engine.requests import GREEDY, Name, Outcome, Request, Sampling
from medbench.harness.engine.static import NoNumbersError, generate_alone
from medbench.harness.learned import Learned
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError, SampleError, UsageError

_LOOKED_AT = 64
_TESTED_TOKENS = 8
# Where so many from one end cannot be answered, the data are broken and not an image.
_TRIED = 16
_NO_MEMORY = "memory ran out"
Alone = dict[Name, tuple[Request, tuple[str, int]]]  # Requests with text and number of tokens of their answers.


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What the self-test found: `equal` of `total` answers."""

    equal: int = 0
    total: int = 0
    whole: str = ""  # Why the model must be answered by its own library; empty if the engine may.
    one_by_one: bool = False  # Whether even its own library writes other tokens to batches: every sample is alone.
    skipped: str = ""  # Why nothing was compared, where there was something to ask.

    def as_json(self) -> dict[str, int | str]:
        """Return what env.json says."""
        return {"equal": self.equal, "of": self.total, **({"skipped": self.skipped} if self.skipped else {})}


def self_test(adapter: LocalAdapter, requests: Sequence[Request], budget: Budget) -> SelfTest:
    """Answer two requests of unlike lengths, a few tokens each, together by the engine and one by one by the library.

    Requests that cannot be answered (a broken image, a prompt that is too long) are the run's to report; the next ones
    are asked in their place. In 16 bits a difference has no consequence, since sums in another order decide close
    calls. Raises RunError if they differ in float32 and the library has no batches of its own, or if neither has logits
    that are numbers; the run would be worth nothing.
    """
    try:
        alone, problem = _answered_alone(adapter, requests)
        equal = _equal(adapter, alone, budget) if alone else None
    except torch.OutOfMemoryError:
        return SelfTest(skipped=_NO_MEMORY)
    if equal is None:
        return SelfTest(skipped=problem or ("an answer failed" if alone else ""))
    if equal == len(alone) or adapter.dtype != "float32":
        return SelfTest(equal=equal, total=len(alone))
    if type(adapter).written_whole is LocalAdapter.written_whole:
        noise = (
            f"{adapter.title} writes other tokens in the engine than one by one, so no number of it could be trusted."
        )
        raise RunError(noise, "See which by `medbench doctor engine --model ...`, and report it.")
    by_itself = Engine(adapter, budget, Phases()).why_whole
    whole = by_itself or "in the engine it wrote other tokens than in its own library"
    together = _equal(adapter, alone, budget, whole=whole)
    return SelfTest(equal=equal, total=len(alone), whole=whole, one_by_one=together != len(alone))


def _answered_alone(adapter: LocalAdapter, requests: Sequence[Request]) -> tuple[Alone, str]:
    """Return the shortest and the longest request that can be answered with the answers, and the last problem met.

    Those with images alone, if there are two. Raises a RunError if no answer has logits that are numbers.
    """
    alone: Alone = {}
    problem, broken = "", False
    seeing = [request for request in requests if request.images]
    ordered = sorted(seeing if len(seeing) > 1 else requests, key=lambda request: request.length)
    for candidates in (ordered, ordered[::-1]):
        for request in candidates[:_TRIED]:
            if request.name in alone:
                break
            fewer = min(_TESTED_TOKENS, request.decoding.max_new_tokens)
            greedily = {**asdict(GREEDY), "seed": request.decoding.seed, "max_new_tokens": fewer}
            short = replace(request, decoding=replace(request.decoding, **greedily))
            try:
                with Survived(adapter.device) as fault:
                    alone[request.name] = (short, _written(generate_alone(adapter, short)))
            except SampleError as error:
                problem, broken = error.problem, broken or isinstance(error, NoNumbersError)
                continue
            if fault.memory:
                raise torch.OutOfMemoryError(_NO_MEMORY)
            problem = fault.problem or problem
            if not fault.problem:
                break
    if broken and not alone:
        noise = "all logits of the self-test are NaN or infinite, so every answer would be noise"
        wider = "Give --dtype float32 or bfloat16, which hold larger numbers."
        way_out = "The weights are broken: download them again." if adapter.dtype == "float32" else wider
        raise RunError(f"{adapter.title} cannot be run in {adapter.dtype}: {noise}.", way_out)
    return alone, problem


def _equal(adapter: LocalAdapter, alone: Alone, budget: Budget, whole: str = "") -> int | None:
    """Return how many answers are the same together as alone, or None if one failed."""
    engine = Engine(adapter, replace(budget, rows=max(2, budget.rows)), Phases(), whole=whole)
    together = answers(engine, [request for request, _ in alone.values()])
    same = [_written(generation) == alone[name][1] for name, generation in together.items()]
    return sum(same) if len(same) == len(alone) else None


def _written(generation: Generation) -> tuple[str, int]:
    return generation.text, generation.output_tokens


def sampling_of(settings: Settings, adapter: LocalAdapter) -> Sampling:
    """Return how a run's tokens are chosen: as the model's preset says, unless the user says otherwise."""
    chosen = settings.decoding() or adapter.decoding
    return Sampling(seed=settings.seed, **cast("Any", dict(chosen)))


def engine_of(settings: Settings, adapter: LocalAdapter) -> EngineChoice:
    """Return the engine of a run; UsageError if the one that was asked for cannot answer for the model."""
    greedy = sampling_of(settings, adapter).greedy
    arguments = vllm_arguments(settings.model_args)
    return choose_engine(settings.engine, adapter, arguments, greedy=greedy, compiled=settings.compile)


class Driver:
    """A local model in a run: its engine is chosen and tested with the first requests, and answers all that follow.

    `sharers` processes on this machine do the same, and share its memory where it has no GPU.
    """

    def __init__(
        self, adapter: LocalAdapter, phases: Phases, settings: Settings, learned: Learned, *, sharers: int = 1
    ) -> None:
        self._adapter, self._phases, self._settings = adapter, phases, settings
        self._learned, self._sharers = learned, sharers
        self._notes: dict[str, Any] = {}
        self._engine: Engine | None = None

    @property
    def as_alone(self) -> bool:
        """Whether the self-test found no difference where none may be; other answers serve no other run."""
        tested = self._notes.get("self-test", {})
        return self._adapter.dtype != "float32" or tested.get("equal") == tested.get("of")

    def answer(self, requests: Iterator[Request]) -> Iterator[list[Outcome]]:
        """Yield outcomes as they come; nothing is started where there is nothing to answer."""
        first = list(islice(requests, _LOOKED_AT))
        engine = self._engine or self._begin(first)
        # An engine that was made for nothing is no engine for what comes.
        self._engine = engine if first else None
        budget = engine.budget
        for outcomes in engine.generate(chain(first, requests)):
            if engine.budget != budget:
                budget = engine.budget
                self._learned.note(asdict(budget))
            yield outcomes
        self._phases.notes |= {**self._notes, "budget": asdict(engine.budget), **self._adapter.observed()}

    def _begin(self, first: Sequence[Request]) -> Engine:
        chosen = engine_of(self._settings, self._adapter)
        say(f"Engine: {chosen.name} {chosen.version}".rstrip() + f" ({chosen.why}).")
        free = auto_budget(self._adapter.decoder, rows=self._settings.batch_size, sharers=self._sharers)
        budget = Budget(**self._learned.within(asdict(free)))
        make = {"vllm": _vllm, "transformers": _library, "medbench": _ours}[chosen.name if first else "medbench"]
        engine, notes = make(self._adapter, first, budget, self._phases, self._settings)
        named = {} if chosen.name == "medbench" else {"engine": {**chosen.identity, "why": chosen.why}}
        self._notes = {**named, **notes}
        return engine


def _ours(
    adapter: LocalAdapter, first: Sequence[Request], budget: Budget, phases: Phases, settings: Settings
) -> tuple[Engine, dict[str, Any]]:
    """Return our engine, as the self-test found that the model must be answered, and what env.json says of it."""
    if settings.compile:
        compile_layers(adapter.decoder)
    tested = self_test(adapter, first, budget)
    _tell(tested, adapter)
    if tested.one_by_one:
        budget = replace(budget, rows=1)
    engine = Engine(adapter, budget, phases, whole=tested.whole)
    batching = "continuous"
    if engine.why_whole:
        batching = f"whole: {engine.why_whole}"
        _refuse_choices(adapter, settings)
        say(f"The model's own library answers, batch by batch: {engine.why_whole}.")
    if engine.why_static:
        batching = f"static: {engine.why_static}"
        say(f"Static batches instead of continuous ones: {engine.why_static}.")
    noted = {"self-test": tested.as_json(), "compiled": settings.compile}
    return engine, {"batching": batching, **noted}


def _library(
    adapter: LocalAdapter, _: Sequence[Request], budget: Budget, phases: Phases, settings: Settings
) -> tuple[Engine, dict[str, Any]]:
    """Return what leaves every answer to the library: the model's own where it has inputs of its own."""
    if settings.beams == 1:
        _refuse_choices(adapter, settings)
    own = type(adapter).written_whole is not LocalAdapter.written_whole
    engine = Engine(adapter, budget, phases, whole="it was asked for" if own else "", library=True)
    return engine, {"batching": "whole" if own else "static"}


def _refuse_choices(adapter: LocalAdapter, settings: Settings) -> None:
    if not sampling_of(settings, adapter).greedy:
        way_out = "Leave out --temperature, --top-k, --top-p, --repetition-penalty and --beams."
        raise UsageError(f"{adapter.title} is answered by its own library, which takes the likeliest token.", way_out)


def _vllm(
    adapter: LocalAdapter, first: Sequence[Request], budget: Budget, phases: Phases, settings: Settings
) -> tuple[Engine, dict[str, Any]]:
    """Return vLLM with the model or its decoder, when it says the first answers as surely as transformers does."""
    from medbench.harness.engine import vllm, vllm_images

    compared = sorted(first, key=lambda one: (bool(one.images), one.length), reverse=True)
    begin = vllm_images.begin if vllm_images.is_seen_by_vllm(adapter) else vllm.begin
    arguments = vllm_arguments(settings.model_args)
    quantised = "quantization" in arguments
    with phases.time("start vLLM"):
        engine, wanted = begin(adapter, compared, budget, phases, arguments)
        far = vllm.refuse_far(adapter, vllm.distances(engine.llm, wanted), quantised=quantised)
    tell, of = (warn, " with quantised weights") if quantised else (say, "")
    tell(f"vLLM's log-probabilities of {len(wanted)} answers{of} are at most {far:.1g} from transformers'.")
    return engine, {"log-probabilities": {"compared": len(wanted), "far": far}}


def _tell(tested: SelfTest, adapter: LocalAdapter) -> None:
    """Say what the self-test found; aloud where answers differ."""
    if tested.skipped:
        warn(f"Self-test not done, nothing could be answered: {tested.skipped}")
    if tested.total:
        same = f"{tested.equal} of {tested.total} answers are those of one-by-one generation in {adapter.dtype}."
        (say if tested.equal == tested.total else warn)(f"Self-test: {same}")
    if tested.one_by_one:
        warn("Even its own library writes other tokens to batches than one by one: every sample is asked alone.")
