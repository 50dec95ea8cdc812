"""LLaVA-Med: a checkpoint of LLaVA's format as transformers' `LlavaForConditionalGeneration`, strictly.

The format's flat `config.json` holds the language model's settings beside `mm_*` ones for the rest. The vision tower is
OpenAI's CLIP, in a folder of its own or inside the checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedConfig

from medbench.adapters.base import LoadOptions, Pixels, Prompt, SizeOf
from medbench.adapters.clip import clip_pixels, read_tower, read_tower_config
from medbench.adapters.families import TextAdapter, usable
from medbench.adapters.llava_med.entry import CARD, TEMPLATES, TOWERS, Template, card_of
from medbench.adapters.wording import without_marks
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.files import read_json_object
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed import weights
from medbench.unimed.tokens import TextCodec, load_codec

LANGUAGE_MODELS: Mapping[str, type[PreTrainedConfig]] = {
    "llava_mistral": transformers.MistralConfig, "llava": transformers.LlamaConfig,
    "llava_llama": transformers.LlamaConfig, "llava_qwen2": transformers.Qwen2Config,
}  # fmt: skip
MARKS = ("<im_patch>", "<im_start>", "<im_end>")  # Of version 1.0, in the order in which the authors add them.
AUTHORS_DECODING: Mapping[str, Mapping[str, float]] = {"v1.5": {}, "v1.0": {"temperature": 0.7}}
_TOWER_HINT = "Give OpenAI's tower: --model-arg vision_tower=DIR, a folder with config.json and weights."
_PROJECTORS = {"linear": True, "mlp2x_gelu": False}
_STRATEGIES = {"patch": "default", "cls_patch": "full"}
_SHAPES = {"pad": True, "square": False, None: False}
_TOWER = "model.vision_tower."
_NAMES = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": _TOWER,
    r"^model\.(embed_tokens|layers|norm)\.": r"model.language_model.\1.",
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.mm_projector\.(weight|bias)$": r"model.multi_modal_projector.\1",
}
_BUFFERS = (*weights.ROTARY, "embeddings.position_ids")  # What older libraries save beside the weights.
_LEAST_NORM = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaFormat:
    """What a checkpoint of LLaVA's format is."""

    # Of the model. Its image token is the unknown one, which no text gives, until the tokenizer is known.
    config: LlavaConfig
    linear: bool  # Whether the projector is one linear layer (version 1.0), not two.
    pads: bool  # Whether images are padded to a square, not cut.
    marks: bool  # Whether images stand between `<im_start>` and `<im_end>`.
    visual_tokens: int  # Tokens of an image.
    longest_prompt: int | None  # Most tokens of a prompt; None if only the language model limits them.


def read_format(folder: Path, tower: Path | None) -> LlavaFormat:
    """Return what a checkpoint says about itself. Without a folder of its `tower`, that must be one of OpenAI's two.

    DataError if `config.json` is missing, of another format, or asks for something that is not supported.
    """
    file = folder / "config.json"
    flat = read_json_object(file)
    if "text_config" in flat:
        problem = f"{folder} is a model in the layout of transformers, not of LLaVA."
        raise DataError(problem, f"Run it as it is: --model hf:{folder}")
    if flat.get("model_type") not in list(LANGUAGE_MODELS):
        problem = f"{folder} holds a model of type {flat.get('model_type')!r}."
        raise DataError(problem, f"Allowed: {', '.join(LANGUAGE_MODELS)}.")
    if "mm_vision_tower" not in flat:
        hint = "Give a LLaVA-Med checkpoint; version 1.0 is made of LLaMA and a delta by `medbench convert llava-med`."
        raise DataError(f"{file} names no mm_vision_tower: this is a language model alone.", hint)
    vision: Any = _tower_config(str(flat["mm_vision_tower"] or ""), tower)
    feature = _one_of(file, flat, "mm_vision_select_feature", _STRATEGIES, "patch")
    visual_tokens = (vision.image_size // vision.patch_size) ** 2 + int(feature == "full")
    language = LANGUAGE_MODELS[flat["model_type"]]
    known = {*language.__dataclass_fields__, "rope_theta", "rope_scaling"} - {"model_type", "architectures"}
    with usable(f"{file} cannot be used", "Copy it again."):
        text = language.from_dict({name: value for name, value in flat.items() if name in known})
        config = LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=0, image_seq_length=visual_tokens,
            tie_word_embeddings=bool(text.tie_word_embeddings),
            vision_feature_layer=int(flat.get("mm_vision_select_layer", -2)), vision_feature_select_strategy=feature,
        )  # fmt: skip
    return LlavaFormat(
        config=config, linear=_one_of(file, flat, "mm_projector_type", _PROJECTORS, "linear"),
        pads=_one_of(file, flat, "image_aspect_ratio", _SHAPES, None),
        marks=bool(flat.get("mm_use_im_start_end", False)), visual_tokens=visual_tokens,
        longest_prompt=int(flat.get("tokenizer_model_max_length") or 0) or None,
    )  # fmt: skip


