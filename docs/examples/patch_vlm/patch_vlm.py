"""A vision-language model of one's own behind the generation engine: `medbench run --model patch-vlm --checkpoint DIR`.

DIR holds a causal language model of transformers, and `eyes.safetensors` with a matrix [768, D] that makes a token of
each of an image's 16 patches. Batches, shared images, memory, retries and resuming are the engine's work.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from medbench.adapters import (
    AdapterEntry,
    ImageSlot,
    LoadOptions,
    LocalAdapter,
    ModelCard,
    Prompt,
    SizeOf,
    TextSegment,
)
from medbench.adapters import plain_answer as parse
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.model_files import identity_of
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed.weights import device_and_dtype


class PatchVlm(LocalAdapter):
    """Sees an image as 16 patches, in front of the question."""

    card = ModelCard(
        name="patch-vlm", title="Patch VLM", kinds=frozenset({"qa", "vqa"}), weights="--checkpoint DIR", licence="MIT"
    )

    def __init__(self, options: LoadOptions) -> None:
        if options.checkpoint is None or not options.checkpoint.is_dir():
            raise UsageError("Patch VLM needs a folder of weights.", "Give --checkpoint DIR.")
        device, dtype = device_and_dtype(options.device, options.dtype)
        # Code that a folder brings is never run.
        loaded = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=dtype, trust_remote_code=False)
        self.decoder = loaded.eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(options.checkpoint, trust_remote_code=False)
        self.eyes = load_file(options.checkpoint / "eyes.safetensors")["eyes"].to(device, dtype)
        self.end_ids = frozenset({self.tokenizer.eos_token_id})
        self.weights_fingerprint = identity_of({"checkpoint": options.checkpoint})
        self.device, self.dtype = str(device), str(dtype).removeprefix("torch.")

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the images, then the question."""
        del size_of
        slots = [ImageSlot(image=image, tokens=16) for image in sample.images]
        question = self.tokenizer(f"USER: {spec.instruction(sample)} ASSISTANT:").input_ids
        return Prompt(segments=(*slots, TextSegment(ids=tuple(question))))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return patches [16, 768]; called in threads beside the decoder."""
        small = torch.from_numpy(np.array(image.resize((64, 64)))).float() / 255
        return small.reshape(4, 16, 4, 16, 3).permute(0, 2, 1, 3, 4).reshape(16, -1)

    def encode_images(self, pixels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return visual tokens [16, D] of each image."""
        return [one.to(self.eyes.device, self.eyes.dtype) @ self.eyes for one in pixels]

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text of an answer."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


ENTRY = AdapterEntry(card=PatchVlm.card, load=PatchVlm, parse=parse, takes=frozenset({"checkpoint", "device", "dtype"}))
