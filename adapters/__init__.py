"""Models: how each one reads a sample, sees an image and is understood."""
# What a plugin needs to bring a model of its own; nothing here imports torch.

from medbench.adapters.base import (
    Adapter,
    AdapterEntry,
    Answer,
    Argument,
    DirectAdapter,
    Generation,
    ImageSlot,
    LoadOptions,
    LocalAdapter,
    ModelCard,
    Pixels,
    Prompt,
    RowStates,
    SizeOf,
    TextSegment,
    answer_with_box,
    plain_answer,
)
from medbench.adapters.remote import RemoteAdapter, Reply, RetryableError, RetryPolicy, ServedGeneration

__all__ = [
    "Adapter", "AdapterEntry", "Answer", "Argument", "DirectAdapter", "Generation", "ImageSlot", "LoadOptions",
    "LocalAdapter", "ModelCard", "Pixels", "Prompt", "RemoteAdapter", "Reply", "RetryPolicy", "RetryableError",
    "RowStates", "ServedGeneration", "SizeOf", "TextSegment", "answer_with_box", "plain_answer",
]  # fmt: skip
