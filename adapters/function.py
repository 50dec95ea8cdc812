"""A model that a user brings along: any function, or an adapter that is loaded already. Imports no torch."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from medbench.adapters import base
from medbench.adapters.catalog import ADAPTERS, ChosenModel
from medbench.adapters.wording import question_of
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.errors import SampleError, UsageError, described
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.images import open_image
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

Answering = Callable[..., str]  # Returns the text of an answer. See `FunctionAdapter` for what it is given.
IMPORTED = "imported"  # The name of what answered a run whose answers somebody else had.
_DEFAULT_BOXES = "pixels"
_GIVEN = ("prompt", "images", "sample", "spec")
_PLAIN = (str, int, float, bool, bytes, tuple, frozenset, type(None))
_BY_PLACE = {1: ("sample",), 2: ("prompt", "images")}


class FunctionAdapter(base.DirectAdapter):
    """A function as a model.

    It is given what its parameters name: `prompt`, the text that a served model would be asked with; `images`, a list
    of images of PIL in RGB; `sample`, the whole question; `spec`, its task. A function whose parameters have other
    names is given the sample, if it has one, or prompt and images, if it has two. Boxes in questions are written in
    `space`, and are to be written so in answers; images of a task start from `source_of` its name.
    """

    def __init__(self, function: Answering, name: str, space: BoxSpace, source_of: Callable[[str], Path]) -> None:
        self.card = card_of(name)
        self.weights_fingerprint = hash_of_source(function) or "a function without source"
        self.made_of = {"function": name_of(function), "source": self.weights_fingerprint}
        self._function = function
        self._space = space
        self._source_of = source_of
        self._names = _parameters(function)

    def answer(self, sample: Sample, spec: TaskSpec) -> base.Generation:
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
                kind="model",
            ) from error
        if not isinstance(text, str):
            raise SampleError(
                f"{name_of(self._function)} returned a {type(text).__name__}, which is no text.",
                "Return a str.",
                kind="model",
            )
        return base.Generation(text=text)


def card_of(name: str) -> base.ModelCard:
    """Return what is known of a function."""
    return base.ModelCard(
        name=name, title=name, kinds=frozenset(get_args(Kind)), weights="the user's own function", licence="unknown"
    )


def name_of(model: base.Adapter | Answering) -> str:
    """Return the name of a user's own model: of its card, or of the function."""
    if isinstance(model, base.Adapter):
        return model.card.name
    if isinstance(model, functools.partial):
        return name_of(model.func)
    name: str = getattr(model, "__qualname__", type(model).__qualname__)
    return name.rpartition("<locals>.")[2].strip("<>")


def _parameters(function: Answering) -> dict[str, str]:
    """Return the parameter that takes each of what is given."""
    parameters = inspect.signature(function).parameters.values()
    taken = [one for one in parameters if one.kind not in {one.VAR_KEYWORD, one.VAR_POSITIONAL}]
    needed = [one.name for one in taken if one.default is one.empty]
    named = {one.name: one.name for one in taken if one.name in _GIVEN}
    if named and all(name in _GIVEN for name in needed):
        return named
    if len(needed) in _BY_PLACE:
        return dict(zip(_BY_PLACE[len(needed)], needed, strict=True))
    hint = f"A function is given what it names of {', '.join(_GIVEN)}: def answer(prompt, images) -> str."
    raise UsageError(f"{name_of(function)} takes {', '.join(needed) or 'nothing'}.", hint)


def own_model(model: base.Adapter | Answering, name: str = "", boxes: str = "") -> ChosenModel:
    """Return a user's own model as one of the catalogue's, so that a run takes it like any other.

    `name` is a function's in tables, its own by default. `boxes` is one of `BOX_SPACES`: pixels by default, or what the
    catalogue says of the adapter. UsageError if it can be no model, or there is no such way to write boxes.
    """
    if isinstance(model, base.Adapter):
        chosen = known_model(model.card.name, boxes)
        return replace(chosen, entry=replace(chosen.entry, card=model.card, load=lambda _: model))
    if not callable(model):
        raise UsageError(f"{model!r} is no model.", "Give an adapter, or a function that returns a text.")
    _parameters(model)
    called = name or name_of(model)
    chosen = known_model(called, boxes, catalogue=False)
    space = BOX_SPACES[chosen.arguments["boxes"]]
    entry = replace(chosen.entry, load=lambda options: FunctionAdapter(model, called, space, options.source_of))
    return replace(chosen, entry=entry)


def known_model(name: str, boxes: str = "", *, catalogue: bool = True) -> ChosenModel:
    """Return how the answers of a user's own model are read, without the model."""
    given = {"boxes": boxes} if boxes else {}
    if catalogue and name in ADAPTERS:
        entry = replace(ADAPTERS.load(name), takes=frozenset())
        return ChosenModel(entry=entry, variant="", arguments=entry.settled("", given if entry.spaces else {}))
    space, choices = BOX_SPACES[_DEFAULT_BOXES], tuple(BOX_SPACES)
    entry = base.AdapterEntry(
        card=card_of(name), load=_is_not_here, parse=functools.partial(base.answer_with_box, space),
        arguments={"boxes": base.Argument(help="how boxes are written", default=_DEFAULT_BOXES, choices=choices)},
        boxes=space, spaces=BOX_SPACES,
    )  # fmt: skip
    return ChosenModel(entry=entry, variant="", arguments=entry.settled("", given))


def _is_not_here(_: base.LoadOptions) -> base.Adapter:
    raise UsageError("This run's model was given in Python.", "Give it again: run(settings, adapter=...).")


def hash_of_source(thing: Callable[..., object]) -> str:
    """Return the hash of source or bytecode, plain defaults and what is closed over; empty where there is neither."""
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
    cells = getattr(function, "__closure__", None) or ()
    held = {str(place): value for place, value in enumerate(getattr(function, "__defaults__", None) or ())}
    if code is not None:
        held = {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=False)} | held
    values = {name: repr(value) for name, value in held.items() if isinstance(value, _PLAIN)}
    return hashlib.sha256(f"{source}{sorted(values.items())}".encode()).hexdigest()
