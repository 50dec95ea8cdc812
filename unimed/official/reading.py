"""Reading the authors' files without trusting them: tensors only, and no key too few or too many."""

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.foundation.errors import DataError

_SHOWN = 5


def read_torch_file(path: Path) -> Mapping[str, Any]:
    """Return what `torch.save` wrote, tensors and plain values only.

    Raises:
        DataError: If the file is missing, broken, no mapping, or holds anything that could run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
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
    strangers = sorted(str(name) for name, value in state.items() if not isinstance(value, torch.Tensor))
    if strangers:
        raise DataError(f"{path} holds more than tensors: {_some(strangers)}.", "Give a state dictionary.")
    return dict(state)


def refuse_misfits(source: str, *, given: Iterable[str], expected: Iterable[str]) -> None:
    """Compare names of weights.

    Raises:
        DataError: If one is missing or unknown.
    """
    have, need = set(given), set(expected)
    problems = [
        f"{len(names)} {word}: {_some(sorted(names))}"
        for word, names in (("missing", need - have), ("unexpected", have - need))
        if names
    ]
    if problems:
        raise DataError(
            f"{source} does not fit the configuration ({'; '.join(problems)}).",
            "Nothing was loaded: random weights give random answers. Use the weights that belong to the configuration.",
        )


def refuse_other_shapes(source: str, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare shapes of weights under the same names.

    Raises:
        DataError: If one has another shape.
    """
    wrong = [
        f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
        for name, tensor in sorted(tensors.items())
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise DataError(
            f"{source} does not fit the configuration ({len(wrong)} of another shape: {_some(wrong)}).",
            "Use the weights that belong to the configuration.",
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
