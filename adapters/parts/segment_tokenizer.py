"""LLaMA's SentencePiece tokenizer, stretch by stretch, as transformers 4.28's slow tokenizer did it.

There the text between two special tokens loses the white space beside them, and every stretch begins with a space of
its own. Later versions do neither, and both models were trained on this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medbench.tasks.foundation.errors import DataError

Special = TypeVar("Special")
BOS_ID, EOS_ID = 1, 2


class SegmentTokenizer:
    """The pieces of a `tokenizer.model`.

    Args:
        model: What sentencepiece made of the file: `encode`, `decode`, `get_piece_size`, `id_to_piece`, `is_control`,
            `is_unknown`.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - sentencepiece has no types
        self._model = model
        self.size = int(model.get_piece_size())
        self._silent = frozenset(
            token for token in range(self.size) if model.is_control(token) or model.is_unknown(token)
        )

    def encode(self, parts: Sequence[str | Special]) -> list[tuple[int, ...] | Special]:
        """Return texts as ids and everything else, which stands for special tokens, as it is; without BOS.

        Between two texts there must be something else: each begins with a space of its own.
        """
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

    def readable(self, ids: Sequence[int], added: Mapping[int, str]) -> str:
        """Return the text of ids with the names of control tokens and of `added` ones, for people."""
        names = {token: str(self._model.id_to_piece(token)) for token in self._silent} | dict(added)
        text, run = "", list[int]()
        for token in ids:
            if token in names:
                text, run = f"{text}{self.decode(run)}{names[token]}", []
            else:
                run.append(token)
        return text + self.decode(run)


def refuse_other_vocabulary(file: Path, tokenizer: SegmentTokenizer, rows: int) -> None:
    """Compare a tokenizer with the tokens that a model knows.

    Raises:
        DataError: If they are not as many: its ids would mean something else to the model.
    """
    if tokenizer.size != rows:
        raise DataError(
            f"{file} has {tokenizer.size} pieces, but the model knows {rows}.",
            "Copy the tokenizer.model that belongs to the weights.",
        )


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
