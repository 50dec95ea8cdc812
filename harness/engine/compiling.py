"""`torch.compile` for what treats every token alike."""

from typing import Any

from tasks.foundation.errors import UsageError

COMPILED = ("input_layernorm", "post_attention_layernorm", "mlp")


def compile_layers(decoder: Any) -> None:  # noqa: ANN401 - a decoder of transformers
    """Let norms and MLPs of a decoder be fused, for any number of tokens; attention over slots stays as it is.

    Raises:
        UsageError: If the decoder has no layers that can be found.

    The last layer is left out: the engine computes only some of its tokens, through hooks that would be traced anew.
    """
    layers = getattr(decoder.get_decoder(), "layers", None)
    if layers is None:
        raise UsageError(f"The layers of {type(decoder).__name__} cannot be compiled.", "Leave --compile out.")
    for layer in layers[:-1]:
        for name in COMPILED:
            if hasattr(layer, name):
                getattr(layer, name).compile(dynamic=True)
