"""XrayGPT as transformers' `Blip2ForConditionalGeneration`, from the authors' four files or from a converted folder.

The paper speaks of MedCLIP; the released code and weights have EVA-CLIP's ViT-g and BLIP-2's query transformer, as
MiniGPT-4 does, and so has this.
"""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils import logging as transformers_logging

from medbench.adapters.xraygpt.files import Files, read_file
from medbench.adapters.xraygpt.keys import from_qformer, from_trained
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.official.eva import from_eva
from medbench.unimed.strict_weights import refuse_loading_info, refuse_misfits, refuse_other_shapes
from medbench.unimed.vision import LN_VISION_EPSILON

_LANGUAGE = "language_model."
_QUERY_TOKENS = 32
_SIZES = {"vision_config", "qformer_config", "num_query_tokens"}


def assemble(files: Files, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    """Return a model from the authors' files.

    As in transformers' own BLIP-2, the query transformer stays in float32 whatever the type of the rest.

    Args:
        files: Where they are.
        dtype: Type of the weights.

    Raises:
        DataError: If a weight is missing, unknown or of another shape, or a file is broken.
    """
    config = _config(files)
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    model.language_model = _language_model(files.language, cast("LlamaConfig", config.text_config), dtype)
    expected = {name: one for name, one in model.state_dict().items() if not name.startswith(_LANGUAGE)}
    state = _read(files, config)
    source = str(files.trained.parent)
    refuse_misfits(source, given=state, expected=expected)
    refuse_other_shapes(source, state, expected)
    model.load_state_dict(state, strict=False, assign=True)
    _cast(model, dtype)
    return _finished(model)


def _read(files: Files, config: Blip2Config) -> dict[str, torch.Tensor]:
    vision = from_eva(read_file(files.vision), cast("Blip2VisionConfig", config.vision_config), str(files.vision))
    qformer = cast("Blip2QFormerConfig", config.qformer_config)
    return {
        **{f"vision_model.{name}": tensor for name, tensor in vision.items()},
        **from_qformer(read_file(files.qformer), qformer, str(files.qformer)),
        **from_trained(read_file(files.trained), str(files.trained)),
    }


def _config(files: Files) -> Blip2Config:
    """Return the configuration: the language model's from its folder, the rest as published unless sizes are given."""
    sizes: dict[str, Any] = read_json(files.sizes) if files.sizes else {}
    values = read_json(files.language / "config.json")
    if values.get("model_type") != "llama" or sizes.keys() - _SIZES:
        raise DataError(
            f"{files.language} is of type {values.get('model_type')!r}, with sizes {sorted(sizes) or 'as published'}.",
            f"XrayGPT's language model is a `llama`; sizes are {', '.join(sorted(_SIZES))}.",
        )
    try:
        return Blip2Config(
            vision_config=Blip2VisionConfig(**sizes.get("vision_config", {})),
            qformer_config=Blip2QFormerConfig(**sizes.get("qformer_config", {})),
            text_config=LlamaConfig.from_dict(values),
            num_query_tokens=sizes.get("num_query_tokens", _QUERY_TOKENS),
            image_token_index=0,
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"The sizes of this XrayGPT cannot be used: {error}", "Copy its files again.") from error


def _language_model(folder: Path, config: LlamaConfig, dtype: torch.dtype) -> LlamaForCausalLM:
    return cast("LlamaForCausalLM", _loaded(LlamaForCausalLM, folder, config, dtype))


def _loaded(kind: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - classes of transformers
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder} cannot be read: {error}", "Copy it again.") from error
    refuse_loading_info(str(folder), info, harmless="rotary_emb.inv_freq")
    return model


def load_converted(folder: Path, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    """Return a model from a folder that `medbench.adapters.xraygpt.convert.convert` wrote.

    Raises:
        DataError: If a weight is missing, unknown or of another shape, or a file is broken.
    """
    try:
        config = Blip2Config.from_pretrained(folder, trust_remote_code=False)
    except (StrictDataclassError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Convert it again.") from error
    model: Blip2ForConditionalGeneration = _loaded(Blip2ForConditionalGeneration, folder, config, dtype)
    _cast(model, dtype)
    return _finished(model)


def _cast(model: Blip2ForConditionalGeneration, dtype: torch.dtype) -> None:
    """Cast the weights; not the buffers, whose rotary frequencies must stay exact, nor what BLIP-2 keeps in float32."""
    exact = {model.query_tokens, *model.qformer.parameters()}
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter in exact else dtype)


def _finished(model: Blip2ForConditionalGeneration) -> Blip2ForConditionalGeneration:
    # The authors' `ln_vision` has PyTorch's own epsilon; transformers gives it that of the ViT.
    cast("torch.nn.LayerNorm", model.vision_model.post_layernorm).eps = LN_VISION_EPSILON
    return model
