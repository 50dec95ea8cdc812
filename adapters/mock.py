"""Test doubles: the whole pipeline in seconds, and what a harness must say of perfect and useless models.

`mock` is a tiny random LLaMA behind a byte tokenizer and goes through the generation engine.
The variants answer directly: `mock:oracle` repeats the reference, `mock:empty` says nothing, `mock:constant`
always says yes, `mock:rambling` never stops, `mock:failing` fails on every third sample, `mock:refusal` declines.
`mock:thinking` is the oracle that thinks first, of everything but the answer; `mock:pondering` never gets done with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from medbench.adapters.base import (
    Adapter,
    AdapterEntry,
    DirectAdapter,
    Generation,
    ImageSlot,
    LoadOptions,
    LocalAdapter,
    Pixels,
    Prompt,
    SizeOf,
    TextSegment,
    answer_with_box,
)
from medbench.adapters.described import described
from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

CARD, _, _TOLD = described(__file__)
# A tokenizer that needs no training: one id per byte.
_BOS, _EOS, _PAD, _VOCABULARY = 256, 257, 258, 259
_HIDDEN = 32
_SIDE = 8
_IMAGE_TOKENS = 4
BOXES = BoxSpace(name="pixels", units=None, digits=15)


def _box_text(sample: Sample) -> str:
    if sample.box is None or sample.image_size is None:
        return ""
    return BOXES.write(sample.box, sample.image_size)


def _oracle(sample: Sample, spec: TaskSpec) -> Generation:
    return Generation(text=_box_text(sample) if spec.kind == "rec" else sample.reference)


def _thought(sample: Sample, spec: TaskSpec) -> str:
    """Return a thought that names wrong answers: whoever reads it as an answer is found out."""
    wrong = [key for key in sample.choices if key != sample.reference] or ["no", "liver"]
    box = "[1, 2, 3, 4]" if spec.kind == "rec" else ""
    return f"<think>Is it {' or '.join(wrong)}? The answer is {wrong[0]}. {box} Let me look again."


def _failing(sample: Sample, spec: TaskSpec) -> Generation:
    if hashlib.sha256(sample.sample_id.encode()).digest()[0] % 3 == 0:
        raise SampleError(f"The mock refuses sample {sample.sample_id!r}.")
    return _oracle(sample, spec)


_SAYINGS: dict[str, Callable[[Sample, TaskSpec], Generation]] = {
    "oracle": _oracle,
    "empty": lambda *_: Generation(text=""),
    "constant": lambda *_: Generation(text="yes"),
    "rambling": lambda *_: Generation(text="yes " * 100, stop="length"),
    "failing": _failing,
    "refusal": lambda *_: Generation(text="I'm sorry, but I cannot help with medical images."),
    "thinking": lambda sample, spec: Generation(
        text=f"{_thought(sample, spec)}</think>\n\n{_oracle(sample, spec).text}"
    ),
    "pondering": lambda sample, spec: Generation(text=_thought(sample, spec)),
}


class SayingMock(DirectAdapter):
    """Answers by one of the sayings, without a model."""

    card = CARD

    def __init__(self, saying: str) -> None:
        self._saying = saying
        self._say = _SAYINGS[saying]
        self.weights_fingerprint = fingerprint({"mock": saying})

    @property
    def title(self) -> str:
        """Name with the saying."""
        return f"{self.card.title} ({self._saying})"

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        """Return what the saying makes of the sample."""
        return self._say(sample, spec)


class RandomMock(LocalAdapter):
    """A random two-layer LLaMA that sees an image as four tokens of its coarse pixels."""

    card = CARD
    end_ids = frozenset({_EOS})

    def __init__(self, options: LoadOptions) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(options.seed)
        config = LlamaConfig(
            vocab_size=_VOCABULARY, hidden_size=_HIDDEN, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, initializer_range=0.5, bos_token_id=_BOS, eos_token_id=_EOS, pad_token_id=_PAD,
        )  # fmt: skip
        self.decoder = LlamaForCausalLM(config).eval()
        self._eyes = torch.randn(_SIDE * _SIDE * 3 // _IMAGE_TOKENS, _HIDDEN)
        self.weights_fingerprint = fingerprint({"mock": "random", "seed": options.seed})

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the images, then the instruction as bytes."""
        del size_of
        text = spec.instruction(sample, box=_box_text(sample))
        slots = tuple(ImageSlot(image=image, tokens=_IMAGE_TOKENS) for image in sample.images)
        return Prompt(segments=(*slots, TextSegment(ids=(_BOS, *text.encode()))))

    def pixels(self, image: "Image.Image") -> "torch.Tensor":
        """Return coarse pixels [3, 8, 8]."""
        import numpy as np
        import torch

        small = np.asarray(image.resize((_SIDE, _SIDE)), dtype=np.float32) / 255.0
        return torch.from_numpy(small).permute(2, 0, 1)

    def encode_images(self, pixels: Sequence[Pixels]) -> "Sequence[torch.Tensor]":
        """Return features [4, 48]."""
        return [one.reshape(_IMAGE_TOKENS, -1) for one in pixels]

    def project(self, features: "Sequence[torch.Tensor]", kind: Kind) -> "Sequence[torch.Tensor]":
        """Return visual tokens [4, 32], shifted by the kind of task."""
        return [one @ self._eyes + len(kind) for one in features]

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes."""
        return bytes(one for one in ids if one < _BOS).decode(errors="replace")


def load(options: LoadOptions) -> Adapter:
    """Return the random model, or the saying that the variant names."""
    return SayingMock(options.variant) if options.variant else RandomMock(options)


ENTRY = AdapterEntry(
    card=CARD, load=load, parse=partial(answer_with_box, BOXES), boxes=BOXES, variants=_TOLD["variants"]
)
