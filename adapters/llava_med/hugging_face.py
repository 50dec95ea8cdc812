"""LLaVA-Med 1.5 as a plain folder of transformers, for servers and libraries that do not know its format."""

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
from medbench.adapters.llava_med.configuration import LlavaFormat, read_format
from medbench.adapters.llava_med.model import load_model
from medbench.adapters.llava_med.templates import IMAGE
from medbench.adapters.llava_med.vision import SUBFOLDER
from medbench.tasks.foundation.errors import DataError
from medbench.unimed.tokens import TextCodec, load_codec

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %} [/INST]"
    "{% else %} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %} {{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""`[INST] <image>\\nQ [/INST] A </s>[INST] ...`, the authors' `mistral_instruct`; BOS comes from the tokenizer."""
_UNKNOWN = "<unk>"


def convert_v15(
    source: Path, output: Path, *, vision_tower: Path | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a checkpoint of LLaVA's format as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load.

    Its processor pads pictures as the authors do, and its chat template is theirs. `<image>` becomes a token of its own
    behind the vocabulary, with the weights of the unknown token, so that it is never written.

    Args:
        source: The published folder.
        output: New folder.
        vision_tower: Folder of OpenAI's CLIP, to be put in place of the checkpoint's own tower.
        dtype: Type of the weights.

    Raises:
        DataError: If a file is missing or broken, or does not fit.
        UsageError: If the output is there already.
        RunError: If it cannot be written.
    """
    with new_folder(output) as folder:
        _write(source, folder, vision_tower, dtype)


def _write(source: Path, folder: Path, vision_tower: Path | None, dtype: torch.dtype) -> None:
    inner = source / SUBFOLDER
    tower = vision_tower or (inner if inner.is_dir() else None)
    form = read_format(source, tower)
    _refuse_others(source, form)
    codec = load_codec(source)
    model, _ = load_model(source, form, dtype, tower=tower, from_base=vision_tower is not None)
    tokenizer = _tokenizer(codec)
    _add_image_token(model, codec, int(cast("Any", tokenizer.convert_tokens_to_ids(IMAGE))))
    # Otherwise transformers would give the weights their old names back.
    model.save_pretrained(folder, save_original_format=False)
    _processor(form, tokenizer).save_pretrained(folder)


def _refuse_others(source: Path, form: LlavaFormat) -> None:
    kind = form.config.get_text_config(decoder=True).model_type
    if kind != "mistral" or form.linear or form.marks:
        raise DataError(
            f"{source} is not LLaVA-Med 1.5 (language model {kind!r}).",
            "Only its parts are those of transformers' LLaVA, and only its chat template is known here.",
        )


def _tokenizer(codec: TextCodec) -> PreTrainedTokenizerFast:
    """Return the tokenizer with `<image>`, and with BOS before every prompt."""
    backend = codec.backend
    backend.encode_special_tokens = False
    begin, end = codec.begin[0], codec.end
    words = {role: backend.id_to_token(number) for role, number in (("bos", begin), ("eos", end))}
    backend.add_special_tokens([AddedToken(IMAGE, normalized=False, special=True)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{words['bos']} $A", pair=f"{words['bos']} $A {words['bos']} $B", special_tokens=[(words["bos"], begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=words["bos"],
        eos_token=words["eos"],
        unk_token=_UNKNOWN,
        pad_token=words["eos"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


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
    pictures = LlavaImageProcessorPil(
        do_pad=form.pads,
        size={"shortest_edge": vision.image_size},
        crop_size={"height": vision.image_size, "width": vision.image_size},
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=form.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
