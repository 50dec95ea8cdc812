"""Pixels on their way to a GPU, on a stream of their own: the decoder computes meanwhile."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Upload:
    """A tensor that may still be copied.

    Attributes:
        tensor: On the device; not to be read before `arrived`.
        event: Recorded behind the copy; None where nothing is copied.
    """

    tensor: torch.Tensor
    event: Any = None

    def arrived(self) -> torch.Tensor:
        """Return the tensor; what is computed with it next waits for the copy, the CPU does not."""
        if self.event is not None:
            current = torch.cuda.current_stream(self.tensor.device)
            current.wait_event(self.event)
            # The allocator may not give the memory away before the current stream is done with it.
            self.tensor.record_stream(current)
        return self.tensor


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
        """Whether it is worth to start before a tensor is needed."""
        return self._stream is not None

    def start(self, tensor: torch.Tensor) -> Upload:
        """Return a copy that has begun, from pinned memory, without which the CPU would wait for it."""
        if self._stream is None:
            return Upload(tensor)
        with torch.cuda.stream(self._stream):
            copied = tensor.pin_memory().to(self._device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        return Upload(copied, event)