def _one_of(file: Path, flat: Mapping[str, Any], name: str, allowed: Mapping[Any, Any], default: object) -> Any:  # noqa: ANN401 - what the table holds
    value = flat.get(name, default)
    if value not in list(allowed):  # it may be anything
        raise DataError(f"{file}: {name} is {value!r}.", f"Supported: {', '.join(map(str, allowed))}.")
    return allowed[value]


def _tower_config(name: str, folder: Path | None) -> CLIPVisionConfig:
    if "biomedclip" in name.lower():
        hint = "The weights of LLaVA-Med with BiomedCLIP were never published; use one with OpenAI's CLIP."
        raise DataError(f"The checkpoint was trained with the vision tower {name!r}, which is not supported.", hint)
    if folder is not None:
        return read_tower_config(folder, _TOWER_HINT)
    settings = TOWERS.get(name.rstrip("/").rpartition("/")[2])
    if settings is None:
        raise DataError(f"The checkpoint's vision tower {name!r} is unknown.", _TOWER_HINT)
    return CLIPVisionConfig(**settings)


class LinearLlava(LlavaForConditionalGeneration):
    """LLaVA whose projector is one linear layer, as in its first version."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        text, vision = cast("Any", config.text_config), cast("Any", config.vision_config)
        self.model.multi_modal_projector = nn.Linear(vision.hidden_size, text.hidden_size)


def load_model(
    folder: Path, form: LlavaFormat, dtype: torch.dtype, *, tower: Path | None, from_base: bool
) -> tuple[LlavaForConditionalGeneration, float | None]:
    """Load a checkpoint, with the vision tower of the folder `tower` in place of its own if it is `from_base`.

    Return it with the largest difference between the weights of both towers, None where there is only one.
    """
    kind: Any = LinearLlava if form.linear else LlavaForConditionalGeneration
    model, info = weights.reported_from_pretrained(kind, folder, config=form.config, key_mapping=_NAMES, dtype=dtype)
    missing = {str(name) for name in info.get("missing_keys") or ()}
    own_tower = {_TOWER + name for name, _ in model.model.vision_tower.named_parameters()}
    lacks_tower = own_tower <= missing
    if lacks_tower and not from_base:
        problem = f"The checkpoint {folder} holds no vision tower."
        raise DataError(problem, "Give OpenAI's CLIP: --model-arg vision_source=base --model-arg vision_tower=DIR")
    # A tower that comes later is not missing.
    weights.refuse_loading_info(
        str(folder), {**info, "missing_keys": missing - own_tower if lacks_tower else missing}, harmless=_BUFFERS
    )
    # A published delta that was not added to LLaMA has the names and shapes of a model, and says nothing.
    if float(model.model.language_model.norm.weight.detach().float().abs().mean()) < _LEAST_NORM:
        hint = f"Add it to LLaMA-7B first: `medbench convert llava-med {folder} --base LLAMA_7B --output DIR`."
        raise DataError(f"{folder} looks like a delta, not like a model: its last normalisation is almost 0.", hint)
    # A configuration alone is enough where the checkpoint has the weights.
    if tower is None or not any(file.suffix in {".safetensors", ".bin"} for file in tower.iterdir()):
        if from_base:
            hint = "Give OpenAI's CLIP as --model-arg vision_tower=DIR, a folder with config.json and weights."
            raise UsageError("The vision tower is not in the checkpoint.", hint)
        return model, None
    ours = model.model.vision_tower.state_dict()
    theirs = read_tower(tower, ours)
    difference = max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)
    if from_base:
        model.model.vision_tower.load_state_dict(theirs, strict=True)
    return model, None if lacks_tower else difference


def tower_folder(checkpoint: Path, given: str) -> Path | None:
    """Return the folder of the vision tower, as given or in the checkpoint, if any; UsageError if the given is none."""
    tower = Path(given).expanduser() if given else checkpoint / "vision_tower"
    if given and not tower.is_dir():
        raise UsageError(f"The vision tower {given!r} is no folder.", "Give the folder of OpenAI's CLIP.")
    return tower if tower.is_dir() else None


def load_llava_med(options: LoadOptions) -> "LlavaMedAdapter":
    """Load a checkpoint folder; see `families` for what it raises."""
    folder, version, chosen = options.folder_of(CARD), options.variant or "v1.5", options.arguments
    templates, from_base = TEMPLATES[version], chosen["vision_source"] == "base"
    if chosen["template"] not in templates:
        problem = f"LLaVA-Med {version} has no template {chosen['template']!r}."
        raise UsageError(problem, f"Allowed: {', '.join(templates)}.")
    if version == "v1.0" and not from_base:
        problem = "A checkpoint of version 1.0 holds no vision tower."
        raise UsageError(problem, "Leave --model-arg vision_source=checkpoint out.")
    tasks = [name.strip() for name in chosen["trained_on"].split(",") if name.strip()]
    trained_on = frozenset(get_task(name).name for name in tasks if tasks != ["none"]) if tasks else None
    with room_for(f"LLaVA-Med in {folder}"):
        tower = tower_folder(folder, chosen["vision_tower"])
        refuse_stand_ins(folder, *((tower,) if tower else ()))
        form = read_format(folder, tower)
        if version == "v1.0" and not form.linear:
            raise DataError(f"{folder} has the projector of version 1.5.", "Run it as --model llava-med:v1.5.")
        if version == "v1.5" and form.marks:
            raise DataError(f"{folder} marks its images as version 1.0 does.", "Run it as --model llava-med:v1.0.")
        codec = load_codec(folder)
        device, dtype = weights.device_and_dtype(options.device, options.dtype)
        model, difference = load_model(folder, form, dtype, tower=tower, from_base=from_base)
        model = torch.nn.Module.to(model, device).eval()
    parts = {"checkpoint": folder}
    if tower is not None:
        parts["vision tower"] = tower if from_base else tower / "config.json"
    adapter = LlavaMedAdapter(
        model, codec, form, templates[chosen["template"]], fingerprint=identity_of(parts), version=version
    )  # fmt: skip
    adapter.card = replace(adapter.card, trained_on=trained_on)
    if chosen["preset"] == "author":
        adapter.decoding, adapter.longest = AUTHORS_DECODING[version], 1024
    if difference is not None:
        left, taken = ("the checkpoint's own", f"the one in {tower}")[:: 1 if from_base else -1]
        told = f"LLaVA-Med's vision tower is {taken}, not {left}; their weights differ by up to {difference:.3g}."
        adapter.notices = (told,)
    return adapter


def mark_ids(codec: TextCodec, vocabulary: int) -> tuple[int, int, int]:
    """Return the ids of `<im_patch>`, `<im_start>` and `<im_end>` where the embedding has `vocabulary` rows.

    The authors add them behind LLaMA's own in this order. DataError if tokenizer and embedding do not belong together.
    """
    found = [codec.id_of(mark) for mark in MARKS]
    if set(found) == {None} and codec.size + len(MARKS) == vocabulary:
        return codec.size, codec.size + 1, codec.size + 2
    patch, start, end = found
    if patch is None or start is None or end is None or max(patch, start, end) >= vocabulary:
        problem = f"The tokenizer has {codec.size} tokens, {', '.join(MARKS)} at {found}, the model {vocabulary}."
        raise DataError(problem, "Copy the tokenizer's files of the same checkpoint, added_tokens.json among them.")
    return patch, start, end


class LlavaMedAdapter(TextAdapter[TextCodec]):
    """LLaVA-Med: features of CLIP's second-to-last layer through a projector, in place of the image in the prompt."""

    def __init__(
        self, model: LlavaForConditionalGeneration, codec: TextCodec, form: LlavaFormat, template: Template, *,
        fingerprint: str = "", version: str = "v1.5",
    ) -> None:  # fmt: skip
        self.decoder: LlavaForConditionalGeneration
        super().__init__(model, codec, fingerprint, connector=model.model.multi_modal_projector)
        self.card = replace(card_of(version), title=f"{CARD.title} {version}")
        self.form = form
        self.template = template
        self.stops = template.stops
        self._marks: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if version == "v1.0":
            vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
            model.config.image_token_index, start, end = mark_ids(codec, vocabulary)
            if form.marks:
                self._marks = ((start,), (end,))

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the template around the task's instruction; SampleError if it is longer than the model learned."""
        del size_of
        prompt = self.put(without_marks(spec.instruction(sample)), sample)
        longest = self.form.longest_prompt
        if longest is not None and prompt.length > longest:
            problem = f"The prompt of {sample.sample_id!r} has {prompt.length} tokens, but the model reads {longest}."
            raise SampleError(problem, "Nothing is cut; the sample counts as an error.", kind="prompt")
        return prompt

    def put(self, question: str, sample: Sample) -> Prompt:
        """Return the template around a question about the sample's images."""
        images, (opening, closing) = sample.images, self._marks
        texts = [
            (closing if place else self.tokens.begin) + self.tokens.ids(part) + (opening if place < len(images) else ())
            for place, part in enumerate(self.template.parts(question, len(images)))
        ]
        return Prompt.between(texts, images, self.form.visual_tokens)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S] of an image in RGB; an odd pixel of a border goes right, or down."""
        vision: Any = self.decoder.model.vision_tower.config
        return clip_pixels(image, int(vision.image_size), pad=self.form.pads)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return features [V, C_v] of CLIP's chosen layer, for pixels [3, S, S]."""
        model, config = self.decoder, self.form.config
        together = torch.stack(list(pixels)).to(model.device, model.dtype, non_blocking=True)
        states = model.model.vision_tower(together, output_hidden_states=True).hidden_states
        chosen = states[config.vision_feature_layer]
        return list(chosen[:, 1:] if config.vision_feature_select_strategy == "default" else chosen)
