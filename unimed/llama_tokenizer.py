"""LLaMA's tokenizer as the official code uses it, on the fast backend.

Two traps of transformers 5 are avoided here. From `tokenizer.model` it ignores the scores of the pieces, so that a
double space becomes one piece; from `tokenizer.json` it drops, unless told otherwise, the space before a text that
follows a special token. Both change the ids that Uni-Med was trained on.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.prompts import IMAGE_PLACEHOLDER

OFFICIAL_PAD = "$$"
"""The official code pads with this piece, which LLaMA's vocabulary has (id 3997)."""
SPACE = "▁"
CONTROLS = ("<s>", "</s>", "<unk>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One entry of a SentencePiece vocabulary; of two possible merges, the one into the higher score comes first."""

    text: str
    score: float
    control: bool = False


def read_pieces(path: Path) -> list[Piece]:
    """Return the vocabulary of a SentencePiece file.

    Raises:
        DataError: If the file is no SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise DataError(f"{path} is no SentencePiece model: {error}", "Copy the language model again.") from error
    return [
        Piece(
            text=model.id_to_piece(index),
            score=model.get_score(index),
            control=model.is_control(index) or model.is_unknown(index),
        )
        for index in range(model.get_piece_size())
    ]


def llama_tokenizer(pieces: list[Piece]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that gives every text one leading space and merges by score, as SentencePiece does.

    The image placeholder is added behind the vocabulary; it stands for visual tokens and is never embedded.

    Raises:
        DataError: If the vocabulary lacks `<s>`, `</s>` or `<unk>`.
    """
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    lacking = [name for name in CONTROLS if name not in ids]
    if lacking:
        raise DataError(
            f"The vocabulary lacks {', '.join(lacking)}.", "Uni-Med needs a language model with LLaMA's tokenizer."
        )
    backend = Tokenizer(
        models.BPE(vocab=ids, merges=_merges(pieces, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = _leading_space()
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(
        [AddedToken(piece.text, normalized=False, special=True) for piece in pieces if piece.control]
    )
    return _with_names(backend)


def _leading_space() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def _with_names(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Return `backend` with the names of LLaMA's special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=OFFICIAL_PAD if OFFICIAL_PAD in backend.get_vocab() else "<unk>",
        additional_special_tokens=[IMAGE_PLACEHOLDER],
        clean_up_tokenization_spaces=False,
    )


def _merges(pieces: list[Piece], ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for piece in pieces:
        if piece.control:
            continue
        splits = [(piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text))]
        merges += [(-piece.score, ids[left], ids[right]) for left, right in splits if left in ids and right in ids]
    return [(pieces[left].text, pieces[right].text) for _, left, right in sorted(merges)]


def load_language_model_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a LLaMA-architecture model, from `tokenizer.model` if there, else `tokenizer.json`.

    Raises:
        DataError: If the folder has neither, or a file is broken.
    """
    if (folder / "tokenizer.model").is_file():
        return llama_tokenizer(read_pieces(folder / "tokenizer.model"))
    if not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"{folder} has neither tokenizer.model nor tokenizer.json.", "Give the folder of a LLaMA language model."
        )
    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizer's own library raises bare exceptions
        raise DataError(f"{folder / 'tokenizer.json'} cannot be read: {error}", "Copy it again.") from error
    vocabulary = backend.get_vocab()
    if SPACE in vocabulary and all(name in vocabulary for name in CONTROLS):
        backend.normalizer, backend.pre_tokenizer = _leading_space(), None
        return _with_names(backend)
    return _of_another_kind(folder)


def _of_another_kind(folder: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer that is not SentencePiece's (LLaMA-3), as it is, with the names that Uni-Med needs."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise DataError(f"The tokenizer in {folder} names no BOS or no EOS.", "Add them to tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_PLACEHOLDER]})
    return tokenizer
