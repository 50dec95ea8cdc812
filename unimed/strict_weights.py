"""Weights fit a model name by name and shape by shape, or nothing is loaded: random weights give random answers."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from medbench.tasks.foundation.errors import DataError

_SHOWN = 5
_HINT = "Nothing was loaded: random weights give random answers. Use the weights that belong to the configuration."


def refuse_misfits(source: str, *, given: Iterable[str], expected: Iterable[str]) -> None:
    """Compare names of weights.

    Raises:
        DataError: If one is missing or unknown.
    """
    have, need = set(given), set(expected)
    _refuse(source, {"missing": need - have, "unexpected": have - need})


def refuse_loading_info(source: str, info: Mapping[str, Any], *, harmless: str = "") -> None:
    """Look at what transformers' `from_pretrained` reports beside the model.

    Args:
        source: What was loaded.
        info: The report.
        harmless: Part of the names of unexpected tensors that follow from the configuration anyway.

    Raises:
        DataError: If a weight was missing, unknown or of another shape.
    """
    words = ("missing", "unexpected", "mismatched")
    found = {word: {_name(key) for key in info.get(f"{word}_keys") or ()} for word in words}
    if harmless:
        found["unexpected"] = {name for name in found["unexpected"] if harmless not in name}
    _refuse(source, found)


def refuse_other_shapes(source: str, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Compare shapes of weights under the same names.

    Raises:
        DataError: If one has another shape.
    """
    wrong = {
        f"{name} {list(tensor.shape)} instead of {list(expected[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape
    }
    _refuse(source, {"of another shape": wrong})


def some_of(names: Iterable[str]) -> str:
    """Return the first few of many names."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def _name(key: object) -> str:
    return str(key[0] if isinstance(key, tuple) else key)


def _refuse(source: str, problems: Mapping[str, set[str]]) -> None:
    told = [f"{len(names)} {word}: {some_of(names)}" for word, names in problems.items() if names]
    if told:
        raise DataError(f"{source} does not fit the configuration ({'; '.join(told)}).", _HINT)
