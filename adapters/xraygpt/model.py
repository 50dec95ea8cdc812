"""XrayGPT as transformers' `Blip2ForConditionalGeneration`, from the authors' four files or from a converted folder.

The paper speaks of MedCLIP; the released code and weights have EVA-CLIP's ViT-g and BLIP-2's query transformer, as
MiniGPT-4 does, and so has this.
"""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from medbench.adapters.xraygpt.files import Files, read_file
from medbench.adapters.xraygpt.keys import from_qformer, from_trained
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.unimed.vision import LN_VISION_EPSILON, from_eva
from medbench.unimed.weights import ROTARY, cast_parameters, refuse_misfits, strict_from_pretrained

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
    model.language_model = strict_from_pretrained(
        LlamaForCausalLM, files.language, config=config.text_config, dtype=dtype, harmless=ROTARY
    )
    expected = {name: one for name, one in model.state_dict().items() if not name.startswith(_LANGUAGE)}
    state = _read(files, config)
    source = str(files.trained.parent)
    refuse_misfits(source, state, expected)
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


def load_converted(folder: Path, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    """Return a model from a folder that `medbench.adapters.xraygpt.convert.convert` wrote.

    Raises:
        DataError: If a weight is missing, unknown or of another shape, or a file is broken.
    """
    try:
        config = Blip2Config.from_pretrained(folder, trust_remote_code=False)
    except (StrictDataclassError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Convert it again.") from error
    model: Blip2ForConditionalGeneration = strict_from_pretrained(
        Blip2ForConditionalGeneration, folder, config=config, dtype=dtype, harmless=ROTARY
    )
    _cast(model, dtype)
    return _finished(model)


def _cast(model: Blip2ForConditionalGeneration, dtype: torch.dtype) -> None:
    """Cast the weights, but not what BLIP-2 keeps in float32."""
    cast_parameters(model, dtype, exact=[model.query_tokens, *model.qformer.parameters()])


def _finished(model: Blip2ForConditionalGeneration) -> Blip2ForConditionalGeneration:
    # The authors' `ln_vision` has PyTorch's own epsilon; transformers gives it that of the ViT.
    cast("torch.nn.LayerNorm", model.vision_model.post_layernorm).eps = LN_VISION_EPSILON
    return model
