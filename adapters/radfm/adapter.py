"""RadFM behind the adapter contract."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from PIL import Image

from medbench.adapters.base import ImageSlot, LocalAdapter, ModelCard, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.radfm.loading import LoadedRadFM
from medbench.adapters.radfm.pictures import random_square, slices_of, square
from medbench.adapters.radfm.prompts import Position, position_of, question_of, with_images
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed.tokens import BOS_ID, EOS_ID

LONGEST_ANSWER = 200
"""The authors' limit for every question."""
_PICTURE_AXES = 3


class RadFMAdapter(LocalAdapter):
    """RadFM: images as 32 latents between two brackets, at the beginning of the question or near its end.

    Args:
        card: What the model is.
        loaded: The model, its tokenizer and its identity.
        position: Where images stand in the question.
        crop_seed: Seed of the authors' random crop; None for the whole picture.
    """

    end_ids = frozenset({EOS_ID})

    def __init__(self, card: ModelCard, loaded: LoadedRadFM, *, position: Position, crop_seed: int | None) -> None:
        self.card = card
        self._model = loaded.model
        self._tokenizer = loaded.tokenizer
        self._position = position
        self._crop_seed = crop_seed
        self._side = loaded.model.sizes.vision.image_size
        self.decoder = loaded.model.language_model
        self.weights_fingerprint = loaded.fingerprint
        self.device = str(self.decoder.device)
        self.dtype = str(self.decoder.dtype).removeprefix("torch.")

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return BOS and the question with the images in it."""
        del size_of
        parts = with_images(question_of(sample, spec), sample.images, position_of(spec, self._position))
        begun = TextSegment(ids=(BOS_ID,))
        return Prompt(segments=(begun, *(self._segment(part) for part in self._tokenizer.encode(parts) if part)))

    def _segment(self, part: tuple[int, ...] | ImageRef) -> TextSegment | ImageSlot:
        if isinstance(part, ImageRef):
            return ImageSlot(image=part, tokens=self._model.sizes.image_tokens)
        return TextSegment(ids=part)

    def pixels(self, image: "Image.Image") -> torch.Tensor:
        """Return a picture as uint8 [3, S, S]; it becomes a volume where it is encoded, at a sixteenth of the bytes."""
        if self._crop_seed is None:
            return square(image, self._side)
        return random_square(image, self._side, self._crop_seed)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [32, C] of pictures, uint8 [3, S, S], and volumes [3, H, W, D] of any shape in [0, 1]."""
        volumes = [self._volume(one) for one in pixels]
        alike: dict[torch.Size, list[int]] = defaultdict(list)
        for place, volume in enumerate(volumes):
            alike[volume.shape].append(place)
        latents: dict[int, torch.Tensor] = {}
        for places in alike.values():
            together = self._model.vision.latents(torch.stack([volumes[place] for place in places]))
            latents |= dict(zip(places, together, strict=True))
        return [latents[place] for place in range(len(volumes))]

    def _volume(self, pixels: torch.Tensor) -> torch.Tensor:
        moved = pixels.to(self.decoder.device, non_blocking=True)
        return slices_of(moved) if moved.ndim == _PICTURE_AXES else moved.float()

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [34, D] of the latents [32, C] of each: bracket, projected latents, bracket."""
        del kind
        return list(self._model.vision.tokens(torch.stack(list(features))).to(self.decoder.dtype))

    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens."""
        return self._tokenizer.decode(ids)

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt's ids, BOS included."""
        return self._tokenizer.readable(ids, {})

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' 200, whatever the task."""
        del spec
        return LONGEST_ANSWER
