"""LLaVA-Med as other folders: the deltas of version 1.0 made whole, version 1.5 as a plain folder of transformers."""

import shutil
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, processors
from transformers import (
    GenerationConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from medbench.adapters.converting import new_folder
from medbench.adapters.llava_med.model import LlavaFormat, load_model, read_format, tower_folder
from medbench.adapters.wording import IMAGE_MARKS
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed.tokens import TextCodec, load_codec
from medbench.unimed.weights import ROTARY, SHARD_BYTES, Shards, open_shards, refuse_other_names, write_shards

[_IMAGE] = IMAGE_MARKS
_UNKNOWN = "<unk>"
_AS_IT_IS = ("model.mm_projector.weight", "model.mm_projector.bias")
_GROWN = ("model.embed_tokens.weight", "lm_head.weight")
_COPIED = (
    "config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_DELTA_TYPE = torch.float16


def convert_delta(base: Path, delta: Path, output: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the folder of a whole LLaVA-Med 1.0, which `--model llava-med:v1.0 --checkpoint OUTPUT` loads.

    `base` is LLaMA-7B in the layout of transformers, `delta` any of the published ones. The rule, in float16 (LLaVA-Med
    tag v1.0.0, `llava/model/apply_delta.py`): tensors of one shape are added; the embedding and the head have more rows
    than LLaMA's, so only the first ones are; the projector is published as it is. Only one shard is in memory at a
    time. The vision tower is in neither of the two folders: give it to the run with `--model-arg vision_tower=DIR`, or
    put it into the sub-folder `vision_tower` of the output. DataError if the two do not belong together, or a file is
    missing or broken; UsageError if the output is there already; RunError if it cannot be written.
    """
    with new_folder(output) as folder:
        ours, theirs = open_shards(delta), open_shards(base)
        wanted = [name for name in ours.files if not name.endswith(ROTARY)]
        refuse_other_names(
            f"The delta {delta} on {base}",
            given=[name for name in wanted if name not in _AS_IT_IS],
            expected=[name for name in theirs.files if not name.endswith(ROTARY)],
        )
        sizes = {name: prod(ours.size(name)) * _DELTA_TYPE.itemsize for name in wanted}
        write_shards(folder, sizes, lambda name: _sum(name, ours, theirs), shard_bytes=shard_bytes)
        for file in _COPIED:
            if (delta / file).is_file():
                shutil.copyfile(delta / file, folder / file)


def _sum(name: str, delta: Shards, base: Shards) -> torch.Tensor:
    difference = delta.tensor(name).to(_DELTA_TYPE)
    if name in _AS_IT_IS:
        return difference
    known = base.tensor(name).to(_DELTA_TYPE)
    if difference.shape == known.shape:
        return difference + known
    if name not in _GROWN or difference.shape[1:] != known.shape[1:] or len(difference) < len(known):
        raise DataError(
            f"{name} is {list(difference.shape)} in the delta and {list(known.shape)} in the base.",
            "Give the base that the delta was made from: LLaMA-7B.",
        )
    whole = difference.clone()
    whole[: len(known)] += known
    return whole


def convert_v15(
    source: Path, output: Path, *, vision_tower: Path | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a checkpoint of LLaVA's format as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load.

    Its processor pads images as the authors do, and its chat template is theirs. `<image>` becomes a token of its own
    behind the vocabulary, with the weights of the unknown token, so that it is never written. `vision_tower` is a
    folder of OpenAI's CLIP, to be put in place of the checkpoint's own tower. DataError if a file is missing or broken,
    or does not fit; UsageError if the output is there already; RunError if it cannot be written.
    """
    with new_folder(output) as folder:
        tower = vision_tower or tower_folder(source, "")
        form = read_format(source, tower)
        kind = form.config.get_text_config(decoder=True).model_type
        if kind != "mistral" or form.linear or form.marks:
            raise DataError(
                f"{source} is not LLaVA-Med 1.5 (language model {kind!r}).",
                "Only its parts are those of transformers' LLaVA, and only its chat template is known here.",
            )
        codec = load_codec(source)
        model, _ = load_model(source, form, dtype, tower=tower, from_base=vision_tower is not None)
        tokenizer = _tokenizer(codec)
        _add_image_token(model, codec, int(cast("Any", tokenizer.convert_tokens_to_ids(_IMAGE))))
        # Otherwise transformers would give the weights their old names back.
        model.save_pretrained(folder, save_original_format=False)
        _processor(form, tokenizer).save_pretrained(folder)


def _tokenizer(codec: TextCodec) -> PreTrainedTokenizerFast:
    """Return the tokenizer with `<image>`, and with BOS before every prompt."""
    backend = codec.backend
    backend.encode_special_tokens = False
    bos = backend.id_to_token(codec.begin[0])
    backend.add_special_tokens([AddedToken(_IMAGE, normalized=False, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, codec.begin[0])]
    )
    return codec.for_generation()


def _add_image_token(model: LlavaForConditionalGeneration, codec: TextCodec, image: int) -> None:
    rows = int(model.config.get_text_config(decoder=True).vocab_size)
    if image >= rows:
        model.resize_token_embeddings(image + 1, mean_resizing=False)
        unknown = codec.id_of(_UNKNOWN) or 0
        with torch.no_grad():
            for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                weight = cast("torch.Tensor", table.weight)
                weight[rows:] = weight[unknown]
    model.config.image_token_index = image
    model.generation_config = GenerationConfig(
        bos_token_id=codec.begin[0], eos_token_id=codec.end, pad_token_id=codec.end
    )


def _processor(form: LlavaFormat, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    vision: Any = form.config.vision_config
    images = LlavaImageProcessorPil(
        do_pad=form.pads,
        size={"shortest_edge": vision.image_size},
        crop_size={"height": vision.image_size, "width": vision.image_size},
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=vision.patch_size,
        vision_feature_select_strategy=form.config.vision_feature_select_strategy, num_additional_image_tokens=1,
        image_token=_IMAGE, chat_template=read_yaml_table(Path(__file__).with_suffix(".yaml"))["chat template"],
    )  # fmt: skip
