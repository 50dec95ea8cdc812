"""Products of matrices on a CPU by oneDNN, with a decoder's weights in the order in which its kernels read them.

PyTorch gives products of float32 to MKL, which takes weights as they lie and on an AMD processor with AVX-512 reached
half of oneDNN's speed. Both sum the same products in another order; docs/engine.md has what was measured.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad

_CAPABLE = frozenset({"AVX2", "AVX512"})
"""Processors on which oneDNN was measured; on others products stay as they are."""
# Rows that the order of packed weights is chosen for: of a few dozen answers. Hundreds are as fast in it.
_ROWS = 32
# Numbers of rows are rounded up to a multiple: oneDNN writes and keeps a program for each, some tens of kilobytes.
_FEW, _FEW_STEP, _STEP = 128, 4, 16
_WRAPPED = "base_layer"


class OneDnnLinear(nn.Linear):
    """A linear layer of oneDNN for inference; its weights [O, I] may be packed, `to_dense` then returns them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - as torch names it
        """Return [..., O] of [..., I]; what oneDNN's product does not do (gradients, other types) is PyTorch's."""
        weight = self.weight
        if torch.is_grad_enabled() or input.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
            dense: torch.Tensor = weight.to_dense() if weight.is_mkldnn else weight
            return linear(input, dense, self.bias)
        product, _ = _kernels()
        states = input.flatten(0, -2)
        count = len(states)
        padded = pad(states, (0, 0, 0, -count % (_FEW_STEP if count <= _FEW else _STEP)))
        found: torch.Tensor = product(padded, weight, self.bias, "none", [], "")
        return found[:count].view(*input.shape[:-1], found.shape[-1])


def is_onednn_here() -> bool:
    """Return whether this processor and this PyTorch are such that oneDNN was measured on them."""
    return torch.backends.cpu.get_cpu_capability() in _CAPABLE and torch.backends.mkldnn.is_available()


def use_onednn(holder: object) -> None:
    """Let the float32 layers on a CPU of all modules that something holds be oneDNN's; weights stay where they are."""
    if is_onednn_here():
        for layer in _plain_layers(vars(holder).values()):
            layer.__class__ = OneDnnLinear


@torch.no_grad()
def pack_weights(decoder: Any) -> None:  # noqa: ANN401 - any model of transformers
    """Put weights of oneDNN's layers into its order, one after the other: each takes the place of the plain one.

    What another module holds too (a table of tokens that is the head) stays plain, what peft wraps, whose layers may
    read weights themselves, and all where layers are compiled, which packed weights do not get through.
    """
    modules = dict(decoder.named_modules())
    if any(getattr(module, "_compiled_call_impl", None) for module in modules.values()):
        return
    holders = Counter(id(weight) for module in modules.values() for weight in module.parameters(recurse=False))
    for name, module in modules.items():
        if type(module) is not OneDnnLinear or module.weight.is_mkldnn or name.endswith(_WRAPPED):
            continue
        if holders[id(module.weight)] == 1:
            _, packed = _kernels()
            module.weight = nn.Parameter(packed(module.weight, _ROWS), requires_grad=False)


def _plain_layers(held: Any) -> Iterator[nn.Linear]:  # noqa: ANN401 - whatever an adapter holds
    modules = (one.modules() for one in held if isinstance(one, nn.Module))
    for module in chain.from_iterable(modules):
        # Who replaced the class or the method wants something else from the weights.
        if type(module) is nn.Linear and "forward" not in vars(module):
            weight = module.weight
            # Rounded weights are tensors of a class of their own, which call themselves float32.
            if type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32:
                yield module


@cache
def _kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the product and the packing, which torch.compile's own code calls; no public name has them."""
    found: tuple[Callable[..., Any], ...] = attrgetter("_linear_pointwise", "_reorder_linear_weight")(torch.ops.mkldnn)
    return found[0], found[1]
