"""LLaMA's tokenizer, as the authors of each model use it: the fast backend, texts between images, SentencePiece itself.

Two traps of transformers 5 are avoided: of `tokenizer.model` it ignores the pieces' scores, so that a double space
becomes one piece; of `tokenizer.json` it drops, unless told otherwise, the space behind a special token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.validation import parse_json_file
from medbench.unimed.prompts import IMAGE_PLACEHOLDER

OFFICIAL_PAD = "$$"  # Uni-Med's code pads with this piece, which LLaMA's vocabulary has (id 3997).
SPACE = "▁"
CONTROLS = ("<s>", "</s>", "<unk>")
BOS_ID, EOS_ID = 1, 2
Special = TypeVar("Special")
_LEADING_SPACE = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def read_sentencepiece(path: Path, hint: str = "Copy the language model again.") -> Any:  # noqa: ANN401 - untyped
    """Return the `SentencePieceProcessor` of a `tokenizer.model`; DataError if the file is missing or is none."""
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise DataError(f"{path} is missing.", hint)
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no SentencePiece model: {error}", hint) from error


def llama_tokenizer(model: Any) -> PreTrainedTokenizerFast:  # noqa: ANN401 - sentencepiece has no types
    """Return a fast tokenizer with a `SentencePieceProcessor`'s pieces; DataError without `<s>`, `</s>` or `<unk>`.

    It gives every text one leading space and merges by score, as SentencePiece does. The image placeholder is added
    behind the vocabulary; it stands for visual tokens and is never embedded.
    """
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    controls = [index for index in range(len(pieces)) if model.is_control(index) or model.is_unknown(index)]
    ids = {piece: index for index, piece in enumerate(pieces)}
    lacking = [name for name in CONTROLS if name not in ids]
    if lacking:
        hint = "Uni-Med needs a language model with LLaMA's tokenizer."
        raise DataError(f"The vocabulary lacks {', '.join(lacking)}.", hint)
    # Of two possible merges, the one into the piece of the higher score comes first.
    merges = []
    for index in set(range(len(pieces))) - set(controls):
        splits = [(pieces[index][:cut], pieces[index][cut:]) for cut in range(1, len(pieces[index]))]
        known = [(ids[left], ids[right]) for left, right in splits if left in ids and right in ids]
        merges += [(-model.get_score(index), left, right) for left, right in known]
    ordered = [(pieces[left], pieces[right]) for _, left, right in sorted(merges)]
    backend = Tokenizer(models.BPE(vocab=ids, merges=ordered, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = _LEADING_SPACE
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens([AddedToken(pieces[index], normalized=False, special=True) for index in controls])
    return with_names(backend)


def with_names(backend: Tokenizer, pad: str = OFFICIAL_PAD) -> PreTrainedTokenizerFast:
    """Return `backend` with the names of LLaMA's special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token=pad if pad in backend.get_vocab() else "<unk>", additional_special_tokens=[IMAGE_PLACEHOLDER],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def load_language_model_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return a LLaMA's tokenizer, of `tokenizer.model`, else `tokenizer.json`; DataError if neither can be read."""
    if (folder / "tokenizer.model").is_file():
        return llama_tokenizer(read_sentencepiece(folder / "tokenizer.model"))
    if not (folder / "tokenizer.json").is_file():
        problem = f"{folder} has neither tokenizer.model nor tokenizer.json."
        raise DataError(problem, "Give the folder of a LLaMA language model.")
    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(f"{folder / 'tokenizer.json'} cannot be read: {error}", "Copy it again.") from error
    if {SPACE, *CONTROLS} <= backend.get_vocab().keys():
        backend.normalizer, backend.pre_tokenizer = _LEADING_SPACE, None
        return with_names(backend)
    # Another kind (LLaMA-3) is taken as it is, with the names that Uni-Med needs.
    tokenizer = load_saved_tokenizer(folder)
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer in {folder} names no BOS or no EOS.", "Add them to tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_PLACEHOLDER]})
    return tokenizer


def load_saved_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of `tokenizer.json` as it is, unlike transformers' LLaMA classes, or a DataError."""
    try:
        return cast("PreTrainedTokenizerFast", PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(f"The tokenizer in {folder} cannot be read: {error}", "Copy the checkpoint again.") from error


def _readable(ids: Sequence[int], names: Mapping[int, str], text: Callable[[list[int]], str]) -> str:
    runs = [(name, list(run)) for name, run in groupby(ids, key=names.get)]
    return "".join(text(run) if name is None else name * len(run) for name, run in runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCodec:
    """A tokenizer whose every text starts anew, as the authors tokenise the texts between images."""

    backend: Tokenizer  # The tokenizer, with words that look like special tokens staying words.
    begin: tuple[int, ...]  # Id that begins a prompt, if there is one.
    end: int  # Id that ends an answer.
    size: int  # Number of tokens, added ones included.
    added: Mapping[str, int] = field(default_factory=dict)  # Ids of the tokens of `added_tokens.json`, by their text.

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a stretch of text, without BOS; none of an empty one."""
        return tuple(self.backend.encode(text, add_special_tokens=False).ids) if text else ()

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special and added tokens left out."""
        hidden = frozenset(self.added.values())
        return str(self.backend.decode([one for one in ids if one not in hidden], skip_special_tokens=True))

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of ids with special and added tokens, for people."""
        names = {number: token for token, number in self.added.items()}
        return _readable(ids, names, partial(self.backend.decode, skip_special_tokens=False))

    def for_generation(self) -> PreTrainedTokenizerFast:
        """Return it as a tokenizer of transformers that pads on the left, with the end token."""
        begin, end = self.backend.id_to_token(self.begin[0]), self.backend.id_to_token(self.end)
        return PreTrainedTokenizerFast(
            tokenizer_object=self.backend, bos_token=begin, eos_token=end, pad_token=end, unk_token="<unk>",
            padding_side="left", clean_up_tokenization_spaces=False,
        )  # fmt: skip

    def id_of(self, token: str) -> int | None:
        """Return the id of one token by its text, None if there is no such token."""
        return cast("int | None", self.added.get(token, self.backend.token_to_id(token)))


def load_codec(folder: Path) -> TextCodec:
    """Return a folder's tokenizer; DataError if there is none, or it is broken or has no end token.

    `tokenizer.json` is honoured as it is; without one, `tokenizer.model` is read with the scores of its pieces. Tokens
    of `added_tokens.json` come on top.
    """
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")
        tokenizer = load_saved_tokenizer(folder)
        size = len(tokenizer)
    elif (folder / "tokenizer.model").is_file():
        pieces = read_sentencepiece(folder / "tokenizer.model")
        # What `llama_tokenizer` adds behind the pieces is Uni-Med's own and is not counted.
        tokenizer, size = llama_tokenizer(pieces), int(pieces.get_piece_size())
    else:
        problem = f"{folder} has neither tokenizer.json nor tokenizer.model."
        raise DataError(problem, "Copy the tokenizer's files into the folder.")
    if tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer in {folder} names no end token.", "Add eos_token to tokenizer_config.json.")
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    file = folder / "added_tokens.json"
    added = parse_json_file(dict[str, Annotated[int, Field(ge=0, le=1 << 24)]], file) if file.is_file() else {}
    return TextCodec(
        backend=backend, begin=() if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),),
        end=int(tokenizer.eos_token_id), size=max([size, *(number + 1 for number in added.values())]), added=added,
    )  # fmt: skip


class SegmentTokenizer:
    """SentencePiece stretch by stretch, as transformers 4.28's slow tokenizer did it: RadFM and Med-Flamingo.

    There a text between special tokens loses the white space beside them, and begins with a space of its own; later
    versions do neither. `model` is a `SentencePieceProcessor`, `added` the names of the tokens behind its pieces.
    """

    end = EOS_ID

    def __init__(self, model: Any, added: Sequence[str] = ()) -> None:  # noqa: ANN401 - sentencepiece has no types
        self._model, self._added, self.size = model, added, int(model.get_piece_size())
        self._silent = frozenset(one for one in range(self.size) if model.is_control(one) or model.is_unknown(one))

    def encode(self, parts: Sequence[str | Special]) -> list[tuple[int, ...] | Special]:
        """Return texts as ids, without BOS, and what stands for special tokens between two of them as it is."""
        encoded: list[tuple[int, ...] | Special] = []
        for place, part in enumerate(parts):
            if isinstance(part, str):
                text = part if place == 0 else part.lstrip()
                text = text if place == len(parts) - 1 else text.rstrip()
                encoded.append(tuple(self._model.encode(text)) if text else ())
            else:
                encoded.append(part)
        return encoded

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids; the unknown, control and added ones are silent."""
        return str(self._model.decode([token for token in ids if token < self.size and token not in self._silent]))

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text of ids with the names of control and added tokens, for people."""
        names = {token: str(self._model.id_to_piece(token)) for token in self._silent}
        names |= dict(enumerate(self._added, start=self.size))
        return _readable(ids, names, self.text)


def read_tokenizer(path: Path, added: Sequence[str] = (), *, rows: int | None = None) -> SegmentTokenizer:
    """Return the tokenizer of a `tokenizer.model` with the tokens `added` behind its pieces, or a DataError.

    So it is with other pieces than the `rows` that a model knows: its ids would mean something else.
    """
    hint = "Copy LLaMA's tokenizer.model (499,723 bytes) there; tokenizer.json is not read."
    tokenizer = SegmentTokenizer(read_sentencepiece(path, hint), added)
    if rows not in {None, tokenizer.size}:
        problem = f"{path} has {tokenizer.size} pieces, but the model knows {rows}."
        raise DataError(problem, "Copy the tokenizer.model that belongs to the weights.")
    return tokenizer
