"""Uni-Med behind the adapter contract; without a checkpoint, the bundled mini weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.adapters import base
from medbench.adapters.described import described
from medbench.tasks.answers.box_space import UNI_MED
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.prompts import CONNECTOR_TASK, instruct, wrap

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from medbench.unimed.checkpoint import LoadedCheckpoint

MINI_WEIGHTS = Path(__file__).parents[1] / "unimed" / "mini"
ROUTING_DIGITS = 4
CARD, _, _TOLD = described(__file__)
MINI_NOTICE: str = _TOLD["mini notice"]


class UniMedAdapter(base.LocalAdapter):
    """Uni-Med: the image before the identifier and the instruction, one connector task per kind."""

    def __init__(self, checkpoint: "LoadedCheckpoint", notices: tuple[str, ...]) -> None:
        title = f"{CARD.title} (mini)" if notices else CARD.title
        # The bundled weights were published with medbench; who trained others has not said when, or for whom.
        is_open = True if notices else None
        seen = checkpoint.trained_on or None
        self.card = replace(CARD, title=title, trained_on=seen, released="", open_weights=is_open)
        self._model = checkpoint.model
        self._processor = checkpoint.processor
        self.decoder = checkpoint.model.language_model
        self.end_ids = frozenset({int(checkpoint.processor.tokenizer.eos_token_id)})
        self.weights_fingerprint = checkpoint.fingerprint
        self.device = str(checkpoint.model.device)
        self.dtype = str(checkpoint.model.dtype).removeprefix("torch.")
        self.notices = notices
        # How the connector weighs its experts while it answers, summed over images and visual tokens; and images.
        self._routing: dict[Kind, tuple[Any, int]] = {}

    def render(self, sample: Sample, spec: TaskSpec, size_of: base.SizeOf) -> base.Prompt:
        """Return the wrapped instruction with a slot per image."""
        del size_of
        box = "" if sample.box is None or sample.image_size is None else UNI_MED.write(sample.box, sample.image_size)
        instruction = instruct(spec, sample, self._processor.form, box=box)
        prompt = wrap(spec.kind, instruction, images=len(sample.images), form=self._processor.form)
        return base.Prompt.between(self._processor.segment_ids(prompt), sample.images, self._processor.visual_tokens)

    def pixels(self, image: "Image.Image") -> "torch.Tensor":
        """Return normalised pixels [3, S, S]."""
        return self._processor.pixels(image)

    def encode_images(self, pixels: Sequence[base.Pixels]) -> "Sequence[torch.Tensor]":
        """Return resampled features [V, C_v] of pixels [3, S, S]."""
        import torch

        together = torch.stack(list(pixels)).to(self._model.device, self._model.dtype, non_blocking=True)
        return list(self._model.encode_images(together))

    def project(self, features: "Sequence[torch.Tensor]", kind: Kind) -> "Sequence[torch.Tensor]":
        """Return visual tokens [V, D] routed for the kind of task."""
        import torch

        from medbench.unimed.configuration import CONNECTOR_TASKS

        task = CONNECTOR_TASKS.index(CONNECTOR_TASK[kind])
        together, connector = torch.stack(list(features)), self._model.connector

        def note(weights: "torch.Tensor") -> None:
            # Summed where they are: a copy to the host would wait for the device.
            total, images = self._routing.get(kind, (0, 0))
            self._routing[kind] = (total + weights.float() * len(together), images + len(together))

        before, connector.watch = connector.watch, note
        try:
            return list(self._model.project(together, [task] * len(together)))
        finally:
            connector.watch = before

    def observed(self) -> Mapping[str, Any]:
        """Return by kind of task the mean weight of each expert of the connector, which sum to one, and the images."""
        means = {
            kind: [round(float(weight), ROUTING_DIGITS) for weight in total / images]
            for kind, (total, images) in sorted(self._routing.items())
        }
        images = {kind: images for kind, (_, images) in sorted(self._routing.items())}
        return {"routing": means, "routed images": images} if means else {}

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return str(self._processor.tokenizer.decode(list(ids), skip_special_tokens=True))

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens."""
        return str(self._processor.tokenizer.decode(list(ids), skip_special_tokens=False))


def load(options: base.LoadOptions) -> UniMedAdapter:
    """Load a checkpoint folder, or the mini weights."""
    from medbench.adapters.low_rank import with_lora
    from medbench.unimed.checkpoint import load_checkpoint

    notices = () if options.checkpoint else (MINI_NOTICE,)
    folder = options.checkpoint or MINI_WEIGHTS
    return with_lora(
        UniMedAdapter(load_checkpoint(folder, device=options.device, dtype=options.dtype), notices), options.lora
    )


ENTRY = base.AdapterEntry(
    card=CARD, load=load, parse=partial(base.answer_with_box, UNI_MED), boxes=UNI_MED,
    takes=frozenset({"checkpoint", "device", "dtype", "lora"}), converter="medbench.unimed.cli:convert_command",
)  # fmt: skip
