"""A model's chat template: in which form it takes messages, what it refuses, and the day that it is told."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from jinja2 import TemplateError

from medbench.adapters.hf.processors import Processor
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError

# What rendering raises beside `TemplateError`, where a template meets what it does not expect.
_RAISED = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")
_ASKED, _TOLD = "medbench asks 7319", "medbench tells 1973"
# Python's own way of writing a list of parts, where a template puts it as a text.
_PARTS_AS_TEXT = "'type':"
# Families whose models are published without a template and are asked without one.
_ASKED_BARE = frozenset({"paligemma"})

Messages = list[dict[str, Any]]
Template = Any
"""A text, or several by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """In which form a template takes messages.

    Attributes:
        question: Whether the user's message is a list of parts; else it is a text with marks for pictures.
        system: The same of the system's message, which has no pictures.
    """

    question: bool
    system: bool


_FORMS = (Form(question=True, system=True), Form(question=True, system=False), Form(question=False, system=False))


class ChatTemplate:
    """Writes questions as a model's chat template does, or bare where it has none.

    Args:
        processor: Of transformers; its template is pinned to one day.
        family: Type of the model.
        system: A message before the question; empty for none.
        chat: More for the template.
        today: The day that it is told.

    Attributes:
        notices: What the run must show loudly.

    Raises:
        UsageError: If a system message or more is given that the template does not take.
        DataError: If it cannot be used at all.
    """

    def __init__(self, processor: Processor, family: str, *, system: str, chat: Mapping[str, Any], today: date) -> None:
        self._processor = processor
        self._system = system
        self._chat = chat
        template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
        self.exists = bool(template)
        self.notices: tuple[str, ...] = ()
        self._form = _FORMS[0]
        if not self.exists:
            self._refuse_ignored()
            self._tell(self._bare_notice() if family not in _ASKED_BARE else "")
            return
        processor.chat_template, dated = _pinned(template, today)
        self._form = self._found_form()
        self._tell(f"The chat template writes the date; it is always told {today} (--model-arg date)." * dated)
        self._tell(
            "The chat template takes messages as plain texts: pictures are marked in front of the question."
            * (not self._form.question)
        )

    def text(self, question: str, images: int) -> str:
        """Return a prompt, with one mark per picture, pictures first.

        Raises:
            SampleError: If the template refuses it.
        """
        if not self.exists:
            return self._mark * images + question
        try:
            return self._rendered(self._form, question, self._system, images)
        except _RAISED as error:
            raise SampleError(f"The model's chat template does not take this question: {error}") from error

    def _rendered(self, form: Form, question: str, system: str, images: int) -> str:
        messages: Messages = [{"role": "user", "content": self._content(question, images, parts=form.question)}]
        if system:
            messages.insert(0, {"role": "system", "content": self._content(system, 0, parts=form.system)})
        return str(
            self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self._chat)
        )

    def _content(self, text: str, images: int, *, parts: bool) -> str | list[dict[str, str]]:
        if parts:
            return [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        return f"{self._mark * images}\n{text}" if images else text

    @property
    def _mark(self) -> str:
        return str(getattr(self._processor, "image_token", None) or "<image>")

    def _found_form(self) -> Form:
        told = _TOLD if self._system else ""
        found, errors = self._first_that_fits(told)
        if found is not None:
            return found
        if told and self._first_that_fits("")[0] is not None:
            raise UsageError(
                f"The model's chat template takes no system message: {errors[0]}.",
                "Leave --model-arg system out.",
            )
        raise DataError(
            f"The model's chat template cannot be used: {errors[0]}.",
            "Put the template of the published model into chat_template.jinja, or give it what it needs by --model-arg "
            "chat={...}.",
        )

    def _first_that_fits(self, system: str) -> tuple[Form | None, Sequence[str]]:
        errors: list[str] = []
        for form in _FORMS:
            error = _tried(partial(self._rendered, form, _ASKED, system), system)
            if not error:
                return form, errors
            errors.append(error)
        return None, errors

    def _refuse_ignored(self) -> None:
        given = [name for name, value in (("system", self._system), ("chat", self._chat)) if value]
        if given:
            raise UsageError(
                f"This model has no chat template, which --model-arg {' and '.join(given)} would go to.",
                "Leave it out, or put the template into the model's folder as chat_template.jinja.",
            )

    def _bare_notice(self) -> str:
        return (
            "This model has no chat template, so it is asked with the bare question. A chat model answers worse: put "
            "its template into its folder as chat_template.jinja."
        )

    def _tell(self, notice: str) -> None:
        self.notices += (notice,) if notice else ()


def _tried(render: Callable[[int], str], system: str) -> str:
    """Return what is wrong with a form of messages; nothing if a question with and without a picture comes through."""
    try:
        with_picture = render(1)
    except _RAISED as error:
        return str(error).strip().rstrip(".") or type(error).__name__
    if _PARTS_AS_TEXT in with_picture:
        return "it writes the parts of a message as a text"
    if _ASKED not in with_picture:
        return "it leaves the question out"
    if system not in with_picture:
        return "it leaves the system message out"
    try:
        ignored = render(0) == with_picture
    except _RAISED:
        # Some take no question without a picture.
        return ""
    return "it leaves the picture out" if ignored else ""


def _pinned(template: Template, today: date) -> tuple[Template, bool]:
    """Return a template in which the day is written that it would look up, and whether it looks one up."""
    if isinstance(template, Mapping):
        pinned = {name: _pinned(one, today) for name, one in template.items()}
        return {name: one for name, (one, _) in pinned.items()}, any(dated for _, dated in pinned.values())
    text = _TODAY.sub(lambda call: repr(today.strftime(call["form"])), template)
    if "strftime_now(" in text:
        raise DataError(
            "The model's chat template looks the date up in a way that cannot be pinned.",
            "Write strftime_now with a plain text in chat_template.jinja, or the date itself.",
        )
    return text, text != template
