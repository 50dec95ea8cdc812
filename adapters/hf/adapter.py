"""A vision-language model of transformers behind the adapter contract; no code that a repository brings is run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from inspect import signature
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, LogitsProcessorList

from medbench.adapters.base import LoadOptions, LocalAdapter, Pixels, Prompt, Published, SizeOf
from medbench.adapters.hf import processing
from medbench.adapters.hf.entry import CARD, PLAIN_INPUTS, TAKEN_APART, known, short_name
from medbench.adapters.hf.loading import Placed, load_model, parts_of
from medbench.adapters.low_rank import note
from medbench.adapters.plain_generation import Watch, forget_decoding
from medbench.adapters.wording import question_of
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from medbench.tasks.foundation.files import json_value, read_json_object
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed.weights import LIBRARY_FAULTS, device_and_dtype, find_folder, indexed_files

_TOKENS = "tokens"
_NOT_LEARNED = -100  # As transformers' losses have it.
_SCALED_WITHIN = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}  # Two names of the same choice.
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_KERNEL = "_attn_implementation"
# Its activations exceed what 16 bits with a small exponent hold: answers become padding.
_NOT_IN_FLOAT16 = frozenset({"gemma3", "gemma3n", "paligemma"})
ParsedT = TypeVar("ParsedT")


class HfAdapter(LocalAdapter):
    """A model whose visual tokens stand in its prompt where its processor wants them; or one that is left whole."""

    def __init__(
        self, placed: Placed, processor: processing.Processor, name: str, arguments: Mapping[str, str], *, folder: Path,
        fingerprint: str, made_of: Mapping[str, str], notices: Sequence[str],
    ) -> None:  # fmt: skip
        model, tokenizer = placed.model, processor.tokenizer
        config = model.config
        self.decoder = self._model = model
        self._placed = placed
        self._processor = processor
        self._space = BOX_SPACES[arguments["boxes"]]
        self._known = found = known(name, config.model_type)
        rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
        ids = (getattr(config, word, None) for word in ("image_token_id", "image_token_index"))
        image_token_id = next((one for one in ids if one is not None), None)
        if image_token_id is None:
            problem = f"{config.model_type} names no token for images."
            raise DataError(problem, "Use the model behind a server: openai:...")
        self._image_token_id = int(image_token_id)
        options = _table("images", arguments["images"])
        if not (placed.split or placed.quantised or placed.lora):
            # What is computed is what the folder holds.
            self.published = Published(
                folder=folder, family=config.model_type, image_token_id=self._image_token_id, scaling=options
            )
        today = _parsed("date", arguments["date"], date.fromisoformat, "date", "YYYY-MM-DD")
        self._renderer = processing.Renderer(
            processor, config.model_type, system=arguments["system"], chat=_table("chat", arguments["chat"]),
            today=today, image_token_id=self._image_token_id, in_grids="mrope_section" in rope, options=options,
        )  # fmt: skip
        self._dropped = processing.dropped_ids(tokenizer)
        named = model.generation_config.eos_token_id
        ends = (*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id)
        self.end_ids = frozenset(int(one) for one in ends if one is not None)
        self.only_whole = placed.split or why_left_whole(config.model_type, type(model.get_decoder()))
        self.attention = TAKEN_APART.get(config.model_type, "causal")
        self.shares_prefixes = self.attention != "prompt"
        scaling = _other_scaling(self._space, processor.image_processor, options)
        self.notices = tuple(filter(None, [*notices, *self._renderer.notices, scaling]))
        self.weights_fingerprint = fingerprint
        self.made_of = {**made_of, **processing.kept_marks(tokenizer)}
        self.device = str(placed.device)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.quantised = placed.quantised
        title = f"{short_name(name)} ({placed.quantised})" if placed.quantised else short_name(name)
        self.card = replace(
            CARD, title=title, licence=found.licence or CARD.licence, trained_on=found.trained_on,
            open_weights=True if found.licence else None,
            kinds=CARD.kinds if self._renderer.takes_text_alone() else CARD.kinds - {"qa"},
        )  # fmt: skip

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the question in the model's chat template, images first."""
        sizes = [size_of(image) for image in sample.images]
        write = self._renderer.whole if self.only_whole else self._renderer.segments
        return Prompt(segments=write(self._question(sample, spec), sample.images, sizes))

    def _question(self, sample: Sample, spec: TaskSpec) -> str:
        find = self._known.find if self._space.name == self._known.boxes else ""
        return question_of(sample, spec, self._space, find=find)

    def pixels(self, image: Image.Image) -> Pixels:
        """Return what the processor makes of one image, and the number of its visual tokens."""
        inputs = self._renderer.inputs([self._renderer.text("", 1)], [[image]])
        tokens = int((inputs["input_ids"] == self._image_token_id).sum())
        method = getattr(self._model, "get_image_features", None)
        of_images = () if method is None else signature(method).parameters
        return {_TOKENS: tokens, **{name: inputs[name] for name in of_images if name in inputs}}

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of images; those of like shapes are computed together."""

        def shapes(one: Pixels) -> list[tuple[str, torch.Size]]:
            return [(name, value.shape[1:]) for name, value in one.items() if name != _TOKENS]

        features: list[torch.Tensor] = []
        for shape, run in groupby(pixels, key=shapes):
            alike = list(run)
            together = self._moved({name: torch.cat([one[name] for one in alike]) for name, _ in shape})
            output = self._model.get_image_features(**together, return_dict=True)
            found = getattr(output, "pooler_output", output)
            parts = [found] if isinstance(found, torch.Tensor) else list(found)
            lines = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
            counts = [one[_TOKENS] for one in alike]
            if len(lines) != sum(counts):
                raise RunError(
                    f"{self.title} makes {len(lines)} visual tokens where its processor wrote {sum(counts)}.",
                    "The processor's configuration does not fit the model (patch_size, num_additional_image_tokens).",
                )
            features += lines.split(counts)
        return features

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens, but for those that set thoughts apart."""
        kept = [one for one in ids if one not in (self._dropped or ())]
        return str(self._processor.tokenizer.decode(kept, skip_special_tokens=self._dropped is None))

    @torch.inference_mode()
    def written_whole(
        self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]], max_new_tokens: int
    ) -> list[list[int]]:
        """Return the ids that `generate` writes to a batch, padded on the left, greedily; ends and what follows too.

        Questions with as many images make batches of their own: some processors mix no others, and where a decoder
        reads images by cross-attention, those that fill up a row would be read by another row's first tokens.
        """
        written: dict[int, list[int]] = {}
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(self.end_ids) or None,
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )  # fmt: skip
        for count in {len(images) for _, _, images in asked}:
            places = [place for place, (_, _, images) in enumerate(asked) if len(images) == count]
            texts = [self._renderer.text(self._question(*asked[place][:2]), count) for place in places]
            inputs = self._moved(self._renderer.inputs(texts, [asked[place][2] for place in places]))
            watch = Watch()
            ids = self._model.generate(
                **inputs, logits_processor=LogitsProcessorList([watch]), generation_config=settings
            )
            prompt = inputs["input_ids"]
            # Some models return the prompt too, some the answer alone.
            start = prompt.shape[1] if torch.equal(ids[:, : prompt.shape[1]], prompt) else 0
            written |= zip(places, watch.cut(ids[:, start:].tolist()), strict=True)
        return [written[place] for place in range(len(asked))]

    def inputs_whole(self, sample: Sample, spec: TaskSpec, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """Return what the model's processor makes of a question with its images, where the model is."""
        text = self._renderer.text(self._question(sample, spec), len(images))
        return self._moved(self._renderer.inputs([text], [images]))

    def taught(self, asked: Sequence[tuple[Sample, TaskSpec, Sequence[Image.Image]]]) -> dict[str, torch.Tensor]:
        """Return what the model takes for questions with their right answers, and `labels` [B, L] on the answers alone.

        UsageError if the processor writes an answer otherwise than behind its prompt.
        """
        end = self._processor.tokenizer.eos_token or ""
        texts = [self._renderer.text(self._question(sample, spec), len(images)) for sample, spec, images in asked]
        pictures = [images for _, _, images in asked]
        answers = [self._answer(sample, spec) + end for sample, spec, _ in asked]
        whole = self._renderer.inputs([text + answer for text, answer in zip(texts, answers, strict=True)], pictures)
        labels = torch.full_like(whole["input_ids"], _NOT_LEARNED)
        for row, (text, images) in enumerate(zip(texts, pictures, strict=True)):
            prompt = self._renderer.inputs([text], [images])["input_ids"][0]
            own = whole["input_ids"][row][whole["attention_mask"][row].bool()]
            if len(own) <= len(prompt) or not torch.equal(own[: len(prompt)], prompt):
                problem = f"The processor of {self.title} does not write an answer behind its prompt as it is."
                raise UsageError(problem, "So its training loss cannot be had here; measure another model.")
            # It is padded on the left.
            labels[row, len(prompt) - len(own) :] = own[len(prompt) :]
        return self._moved({**whole, "labels": labels})

    def _answer(self, sample: Sample, spec: TaskSpec) -> str:
        if spec.kind != "rec" or sample.box is None or sample.image_size is None:
            return sample.reference
        return self._space.write(sample.box, sample.image_size)

    def close(self) -> None:
        """Remove what lies on the disk of a model that is too large for the memory."""
        if self._placed.offloaded is not None:
            self._placed.offloaded.cleanup()

    def _moved(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return inputs where the model is, floating ones in its type."""
        # Of a model in several places the first weights may lie where nothing is computed.
        device = self._placed.device if self._placed.split else self._model.device
        dtype = self._model.dtype
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def why_left_whole(family: str, decoder: type[Any]) -> str:
    """Return why a model is answered by its own library alone; empty if the engine may drive its decoder."""
    beside = [name for name in signature(decoder.forward).parameters if name not in PLAIN_INPUTS]
    if beside:
        return f"its decoder reads {' and '.join(beside)} besides embeddings"
    if family not in TAKEN_APART:
        return f"no test has shown yet that {family} can be taken apart from its vision"
    return ""


def _other_scaling(space: BoxSpace, scaler: Any, images: Mapping[str, Any]) -> str:  # noqa: ANN401 - any
    """Return a notice if boxes are read in pixels of scaled images and the processor scales them otherwise."""
    if space.scaled_pixels is None:
        return ""
    size = {**dict(getattr(scaler, "size", None) or {}), **images.get("size", {})}
    fewest, most = (images.get(old, size.get(new)) for old, new in _SCALED_WITHIN.items())
    square = getattr(scaler, "patch_size", 0) * getattr(scaler, "merge_size", 0)
    if (fewest, most) == space.scaled_pixels and square == space.multiple:
        return ""
    return (
        f"Boxes are read as {space.name}: in images scaled to whole squares of {space.multiple} pixels and within "
        f"{space.scaled_pixels} pixels. This processor scales to squares of {square} and within ({fewest}, {most}), so "
        "boxes are read wrongly in images that come out otherwise."
    )


def _parsed(name: str, text: str, parse: Callable[[str], ParsedT], kind: str, form: str) -> ParsedT:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"--model-arg {name}={text} is no {kind}: {error}", f"Write {form}.") from error


def _table(name: str, text: str) -> dict[str, Any]:
    values = _parsed(name, text, json_value, "JSON", '{"KEY": VALUE}')
    if not isinstance(values, dict):
        raise UsageError(f"--model-arg {name}={text} is no table.", 'Write {"KEY": VALUE}.')
    return values


def load_adapter(options: LoadOptions) -> HfAdapter:
    """Load the model that the variant names, every weight or none; see `families` for what it raises."""
    arguments, name = options.arguments, options.variant
    folder, commit = find_model(name, arguments["revision"])
    _refuse_unfit(folder)
    config = read_hf_config(folder)
    device, dtype = device_and_dtype(options.device, options.dtype)
    if dtype == torch.float16 and config.model_type in _NOT_IN_FLOAT16:
        raise UsageError(f"{config.model_type} gives no numbers in float16.", "Give --dtype bfloat16 or float32.")
    notices = []
    if _names_code(folder):
        notices.append("config.json names code of its own (auto_map); it was not run, transformers' own is.")
    # Another attention than every machine has fails without its library, or is code of the Hub that would be run.
    others = {getattr(part, _KERNEL, None) for part in parts_of(config)} - {None, "eager", "sdpa"}
    if others:
        setattr(config, _KERNEL, None)  # of its parts too
        wanted = ", ".join(sorted(map(str, others)))
        notices.append(f"config.json asks for the attention {wanted}; the one of torch was taken instead.")
    processor, mended = processing.load_processor(folder, config)
    placed = load_model(folder, config, options, device, dtype)
    forget_decoding(placed.model)
    images = type(processor.image_processor)
    made_of = {"image processor": f"{images.__module__}.{images.__qualname__}"}
    if any(base.__name__ == "TorchvisionBackend" for base in images.__mro__):
        # There is no class for PIL then.
        made_of["torchvision"] = version("torchvision")
    if commit:
        made_of["commit"] = commit
    adapter = HfAdapter(
        placed, processor, name, arguments, folder=folder, fingerprint=identity_of({"checkpoint": folder}),
        made_of={**made_of, **placed.made_of}, notices=[*notices, *mended, *placed.notices],
    )  # fmt: skip
    if placed.lora is not None:
        note(adapter, placed.lora, name)
    return adapter


def find_model(name: str, revision: str) -> tuple[Path, str]:
    """Return the folder of a model and its commit; what lies in the Hub's cache needs no network."""
    if not name:
        raise UsageError("`hf` names no model.", "Write --model hf:FOLDER or --model hf:OWNER/NAME.")
    hint = "Write hf:FOLDER or hf:OWNER/NAME; gated models need `hf auth login` first."
    return find_folder(name, revision=revision, files=_FILES, what=repr(name), hint=hint)


def _refuse_unfit(folder: Path) -> None:
    """Refuse a folder whose files are not what their names say, or that holds no whole model of its own."""
    refuse_stand_ins(folder)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        values = read_json_object(adapter)
        kind = str(values.get("peft_type") or "LoRA")
        raise UsageError(
            f"{folder} holds a {kind} adapter of {values.get('base_model_name_or_path') or 'another model'}, not a "
            "model.",
            f"Give its base, and the adapter beside it: --model hf:BASE --lora {folder}. If it was merged already, "
            "remove adapter_config.json.",
        )
    for index in sorted(folder.glob("*.index.json")):
        indexed_files(index)


def read_hf_config(folder: Path) -> processing.Config:
    """Return the configuration of a vision-language model that transformers itself knows; no code is run."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LIBRARY_FAULTS as error:
        raise UsageError(
            f"{folder} holds no model that this version of transformers knows: "
            f"{str(error).strip().partition(chr(10))[0] or type(error).__name__}",
            "Its configuration names code of its own (auto_map), which is never run. Serve it where you trust that "
            "code, and give --model openai:MODEL@URL."
            if _names_code(folder)
            else "Name a folder with a config.json of a supported architecture; code from repositories is not run.",
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:  # noqa: SLF001 - the only public way is to try
        problem = f"{config.model_type} is no vision-language model of transformers."
        raise UsageError(problem, "Name a model whose pipeline is image-text-to-text.")
    if config.is_encoder_decoder:
        problem = f"{config.model_type} encodes its prompt apart from its answer, which `hf` does not drive."
        raise UsageError(problem, "Name a model that continues its prompt.")
    return config


def _names_code(folder: Path) -> bool:
    """Whether a model's configuration names code that its folder brings."""
    try:
        return bool(read_json_object(folder / "config.json").get("auto_map"))
    except MedbenchError:
        return False
