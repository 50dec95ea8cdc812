"""Test doubles: the whole pipeline in seconds, and what a harness must say of perfect and useless models.

`mock` is a tiny random LLaMA behind a byte tokenizer, driven by the engine; its variants answer directly.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from medbench.adapters import base
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
_HIDDEN, _SIDE, _IMAGE_TOKENS = 32, 8, 4
BOXES = BoxSpace(name="pixels", units=None, digits=15)


def _box_text(sample: Sample) -> str:
    return "" if sample.box is None or sample.image_size is None else BOXES.write(sample.box, sample.image_size)


def _oracle(sample: Sample, spec: TaskSpec) -> str:
    return _box_text(sample) if spec.kind == "rec" else sample.reference


def _thought(sample: Sample, spec: TaskSpec) -> str:
    # It names wrong answers: whoever reads it as an answer is found out.
    wrong = [key for key in sample.choices if key != sample.reference] or ["no", "liver"]
    box = "[1, 2, 3, 4]" if spec.kind == "rec" else ""
    return f"<think>Is it {' or '.join(wrong)}? The answer is {wrong[0]}. {box} Let me look again."


def _failing(sample: Sample, spec: TaskSpec) -> str:
    if hashlib.sha256(sample.sample_id.encode()).digest()[0] % 3 == 0:
        raise SampleError(f"The mock refuses sample {sample.sample_id!r}.")
    return _oracle(sample, spec)


_SAYINGS: dict[str, Callable[[Sample, TaskSpec], str]] = {
    "oracle": _oracle,
    "empty": lambda *_: "",
    "constant": lambda *_: "yes",
    "rambling": lambda *_: "yes " * 100,
    "failing": _failing,
    "refusal": lambda *_: "I'm sorry, but I cannot help with medical images.",
    "thinking": lambda sample, spec: f"{_thought(sample, spec)}</think>\n\n{_oracle(sample, spec)}",
    "pondering": _thought,
}


class SayingMock(base.DirectAdapter):
    """Answers by one of the sayings, without a model."""

    def __init__(self, saying: str) -> None:
        self.card = replace(CARD, title=f"{CARD.title} ({saying})")
        self._saying = saying
        self.weights_fingerprint = fingerprint({"mock": saying})

    def answer(self, sample: Sample, spec: TaskSpec) -> base.Generation:
        """Return what the saying makes of the sample."""
        text = _SAYINGS[self._saying](sample, spec)
        return base.Generation(text=text, stop="length" if self._saying == "rambling" else "eos")


class RandomMock(base.LocalAdapter):
    """A random two-layer LLaMA that sees an image as four tokens of its coarse pixels."""

    card = CARD
    end_ids = frozenset({_EOS})

    def __init__(self, options: base.LoadOptions) -> None:
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

    def render(self, sample: Sample, spec: TaskSpec, size_of: base.SizeOf) -> base.Prompt:
        """Return the images, then the instruction as bytes."""
        del size_of
        text = spec.instruction(sample, box=_box_text(sample))
        slots = tuple(base.ImageSlot(image=image, tokens=_IMAGE_TOKENS) for image in sample.images)
        return base.Prompt(segments=(*slots, base.TextSegment(ids=(_BOS, *text.encode()))))

    def pixels(self, image: "Image.Image") -> "torch.Tensor":
        """Return coarse pixels [3, 8, 8]."""
        import numpy as np
        import torch

        small = np.asarray(image.resize((_SIDE, _SIDE)), dtype=np.float32) / 255.0
        return torch.from_numpy(small).permute(2, 0, 1)

    def encode_images(self, pixels: Sequence[base.Pixels]) -> "Sequence[torch.Tensor]":
        """Return features [4, 48]."""
        return [one.reshape(_IMAGE_TOKENS, -1) for one in pixels]

    def project(self, features: "Sequence[torch.Tensor]", kind: Kind) -> "Sequence[torch.Tensor]":
        """Return visual tokens [4, 32], shifted by the kind of task."""
        return [one @ self._eyes + len(kind) for one in features]

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes."""
        return bytes(one for one in ids if one < _BOS).decode(errors="replace")


def load(options: base.LoadOptions) -> base.Adapter:
    """Return the random model, or the saying that the variant names."""
    return SayingMock(options.variant) if options.variant else RandomMock(options)


ENTRY = base.AdapterEntry(
    card=CARD, load=load, parse=partial(base.answer_with_box, BOXES), boxes=BOXES, variants=_TOLD["variants"]
)
