"""Where a model runs and of which type its weights are, by the words of the command line."""

import torch

from medbench.tasks.foundation.errors import UsageError


def resolve_device(device: str) -> torch.device:
    """Return the device for a word of the command line.

    Raises:
        UsageError: If this machine or this build of torch does not have it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available.get(device.partition(":")[0], False):
        allowed = ", ".join(name for name, there in available.items() if there)
        raise UsageError(f"There is no device {device!r} here.", f"Allowed: auto, {allowed}.")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the type for a word of the command line; `auto` is exact on the CPU and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved
