"""What goes along with every `generate` of transformers: published ways of writing kept out, broken logits seen."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from medbench.adapters.base import NO_TOKEN


def forget_decoding(decoder: Any) -> None:  # noqa: ANN401 - any model of transformers that can generate
    """Leave of a decoder's `generation_config` nothing but its special tokens.

    `generate` takes over from it whatever it is not told: answers would depend on a file that no run mentions.
    """
    published = getattr(decoder, "generation_config", None)
    if published is not None:
        decoder.generation_config = GenerationConfig(
            bos_token_id=published.bos_token_id, eos_token_id=published.eos_token_id,
            pad_token_id=published.pad_token_id,
        )  # fmt: skip


class Watch(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Sees whether the logits of `generate` are numbers; of NaN it would take the first token of the table, silently.

    `each` is the number of rows of one answer, as in a beam search.
    """

    def __init__(self, *, each: int = 1) -> None:
        self._each = each
        self._finite: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Note which rows have numbers; change nothing."""
        del input_ids
        self._finite.append(scores.amax(dim=-1).isfinite())
        return scores

    def cut(self, written: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return what each answer says before its logits were no numbers, and `NO_TOKEN` in place of the rest."""
        if not self._finite:
            return [list(ids) for ids in written]
        finite = torch.stack(self._finite).cpu().reshape(len(self._finite), -1, self._each).all(dim=-1)
        rows = zip(written, finite.T.tolist(), strict=True)
        return [list(ids) if all(sound) else [*ids[: sound.index(False)], NO_TOKEN] for ids, sound in rows]
