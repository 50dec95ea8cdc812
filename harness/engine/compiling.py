"""`torch.compile` for what treats every token alike."""

from typing import Any

import torch

from medbench.harness.engine.layout import text_config
from medbench.tasks.foundation.errors import UsageError

COMPILED = ("input_layernorm", "post_attention_layernorm", "mlp")


def compile_layers(decoder: Any) -> None:  # noqa: ANN401 - a decoder of transformers
    """Let norms and MLPs of a decoder be fused, for any number of tokens; attention over slots stays as it is.

    Raises:
        UsageError: If the decoder has no layers that can be found, or nothing can be compiled on this machine.

    The last layer is left out: the engine computes only some of its tokens, through hooks that would be traced anew.
    """
    layers = getattr(decoder.get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(f"The layers of {type(decoder).__name__} cannot be compiled.", "Leave --compile out.")
    for layer in layers[:-1]:
        for name in COMPILED:
            if hasattr(layer, name):
                getattr(layer, name).compile(dynamic=True)
    if len(layers) > 1:
        _try(decoder, layers[0])


def _try(decoder: Any, layer: Any) -> None:  # noqa: ANN401 - of any model of transformers
    """Compile a part now: a machine without a C++ compiler is told so before the first answer."""
    part = next((getattr(layer, name) for name in COMPILED if hasattr(layer, name)), torch.nn.Identity())
    try:
        with torch.inference_mode():
            part(torch.zeros(1, 2, text_config(decoder).hidden_size, device=decoder.device, dtype=decoder.dtype))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"torch.compile does not work here: {reason}",
            "Install a C++ compiler (g++), or name yours in the environment variable CXX, or leave --compile out.",
        ) from error
