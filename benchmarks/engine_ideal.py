"""How near the engine comes to what the processor can do: needed work at the speed of matrix products, and overhead."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine_model import IMAGE_SIDE, MidSize
from medbench.harness.engine.products import pack_weights, use_onednn

_ROUNDS = 5


@torch.inference_mode()
def gemm_peak(dtype: torch.dtype = torch.float32) -> float:
    """Return the operations per second of a large product, made as the engine makes it, now and on these threads."""
    rows, inner, columns = 512, 512, 1376
    left, layer = torch.randn(rows, inner).to(dtype), torch.nn.Linear(inner, columns, bias=False, dtype=dtype)
    use_onednn(SimpleNamespace(layer=layer))
    pack_weights(layer)
    best = 0.0
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(10):
            layer(left)
        best = max(best, 10 * 2 * rows * inner * columns / (time.perf_counter() - started))
    return best


def needed_operations(model: MidSize, counts: Mapping[str, int]) -> float:
    """Return the operations of an engine that computes nothing twice and nothing for padding; attention is left out.

    Args:
        model: The model.
        counts: Of one run: prompt tokens with every shared beginning once, rows of decode steps, answers, images.
    """
    decoder: Any = model.decoder
    layers = decoder.get_decoder().layers
    tail = _weights(layers[-1].mlp) + _weights(layers[-1].self_attn.o_proj)
    body = sum(_weights(layer) for layer in layers) - tail
    head = _weights(decoder.get_output_embeddings())
    read = counts["decode row steps"] + counts["answers"]
    tokens = counts["prompt tokens computed"] + counts["decode row steps"]
    images = counts.get("images encoded", 0) * _operations_of_an_image(model)
    return 2.0 * (tokens * body + read * (tail + head)) + images


def _weights(module: torch.nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, torch.nn.Linear))


@torch.inference_mode()
def _operations_of_an_image(model: MidSize) -> int:
    with FlopCounterMode(display=False) as counter:
        model.project(model.encode_images([torch.zeros(3, IMAGE_SIDE, IMAGE_SIDE)]), "vqa")
    return int(counter.get_total_flops())


@contextmanager
def seconds_inside(module: torch.nn.Module) -> Iterator[list[float]]:
    """Yield a list to which every call of a module adds its seconds."""
    seconds: list[float] = []
    started: list[float] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter())),
        module.register_forward_hook(lambda *_: seconds.append(time.perf_counter() - started.pop())),
    ]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
