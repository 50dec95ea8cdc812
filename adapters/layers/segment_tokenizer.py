"""LLaMA's SentencePiece tokenizer, stretch by stretch, as transformers 4.28's slow tokenizer did it.

There the text between two special tokens loses the white space beside them, and every stretch begins with a space of
its own. Later versions do neither, and both models were trained on this.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from tasks.foundation.errors import DataError

Special = TypeVar("Special")
BOS_ID, EOS_ID = 1, 2


class SegmentTokenizer:
    """The pieces of a `tokenizer.model`.

    Args:
        model: What sentencepiece made of the file: `encode`, `decode`, `get_piece_size`, `is_control`, `is_unknown`.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - sentencepiece has no types
        self._model = model
        self.size = int(model.get_piece_size())
        self._silent = frozenset(
            token for token in range(self.size) if model.is_control(token) or model.is_unknown(token)
        )

    def encode(self, parts: Sequence[str | Special]) -> list[tuple[int, ...] | Special]:
        """Return texts as ids and everything else, which stands for special tokens, as it is; without BOS."""
        encoded: list[tuple[int, ...] | Special] = []
        for place, part in enumerate(parts):
            if not isinstance(part, str):
                encoded.append(part)
                continue
            text = part if place == 0 else part.lstrip()
            text = text if place == len(parts) - 1 else text.rstrip()
            encoded.append(tuple(self._model.encode(text)) if text else ())
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; the unknown, control and added ones are silent."""
        return str(self._model.decode([token for token in ids if token < self.size and token not in self._silent]))


def read_tokenizer(path: Path) -> SegmentTokenizer:
    """Return the tokenizer of a `tokenizer.model`.

    Raises:
        DataError: If the file is missing or broken.
    """
    from sentencepiece import SentencePieceProcessor

    hint = "Copy LLaMA's tokenizer.model (499,723 bytes) there; tokenizer.json is not read."
    if not path.is_file():
        raise DataError(f"{path} is missing.", hint)
    try:
        return SegmentTokenizer(SentencePieceProcessor(model_file=str(path)))
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path} is no SentencePiece model: {error}", hint) from error
