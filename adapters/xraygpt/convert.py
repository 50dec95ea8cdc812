"""XrayGPT's four files as one folder of transformers, made once."""

from pathlib import Path

import torch
from transformers import GenerationConfig

from medbench.adapters.converting import new_folder
from medbench.adapters.xraygpt.model import assemble, find_files
from medbench.unimed.tokens import load_codec


def convert(source: Path, output: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write XrayGPT as a folder that `Blip2ForConditionalGeneration` and `--model xraygpt --checkpoint OUTPUT` load.

    `source` holds the authors' four files, see `xraygpt.model`. `dtype` is that of the weights, but for the query
    transformer, which stays in float32.

    Every visual token of a prompt is one unknown token (id 0), and rows are padded with the end token; see
    `adapters.xraygpt.entry` for the prompt. transformers gives `ln_vision` the ViT's epsilon of 1e-6 instead of 1e-5,
    which moves features in the seventh digit; this project's own loader sets the right one. DataError if a file is
    missing or broken, or does not fit; UsageError if the output is there already; RunError if it cannot be written.
    """
    with new_folder(output) as folder:
        files = find_files(source)
        codec = load_codec(files["language"])
        model = assemble(files, dtype)
        [begin], end = codec.begin, codec.end
        model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, bos_token_id=begin)
        model.save_pretrained(folder)
        codec.for_generation().save_pretrained(folder)
