"""The published state dictionary of RadFM: what of it answers questions, and what may be left."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from medbench.adapters.radfm.sizes import LANGUAGE, PUBLISHED_HINT, SIZES_FILE, VISION, RadFMSizes, sizes_of_state
from medbench.tasks.foundation.errors import DataError
from medbench.unimed.weight_files import read_tensors
from medbench.unimed.weights import part_of, refuse_different, some_of, unwrapped

CHECKPOINT = "pytorch_model.bin"
_COPY, _ORIGINAL = f"{VISION}weight", f"{LANGUAGE}model.embed_tokens.weight"
HARMLESS = (
    r"lang_model\..*rotary_emb\.inv_freq",
    r"embedding_layer\.bert_model\..*",
    r"embedding_layer\.bert_projection_fc\..*",
    r"embedding_layer\.output_upscaling\..*",
    r"embedding_layer\.transformer_decoder\..*",
    r"embedding_layer\.transformer_decoder_mlp\..*",
    r"embedding_layer\.cls_head\..*",
)
"""What no answer needs: rotary frequencies, which are computed; the text encoder and heads of vision's pre-training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedState:
    """The weights that answer, still on the disk.

    Attributes:
        language_model: Under the names of `LlamaForCausalLM`.
        vision: Under the names of `RadFMVision`.
        sizes: Of both.
    """

    language_model: dict[str, torch.Tensor]
    vision: dict[str, torch.Tensor]
    sizes: RadFMSizes


def read_state(path: Path) -> PublishedState:
    """Read `pytorch_model.bin`, with what a `radfm.json` beside it says of its sizes.

    Raises:
        DataError: If the file cannot be read, its two copies of the embeddings differ, or it holds something unknown.
    """
    state = unwrapped(read_tensors(path))
    sizes = sizes_of_state(state, str(path), path.with_name(SIZES_FILE))
    if _COPY in state:
        refuse_different(str(path), [(_COPY, state.pop(_COPY), state[_ORIGINAL])])
    needed = {name: tensor for name, tensor in state.items() if not _harmless(name)}
    strangers = [name for name in needed if not name.startswith((LANGUAGE, VISION))]
    if strangers:
        raise DataError(f"{path} holds what no RadFM has: {some_of(strangers)}.", PUBLISHED_HINT)
    return PublishedState(language_model=part_of(needed, LANGUAGE), vision=part_of(needed, VISION), sizes=sizes)


def _harmless(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in HARMLESS)
