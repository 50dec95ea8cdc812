"""Reading the authors' files without trusting them: tensors only."""

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.strict_weights import some_of

# torch's own reader of pickles raises those of the second line on bytes that are no pickle.
_UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError,
    KeyError, IndexError, TypeError, AttributeError, struct.error,
)  # fmt: skip


def read_torch_file(path: Path) -> Mapping[str, Any]:
    """Return what `torch.save` wrote, tensors and plain values only.

    Raises:
        DataError: If the file is missing, broken, no mapping, or holds anything that could run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}", "Copy the file again; only tensors are read.") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds no mapping of names.", "Give a checkpoint written by `torch.save`.")
    return content


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a flat state dictionary, also of one that lies under `model`.

    Raises:
        DataError: If the file cannot be read, or holds something else.
    """
    content = read_torch_file(path)
    nested = content.get("model")
    state = nested if isinstance(nested, Mapping) else content
    strangers = {str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)}
    if strangers:
        raise DataError(f"{path} holds more than tensors: {some_of(strangers)}.", "Give a state dictionary.")
    return dict(state)
