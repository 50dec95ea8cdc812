"""Fits a probe: scikit-learn on a CPU, the same function by torch on a GPU."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch

from medbench.harness.probing.targets import FloatArray
from medbench.tasks.foundation.errors import UsageError

_ITERATIONS, _CLOSE = 400, 1e-4
_INSTALL = "Install it: pip install 'medbench[interpret]'"


def log_chances(
    known: FloatArray, wanted: FloatArray, asked: FloatArray, *, classes: int, strength: float, device: str
) -> FloatArray:
    """Return what multinomial logistic regression, trained on `known` [N, C], tells of `asked` [M, C]: ln p [M, K].

    `wanted` [N] are numbers of classes below `classes`; one that is not among them has no chance. Classes weigh alike;
    `strength` is scikit-learn's C. UsageError if that is not installed.
    """
    fit = _by_library if device == "cpu" else partial(_by_torch, device=device)
    there, told = fit(known, wanted, asked, strength)
    found = np.full((len(asked), classes), -np.inf)
    found[:, there.astype(np.intp)] = told
    return found


def _by_library(
    known: FloatArray, wanted: FloatArray, asked: FloatArray, strength: float
) -> tuple[FloatArray, FloatArray]:
    model = library().LogisticRegression(C=strength, class_weight="balanced", max_iter=_ITERATIONS, tol=_CLOSE)
    with warnings.catch_warnings():
        # Where nothing separates the classes, the last steps change nothing that counts.
        warnings.simplefilter("ignore")
        model.fit(known, wanted)
    return model.classes_, model.predict_log_proba(asked)


def located(known: FloatArray, wanted: FloatArray, asked: FloatArray, strength: float) -> FloatArray:
    """Return the corners [M, 4] that ridge regression tells of `asked`, within the picture."""
    if not known.shape[1]:
        return np.repeat(wanted.mean(axis=0, keepdims=True), len(asked), axis=0)
    model = library().Ridge(alpha=0.5 / strength).fit(known, wanted)
    return np.asarray(np.clip(model.predict(asked), 0.0, 1.0), dtype=np.float64)


def library() -> Any:  # noqa: ANN401 - a module
    """Return scikit-learn's linear models; UsageError if they are not installed."""
    try:
        from sklearn import linear_model
    except ImportError as error:
        raise UsageError("Probes need scikit-learn, which is not installed.", _INSTALL) from error
    return linear_model


def _by_torch(
    known: FloatArray, wanted: FloatArray, asked: FloatArray, strength: float, device: str
) -> tuple[FloatArray, FloatArray]:
    """Minimise `C * sum(weighted cross-entropy) + 0.5 * |W|^2` as scikit-learn does, by the same method."""
    classes, numbers, counts = np.unique(wanted, return_inverse=True, return_counts=True)
    inputs, right = (torch.tensor(one, device=device) for one in (known, numbers))
    each = torch.tensor(len(wanted) / (len(classes) * counts), device=device)
    weights = torch.zeros(len(classes), known.shape[1] + 1, dtype=inputs.dtype, device=device, requires_grad=True)
    # scikit-learn asks it of the mean over samples.
    close = _CLOSE * strength * len(wanted)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, tolerance_grad=close, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ weights[:, :-1].T + weights[:, -1]
        errors = torch.nn.functional.cross_entropy(logits, right, reduction="none")
        total = strength * (each[right] * errors).sum() + 0.5 * weights[:, :-1].square().sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)
    with torch.inference_mode():
        logits = torch.tensor(asked, device=device) @ weights[:, :-1].T + weights[:, -1]
    return classes, logits.log_softmax(dim=1).cpu().numpy()
