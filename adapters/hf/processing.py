"""A model's processor as it is used here: images scaled by PIL, questions as its chat template wants them, token ids.

Only videos need torchvision. Images are scaled by PIL even where it is installed: the two differ by a grey level, and
an answer must not depend on what else stands in an environment.
"""

import copy
import importlib
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import AutoProcessor, BatchFeature
from transformers.models.auto import processing_auto

from medbench.adapters.base import ImageSlot, Size, TextSegment
from medbench.tasks.answers.thoughts import MARKS
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.sample import ImageRef

Processor = Any  # Any processor of transformers, or a class of them.
Config = Any  # Any configuration of transformers.
Images = Any  # Images, nested as a processor likes.
Template = Any  # A text, or several by their names.
Segment = TextSegment | ImageSlot
Shape = tuple[int, tuple[int, int, int] | None]  # Visual tokens, and their frames, rows and columns if those count.
_PIL: dict[str, Any] = {"backend": "pil", "trust_remote_code": False}
_SIZES = 512
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}  # Of towers, beside patches, by their type.
# What rendering raises beside `TemplateError`, where a template meets what it does not expect.
_RAISED = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<form>.*?)(?P=quote)\s*\)""")
_ASKED, _TOLD = "medbench asks 7319", "medbench tells 1973"
_PARTS_AS_TEXT = "'type':"  # Python's own way of writing a list of parts, where a template puts it as a text.
_ASKED_BARE = frozenset({"paligemma"})  # Families that are published without a template and asked without one.
# Whether a template takes the user's, and the system's message as lists of parts, or as texts with image marks.
_FORMS = ((True, True), (True, False), (False, False))


def load_processor(folder: Path, config: Config) -> tuple[Processor, tuple[str, ...]]:
    """Return a processor, padding on the left, and notices of what was mended; DataError if it cannot be made."""
    try:
        try:
            processor = AutoProcessor.from_pretrained(folder, **_PIL)
        except (ImportError, AttributeError, OSError):
            # Only the video part asks for torchvision, or for a file that a model of images does not have.
            name = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"].get(config.model_type)
            if name is None:
                raise ValueError(f"transformers names no processor for {config.model_type}") from None
            whole = getattr(importlib.import_module(f"transformers.models.{config.model_type}"), name)
            processor = without_videos(whole).from_pretrained(folder, **_PIL)
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        problem = f"The processor of {config.model_type} in {folder} cannot be made: {error}"
        raise DataError(problem, "Its images may need torchvision, or a file of the processor is missing.") from error
    missing = [name for name in ("tokenizer", "image_processor") if getattr(processor, name, None) is None]
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


def dropped_ids(tokenizer: Processor) -> frozenset[int] | None:
    """Return the special tokens that texts are written without, where marks of thoughts must stay; None otherwise."""
    special = _special(tokenizer)
    marks = {number for number, token in special.items() if token in MARKS}
    return frozenset(special.keys() - marks) if marks else None


def kept_marks(tokenizer: Processor) -> dict[str, str]:
    """Return the special tokens that stay in texts, as a part of what a model is made of; nothing if there are none."""
    marks = sorted(token for token in _special(tokenizer).values() if token in MARKS)
    return {"special tokens kept": " ".join(marks)} if marks else {}


def _special(tokenizer: Processor) -> dict[int, str]:
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    special = {int(number) for number, token in added.items() if getattr(token, "special", False)}
    return {number: str(tokenizer.convert_ids_to_tokens(number)) for number in special | set(tokenizer.all_special_ids)}


class Renderer:
    """Writes questions as a model's chat template does, or bare where it has none, with blank images of their sizes.

    `image_token_id` stands once for every visual token; `in_grids`: they have positions in three dimensions; `options`
    are more for the image processor; the template is told one day. UsageError if it does not take the system message or
    what `chat` has for it; DataError if it cannot be used at all.
    """

    def __init__(
        self, processor: Processor, family: str, *, system: str, chat: Mapping[str, Any], today: date,
        image_token_id: int, in_grids: bool, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._processor = processor
        self._system = system
        self._chat = chat
        self._image_token_id = image_token_id
        self._in_grids = in_grids
        self._options = options
        self.shape = lru_cache(maxsize=_SIZES)(self._shape)
        template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
        self._form: tuple[bool, bool] | None = None
        self.notices: tuple[str, ...] = ()
        if template:
            processor.chat_template = _pinned(template, today)
            self._form = self._found_form()
            told_day = f"The chat template writes the date; it is always told {today} (--model-arg date)."
            plain = "The chat template takes messages as plain texts: images are marked in front of the question."
            dated = processor.chat_template != template
            self.notices = (*[told_day] * dated, *[plain] * (not self._form[0]))
        elif system or chat:
            given = [name for name, value in (("system", system), ("chat", chat)) if value]
            raise UsageError(
                f"This model has no chat template, which --model-arg {' and '.join(given)} would go to.",
                "Leave it out, or put the template into the model's folder as chat_template.jinja.",
            )
        elif family not in _ASKED_BARE:
            bare = (
                "This model has no chat template, so it is asked with the bare question. A chat model answers worse: "
                "put its template into its folder as chat_template.jinja."
            )
            self.notices = (bare,)
        self._blank = copy.copy(processor)
        self._blank.image_processor = _SizesOnly(processor.image_processor)

    def text(self, question: str, images: int) -> str:
        """Return a prompt, with one mark per image, images first; SampleError if the template refuses it."""
        if self._form is None:
            return self._mark * images + question
        try:
            return self._rendered(self._form, question, self._system, images)
        except _RAISED as error:
            raise SampleError(
                f"The model's chat template does not take this question: {error}", kind="prompt"
            ) from error

    def _rendered(self, form: tuple[bool, bool], question: str, system: str, images: int) -> str:
        messages: list[dict[str, Any]] = []
        turns = (("system", form[1], system, 0), ("user", form[0], question, images))
        for role, in_parts, text, seen in turns if system else turns[1:]:
            parts = [*({"type": "image"} for _ in range(seen)), {"type": "text", "text": text}]
            plain = f"{self._mark * seen}\n{text}" if seen else text
            messages.append({"role": role, "content": parts if in_parts else plain})
        return str(
            self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **self._chat)
        )

    @property
    def _mark(self) -> str:
        return str(getattr(self._processor, "image_token", None) or "<image>")

    def _found_form(self) -> tuple[bool, bool]:
        system = _TOLD if self._system else ""
        problems = {form: self._problem(form, system) for form in _FORMS}
        fitting = [form for form, problem in problems.items() if not problem]
        if fitting:
            return fitting[0]
        problem = problems[_FORMS[0]]
        if system and not all(self._problem(form, "") for form in _FORMS):
            problem = f"The model's chat template takes no system message: {problem}."
            raise UsageError(problem, "Leave --model-arg system out.")
        raise DataError(
            f"The model's chat template cannot be used: {problem}.",
            "Put the template of the published model into chat_template.jinja, or give it what it needs by --model-arg "
            "chat={...}.",
        )

    def _problem(self, form: tuple[bool, bool], system: str) -> str:
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
        return "it leaves the image out" if ignored else ""

    def inputs(
        self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], processor: Processor = None
    ) -> dict[str, Any]:
        """Return what the model takes for prompts with their images, or SampleError if the processor does not."""
        processor = processor or self._processor
        given = [list(own) for own in images]
        bos = self._processor.tokenizer.bos_token
        # The tokenizer would write again what a template has written.
        brings_bos = self._form is not None and bos is not None and texts[0].startswith(bos)
        try:
            inputs = processor(
                text=list(texts), images=given if any(given) else None, padding=True, return_tensors="pt",
                **({"add_special_tokens": False} if brings_bos else {}), **(self._options if any(given) else {}),
            )  # fmt: skip
        except (ValueError, TypeError, IndexError) as error:
            # Each says in its own way what it does not take, such as a question without an image.
            raise SampleError(f"The model's processor does not take this prompt: {error}", kind="prompt") from error
        return {name: value for name, value in inputs.items() if name != "labels"}

    def takes_text_alone(self) -> bool:
        """Whether a question may come without an image."""
        try:
            self._of_sizes("?", [])
        except SampleError:
            return False
        return True

    def whole(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return a prompt as one text with its images before it: of the right length, but not to be driven."""
        slots = (ImageSlot(image=image, tokens=0) for image in images)
        return (*slots, TextSegment(ids=tuple(self._ids(question, sizes))))

    def segments(self, question: str, images: Sequence[ImageRef], sizes: Sequence[Size]) -> tuple[Segment, ...]:
        """Return text and slots of images of these sizes; SampleError if other tokens stand there than promised."""
        ids = self._ids(question, sizes)
        shapes = [self.shape(size) for size in sizes]
        owners = [place for place, (tokens, _) in enumerate(shapes) for _ in range(tokens)]
        if ids.count(self._image_token_id) != len(owners):
            raise SampleError(
                f"The model's processor writes {ids.count(self._image_token_id)} visual tokens for images of "
                f"{list(sizes)}, not the {len(owners)} that it writes for each alone.",
                kind="prompt",
            )
        owner, taken = iter(owners), Counter[int]()
        segments: list[Segment] = []
        for place, run in groupby(ids, key=lambda one: next(owner) if one == self._image_token_id else -1):
            stretch = tuple(run)
            if place < 0:
                segments.append(TextSegment(ids=stretch))
                continue
            # An image whose tokens stand apart gets a slot for each stretch.
            slot = ImageSlot(image=images[place], tokens=len(stretch), first=taken[place], grid=shapes[place][1])
            segments.append(slot)
            taken[place] += len(stretch)
        return tuple(segments)

    def _ids(self, question: str, sizes: Sequence[Size]) -> list[int]:
        return cast("list[int]", self._of_sizes(question, sizes)["input_ids"][0].tolist())

    def _shape(self, size: Size) -> Shape:
        inputs = self._of_sizes("", [size])
        tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        if not self._in_grids:
            return tokens, None
        frames, rows, columns = inputs["image_grid_thw"][0].tolist()
        side = int(self._processor.image_processor.merge_size)
        return tokens, (frames, rows // side, columns // side)

    def _of_sizes(self, question: str, sizes: Sequence[Size]) -> dict[str, Any]:
        blanks = [Image.new("RGB", size) for size in sizes]
        return self.inputs([self.text(question, len(sizes))], [blanks], self._blank)


def _pinned(template: Template, today: date) -> Template:
    """Return a template in which the day is written that it would look up."""
    if isinstance(template, Mapping):
        return {name: _pinned(one, today) for name, one in template.items()}
    text = _TODAY.sub(lambda call: repr(today.strftime(call["form"])), template)
    if "strftime_now(" in text:
        problem = "The model's chat template looks the date up in a way that cannot be pinned."
        raise DataError(problem, "Write strftime_now with a plain text in chat_template.jinja, or the date itself.")
    return text


class _SizesOnly:
    """Stands before an image processor and computes once for images of the same sizes; pixels become zeros."""

    def __init__(self, real: Processor) -> None:
        self._real = real
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._real, name)

    def __call__(self, images: Images, **options: object) -> BatchFeature:
        """Return what the real one returns, with pixels that take no memory."""
        key = repr((_sizes(images), sorted(options.items(), key=lambda item: item[0])))
        if key not in self._known:
            self._known[key] = {name: _weightless(value) for name, value in self._real(images, **options).items()}
            if len(self._known) > _SIZES:
                self._known.popitem(last=False)
        return BatchFeature(dict(self._known[key]))


def _sizes(images: Images) -> Images:
    if isinstance(images, Image.Image):
        return images.size
    return [_sizes(image) for image in images] if isinstance(images, Sequence) else type(images).__name__


def _weightless(value: Any) -> Any:  # noqa: ANN401 - as it comes
    """Return floating numbers as zeros of the same shape that share one place; whatever else as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.new_zeros(()).expand(value.shape)
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
        return np.broadcast_to(np.zeros((), dtype=value.dtype), value.shape)
    return [_weightless(part) for part in value] if isinstance(value, list) else value
