"""Uni-Med behind the adapter contract; without a checkpoint, the bundled mini weights."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.adapters.base import (
    AdapterEntry,
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


class Routing:
    """How the connector weighs its experts while it answers: sums over images and visual tokens, by kind of task."""

    def __init__(self) -> None:
        self._sums: dict[Kind, Any] = {}
        self._images: dict[Kind, int] = defaultdict(int)

    @contextmanager
    def watching(self, connector: Any, kind: Kind, *, images: int) -> Iterator[None]:  # noqa: ANN401 - unimed's module
        """Watch a connector while it projects the features of some images; of one without experts nothing is seen."""

        def note(weights: "torch.Tensor") -> None:
            seen = weights.float().cpu() * images
            self._sums[kind] = seen if kind not in self._sums else self._sums[kind] + seen
            self._images[kind] += images

        before = connector.watch
        connector.watch = note
        try:
            yield
        finally:
            connector.watch = before

    def means(self) -> dict[str, list[float]]:
        """Return the mean weights of the experts by kind; they sum to one."""
        return {
            kind: [round(float(weight), ROUTING_DIGITS) for weight in total / self._images[kind]]
            for kind, total in sorted(self._sums.items())
        }


class UniMedAdapter(LocalAdapter):
    """Uni-Med: the image before the identifier and the instruction, one connector task per kind."""

    card = CARD

    def __init__(self, checkpoint: "LoadedCheckpoint", notices: tuple[str, ...]) -> None:
        self._model = checkpoint.model
        self._processor = checkpoint.processor
        self.decoder = checkpoint.model.language_model
        self.end_ids = frozenset({int(checkpoint.processor.tokenizer.eos_token_id)})
        self.weights_fingerprint = checkpoint.fingerprint
        self.device = str(checkpoint.model.device)
        self.dtype = str(checkpoint.model.dtype).removeprefix("torch.")
        self.notices = notices
        self._trained_on = checkpoint.trained_on
        self._routing = Routing()

    @property
    def title(self) -> str:
        """Name, with a mark if these are the mini weights."""
        return f"{self.card.title} (mini)" if self.notices else self.card.title

    @property
    def trained_on(self) -> frozenset[str] | None:
        """The tasks of the recipe that lies beside the weights."""
        return self._trained_on or None

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the wrapped instruction with a slot per image."""
        del size_of
        box = "" if sample.box is None or sample.image_size is None else UNI_MED.write(sample.box, sample.image_size)
        instruction = instruct(spec, sample, self._processor.form, box=box)
        prompt = wrap(spec.kind, instruction, images=len(sample.images), form=self._processor.form)
        first, *others = self._processor.segment_ids(prompt)
        segments: list[TextSegment | ImageSlot] = [TextSegment(ids=tuple(first))]
        for image, ids in zip(sample.images, others, strict=True):
            segments += [ImageSlot(image=image, tokens=self._processor.visual_tokens), TextSegment(ids=tuple(ids))]
        return Prompt(segments=tuple(segments))

    def pixels(self, image: "Image.Image") -> "torch.Tensor":
        """Return normalised pixels [3, S, S]."""
        return self._processor.pixels(image)

    def encode_images(self, pixels: Sequence[Pixels]) -> "Sequence[torch.Tensor]":
        """Return resampled features [V, C_v] of pixels [3, S, S]."""
        import torch

        together = torch.stack(list(pixels)).to(self._model.device, self._model.dtype, non_blocking=True)
        return list(self._model.encode_images(together))

    def project(self, features: "Sequence[torch.Tensor]", kind: Kind) -> "Sequence[torch.Tensor]":
        """Return visual tokens [V, D] routed for the kind of task."""
        import torch

        from medbench.unimed.configuration import CONNECTOR_TASKS

        task = CONNECTOR_TASKS.index(CONNECTOR_TASK[kind])
        together = torch.stack(list(features))
        with self._routing.watching(self._model.connector, kind, images=len(together)):
            # On the CPU: which tasks occur is read there, and a GPU would be waited for.
            return list(self._model.project(together, torch.tensor([task] * len(together))))

    def observed(self) -> Mapping[str, Any]:
        """Return the mean weight of each expert of the connector, by kind of task."""
        means = self._routing.means()
        return {"routing": means} if means else {}

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return str(self._processor.tokenizer.decode(list(ids), skip_special_tokens=True))

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens."""
        return str(self._processor.tokenizer.decode(list(ids), skip_special_tokens=False))


def load(options: LoadOptions) -> UniMedAdapter:
    """Load a checkpoint folder, or the mini weights."""
    from medbench.unimed.checkpoint import load_checkpoint

    notices = () if options.checkpoint else (MINI_NOTICE,)
    folder = options.checkpoint or MINI_WEIGHTS
    return UniMedAdapter(load_checkpoint(folder, device=options.device, dtype=options.dtype), notices)


ENTRY = AdapterEntry(
    card=CARD, load=load, parse=partial(answer_with_box, UNI_MED), takes=frozenset({"checkpoint", "device", "dtype"}),
    boxes=UNI_MED, converter="medbench.unimed.cli:convert_command",
)  # fmt: skip
