"""From the words of the command line to a loaded LLaVA-Med."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from medbench.adapters.base import LoadOptions
from medbench.adapters.llava_med.adapter import AUTHORS_TOKENS, LlavaMedAdapter, Manner, Weights
from medbench.adapters.llava_med.configuration import LlavaFormat, read_format
from medbench.adapters.llava_med.model import load_model
from medbench.adapters.llava_med.templates import TEMPLATES, Template
from medbench.adapters.llava_med.vision import SUBFOLDER
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.foundation.model_files import identity_of
from medbench.tasks.foundation.stand_ins import refuse_stand_ins
from medbench.unimed.tokens import TextCodec, load_codec
from medbench.unimed.weights import device_and_dtype

DEFAULT_VERSION = "v1.5"
AUTHORS_DECODING: Mapping[str, Mapping[str, float]] = {"v1.5": {}, "v1.0": {"temperature": 0.7}}
PATCH, START, END = MARKS = ("<im_patch>", "<im_start>", "<im_end>")
"""The tokens of version 1.0, in the order in which the authors add them to LLaMA's."""


def load_llava_med(options: LoadOptions) -> LlavaMedAdapter:
    """Load a checkpoint folder.

    Raises:
        DataError: If a file is missing or broken, or does not fit.
        UsageError: If the checkpoint, its vision tower or the device is not there, or an argument makes no sense.
    """
    folder = _checkpoint(options)
    version = options.variant or DEFAULT_VERSION
    template = _template(version, options.arguments["template"])
    author = options.arguments["preset"] == "author"
    manner = Manner(
        version=version,
        template=template,
        decoding=AUTHORS_DECODING[version] if author else {},
        longest=AUTHORS_TOKENS if author else None,
        trained_on=_tasks(options.arguments["trained_on"]),
    )
    from_base = _is_from_base(version, options.arguments["vision_source"])
    with room_for(f"LLaVA-Med in {folder}"):
        weights = _load(options, folder, version, from_base=from_base)
    return LlavaMedAdapter(weights, _with_marks(manner, weights))


_NONE = "none"


def _checkpoint(options: LoadOptions) -> Path:
    if options.checkpoint is None:
        raise UsageError(
            "LLaVA-Med needs its weights.",
            "Give them: --checkpoint DIR. `medbench models` says where they come from.",
        )
    if not options.checkpoint.is_dir():
        raise UsageError(f"The checkpoint {options.checkpoint} is no folder.", "Give the folder with config.json.")
    return options.checkpoint


def _template(version: str, name: str) -> Template:
    templates = TEMPLATES[version]
    if name not in templates:
        raise UsageError(f"LLaVA-Med {version} has no template {name!r}.", f"Allowed: {', '.join(templates)}.")
    return templates[name]


def _tasks(names: str) -> frozenset[str] | None:
    """Return the tasks that the user names, none of `none`, None if nothing was said."""
    if not names.strip():
        return None
    if names.strip() == _NONE:
        return frozenset()
    return frozenset(get_task(name.strip()).name for name in names.split(",") if name.strip())


def _is_from_base(version: str, source: str) -> bool:
    if version == "v1.0" and source == "checkpoint":
        raise UsageError(
            "A checkpoint of version 1.0 holds no vision tower.", "Leave --model-arg vision_source=checkpoint out."
        )
    return source == "base"


def _load(options: LoadOptions, folder: Path, version: str, *, from_base: bool) -> Weights:
    tower = _tower(folder, options.arguments["vision_tower"])
    refuse_stand_ins(folder, *((tower,) if tower else ()))
    form = read_format(folder, tower)
    _refuse_other_version(form, version, folder)
    codec = load_codec(folder)
    device, dtype = device_and_dtype(options.device, options.dtype)
    model, difference = load_model(folder, form, dtype, tower=tower, from_base=from_base)
    parts = {"checkpoint": folder}
    if tower is not None:
        parts["vision tower"] = tower if from_base else tower / "config.json"
    return Weights(
        model=torch.nn.Module.to(model, device).eval(),
        codec=codec,
        form=form,
        fingerprint=identity_of(parts),
        notices=() if difference is None else (_told(tower, difference, from_base=from_base),),
    )


def _tower(folder: Path, given: str) -> Path | None:
    if given:
        tower = Path(given).expanduser()
        if not tower.is_dir():
            raise UsageError(f"The vision tower {given!r} is no folder.", "Give the folder of OpenAI's CLIP.")
        return tower
    inner = folder / SUBFOLDER
    return inner if inner.is_dir() else None


def _told(tower: Path | None, difference: float, *, from_base: bool) -> str:
    towers = ("the checkpoint's own", f"the one in {tower}")
    taken, left = reversed(towers) if from_base else towers
    return f"LLaVA-Med's vision tower is {taken}, not {left}; their weights differ by up to {difference:.3g}."


def _refuse_other_version(form: LlavaFormat, version: str, folder: Path) -> None:
    if version == "v1.0" and not form.linear:
        raise DataError(f"{folder} has the projector of version 1.5.", "Run it as --model llava-med:v1.5.")
    if version == "v1.5" and form.marks:
        raise DataError(f"{folder} marks its images as version 1.0 does.", "Run it as --model llava-med:v1.0.")


def _with_marks(manner: Manner, weights: Weights) -> Manner:
    """Return the manner with the tokens that stand around an image in a checkpoint of version 1.0."""
    if manner.version != "v1.0":
        return manner
    vocabulary = int(weights.model.config.get_text_config(decoder=True).vocab_size)
    patch, start, end = mark_ids(weights.codec, vocabulary)
    weights.model.config.image_token_index = patch
    return replace(manner, before=(start,), behind=(end,)) if weights.form.marks else manner


def mark_ids(codec: TextCodec, vocabulary: int) -> tuple[int, int, int]:
    """Return the ids of `<im_patch>`, `<im_start>` and `<im_end>`.

    A tokenizer without them is LLaMA's own; the authors add them behind it in this order.

    Args:
        codec: The tokenizer.
        vocabulary: Rows of the embedding.

    Raises:
        DataError: If tokenizer and embedding do not belong together.
    """
    found = [codec.id_of(mark) for mark in MARKS]
    if set(found) == {None} and codec.size + len(MARKS) == vocabulary:
        return codec.size, codec.size + 1, codec.size + 2
    patch, start, end = found
    if patch is None or start is None or end is None or max(patch, start, end) >= vocabulary:
        raise DataError(
            f"The tokenizer has {codec.size} tokens, {', '.join(MARKS)} at {found}, the model {vocabulary}.",
            "Copy the tokenizer's files of the same checkpoint, added_tokens.json among them.",
        )
    return patch, start, end
