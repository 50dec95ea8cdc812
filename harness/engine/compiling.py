"""`torch.compile` for what treats every token alike."""

from typing import Any

COMPILED = ("input_layernorm", "post_attention_layernorm", "mlp")


def compile_layers(decoder: Any) -> None:  # noqa: ANN401 - a decoder of transformers
    """Let norms and MLPs of a decoder be fused, for any number of tokens; attention over slots stays as it is.

    The last layer is left out: the engine computes only some of its tokens, through hooks that would be traced anew.
    """
    for layer in decoder.get_decoder().layers[:-1]:
        for name in COMPILED:
            if hasattr(layer, name):
                getattr(layer, name).compile(dynamic=True)
