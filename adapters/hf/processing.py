"""A model's processor as it is used here: images scaled by PIL, questions written as its chat template wants them.

Images need PIL alone, only videos need torchvision. They are scaled by PIL even where torchvision is installed: the two
differ by a grey level, and an answer must not depend on what else stands in an environment.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoProcessor
from transformers.models.auto import processing_auto

from medbench.tasks.answers.thoughts import MARKS
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError

Processor = Any
"""Any processor of transformers, or a class of them."""
Tokenizer = Any
"""Any tokenizer of transformers."""
Config = Any
"""Any configuration of transformers."""
_PIL: dict[str, Any] = {"backend": "pil", "trust_remote_code": False}
_PARTS = ("tokenizer", "image_processor")
# Additional tokens of a vision tower, beside its patches, by the type of its configuration.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def load_processor(folder: Path, config: Config) -> tuple[Processor, tuple[str, ...]]:
    """Return a model's processor, whose tokenizer pads on the left, and notices of what was mended in it.

    It has no video part where that cannot be loaded; DataError if it cannot be made here.
    """
    try:
        processor = _first_that_loads(folder, config.model_type)
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(
            f"The processor of {config.model_type} in {folder} cannot be made: {error}",
            "Its images may need torchvision, or a file of the processor is missing.",
        ) from error
    missing = [name for name in _PARTS if getattr(processor, name, None) is None]
    if missing:
        raise DataError(
            f"The files in {folder} make no processor of {config.model_type}: no {' and no '.join(missing)}.",
            "Copy processor_config.json, preprocessor_config.json and the tokenizer's files of the model it was made "
            "from.",
        )
    tokenizer = processor.tokenizer
    # Padding on the right puts padding between prompt and answer; which token it is, does not matter: a mask hides it.
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return processor, _mended(processor, config)


def _first_that_loads(folder: Path, family: str) -> Processor:
    try:
        return AutoProcessor.from_pretrained(folder, **_PIL)
    except (ImportError, AttributeError, OSError):
        # Only the video part asks for torchvision, or for a file that a model of images does not have.
        names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
        if names.get(family) is None:
            raise ValueError(f"transformers names no processor for {family}") from None
        whole = getattr(importlib.import_module(f"transformers.models.{family}"), names[family])
        return without_videos(whole).from_pretrained(folder, **_PIL)


def without_videos(whole: Processor) -> Processor:
    """Return a processor class that has no part for videos, which alone needs torchvision."""

    class ImagesOnly(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in whole.get_attributes() if part != "video_processor"]

    ImagesOnly.__name__ = whole.__name__
    return ImagesOnly


def _mended(processor: Processor, config: Config) -> tuple[str, ...]:
    """Give a processor of LLaVA what the model's configuration knows and older ones were saved without."""
    if not hasattr(processor, "patch_size") or not hasattr(processor, "vision_feature_select_strategy"):
        return ()
    vision = getattr(config, "vision_config", None)
    known = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": _CLASS_TOKENS.get(getattr(vision, "model_type", "")),
    }
    # Without a patch size the number of additional tokens is a default, not something that was said.
    bare = processor.patch_size is None
    taken = {
        name: value for name, value in known.items()
        if value is not None and (getattr(processor, name, None) is None or (bare and name.startswith("num_")))
    }  # fmt: skip
    for name, value in taken.items():
        setattr(processor, name, value)
    told = ", ".join(f"{name}={value}" for name, value in taken.items())
    return (f"The processor was saved without {told}; they were taken from config.json.",) if taken else ()


# Special tokens: which are left out of a model's text, and which are part of what it says


def dropped_ids(tokenizer: Tokenizer) -> frozenset[int] | None:
    """Return the special tokens that a text is written without, where some must stay; None where none must.

    Tokens that set thoughts and answers apart are special ones to some tokenizers: without them nobody can tell a
    thought from an answer.
    """
    special = _special(tokenizer)
    marks = {number for number, token in special.items() if token in MARKS}
    return frozenset(special.keys() - marks) if marks else None


