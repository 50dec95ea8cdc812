"""Places of a model where states are read: blocks of its vision, what enters and leaves its connector, its decoder's.

Blocks are found by what they do: modules of one class in a list, each of which takes what the one before it gave.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal, Self, cast

import torch
from torch import nn

from medbench.adapters.base import LocalAdapter, Pixels
from medbench.adapters.hf.entry import CONNECTORS
from medbench.tasks.foundation.errors import UsageError

Module = Literal["vision", "connector", "language"]
Readout = Literal["image", "last"]

_CONNECTORS = CONNECTORS | {"qformer", "llama_proj", "projector", "resampler", "language_projection"}
_FINAL_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")
_LEAST_BLOCKS = 2
_Calls = Mapping[nn.Module, tuple[torch.Tensor | None, torch.Tensor | None]]  # What was given and put out.
HANDED_ON, VISUAL_TOKENS = "vision, handed on", "connector output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place whose states are read, each image or prompt as one vector."""

    name: str  # `vision 3`, `connector`, `language 12`.
    module: Module
    readout: Readout  # Over the tokens of the image, or the prompt's last token.
    width: int

    @property
    def label(self) -> str:
        """Name and readout, which tell it from all others of its model."""
        return self.name if self.readout == "image" else f"{self.name}, last token"


