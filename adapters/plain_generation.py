"""Published ways of writing that would leak into a run."""

from typing import Any

from transformers import GenerationConfig


def forget_decoding(decoder: Any) -> None:  # noqa: ANN401 - any model of transformers that can generate
    """Leave of a decoder's `generation_config` nothing but its special tokens.

    `generate` takes over from it whatever it is not told, such as a penalty of repetitions: answers would then depend
    on a file that no run mentions. A run's own settings, or an adapter's preset, choose tokens.
    """
    published = getattr(decoder, "generation_config", None)
    if published is not None:
        decoder.generation_config = GenerationConfig(
            bos_token_id=published.bos_token_id, eos_token_id=published.eos_token_id,
            pad_token_id=published.pad_token_id,
        )  # fmt: skip
