"""XrayGPT's four files as one folder of transformers, made once."""

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from medbench.adapters.converting import new_folder
from medbench.adapters.xraygpt.files import find_files
from medbench.adapters.xraygpt.model import assemble
from medbench.unimed.tokens import TextCodec, load_codec


def convert(source: Path, output: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write XrayGPT as a folder that `Blip2ForConditionalGeneration` and `--model xraygpt --checkpoint OUTPUT` load.

    Every visual token of a prompt is one unknown token (id 0), and rows are padded with the end token; see
    `adapters.xraygpt.prompts` for the prompt. transformers gives `ln_vision` the ViT's epsilon of 1e-6 instead of 1e-5,
    which moves features in the seventh digit; this project's own loader sets the right one.

    Args:
        source: The folder with the authors' four files, see `medbench.adapters.xraygpt.files`.
        output: New folder.
        dtype: Type of the weights, but for the query transformer, which stays in float32.

    Raises:
        DataError: If a file is missing or broken, or does not fit.
        UsageError: If the output is there already.
        RunError: If it cannot be written.
    """
    with new_folder(output) as folder:
        _write(source, folder, dtype)


def _write(source: Path, folder: Path, dtype: torch.dtype) -> None:
    files = find_files(source)
    codec = load_codec(files.language)
    model = assemble(files, dtype)
    model.generation_config = GenerationConfig(
        eos_token_id=codec.end, pad_token_id=codec.end, bos_token_id=codec.begin[0]
    )
    model.save_pretrained(folder)
    _tokenizer(codec).save_pretrained(folder)


def _tokenizer(codec: TextCodec) -> PreTrainedTokenizerFast:
    words = {role: codec.backend.id_to_token(number) for role, number in (("bos", codec.begin[0]), ("eos", codec.end))}
    return PreTrainedTokenizerFast(
        tokenizer_object=codec.backend,
        bos_token=words["bos"],
        eos_token=words["eos"],
        pad_token=words["eos"],
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
