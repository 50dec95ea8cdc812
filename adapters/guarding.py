"""What an adapter's own code raises or returns, made to concern one sample only. Imports no torch.

A run of a night must not end because one question of ten thousand meets a fault in somebody's `answer`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

from medbench.adapters import base
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.remote import RemoteAdapter, RetryableError
from medbench.tasks.foundation.errors import MedbenchError, RunError, SampleError, described
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

GivenT = TypeVar("GivenT")
# What may be returned: how it is called, what is told of another thing, and what its fields must be.
_WANTED: dict[type, tuple[str, str, dict[str, tuple[Any, str]]]] = {
    base.Generation: (
        "a Generation", "Return Generation(text=..., stop=...), of medbench.adapters.",
        {"text": (str, "text"), "reasoning": (str, "text")},
    ),
    base.Answer: (
        "an Answer", "Return Answer(text=..., box=...), of medbench.adapters.",
        {"text": (str, "text"), "box": (Box | None, "Box")},
    ),
    base.Prompt: ("a Prompt", "Return Prompt(segments=...), of medbench.adapters.", {}),
}  # fmt: skip
_WHOSE = "Tell its authors; the other samples are not touched by it."


def named(model: str) -> str:
    """Return a model for people: of a plugin with the distribution that brought it."""
    origin = ADAPTERS.origin(model)
    return f"The model {model!r} of {origin}" if origin else f"The model {model!r}"


@contextmanager
def one_sample(adapter: base.Adapter, doing: str, sample: Sample | None = None) -> Iterator[None]:
    """Make a SampleError of any exception of an adapter's own code, where the method `doing` is called."""
    try:
        yield
    except (MedbenchError, RetryableError):
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and isinstance(adapter, RemoteAdapter):
            # Whoever asks servers ends what takes too long, and asks again.
            raise
        problem = _raised(adapter.card.name, doing, error, type(adapter).__module__, sample)
        raise SampleError(problem, _WHOSE, kind="model") from error


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


def answered(adapter: base.DirectAdapter, sample: Sample, spec: TaskSpec) -> base.Generation:
    """Return what a direct model answers; SampleError if it raises anything, or returns what is no generation."""
    with one_sample(adapter, "answer()", sample):
        returned: object = adapter.answer(sample, spec)
    whose = f"{named(adapter.card.name)} returned from answer()"
    given = _as_wanted(base.Generation, returned, whose, sample)
    if given.stop not in get_args(base.StopReason):
        allowed = ", ".join(map(repr, get_args(base.StopReason)))
        raise SampleError(_of(sample, f"{whose} the stop {given.stop!r}."), f"Allowed: {allowed}.", kind="model")
    for name in ("prompt_tokens", "output_tokens", "thought_tokens"):
        count: object = getattr(given, name)
        if not isinstance(count, int) or count < 0:
            hint = _WANTED[base.Generation][1]
            raise SampleError(_of(sample, f"{whose} {name}={count!r}, which is no count."), hint, kind="model")
    return given


def rendered(adapter: base.LocalAdapter, sample: Sample, spec: TaskSpec, size_of: base.SizeOf) -> base.Prompt:
    """Return the prompt of a local model; SampleError if it raises anything, or returns what is no prompt."""
    with one_sample(adapter, "render()", sample):
        returned: object = adapter.render(sample, spec, size_of)
    return _as_wanted(base.Prompt, returned, f"{named(adapter.card.name)} returned from render()", sample)


def understood(parse: base.Parser, text: str, sample: Sample, spec: TaskSpec) -> base.Answer:
    """Return what a model's text means; SampleError if its parser raises anything, or returns what is no answer."""
    try:
        returned: object = parse(text, sample, spec)
    except MedbenchError as error:
        raise SampleError(_of(sample, error.problem), error.hint) from error
    except Exception as error:
        home = getattr(getattr(parse, "__code__", None), "co_filename", "")
        raise SampleError(_of(sample, f"The model's parser failed: {described(error, home)}."), _WHOSE) from error
    name = f"{getattr(parse, '__module__', '?')}.{getattr(parse, '__qualname__', type(parse).__qualname__)}"
    return _as_wanted(base.Answer, returned, f"The model's parser ({name}) returned", sample)


def _as_wanted(wanted: type[GivenT], given: object, whose: str, sample: Sample) -> GivenT:
    def shown(value: object) -> str:
        return f"{type(value).__name__} {str(value)[:60]!r}" if value is not None else "None"

    article, hint, fields = _WANTED[wanted]
    if not isinstance(given, wanted):
        problem = f"{whose} {shown(given)}, which is no {wanted.__name__}."
        raise SampleError(_of(sample, problem), hint, kind="model")
    for name, (kind, what) in fields.items():
        value: object = getattr(given, name)
        if not isinstance(value, kind):
            problem = f"{whose} {article} whose {name} is {shown(value)}, which is no {what}."
            raise SampleError(_of(sample, problem), hint, kind="model")
    return given


def _of(sample: Sample, problem: str) -> str:
    return f"Sample {sample.sample_id!r} of {sample.task}: {problem}"
