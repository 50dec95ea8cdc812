"""Which models can be taken apart into vision and a decoder of embeddings, and why others cannot."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

Attention = Literal["causal", "images", "prompt"]

TAKEN_APART: Mapping[str, Attention] = {
    "llava": "causal",
    "llava_next": "causal",
    "gemma3": "images",
    "paligemma": "prompt",
    "glm4v": "causal",
    "qwen2_vl": "causal",
    "qwen2_5_vl": "causal",
    "idefics2": "causal",
    "idefics3": "causal",
    "internvl": "causal",
}
"""Families that the engine drives, with what the tokens of a prompt read besides those before them.

Each is here because a test shows that the engine writes what its own library writes (`tests/tiny_vlms.py`). The
self-test before a run is no substitute: two short answers of a trained model may be equal though its deeper layers
missed the picture, and in 16 bits answers may differ though nothing is wrong.
"""

# What a decoder takes besides embeddings without knowing more of a token than they say.
_PLAIN_INPUTS = frozenset({
    "self", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache",
    "cache_position", "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "labels", "args",
    "kwargs",
})  # fmt: skip


def why_only_whole(model: Any) -> str:  # noqa: ANN401 - any of transformers
    """Return why a model is answered by its own library alone; empty if the engine may drive its decoder."""
    return why_left_whole(model.config.model_type, type(model.get_decoder()))


def why_left_whole(family: str, decoder: type[Any]) -> str:
    """Return the same by the model's type and the class of its decoder.

    Inputs that no plain decoder has are features for deeper layers, embeddings of every layer, what is read by
    cross-attention, or which experts a picture goes to: a decoder that is given none answers all the same, wrongly.
    """
    beside = [name for name in signature(decoder.forward).parameters if name not in _PLAIN_INPUTS]
    if beside:
        return f"its decoder reads {' and '.join(beside)} besides embeddings"
    if family not in TAKEN_APART:
        return f"no test has shown yet that {family} can be taken apart from its vision"
    return ""
