"""Reads the states of a model at all of its places, one vector for each picture or prompt of a batch.

The prompts are those of the evaluation, and they go the engine's way: pictures of one shape through the tower together,
prompts padded on the left through the decoder. A picture with many questions is encoded once.

Where a place is to be read for a location, the mean over its tokens is of no use. Then the tokens [P, C] are sketched:
mixed over positions and over channels by two fixed random matrices, to `16 x 64` numbers for any model, whatever the
order of its tokens means.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medbench.adapters.base import ImageSlot, LocalAdapter, Pixels, TextSegment, tokens_of
from medbench.adapters.guarding import one_sample
from medbench.harness.engine.requests import ImageKey, Name, Request, make_request
from medbench.harness.engine.static import left_padded, positions_of, row_states_argument
from medbench.harness.probing.places import (
    VISUAL_TOKENS,
    Block,
    Module,
    Place,
    Readout,
    Taps,
    alike,
    decoder_blocks,
    vision_blocks,
)  # fmt: skip
from medbench.tasks.foundation.errors import SampleError, UsageError
from medbench.tasks.images import open_image
from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import Sample

FloatArray = npt.NDArray[np.float32]
Vectors = dict[str, torch.Tensor]  # Of one picture or prompt [C] in float32, by the labels of places.
LAST = ", last token"
_SKETCH = (16, 64)
_THREADS, _DIGITS = 4, 16
_OTHER = "Probe another model."


def pooled(tokens: torch.Tensor, *, sketch: bool) -> torch.Tensor:
    """Return the mean [C] of tokens [P, C] in float32, or their sketch [16 * 64]."""
    tokens = tokens.float()
    if not sketch:
        return tokens.mean(dim=0)
    over, within = _mixing(len(tokens), tokens.shape[1])
    return (over.to(tokens.device) @ tokens @ within.to(tokens.device)).flatten()


@lru_cache(maxsize=32)
def _mixing(positions: int, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    over = torch.randn(_SKETCH[0], positions, generator=generator) / positions**0.5
    return over, torch.randn(channels, _SKETCH[1], generator=generator) / channels**0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """What one picture gave."""

    digest: str  # Of its decoded pixels.
    vectors: Vectors
    visual: torch.Tensor  # Its visual tokens [V, D], or what is read of it by cross-attention.


class StateReader:
    """Reads the states of a loaded model on samples of one prepared task; see the module for how.

    UsageError if the model cannot be taken apart.
    """

    def __init__(self, adapter: LocalAdapter, prepared: Prepared, *, sketch: bool = False) -> None:
        self._adapter, self._prepared, self._sketch = adapter, prepared, sketch
        # Where a decoder cannot be driven apart from its vision, the whole model reads one prompt after the other.
        self._whole = bool(adapter.only_whole) or adapter.attention != "causal"
        if self._whole and adapter.published is None:
            why = adapter.only_whole or "its visual tokens read one another"
            raise UsageError(f"{adapter.title} cannot be taken apart: {why}.", _OTHER)
        self._blocks = decoder_blocks(adapter)
        self._vision: list[Block] | None = None
        self._seen: dict[ImageKey, _Seen] = {}
        self.places: tuple[Place, ...] = ()  # Whose states stand behind one another in a row; known by the first batch.

    @torch.inference_mode()
    def read(self, samples: Sequence[Sample]) -> tuple[FloatArray, list[str]]:
        """Return the states [N, W] of samples and digests of their pictures; NaN and none where one cannot be read."""
        requests = [self._request(one) for one in samples]
        read = self._read_whole if self._whole else self._read_apart
        found = read([one for one in requests if one is not None])
        rows, digests = list[FloatArray | None](), list[str]()
        for request in requests:
            digest, vectors = found.get(request.name, ("", {})) if request else ("", {})
            rows.append(self._row(vectors) if vectors else None)
            # A text without pictures is its own.
            digests.append(digest or (request.sample.sample_id if request and vectors else ""))
        missing = np.full(sum(place.width for place in self.places), np.nan, np.float32)
        return np.stack([missing if row is None else row for row in rows]), digests

    def _read_apart(self, requests: Sequence[Request]) -> dict[Name, tuple[str, Vectors]]:
        keys = dict.fromkeys(key for one in requests for key in one.images)
        # Questions of one picture stand beside one another: what the batch before saw may be asked for again.
        self._seen = {key: one for key, one in self._seen.items() if key in keys}
        self._see([key for key in keys if key not in self._seen])
        sound = [one for one in requests if all(key in self._seen for key in one.images)]
        found = {}
        for request, states in zip(sound, self._decode(sound), strict=True):
            seen = [self._seen[key] for key in request.images]
            names = seen[0].vectors if seen else ()
            of_pictures = {name: torch.stack([one.vectors[name] for one in seen]).mean(dim=0) for name in names}
            found[request.name] = "/".join(one.digest for one in seen), {**of_pictures, **states}
        return found

    def _read_whole(self, requests: Sequence[Request]) -> dict[Name, tuple[str, Vectors]]:
        found = {}
        for request in requests:
            try:
                images = [open_image(*key) for key in request.images]
            except SampleError:
                continue
            found[request.name] = "/".join(map(_digest, images)), self._states_whole(request, images)
        return found

    def _states_whole(self, request: Request, images: Sequence[Image.Image]) -> Vectors:
        """Return the states of one prompt that the model's own library reads, vision included."""
        published = self._adapter.published
        inputs = self._adapter.inputs_whole(request.sample, request.spec, images)
        tokens = inputs["input_ids"][0] == (published.image_token_id if published else -1)
        # A single token stands for what is read by cross-attention.
        spans = [tokens.nonzero().flatten()] if int(tokens.sum()) > 1 else []
        decoder = cast("Any", self._adapter.decoder)
        if self._vision is None:
            self._vision = vision_blocks(self._adapter, lambda: decoder(**inputs))
        first = Block(VISUAL_TOKENS, self._blocks[0].module, enters=True)
        with (
            Taps(self._vision, partial(self._by_picture, count=max(1, len(images)))) as seen,
            Taps([first, *self._blocks] if spans else [], partial(self._by_prompt, spans=spans)) as shown,
            Taps(self._blocks, _last) as lasts,
        ):
            decoder(**inputs, use_cache=False, logits_to_keep=1)
        of_pictures = {name: one.mean(dim=0) for name, one in seen.taken().items()}
        of_prompt = {**shown.taken(), **{f"{name}{LAST}": one for name, one in lasts.taken().items()}}
        return {**of_pictures, **{name: one[0] for name, one in of_prompt.items()}}

    def _request(self, sample: Sample) -> Request | None:
        try:
            return make_request(self._adapter, sample, self._prepared.spec, self._prepared.source)
        except SampleError:
            return None

    def _see(self, keys: Sequence[ImageKey]) -> None:
        """Send pictures through the tower; those that are broken are left out."""
        with ThreadPoolExecutor(_THREADS) as pool:
            opened = [(key, *one) for key, one in zip(keys, pool.map(self._opened, keys), strict=True) if one]
        for places in alike([pixels for _, _, pixels in opened]):
            group = [opened[place] for place in places]
            encoded = self._encoded([pixels for _, _, pixels in group])
            for (key, digest, _), (vectors, visual) in zip(group, encoded, strict=True):
                self._seen[key] = _Seen(digest=digest, vectors=vectors, visual=visual)

    def _opened(self, key: ImageKey) -> tuple[str, Pixels] | None:
        try:
            image = open_image(*key)
            with one_sample(self._adapter, f"pixels() of {key[1].path}"):
                return _digest(image), self._adapter.pixels(image)
        except SampleError:
            return None

    def _encoded(self, pixels: Sequence[Pixels]) -> list[tuple[Vectors, torch.Tensor]]:
        """Return the states of pictures of one shape, and what of each the decoder reads."""
        if self._vision is None:
            self._vision = vision_blocks(self._adapter, lambda: self._visual([pixels[0]]))
        with Taps(self._vision, partial(self._by_picture, count=len(pixels))) as taps:
            visual = self._visual(pixels)
        taken = taps.taken()
        if mixed := [name for name, one in taken.items() if len(one) != len(pixels)]:
            raise UsageError(f"{self._adapter.title} cannot be taken apart: {mixed[0]} mixes pictures.", _OTHER)
        return [
            ({**{name: one[place] for name, one in taken.items()}, VISUAL_TOKENS: self._pooled(own)}, own)
            for place, own in enumerate(visual)
        ]

    def _visual(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return visual tokens of pictures, or what is read of them by cross-attention."""
        features = self._adapter.encode_images(pixels)
        kind = self._prepared.spec.kind
        return features if self._adapter.has_row_states else self._adapter.project(features, kind)

    def _by_picture(self, tokens: torch.Tensor, count: int) -> torch.Tensor:
        lines = tokens.reshape(-1, tokens.shape[-1])
        return torch.stack([self._pooled(own) for own in lines.chunk(count)])

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        return pooled(tokens.reshape(-1, tokens.shape[-1]), sketch=self._sketch)

    def _decode(self, requests: Sequence[Request]) -> list[Vectors]:
        """Send prompts through the decoder, which writes nothing; return the states of each."""
        if not requests:
            return []
        padded, mask = left_padded([self._embedded(one) for one in requests], self._adapter.decoder.dtype)
        spans = [_image_tokens(one, padded.shape[1], padded.device) for one in requests]
        of_images = partial(self._by_prompt, spans=spans)
        blocks = self._blocks if all(map(len, spans)) else []
        with Taps(blocks, of_images) as images, Taps(self._blocks, _last) as lasts:
            cast("Any", self._adapter.decoder)(
                inputs_embeds=padded, attention_mask=mask, position_ids=positions_of(requests, mask), use_cache=False,
                logits_to_keep=1, **row_states_argument(self._states(requests)),
            )  # fmt: skip
        found = {**images.taken(), **{f"{name}{LAST}": one for name, one in lasts.taken().items()}}
        return [{name: one[place] for name, one in found.items()} for place in range(len(requests))]

    def _by_prompt(self, tokens: torch.Tensor, spans: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self._pooled(own[span]) for own, span in zip(tokens, spans, strict=True)])

    def _embedded(self, request: Request) -> torch.Tensor:
        parts = [
            self._adapter.embed_tokens(torch.tensor(one.ids, dtype=torch.long))
            if isinstance(one, TextSegment)
            else self._seen[request.source, one.image].visual[one.first : one.first + one.tokens]
            for one in request.prompt.segments if tokens_of(one)
        ]  # fmt: skip
        return torch.cat(parts)

    def _states(self, requests: Sequence[Request]) -> list[object] | None:
        if not self._adapter.has_row_states:
            return None
        return [
            self._adapter.row_state([self._seen[key].visual for key in one.images], one.prompt, one.spec.kind)
            for one in requests
        ]

    def _row(self, vectors: Vectors) -> FloatArray:
        """Return all states of a sample behind one another; what they are notes the first one."""
        if not self.places:
            self.places = tuple(_place(name, len(one)) for name, one in vectors.items())
        return torch.cat([vectors[place.label] for place in self.places]).cpu().numpy()


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:_DIGITS]


def _last(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, -1].float()


def _image_tokens(request: Request, length: int, device: torch.device) -> torch.Tensor:
    """Return where a prompt that is padded on the left to a length has the tokens of its pictures."""
    start, found = length - request.length, list[int]()
    for segment in request.prompt.segments:
        size = tokens_of(segment)
        found += range(start, start + size) if isinstance(segment, ImageSlot) else ()
        start += size
    return torch.tensor(found, device=device, dtype=torch.long)


def _place(label: str, width: int) -> Place:
    module = cast("Module", label.partition(" ")[0].rstrip(","))
    readout: Readout = "last" if label.endswith(LAST) else "image"
    return Place(name=label.removesuffix(LAST), module=module, readout=readout, width=width)
