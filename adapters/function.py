"""A model that a user brings along: any function, or an adapter that is loaded already. Imports no torch."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from medbench.adapters.base import (
    Adapter,
    AdapterEntry,
    Argument,
    DirectAdapter,
    Generation,
    LoadOptions,
    ModelCard,
    answer_with_box,
)
from medbench.adapters.catalog import ADAPTERS, ChosenModel
from medbench.adapters.wording import question_of
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.errors import SampleError, UsageError, described
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.images import open_image
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

Answering = Callable[..., str]
"""Returns the text of an answer. See `FunctionAdapter` for what it is given."""
DEFAULT_BOXES = "pixels"
_GIVEN = ("prompt", "images", "sample", "spec")
_PLAIN = (str, int, float, bool, bytes, tuple, frozenset, type(None))
_BOTH = 2


class FunctionAdapter(DirectAdapter):
    """A function as a model.

    It is given what its parameters name: `prompt`, the text that a served model would be asked with; `images`, a list
    of images of PIL in RGB; `sample`, the whole question; `spec`, its task. A function whose parameters have other
    names is given the sample, if it has one, or prompt and images, if it has two.

    Boxes in questions are written in `space`, and are to be written so in answers; images of a task start from
    `source_of` its name.
    """

    def __init__(self, function: Answering, name: str, space: BoxSpace, source_of: Callable[[str], Path]) -> None:
        self.card = card_of(name)
        self.weights_fingerprint = hash_of_source(function) or "a function without source"
        self.made_of = {"function": name_of(function), "source": self.weights_fingerprint}
        self._function = function
        self._space = space
        self._source_of = source_of
        self._names = _parameters(function)

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return what the function says."""
        given: dict[str, Any] = {"sample": sample, "spec": spec}
        if "prompt" in self._names:
            given["prompt"] = question_of(sample, spec, self._space)
        if "images" in self._names:
            given["images"] = [open_image(self._source_of(spec.name), image) for image in sample.images]
        words = {parameter: given[what] for what, parameter in self._names.items()}
        try:
            text = self._function(**words)
        except SampleError:
            raise
        except Exception as error:
            home = getattr(inspect.unwrap(self._function), "__code__", None)
            told = described(error, getattr(home, "co_filename", ""))
            raise SampleError(
                f"{name_of(self._function)} failed for sample {sample.sample_id!r} of {sample.task}: {told}.",
                "Mend it and run again; another function makes another run.",
            ) from error
        if not isinstance(text, str):
            raise SampleError(
                f"{name_of(self._function)} returned a {type(text).__name__}, which is no text.", "Return a str."
            )
        return Generation(text=text)


def card_of(name: str) -> ModelCard:
    """Return what is known of a function."""
    return ModelCard(
        name=name, title=name, kinds=frozenset(get_args(Kind)), weights="the user's own function", licence="unknown"
    )


def name_of(model: Adapter | Answering) -> str:
    """Return the name of a user's own model: of its card, or of the function."""
    if isinstance(model, Adapter):
        return model.card.name
    if isinstance(model, functools.partial):
        return name_of(model.func)
    name: str = getattr(model, "__qualname__", type(model).__qualname__)
    return name.rpartition("<locals>.")[2].strip("<>")


def _parameters(function: Answering) -> dict[str, str]:
    """Return the parameter that takes each of what is given."""
    taken = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.kind is not one.VAR_KEYWORD and one.kind is not one.VAR_POSITIONAL
    ]
    needed = [name for name in taken if inspect.signature(function).parameters[name].default is inspect.Parameter.empty]
    if all(name in _GIVEN for name in needed) and any(name in _GIVEN for name in taken):
        return {name: name for name in taken if name in _GIVEN}
    if len(needed) == 1:
        return {"sample": needed[0]}
    if len(needed) == _BOTH:
        return {"prompt": needed[0], "images": needed[1]}
    raise UsageError(
        f"{name_of(function)} takes {', '.join(needed) or 'nothing'}.",
        f"A function is given what it names of {', '.join(_GIVEN)}: def answer(prompt, images) -> str.",
    )


def own_model(model: Adapter | Answering, name: str = "", boxes: str = "") -> ChosenModel:
    """Return a user's own model as one of the catalogue's, so that a run takes it like any other.

    UsageError if it can be no model, or there is no such way to write boxes.

    `name` is a function's in tables, its own by default. `boxes` is one of `BOX_SPACES`: pixels by default, or what the
    catalogue says of the adapter.
    """
    if isinstance(model, Adapter):
        chosen = known_model(model.card.name, boxes)
        entry = replace(chosen.entry, card=model.card, load=lambda _: model)
        return replace(chosen, entry=entry)
    if not callable(model):
        raise UsageError(f"{model!r} is no model.", "Give an adapter, or a function that returns a text.")
    _parameters(model)
    called = name or name_of(model)
    chosen = known_model(called, boxes, catalogue=False)
    space = BOX_SPACES[chosen.arguments["boxes"]]

    def load(options: LoadOptions) -> Adapter:
        return FunctionAdapter(model, called, space, options.source_of)

    return replace(chosen, entry=replace(chosen.entry, load=load))


def known_model(name: str, boxes: str = "", *, catalogue: bool = True) -> ChosenModel:
    """Return how the answers of a user's own model are read, without the model."""
    given = {"boxes": boxes} if boxes else {}
    if catalogue and name in ADAPTERS:
        entry = replace(ADAPTERS.load(name), takes=frozenset())
        return ChosenModel(entry=entry, variant="", arguments=entry.settled("", given if entry.spaces else {}))
    entry = AdapterEntry(
        card=card_of(name), load=_is_not_here, parse=functools.partial(answer_with_box, BOX_SPACES[DEFAULT_BOXES]),
        arguments={"boxes": Argument(help="how boxes are written", default=DEFAULT_BOXES, choices=tuple(BOX_SPACES))},
        boxes=BOX_SPACES[DEFAULT_BOXES], spaces=BOX_SPACES,
    )  # fmt: skip
    return ChosenModel(entry=entry, variant="", arguments=entry.settled("", given))


def _is_not_here(_: LoadOptions) -> Adapter:
    raise UsageError("This run's model was given in Python.", "Give it again: run(settings, adapter=...).")


def hash_of_source(thing: Callable[..., object]) -> str:
    """Return the hash of a function's or class's source and of the plain values that it has by default or closes over.

    Of its bytecode where there is no source; empty where there is neither.
    """
    if isinstance(thing, functools.partial):
        return fingerprint([hash_of_source(thing.func), repr(thing.args), repr(sorted(thing.keywords.items()))])
    function: Any = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
    code = getattr(function, "__code__", None)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = "" if code is None else f"{code.co_code!r}{code.co_consts!r}"
    if not source:
        return ""
    held: Mapping[str, Any] = {}
    if code is not None:
        cells = getattr(function, "__closure__", None) or ()
        held = {
            **{name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=False)},
            **{str(place): value for place, value in enumerate(getattr(function, "__defaults__", None) or ())},
        }
    values = {name: repr(value) for name, value in held.items() if isinstance(value, _PLAIN)}
    return hashlib.sha256(f"{source}{sorted(values.items())}".encode()).hexdigest()
