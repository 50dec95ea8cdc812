"""Embeddings of prompts and of their parts."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from medbench.adapters.base import ImageSlot, LocalAdapter, TextSegment, tokens_of
from medbench.harness.engine.grouping import Beginning, Member, Segments
from medbench.harness.engine.pictures import ImageKey
from medbench.harness.engine.vision import Vision
from medbench.tasks.spec import Kind


class Embedder:
    """Makes embeddings [L, D] of segments; images must be prepared."""

    def __init__(self, adapter: LocalAdapter, vision: Vision) -> None:
        self._adapter = adapter
        self._vision = vision

    def beginnings(self, beginnings: Sequence[Beginning]) -> list[torch.Tensor]:
        """Return the embeddings of what is shared."""
        return self._embed([(one.source, one.kind, one.segments) for one in beginnings])

    def own(self, members: Sequence[Member]) -> list[torch.Tensor]:
        """Return the embeddings of what is each one's own."""
        return self._embed([(one.request.source, one.request.spec.kind, one.own) for one in members])

    def states(self, members: Sequence[Member]) -> list[object]:
        """Return what members read by cross-attention; None for each if the decoder has none."""
        if not self._adapter.has_row_states:
            return [None] * len(members)
        return [
            self._adapter.row_state(
                self._vision.features(member.request), member.request.prompt, member.request.spec.kind
            )
            for member in members
        ]

    def _embed(self, parts: Sequence[tuple[Path, Kind, Segments]]) -> list[torch.Tensor]:
        visual = self._visual(parts)
        texts = iter(self._texts([segment.ids for _, _, segments in parts for segment in _text(segments)]))
        return [
            torch.cat(
                [
                    next(texts)
                    if isinstance(segment, TextSegment)
                    else visual[kind, (source, segment.image)][segment.first : segment.first + segment.tokens]
                    for segment in segments
                    if tokens_of(segment)
                ]
            )
            for source, kind, segments in parts
        ]

    def _visual(self, parts: Sequence[tuple[Path, Kind, Segments]]) -> dict[tuple[Kind, ImageKey], torch.Tensor]:
        keys: dict[Kind, list[ImageKey]] = {}
        for source, kind, segments in parts:
            keys.setdefault(kind, []).extend(
                (source, segment.image) for segment in segments if isinstance(segment, ImageSlot) and segment.tokens
            )
        return {
            (kind, key): tokens
            for kind, wanted in keys.items()
            for key, tokens in self._vision.visual_tokens(wanted, kind).items()
        }

    def _texts(self, ids: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        if not ids:
            return []
        together = self._adapter.embed_tokens(torch.tensor([token for own in ids for token in own]))
        return list(together.split([len(own) for own in ids]))


def _text(segments: Segments) -> Iterable[TextSegment]:
    return (segment for segment in segments if isinstance(segment, TextSegment) and segment.ids)
