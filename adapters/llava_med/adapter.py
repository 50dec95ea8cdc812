"""A loaded LLaVA-Med: prompts, pictures, features, visual tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from medbench.adapters.base import ImageSlot, LocalAdapter, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.llava_med.configuration import LlavaFormat
from medbench.adapters.llava_med.entry import CARD
from medbench.adapters.llava_med.images import clip_pixels
from medbench.adapters.llava_med.templates import Template, question_of
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.tokens import TextCodec

AUTHORS_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a LLaVA-Med is asked and how it answers.

    Attributes:
        version: `v1.5` or `v1.0`.
        template: How a question is put.
        before: Ids before every image.
        behind: Ids behind every image.
        decoding: How tokens are chosen where the user says nothing.
        longest: Most tokens of every answer; None for each task's own limit.
        trained_on: Tasks that the checkpoint was fine-tuned on; None if nobody has said.
    """

    version: str
    template: Template
    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    decoding: Mapping[str, float] = field(default_factory=dict)
    longest: int | None = None
    trained_on: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model with what belongs to it.

    Attributes:
        model: On its device.
        codec: Its tokenizer.
        form: What its configuration says.
        fingerprint: Identity of the files.
        notices: What a run must say of them.
    """

    model: LlavaForConditionalGeneration
    codec: TextCodec
    form: LlavaFormat
    fingerprint: str
    notices: tuple[str, ...] = ()


class LlavaMedAdapter(LocalAdapter):
    """LLaVA-Med: features of CLIP's second-to-last layer through a projector, in place of the image in the prompt."""

    card = CARD

    def __init__(self, weights: Weights, manner: Manner) -> None:
        self._weights = weights
        self._manner = manner
        self.decoder = weights.model
        self.end_ids = frozenset({weights.codec.end})
        self.weights_fingerprint = weights.fingerprint
        self.device = str(weights.model.device)
        self.dtype = str(weights.model.dtype).removeprefix("torch.")
        self.notices = weights.notices
        self.decoding = manner.decoding

    @property
    def title(self) -> str:
        """Name with the version."""
        return f"{self.card.title} {self._manner.version}"

    @property
    def trained_on(self) -> frozenset[str] | None:
        """The tasks that the user named."""
        return self._manner.trained_on

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the authors' template around the task's instruction, with a slot per image.

        Raises:
            SampleError: If the prompt is longer than what the model was trained on; the authors would cut its end.
        """
        del size_of
        prompt = self.put(question_of(spec.instruction(sample)), sample)
        longest = self._weights.form.longest_prompt
        if longest is not None and prompt.length > longest:
            raise SampleError(
                f"The prompt of {sample.sample_id!r} has {prompt.length} tokens, but the model reads {longest}.",
                "Nothing is cut; the sample counts as an error.",
            )
        return prompt

    def put(self, question: str, sample: Sample) -> Prompt:
        """Return the template around a question about the sample's images."""
        codec, manner = self._weights.codec, self._manner
        first, *others = (codec.ids(part) for part in manner.template.parts(question, len(sample.images)))
        segments: list[TextSegment | ImageSlot] = []
        before = codec.begin + first
        for image, ids in zip(sample.images, others, strict=True):
            slot = ImageSlot(image=image, tokens=self._weights.form.visual_tokens)
            segments += [TextSegment(ids=before + manner.before), slot]
            before = manner.behind + ids
        return Prompt(segments=(*segments, TextSegment(ids=before)))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S]."""
        vision = self._weights.model.model.vision_tower.config
        return clip_pixels(image, int(vision.image_size), pad=self._weights.form.pads)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return features [V, C_v] of CLIP's chosen layer, for pixels [3, S, S]."""
        model, config = self._weights.model, self._weights.form.config
        together = torch.stack(list(pixels)).to(model.device, model.dtype, non_blocking=True)
        states = model.model.vision_tower(together, output_hidden_states=True).hidden_states
        chosen = states[config.vision_feature_layer]
        return list(chosen[:, 1:] if config.vision_feature_select_strategy == "default" else chosen)

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of features [V, C_v]; the kind of task does not matter."""
        del kind
        return list(self._weights.model.model.multi_modal_projector(torch.stack(list(features))))

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return self._weights.codec.text(ids)

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens."""
        return self._weights.codec.readable(ids)

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the task's limit, or the authors' in their preset."""
        return spec.max_new_tokens if self._manner.longest is None else self._manner.longest

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return what ends a turn of the template."""
        del spec
        return self._manner.template.stops