def state_of(output: object) -> torch.Tensor:
    """Return the states [..., C] that a module puts out, alone or before other things."""
    while not isinstance(output, torch.Tensor):
        output = output[0]  # type: ignore[index]  # a tuple or one of transformers' outputs
    return output


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A module whose output, or input, is a place."""

    name: str
    module: nn.Module
    enters: bool = False  # Whether it is its input that is read.
    width: int = 0  # Of that input, where it is told apart by it: a Q-Former is given its own questions first.

    @property
    def is_map(self) -> bool:
        """Whether it puts out maps [B, C, H, W], not tokens."""
        kinds = {type(one) for one in self.module.modules()}
        return nn.Conv2d in kinds and nn.Linear not in kinds

    def tokens(self, output: object) -> torch.Tensor:
        """Return its output as tokens [..., C]."""
        found = state_of(output)
        return found.flatten(2).transpose(1, 2) if self.is_map else found


def decoder_blocks(adapter: LocalAdapter) -> list[Block]:
    """Return the blocks of the decoder and its final norm; UsageError if they cannot be found."""
    decoder: Any = adapter.decoder
    stack = decoder.get_decoder()
    layers = getattr(stack, "layers", None)
    if layers is None:
        problem = f"{adapter.title} cannot be taken apart: {type(stack).__name__} has no list of layers."
        raise UsageError(problem, "Probe another model; vision alone is not worth a verdict.")
    blocks = list[Block]()
    for place, layer in enumerate(layers, start=1):
        # What looks at the picture before the layer itself, in Flamingo's way.
        gated = getattr(layer, "gated", None)
        blocks += [Block(f"language {place}, gated", gated)] if isinstance(gated, nn.Module) else []
        blocks.append(Block(f"language {place}", layer))
    norm = next(
        (getattr(stack, name) for name in _FINAL_NORMS if isinstance(getattr(stack, name, None), nn.Module)), None
    )
    return blocks if norm is None else [*blocks, Block("language, normed", norm)]


def vision_blocks(adapter: LocalAdapter, see: Callable[[], object]) -> list[Block]:
    """Return what one picture goes through before the decoder, in order, found by letting `see` send one through.

    Blocks of vision, what the connector is given, and blocks of the connector where it has some.
    """
    inside = set(cast("Any", adapter.decoder).get_decoder().modules())
    named = {
        one: f"{attribute.strip('_')}.{name}".rstrip(".")
        for attribute, root in _roots(adapter) for name, one in root.named_modules() if one not in inside
    }  # fmt: skip
    calls = _calls(named, see)
    chains = [found for of in _lists(named) if (found := _chained(of, calls))]
    groups: dict[Module, list[nn.Module]] = {"vision": [], "connector": []}
    for block in chain.from_iterable(_outermost(chains, named)):
        outside = _CONNECTORS.isdisjoint(named[block].split("."))
        groups["vision" if outside else "connector"].append(block)
    # The first part of a connector that is called: what it is given is what vision hands on.
    first = next((one for one in calls if named[one].rpartition(".")[2] in _CONNECTORS), None)
    last = calls[groups["vision"][-1]][1] if groups["vision"] else None
    width = 0 if last is None else last.shape[-1]
    handed = [] if first is None else [Block(HANDED_ON, first, enters=True, width=width)]
    vision, connector = (
        [Block(f"{module} {place}", one) for place, one in enumerate(blocks, start=1)]
        for module, blocks in groups.items()
    )
    return [*vision, *handed, *connector]


def _lists(named: Mapping[nn.Module, str]) -> Iterator[Sequence[nn.Module]]:
    for module in named:
        elements = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if len(elements) >= _LEAST_BLOCKS and len(set(map(type, elements))) == 1:
            yield elements


def _calls(modules: Iterable[nn.Module], see: Callable[[], object]) -> _Calls:
    """Return what each module was first given and put out, in the order of the calls."""
    found: dict[nn.Module, list[torch.Tensor | None]] = {}

    def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.setdefault(module, [_given(inputs, named)])

    def leave(module: nn.Module, _: object, output: object) -> None:
        if len(found[module]) == 1:
            found[module].append(_state_or_none(output))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        see()
    return {one: (pair[0], pair[1]) for one, pair in found.items() if len(pair) > 1}


def _given(inputs: tuple[Any, ...], named: Mapping[str, Any], width: int = 0) -> torch.Tensor | None:
    """Return the first tensor that a module is called with, of a width if there is one of it."""
    tensors = [one for one in chain(inputs, named.values()) if isinstance(one, torch.Tensor)]
    return next((one for one in tensors if one.dim() > 1 and one.shape[-1] == width), next(iter(tensors), None))


def _roots(adapter: LocalAdapter) -> list[tuple[str, nn.Module]]:
    return [(name, one) for name, one in vars(adapter).items() if isinstance(one, nn.Module)]


def _chained(elements: Sequence[nn.Module], calls: _Calls) -> list[nn.Module]:
    """Return those modules of a list that were called, if each was given what the one before it put out."""
    called = [one for one in elements if one in calls]
    if len(called) < _LEAST_BLOCKS:
        return []
    states = [calls[one] for one in called]
    follows = all(before[1] is after[0] for before, after in pairwise(states))
    same = all(given is not None and made is not None and given.shape == made.shape for given, made in states)
    return called if follows and (same or Block("", called[0]).is_map) else []


def _state_or_none(output: object) -> torch.Tensor | None:
    try:
        return state_of(output)
    except (TypeError, IndexError, KeyError):
        return None


def _outermost(chains: Sequence[Sequence[nn.Module]], named: Mapping[nn.Module, str]) -> list[Sequence[nn.Module]]:
    """Return the chains that lie in no block of another."""
    blocks = {named[block] for one in chains for block in one}

    def is_inner(block: nn.Module) -> bool:
        parts = named[block].split(".")
        return any(".".join(parts[:count]) in blocks for count in range(1, len(parts)))

    return [one for one in chains if not is_inner(one[0])]


def alike(pixels: Sequence[Pixels]) -> Iterator[list[int]]:
    """Yield the places of pictures of the same shapes, which a tower computes together."""
    groups: dict[object, list[int]] = {}
    for place, one in enumerate(pixels):
        parts = one.items() if isinstance(one, dict) else [("", one)]
        shape = tuple((name, getattr(part, "shape", part)) for name, part in parts)
        groups.setdefault(shape, []).append(place)
    yield from groups.values()


class Taps(AbstractContextManager["Taps"]):
    """Keeps what blocks put out while it is open: for each block the tokens [..., C] of its calls, in order."""

    def __init__(self, blocks: Sequence[Block], pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`pool` makes the vectors [N, C] that are kept of the tokens of a call."""
        self._blocks, self._pool = blocks, pool
        self._stack = ExitStack()
        self._caught: dict[str, list[torch.Tensor]] = {}

    def __enter__(self) -> Self:
        for block in self._blocks:
            hook = self._enter(block) if block.enters else None
            register = block.module.register_forward_pre_hook
            handle = (
                register(hook, with_kwargs=True) if hook else block.module.register_forward_hook(self._leave(block))
            )
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _enter(self, block: Block) -> Callable[..., None]:
        return lambda _, inputs, named: self._keep(block.name, _given(inputs, named, block.width))

    def _leave(self, block: Block) -> Callable[..., None]:
        return lambda _, __, output: self._keep(block.name, block.tokens(output))

    def _keep(self, name: str, tokens: torch.Tensor | None) -> None:
        if tokens is not None:
            self._caught.setdefault(name, []).append(self._pool(tokens))

    def taken(self) -> dict[str, torch.Tensor]:
        """Return what was kept of each block since the last time."""
        found, self._caught = self._caught, {}
        return {name: torch.cat(parts) for name, parts in found.items()}


def randomise(adapter: LocalAdapter, seed: int) -> None:
    """Give a loaded model random weights of the usual sizes: what its shape alone, with random features, would show."""
    generator = torch.Generator().manual_seed(seed)
    done = set[int]()
    for module in chain.from_iterable(root.modules() for _, root in _roots(adapter)):
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in done or not parameter.is_floating_point():
                continue
            done.add(id(parameter))
            with torch.no_grad():
                parameter.copy_(_drawn(name, parameter.shape, generator))


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        # Norms begin at one, biases at zero.
        return torch.ones(shape) if name == "weight" else torch.zeros(shape)
    return torch.randn(shape, generator=generator) * (shape[1:].numel() ** -0.5 if name == "weight" else 0.02)