def kept_marks(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens that stay in texts, as a part of what a model is made of; nothing if there are none."""
    marks = sorted(token for token in _special(tokenizer).values() if token in MARKS)
    return {"special tokens kept": " ".join(marks)} if marks else {}


def _special(tokenizer: Tokenizer) -> dict[int, str]:
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    return {number: str(tokenizer.convert_ids_to_tokens(number)) for number in special | set(tokenizer.all_special_ids)}


# Chat templates: in which form they take messages, what they refuse, and the day that they are told

# What rendering raises beside `TemplateError`, where a template meets what it does not expect.
_RAISED = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")
_ASKED, _TOLD = "medbench asks 7319", "medbench tells 1973"
# Python's own way of writing a list of parts, where a template puts it as a text.
_PARTS_AS_TEXT = "'type':"
# Families whose models are published without a template and are asked without one.
_ASKED_BARE = frozenset({"paligemma"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """Whether a template takes the user's and the system's message as lists of parts, or as texts with image marks."""

    question: bool
    system: bool


Template = Any
"""A text, or several by their names."""
_FORMS = (_Form(question=True, system=True), _Form(question=True, system=False), _Form(question=False, system=False))


class ChatTemplate:
    """Writes questions as a model's chat template does, or bare where it has none; pins the template to one day.

    UsageError if it does not take the system message or what `chat` has for it; DataError if it cannot be used at all.
    """

    def __init__(self, processor: Processor, family: str, *, system: str, chat: Mapping[str, Any], today: date) -> None:
        self._processor = processor
        self._system = system
        self._chat = chat
        self._form = _FORMS[0]
        self.notices: tuple[str, ...] = ()
        template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
        self.exists = bool(template)
        if not self.exists:
            self._refuse_ignored()
            bare = (
                "This model has no chat template, so it is asked with the bare question. A chat model answers worse: "
                "put its template into its folder as chat_template.jinja."
            )
            self.notices += () if family in _ASKED_BARE else (bare,)
            return
        processor.chat_template, dated = _pinned(template, today)
        self._form = self._found_form()
        told_day = f"The chat template writes the date; it is always told {today} (--model-arg date)."
        plain = "The chat template takes messages as plain texts: pictures are marked in front of the question."
        self.notices = (*[told_day] * dated, *[plain] * (not self._form.question))

    def text(self, question: str, images: int) -> str:
        """Return a prompt, with one mark per image, images first; SampleError if the template refuses it."""
        if not self.exists:
            return self._mark * images + question
        try:
            return self._rendered(self._form, question, self._system, images)
        except _RAISED as error:
            raise SampleError(f"The model's chat template does not take this question: {error}") from error

    def _rendered(self, form: _Form, question: str, system: str, images: int) -> str:
        messages = [{"role": "user", "content": self._content(question, images, parts=form.question)}]
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

    def _found_form(self) -> _Form:
        found = self._first_that_fits(_TOLD if self._system else "")
        if found is not None:
            return found
        problem = self._problem(_FORMS[0], _TOLD if self._system else "")
        if self._system and self._first_that_fits("") is not None:
            raise UsageError(
                f"The model's chat template takes no system message: {problem}.", "Leave --model-arg system out."
            )
        raise DataError(
            f"The model's chat template cannot be used: {problem}.",
            "Put the template of the published model into chat_template.jinja, or give it what it needs by --model-arg "
            "chat={...}.",
        )

    def _first_that_fits(self, system: str) -> _Form | None:
        return next((form for form in _FORMS if not self._problem(form, system)), None)

    def _problem(self, form: _Form, system: str) -> str:
        """Return what is wrong with a form of messages; nothing if a question with an image comes through."""
        try:
            with_image = self._rendered(form, _ASKED, system, 1)
        except _RAISED as error:
            return str(error).strip().rstrip(".") or type(error).__name__
        if _PARTS_AS_TEXT in with_image:
            return "it writes the parts of a message as a text"
        if _ASKED not in with_image:
            return "it leaves the question out"
        if system not in with_image:
            return "it leaves the system message out"
        try:
            ignored = self._rendered(form, _ASKED, system, 0) == with_image
        except _RAISED:
            # Some take no question without an image.
            return ""
        return "it leaves the picture out" if ignored else ""

    def _refuse_ignored(self) -> None:
        given = [name for name, value in (("system", self._system), ("chat", self._chat)) if value]
        if given:
            raise UsageError(
                f"This model has no chat template, which --model-arg {' and '.join(given)} would go to.",
                "Leave it out, or put the template into the model's folder as chat_template.jinja.",
            )


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
