"""The names of XrayGPT's tensors in the authors' files, and in transformers' `Blip2ForConditionalGeneration`."""

from collections.abc import Mapping

import torch
from transformers import Blip2QFormerConfig

from medbench.unimed.weights import refuse_other_names

State = dict[str, torch.Tensor]
_LINEAR = ("weight", "bias")
_OUTSIDE = {
    "query_tokens": "query_tokens",
    **{f"ln_vision.{end}": f"vision_model.post_layernorm.{end}" for end in _LINEAR},
    **{f"Qformer.bert.embeddings.LayerNorm.{end}": f"qformer.layernorm.{end}" for end in _LINEAR},
}
_FEED_FORWARD = ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
_ATTENTION = {
    "self.query": "attention.query",
    "self.key": "attention.key",
    "self.value": "attention.value",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}
_UNUSED = ("t5_proj.", "Qformer.bert.embeddings.position_ids")
"""BLIP-2's own way into its language model, and a buffer."""
_BUFFERS = ("Qformer.bert.embeddings.position_ids", "rotary_emb.inv_freq")
_TRAINED = {f"llama_proj.{end}": f"language_projection.{end}" for end in _LINEAR}


def qformer_names(config: Blip2QFormerConfig) -> dict[str, str]:
    """Return our name of every tensor in BLIP-2's file that XrayGPT uses.

    Layers 0, 2, 4, ... also read the image. Of the two feed-forward nets of a layer only that of the queries is used.
    """
    names = dict(_OUTSIDE)
    for layer in range(int(config.num_hidden_layers)):
        here, there = f"qformer.encoder.layer.{layer}", f"Qformer.bert.encoder.layer.{layer}"
        reads_image = layer % int(config.cross_attention_frequency) == 0
        for block in ("attention", *(["crossattention"] if reads_image else [])):
            for theirs, ours in _ATTENTION.items():
                names |= {f"{there}.{block}.{theirs}.{end}": f"{here}.{block}.{ours}.{end}" for end in _LINEAR}
        for part in _FEED_FORWARD:
            names |= {f"{there}.{part}.{end}": f"{here}.{part}.{end}" for end in _LINEAR}
    return names


def from_qformer(tensors: Mapping[str, torch.Tensor], config: Blip2QFormerConfig, source: str) -> State:
    """Return the tensors of BLIP-2's file under our names.

    Raises:
        DataError: If one is missing or unknown.
    """
    names = qformer_names(config)
    refuse_other_names(source, [name for name in tensors if not name.startswith(_UNUSED)], names)
    return {ours: tensors[theirs] for theirs, ours in names.items()}


def from_trained(tensors: Mapping[str, torch.Tensor], source: str) -> State:
    """Return what XrayGPT trained under our names; its saver also keeps buffers that follow from the configuration.

    Raises:
        DataError: If a tensor is missing or unknown.
    """
    refuse_other_names(source, [name for name in tensors if not name.endswith(_BUFFERS)], _TRAINED)
    return {ours: tensors[theirs] for theirs, ours in _TRAINED.items()}
