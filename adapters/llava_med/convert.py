"""LLaVA-Med as other folders: the deltas of version 1.0 made whole, version 1.5 as a plain folder of transformers."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from tokenizers import AddedToken, processors

from medbench.adapters.families import new_folder
from medbench.adapters.llava_med.model import LlavaFormat, load_model, read_format, tower_folder
from medbench.adapters.wording import IMAGE_MARKS
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed.tokens import load_codec
from medbench.unimed.weights import ROTARY, SHARD_BYTES, open_shards, refuse_other_names, write_shards

[_IMAGE] = IMAGE_MARKS
_AS_IT_IS = ("model.mm_projector.weight", "model.mm_projector.bias")
_GROWN = ("model.embed_tokens.weight", "lm_head.weight")
_COPIED = (
    "config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_DELTA_TYPE = torch.float16


def convert(source: Path, output: Path, base: Path | None, vision_tower: Path | None, dtype: str | None) -> None:
    """Write a whole checkpoint of a delta, if there is a `base`, or a folder of transformers of version 1.5."""
    given = [name for name, value in (("--vision-tower", vision_tower), ("--dtype", dtype)) if value is not None]
    if base is None:
        convert_v15(source, output, vision_tower=vision_tower, dtype=getattr(torch, dtype or "float16"))
    elif given:
        problem = f"A delta is added in float16 and has no vision tower, but {', '.join(given)} was given."
        raise UsageError(problem, "Leave it out; the run takes the tower as --model-arg vision_tower=DIR.")
    else:
        convert_delta(base, source, output)


def convert_delta(base: Path, delta: Path, output: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the folder of a whole LLaVA-Med 1.0, which `--model llava-med:v1.0 --checkpoint OUTPUT` loads.

    `base` is LLaMA-7B in the layout of transformers, `delta` any of the published ones. The rule, in float16 (LLaVA-Med
    tag v1.0.0, `llava/model/apply_delta.py`): tensors of one shape are added; the embedding and the head have more rows
    than LLaMA's, so only the first ones are; the projector is published as it is. Only one shard is in memory at a
    time. The vision tower is in neither of the two folders. It raises what `families` says.
    """

    def total(name: str) -> torch.Tensor:
        whole = ours.tensor(name).to(_DELTA_TYPE).clone()
        if name in _AS_IT_IS:
            return whole
        known = theirs.tensor(name).to(_DELTA_TYPE)
        more = len(whole) - len(known)
        if whole.shape[1:] != known.shape[1:] or more < 0 or (more and name not in _GROWN):
            problem = f"{name} is {list(whole.shape)} in the delta and {list(known.shape)} in the base."
            raise DataError(problem, "Give the base that the delta was made from: LLaMA-7B.")
        whole[: len(known)] += known
        return whole

    with new_folder(output) as folder:
        ours, theirs = open_shards(delta), open_shards(base)
        wanted = [name for name in ours.files if not name.endswith(ROTARY)]
        refuse_other_names(
            f"The delta {delta} on {base}",
            given=[name for name in wanted if name not in _AS_IT_IS],
            expected=[name for name in theirs.files if not name.endswith(ROTARY)],
        )
        sizes = {name: ours.tensor(name).numel() * _DELTA_TYPE.itemsize for name in wanted}
        write_shards(folder, sizes, total, shard_bytes=shard_bytes)
        for file in filter(Path.is_file, map(delta.joinpath, _COPIED)):
            shutil.copyfile(file, folder / file.name)


def convert_v15(
    source: Path, output: Path, *, vision_tower: Path | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a checkpoint of LLaVA's format as a folder that `AutoModelForImageTextToText` and `AutoProcessor` load.

    Its processor pads images as the authors do, and its chat template is theirs. `<image>` becomes a token of its own
    behind the vocabulary, with the weights of the unknown token, so that it is never written. `vision_tower` is a
    folder of OpenAI's CLIP for the checkpoint's own tower. It raises what `families` says.
    """
    with new_folder(output) as folder:
        tower = vision_tower or tower_folder(source, "")
        form = read_format(source, tower)
        kind = form.config.get_text_config(decoder=True).model_type
        if kind != "mistral" or form.linear or form.marks:
            hint = "Only its parts are those of transformers' LLaVA, and only its chat template is known here."
            raise DataError(f"{source} is not LLaVA-Med 1.5 (language model {kind!r}).", hint)
        codec = load_codec(source)
        model, _ = load_model(source, form, dtype, tower=tower, from_base=vision_tower is not None)
        # The tokenizer has `<image>`, and BOS before every prompt.
        backend, begin = codec.backend, codec.begin[0]
        backend.encode_special_tokens = False
        bos = backend.id_to_token(begin)
        backend.add_special_tokens([AddedToken(_IMAGE, normalized=False, special=True)])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, begin)]
        )
        tokenizer = codec.for_generation()
        image = int(cast("Any", tokenizer.convert_tokens_to_ids(_IMAGE)))
        rows = int(model.config.get_text_config(decoder=True).vocab_size)
        if image >= rows:
            model.resize_token_embeddings(image + 1, mean_resizing=False)
            with torch.no_grad():
                for table in (model.get_input_embeddings(), model.get_output_embeddings()):
                    weight = cast("torch.Tensor", table.weight)
                    weight[rows:] = weight[codec.id_of("<unk>") or 0]
        model.config.image_token_index = image
        end = codec.end
        model.generation_config = transformers.GenerationConfig(bos_token_id=begin, eos_token_id=end, pad_token_id=end)
        # Otherwise transformers would give the weights their old names back.
        model.save_pretrained(folder, save_original_format=False)
        _processor(form, tokenizer).save_pretrained(folder)


def _processor(form: LlavaFormat, tokenizer: transformers.PreTrainedTokenizerFast) -> transformers.LlavaProcessor:
    vision: Any = form.config.vision_config
    side = vision.image_size
    return transformers.LlavaProcessor(
        image_processor=transformers.LlavaImageProcessorPil(
            do_pad=form.pads, size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer, patch_size=vision.patch_size,
        vision_feature_select_strategy=form.config.vision_feature_select_strategy, num_additional_image_tokens=1,
        image_token=_IMAGE, chat_template=read_yaml_table(Path(__file__).with_suffix(".yaml"))["chat template"],
    )  # fmt: skip
