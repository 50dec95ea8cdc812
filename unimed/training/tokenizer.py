"""A small tokenizer for models that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from medbench.unimed.prompts import IMAGE_PLACEHOLDER

_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_PLACEHOLDER]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of at most `vocabulary` entries, trained on `texts`.

    A text gets one leading space, so that a word has the same id at the start and inside. Numbers are cut off
    from their neighbours, and those of box strings are made common enough to be one token each.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d{1,3}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    boxes = [f"{{<{number}><{number}>}}" for number in range(101)] * 50
    tokenizer.train_from_iterator([*texts, *boxes], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_PLACEHOLDER],
        clean_up_tokenization_spaces=False,
    )
