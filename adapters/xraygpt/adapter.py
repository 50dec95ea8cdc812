"""A loaded XrayGPT: prompts, pictures, features, visual tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, PreTrainedModel

from medbench.adapters.base import ImageSlot, LoadOptions, LocalAdapter, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.xraygpt.entry import CARD
from medbench.adapters.xraygpt.files import find_files
from medbench.adapters.xraygpt.model import assemble, load_converted
from medbench.adapters.xraygpt.prompts import TEMPLATES, TURN_END, Template, question_of
from medbench.tasks.foundation.errors import SampleError, UsageError
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.foundation.model_files import identity_of
from medbench.tasks.foundation.stand_ins import refuse_stand_ins
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.processing import pixels_of
from medbench.unimed.tokens import TextCodec, load_codec
from medbench.unimed.weights import device_and_dtype

AUTHORS_DECODING: Mapping[str, float] = {"temperature": 1.0, "top_p": 0.9}
AUTHORS_TOKENS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model with what belongs to it.

    Attributes:
        model: On its device.
        codec: Its tokenizer.
        fingerprint: Identity of the files.
    """

    model: Blip2ForConditionalGeneration
    codec: TextCodec
    fingerprint: str


class XrayGptAdapter(LocalAdapter):
    """XrayGPT: EVA's features through BLIP-2's queries and one linear layer, in place of the image in the prompt."""

    card = CARD

    def __init__(self, weights: Weights, template: Template, *, author: bool = False) -> None:
        self._weights = weights
        self._template = template
        self._author = author
        # The outer model insists on pictures, so the engine drives the language model inside.
        self.decoder = cast("PreTrainedModel", weights.model.language_model)
        self.end_ids = frozenset({weights.codec.end})
        self.weights_fingerprint = weights.fingerprint
        self.device = str(self.decoder.device)
        self.dtype = str(self.decoder.dtype).removeprefix("torch.")
        self.decoding = AUTHORS_DECODING if author else {}

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the authors' template around the task's instruction.

        Raises:
            SampleError: If there is not exactly one image, which is all that the model reads.
        """
        del size_of
        return self.put(question_of(spec.instruction(sample)), sample)

    def put(self, question: str, sample: Sample) -> Prompt:
        """Return the template around a question about the sample's image."""
        if len(sample.images) != 1:
            raise SampleError(f"XrayGPT reads one image; {sample.sample_id!r} has {len(sample.images)}.")
        codec = self._weights.codec
        before, behind = (codec.ids(part) for part in self._template.parts(question))
        slot = ImageSlot(image=sample.images[0], tokens=int(self._weights.model.config.num_query_tokens))
        return Prompt(segments=(TextSegment(ids=codec.begin + before), slot, TextSegment(ids=behind)))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S]; the aspect ratio is not kept, as in Uni-Med, which has the same tower."""
        vision: Any = self._weights.model.config.vision_config
        return pixels_of(image, int(vision.image_size))

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return the queries' features [V, C_q] of pixels [3, S, S]."""
        model = self._weights.model
        together = torch.stack(list(pixels)).to(model.device, self.decoder.dtype, non_blocking=True)
        seen = model.vision_model(pixel_values=together).last_hidden_state
        queries = model.query_tokens.expand(len(together), -1, -1)
        features = model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return list(features.to(self.decoder.dtype))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of features [V, C_q]; the kind of task does not matter."""
        del kind
        return list(self._weights.model.language_projection(torch.stack(list(features))))

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return self._weights.codec.text(ids)

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens."""
        return self._weights.codec.readable(ids)

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the task's limit, or the authors' in their preset."""
        return AUTHORS_TOKENS if self._author else spec.max_new_tokens

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return what ends a turn; the authors look for its token ids, and only in the first row of a batch."""
        del spec
        return (TURN_END,)


def load_xraygpt(options: LoadOptions) -> XrayGptAdapter:
    """Load the authors' four files or a converted folder.

    Raises:
        DataError: If a file is missing or broken, or does not fit.
        UsageError: If the checkpoint or the device is not there.
    """
    folder = _checkpoint(options)
    with room_for(f"XrayGPT in {folder}"):
        weights = _load(folder, options)
    template = TEMPLATES[options.arguments["template"]]
    return XrayGptAdapter(weights, template, author=options.arguments["preset"] == "author")


def _checkpoint(options: LoadOptions) -> Path:
    if options.checkpoint is None:
        raise UsageError(
            "XrayGPT needs its weights.", "Give them: --checkpoint DIR. `medbench models` says where they come from."
        )
    if not options.checkpoint.is_dir():
        raise UsageError(f"The checkpoint {options.checkpoint} is no folder.", "Give the folder with all of its files.")
    return options.checkpoint


def _load(folder: Path, options: LoadOptions) -> Weights:
    device, dtype = device_and_dtype(options.device, options.dtype)
    if (folder / "config.json").is_file():
        refuse_stand_ins(folder)
        model, language, parts = load_converted(folder, dtype), folder, {"checkpoint": folder}
    else:
        files = find_files(folder)
        refuse_stand_ins(*dict(files.parts()).values())
        model, language, parts = assemble(files, dtype), files.language, dict(files.parts())
    return Weights(
        model=torch.nn.Module.to(model, device).eval(),
        codec=load_codec(language),
        fingerprint=identity_of(parts),
    )
