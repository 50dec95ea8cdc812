"""The published `model.pt` of Med-Flamingo: what was trained, under OpenFlamingo's names, some of it twice."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import part_of, refuse_different, some_of, unwrapped

_PERCEIVER = "perceiver."
_EMBEDDINGS = "lang_encoder.model.embed_tokens.weight"
_GATED = re.compile(r"lang_encoder\.gated_cross_attn_layers\.(\d+)\.(.+)")
_COPY = re.compile(r"lang_encoder\.model\.layers\.(\d+)\.gated_cross_attn_layer\.(.+)")
HARMLESS = r"lang_encoder\.(.+\.)?rotary_emb\.inv_freq"
"""Rotary frequencies, which are computed."""
_HINT = "Give model.pt as it is published at med-flamingo/med-flamingo."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedState:
    """The trained weights, still on the disk.

    Attributes:
        perceiver: Under the names of `PerceiverResampler`.
        decoder: Embeddings and gated blocks, under the names of `MedFlamingoLlama`.
    """

    perceiver: dict[str, torch.Tensor]
    decoder: dict[str, torch.Tensor]


def read_state(path: Path) -> TrainedState:
    """Read `model.pt`.

    Raises:
        DataError: If the file cannot be read, holds something unknown, lacks the embeddings, or holds weights twice and
            differently.
    """
    state = unwrapped(read_tensors(path))
    gated, copies = _matching(state, _GATED), _matching(state, _COPY)
    shared = gated.keys() & copies.keys()
    refuse_different(str(path), ((name, gated[name], copies[name]) for name in sorted(shared)))
    known = (_GATED, _COPY, re.compile(HARMLESS), re.compile(re.escape(_PERCEIVER) + ".+"), re.compile(_EMBEDDINGS))
    strangers = [name for name in state if not any(pattern.fullmatch(name) for pattern in known)]
    blocks = {**copies, **gated}
    if strangers or _EMBEDDINGS not in state or not blocks:
        said = f"it also holds {some_of(strangers)}" if strangers else "it lacks embeddings or gated blocks"
        raise DataError(f"{path} is no Med-Flamingo checkpoint: {said}.", _HINT)
    decoder = {**blocks, "model.embed_tokens.weight": state[_EMBEDDINGS]}
    single = [name for name, tensor in decoder.items() if not tensor.ndim]
    if single:
        raise DataError(f"{path} is no Med-Flamingo checkpoint: {some_of(single)} is a single number.", _HINT)
    return TrainedState(perceiver=part_of(state, _PERCEIVER), decoder=decoder)


def _matching(state: Mapping[str, torch.Tensor], pattern: re.Pattern[str]) -> dict[str, torch.Tensor]:
    """Return gated blocks that are named by a pattern, under our names."""
    found = {pattern.fullmatch(name): tensor for name, tensor in state.items() if pattern.fullmatch(name)}
    return {f"model.layers.{match[1]}.gated.{match[2]}": tensor for match, tensor in found.items() if match}
