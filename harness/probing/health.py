"""The published reading of feature probing: a two-layer network at every place, and a health score for each module.

Source: Lost in the Hype (arXiv 2604.08333), by notes of a second source that says it read it; the formulas were not
checked against the paper, and the width of the hidden layer is not told there. The score has no upper end, a dip
raises it, and its last factor falls with the number of places and with few test samples: so `floor` stands beside,
what a truly flat curve would get.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medbench.harness.probing.document import Health
from medbench.harness.probing.places import Module
from medbench.harness.probing.targets import FloatArray, Target

HIDDEN, EPOCHS, BATCH, PEAK, WARM_UP, DROPOUT = 512, 20, 4, 1e-4, 0.05, 0.1
_WEIGHT_OF_STEPS = 0.2  # Lambda.
_DRAWS = 1000


def published_probe(states: FloatArray, target: Target, seed: int, device: str = "cpu") -> npt.NDArray[np.bool_]:
    """Return which test samples [N] a two-layer network is right about, trained on train and validation samples."""
    known = np.concatenate([target.parts.train, target.parts.validation])
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(states.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT)
        network = nn.Sequential(*layers, nn.Linear(HIDDEN, len(target.classes))).to(device)
        inputs = torch.tensor(states, dtype=torch.float32, device=device)
        right = torch.tensor(target.right, dtype=torch.long, device=device)
        _train(network, inputs, right, [generator.permutation(known) for _ in range(EPOCHS)])
    with torch.inference_mode():
        said = network.eval()(inputs[target.parts.test]).argmax(dim=1)
    return np.asarray((said == right[target.parts.test]).cpu())


def _train(
    network: nn.Module, inputs: torch.Tensor, right: torch.Tensor, epochs: Sequence[npt.NDArray[np.intp]]
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK)
    steps = sum(-(-len(one) // BATCH) for one in epochs)
    warm = max(1, round(WARM_UP * steps))

    def rate(step: int) -> float:
        return step / warm if step < warm else 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for order in epochs:
        for start in range(0, len(order), BATCH):
            chosen = torch.from_numpy(order[start : start + BATCH]).to(inputs.device)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(network(inputs[chosen]), right[chosen]))
            optimizer.step()
            schedule.step()


def health_of(module: Module, right: FloatArray, seed: int) -> Health:
    """Return the score of a module from what was right at each of its places, in order, [P, N]."""
    curve = right.mean(axis=1)
    start, least, end = float(curve[0]), float(curve.min()), float(curve[-1])
    gain = float(np.log(end / (start * least) ** 0.5)) if min(start, least, end) > 0 else 0.0
    smoothness = _smoothness(np.abs(np.diff(curve)).sum(), end)
    draws = np.random.default_rng(seed).integers(0, right.shape[1], (_DRAWS, right.shape[1]))
    steps = np.diff(right[:, draws].mean(axis=2), axis=0) - np.diff(curve)[:, None]
    floor = float(np.mean([_smoothness(one, end) for one in np.abs(steps).sum(axis=0)]))
    return Health(module=module, score=end * (1 + gain) * smoothness, gain=gain, smoothness=smoothness, floor=floor)


def _smoothness(steps: float, end: float) -> float:
    return float(np.exp(-_WEIGHT_OF_STEPS * steps / end)) if end > 0 else 0.0
