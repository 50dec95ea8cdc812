"""What an adapter's own code raises or returns, made to concern one sample only. Imports no torch.

A run of a night must not end because one question of ten thousand meets a fault in somebody's `answer`, and what such
code returns enters records that are read for years: it is looked at where it comes in.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from medbench.adapters.base import (
    Adapter,
    Answer,
    DirectAdapter,
    Generation,
    LocalAdapter,
    Parser,
    Prompt,
    SizeOf,
    StopReason,
)
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.remote import RemoteAdapter, RetryableError
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError, described
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

_GENERATION = "Return Generation(text=..., stop=...), of medbench.adapters."
_PARSED = "Return Answer(text=..., box=...), of medbench.adapters."
_WHOSE = "Tell its authors; the other samples are not touched by it."


def named(model: str) -> str:
    """Return a model for people: of a plugin with the distribution that brought it."""
    origin = ADAPTERS.origin(model)
    return f"The model {model!r} of {origin}" if origin else f"The model {model!r}"


@contextmanager
def one_sample(adapter: Adapter, doing: str, sample: Sample | None = None) -> Iterator[None]:
    """Make a SampleError of any exception of an adapter's own code, where the method `doing` is called."""
    try:
        yield
    except (MedbenchError, RetryableError):
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and isinstance(adapter, RemoteAdapter):
            # Whoever asks servers ends what takes too long, and asks again.
            raise
        raise SampleError(_raised(adapter.card.name, doing, error, type(adapter).__module__, sample), _WHOSE) from error


@contextmanager
def plugin_faults(model: str, doing: str, module: str = "") -> Iterator[None]:
    """Make a RunError of any exception of a plugin's model; our own models show a traceback."""
    try:
        yield
    except MedbenchError:
        raise
    except Exception as error:
        if not ADAPTERS.origin(model):
            raise
        hint = "Reinstall the distribution that brings it, or tell its authors."
        raise RunError(_raised(model, doing, error, module or ADAPTERS.module_of(model)), hint) from error


def _raised(model: str, doing: str, error: Exception, module: str, sample: Sample | None = None) -> str:
    home = getattr(sys.modules.get(module), "__file__", None) or ""
    where = f" for sample {sample.sample_id!r} of {sample.task}" if sample else ""
    return f"{named(model)} failed in {doing}{where}: {described(error, home)}."


def answered(adapter: DirectAdapter, sample: Sample, spec: TaskSpec) -> Generation:
    """Return what a direct model answers; SampleError if it raises anything, or returns what is no generation."""
    with one_sample(adapter, "answer()", sample):
        given: object = adapter.answer(sample, spec)
    whose = f"{named(adapter.card.name)} returned from answer()"
    if not isinstance(given, Generation):
        raise _wrong(f"{whose} {_shown(given)}, which is no Generation", sample, _GENERATION)
    for name in ("text", "reasoning"):
        text: object = getattr(given, name)
        if not isinstance(text, str):
            raise _wrong(f"{whose} a Generation whose {name} is {_shown(text)}, which is no text", sample, _GENERATION)
    if given.stop not in get_args(StopReason):
        allowed = ", ".join(map(repr, get_args(StopReason)))
        raise _wrong(f"{whose} the stop {given.stop!r}", sample, f"Allowed: {allowed}.")
    for name in ("prompt_tokens", "output_tokens", "thought_tokens"):
        count: object = getattr(given, name)
        if not isinstance(count, int) or count < 0:
            raise _wrong(f"{whose} {name}={count!r}, which is no count", sample, _GENERATION)
    return given


def rendered(adapter: LocalAdapter, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
    """Return the prompt of a local model; SampleError if it raises anything, or returns what is no prompt."""
    with one_sample(adapter, "render()", sample):
        given: object = adapter.render(sample, spec, size_of)
    if not isinstance(given, Prompt):
        problem = f"{named(adapter.card.name)} returned from render() {_shown(given)}, which is no Prompt"
        raise _wrong(problem, sample, "Return Prompt(segments=...), of medbench.adapters.")
    return given


def understood(parse: Parser, text: str, sample: Sample, spec: TaskSpec) -> Answer:
    """Return what a model's text means; SampleError if its parser raises anything, or returns what is no answer."""
    try:
        given: object = parse(text, sample, spec)
    except MedbenchError as error:
        raise SampleError(_of(sample, error.problem), error.hint) from error
    except Exception as error:
        home = getattr(getattr(parse, "__code__", None), "co_filename", "")
        raise SampleError(_of(sample, f"The model's parser failed: {described(error, home)}."), _WHOSE) from error
    name = getattr(parse, "__qualname__", type(parse).__qualname__)
    whose = f"The model's parser ({getattr(parse, '__module__', '?')}.{name}) returned"
    if not isinstance(given, Answer):
        raise _wrong(f"{whose} {_shown(given)}, which is no Answer", sample, _PARSED)
    if not isinstance(given.text, str):
        raise _wrong(f"{whose} an Answer whose text is {_shown(given.text)}, which is no text", sample, _PARSED)
    if given.box is not None and not isinstance(given.box, Box):
        raise _wrong(f"{whose} an Answer whose box is {_shown(given.box)}, which is no Box", sample, _PARSED)
    return given


def _shown(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}" if value is not None else "None"


def _wrong(problem: str, sample: Sample, hint: str) -> SampleError:
    return SampleError(_of(sample, f"{problem}."), hint)


def _of(sample: Sample, problem: str) -> str:
    return f"Sample {sample.sample_id!r} of {sample.task}: {problem}"
