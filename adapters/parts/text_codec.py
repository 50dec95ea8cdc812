"""Texts to token ids and back, stretch by stretch, for the LLaMA-era tokenizers of the baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.llama_tokenizer import llama_tokenizer, read_pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCodec:
    """A tokenizer whose every text starts anew, as the authors tokenise the texts between images.

    Attributes:
        backend: The tokenizer, with words that look like special tokens staying words.
        begin: Id that begins a prompt, if there is one.
        end: Id that ends an answer.
        size: Number of tokens, added ones included.
        added: Ids of the tokens of `added_tokens.json`, by their text.
    """

    backend: Tokenizer
    begin: tuple[int, ...]
    end: int
    size: int
    added: Mapping[str, int] = field(default_factory=dict)

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a stretch of text, without BOS; none of an empty one."""
        return tuple(self.backend.encode(text, add_special_tokens=False).ids) if text else ()

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special and added tokens left out."""
        hidden = frozenset(self.added.values())
        decoded: str = self.backend.decode([one for one in ids if one not in hidden], skip_special_tokens=True)
        return decoded

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of ids with special and added tokens, for people."""
        names = {number: token for token, number in self.added.items()}
        runs = groupby(ids, key=names.get)
        return "".join(
            name * len(list(run)) if name is not None else self.backend.decode(list(run), skip_special_tokens=False)
            for name, run in runs
        )

    def id_of(self, token: str) -> int | None:
        """Return the id of one token by its text, None if there is no such token."""
        number: int | None = self.added.get(token, self.backend.token_to_id(token))
        return number


def load_codec(folder: Path) -> TextCodec:
    """Return the tokenizer of a checkpoint folder.

    `tokenizer.json` is honoured as it is, which transformers' own LLaMA classes do not do; without one,
    `tokenizer.model` is read with the scores of its pieces. Tokens of `added_tokens.json` come on top.

    Raises:
        DataError: If there is no tokenizer, or it is broken or has no end token.
    """
    tokenizer, words = _tokenizer(folder)
    if tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer in {folder} names no end token.", "Add eos_token to tokenizer_config.json.")
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    file = folder / "added_tokens.json"
    added = {str(text): int(number) for text, number in read_json(file).items()} if file.is_file() else {}
    return TextCodec(
        backend=backend,
        begin=() if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),),
        end=int(tokenizer.eos_token_id),
        size=max([words, *(number + 1 for number in added.values())]),
        added=added,
    )


def _tokenizer(folder: Path) -> tuple[PreTrainedTokenizerFast, int]:
    """Return the tokenizer and the size of its vocabulary."""
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
        return tokenizer, len(tokenizer)
    if (folder / "tokenizer.model").is_file():
        pieces = read_pieces(folder / "tokenizer.model")
        # What `llama_tokenizer` adds behind the pieces is Uni-Med's own and is not counted.
        return llama_tokenizer(pieces), len(pieces)
    raise DataError(
        f"{folder} has neither tokenizer.json nor tokenizer.model.", "Copy the tokenizer's files into the folder."
    )
