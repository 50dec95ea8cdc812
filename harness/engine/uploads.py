"""Pixels on their way to a GPU, on a stream of their own: the decoder computes meanwhile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from medbench.adapters.base import Pixels


@dataclass(frozen=True, slots=True)
class Upload:
    """Pixels that may still be copied.

    Attributes:
        pixels: On the device; not to be read before `arrived`.
        event: Recorded behind the copy; None where nothing is copied.
    """

    pixels: Pixels
    event: Any = None

    def arrived(self) -> Pixels:
        """Return the pixels; what is computed with them next waits for the copy, the CPU does not."""
        return self.pixels if self.event is None else _each(self._await, self.pixels)

    def _await(self, tensor: torch.Tensor) -> torch.Tensor:
        current = torch.cuda.current_stream(tensor.device)
        current.wait_event(self.event)
        # The allocator may not give the memory away before the current stream is done with it.
        tensor.record_stream(current)
        return tensor


class Uploads:
    """Starts copies to a device.

    Args:
        device: Of the vision tower; on anything but a GPU a tensor is left where it is.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.startswith("cuda") else None

    @property
    def ahead(self) -> bool:
        """Whether it is worth to start before pixels are needed."""
        return self._stream is not None

    def start(self, pixels: Pixels) -> Upload:
        """Return a copy that has begun, from pinned memory, without which the CPU would wait for it."""
        if self._stream is None:
            return Upload(pixels)
        with torch.cuda.stream(self._stream):
            copied = _each(self._copied, pixels)
            event = torch.cuda.Event()
            event.record(self._stream)
        return Upload(copied, event)

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _each(change: Callable[[torch.Tensor], torch.Tensor], pixels: Pixels) -> Pixels:
    """Return the tensors of a picture changed; what is no tensor stays."""
    if isinstance(pixels, torch.Tensor):
        return change(pixels)
    if isinstance(pixels, Mapping):
        return {name: _each(change, part) for name, part in pixels.items()}
    return pixels
