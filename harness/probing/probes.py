"""Probes: what a simple reader, trained on the states of one place, tells of samples that it has not seen.

`strict`: states standardised by the train samples, multinomial logistic regression (ridge regression for boxes), its
strength of regularisation chosen on validation by how likely the right classes are held (by the mean IoU of boxes): how
many are right is too coarse a number there, and a poor choice at one place looks like a loss. The score is the mean
accuracy over classes (the mean IoU for boxes) between chance, 0, and all right, 1: the larger class earns nothing
(after Theodoridis et al. 2026, arXiv 2603.06054).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from medbench.harness.probing.fitting import located, log_chances
from medbench.harness.probing.targets import Places, Target
from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores

_LEAST = -30.0  # ln p of a class that was not there to learn.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regression; of ridge regression 1 / (2 C).


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale:
    """How predictions of a target are scored: the mean accuracy over classes, or the mean IoU, put between 0 and 1."""

    metric: Metric  # Of the raw score.
    statistics: Callable[[FloatArray, Places], FloatArray]  # Of predictions for samples at places.
    chance: float  # The raw score of 0.

    def score(self, statistics: FloatArray) -> float:
        """Return the score of samples whose statistics are [N, K]: 0 by chance, 1 for all right."""
        return self.put(float(self.metric.compute(statistics.sum(axis=0))))

    def put(self, raw: float) -> float:
        """Return the score of a raw one."""
        return (raw - self.chance) / (1 - self.chance)


def scale_of(target: Target) -> Scale:
    """Return how a target is scored."""
    if target.kind == "class":
        known = len(np.unique(target.right[target.parts.test]))
        chance, count = 1 / known, len(target.classes)
        statistics: Callable[..., FloatArray] = partial(_class_statistics, target.right, count)
        compute, weights = mean_of_classes, _class_weights
    else:
        chance, compute, weights = 0.0, mean_of_scores, None
        statistics = partial(_box_statistics, target.right)
    metric = Metric(metric_id="probe", signature="", statistics=_unused, compute=compute, weights=weights)
    scale = Scale(metric=metric, statistics=statistics, chance=chance)
    if target.kind == "class":
        return scale
    # By chance a probe knows where the objects usually are.
    nothing = Probe.chosen(np.zeros((len(target.right), 0)), target, scale)
    return replace(scale, chance=scale.score(nothing.tested()))


def right_statistics(scale: Scale, target: Target, scores: FloatArray, places: Places) -> FloatArray:
    """Return the statistics of scores [N] in [0, 1] that somebody else gave to samples at places."""
    if target.kind == "box":
        return np.stack([scores, np.ones(len(scores))], axis=1)
    counted = scale.statistics(target.right[places], places)
    counted[:, : len(target.classes)] *= scores[:, None]
    return counted


def _unused(_: Sequence[Any]) -> FloatArray:
    raise NotImplementedError


def _class_statistics(right: FloatArray, classes: int, predicted: FloatArray, places: Places) -> FloatArray:
    """Return [N, 2 * K]: the right answers of each class, then its samples."""
    members = right[places][:, None] == np.arange(classes)
    return np.concatenate([members & (predicted == right[places])[:, None], members], axis=1).astype(np.float64)


def mean_of_classes(totals: FloatArray) -> FloatArray:
    """Return the mean accuracy over the classes that occur, from totals [..., 2 * K]; NaN where none does."""
    right, counts = np.split(totals, 2, axis=-1)
    each = np.divide(right, counts, out=np.zeros_like(right), where=counts > 0)
    occurring = (counts > 0).sum(axis=-1)
    empty = np.full(occurring.shape, np.nan)
    return np.asarray(np.divide(each.sum(axis=-1), occurring, out=empty, where=occurring > 0))


def _class_weights(statistics: FloatArray) -> FloatArray:
    members = statistics[:, statistics.shape[1] // 2 :]
    sizes = members.sum(axis=0)
    return np.asarray(np.divide(members, sizes, out=np.zeros_like(members), where=sizes > 0).sum(axis=1))


def _box_statistics(right: FloatArray, predicted: FloatArray, places: Places) -> FloatArray:
    found = overlap(predicted, right[places])
    return np.stack([found, np.ones(len(found))], axis=1)


def overlap(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the IoU [N] of boxes [N, 4] as left, top, right, bottom; 0 for one that covers nothing."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = [np.clip(one[:, 2:] - one[:, :2], 0, None).prod(axis=1) for one in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """A reader of one place's states [N, C] of all samples, with the strength that validation chose."""

    states: FloatArray
    target: Target
    scale: Scale
    strength: float
    validation: float = math.nan  # Its score on the validation samples.
    device: str = "cpu"  # Where it is trained.

    @classmethod
    def chosen(cls, states: FloatArray, target: Target, scale: Scale, device: str = "cpu") -> "Probe":
        """Return the probe whose strength tells most of the validation samples; the weaker of equal ones."""
        train, validation = target.parts.train, target.parts.validation
        probes = [cls(states=states, target=target, scale=scale, strength=one, device=device) for one in STRENGTHS]
        told = [one.told(train, validation) for one in probes]
        best = int(np.argmax([_fitness(one, target, scale) for one in told]))
        score = scale.score(scale.statistics(_named(told[best], target), validation))
        return replace(probes[best], validation=score)

    def predict(self, train: Places, places: Places, right: FloatArray | None = None) -> FloatArray:
        """Return what it tells of the samples at places, trained on others, or on other answers `right` for these."""
        return _named(self.told(train, places, right), self.target)

    def told(self, train: Places, places: Places, right: FloatArray | None = None) -> FloatArray:
        """Return the same as ln p [M, K] of the target's classes; of boxes the corners [M, 4]."""
        wanted = self.target.right[train] if right is None else right
        given = self.target.given
        states = self.states if given is None else np.concatenate([self.states, given], axis=1)
        middle, spread = states[train].mean(axis=0), states[train].std(axis=0)
        spread[spread == 0] = 1.0
        known, asked = ((states[some] - middle) / spread for some in (train, places))
        if self.target.kind == "box":
            return located(known, wanted, asked, self.strength)
        count = len(self.target.classes)
        return log_chances(known, wanted, asked, classes=count, strength=self.strength, device=self.device)

    def tested(self, right: FloatArray | None = None, train: Places | None = None) -> FloatArray:
        """Return the statistics [N, K] of the test samples, trained on train and validation samples or on others."""
        parts = self.target.parts
        known = np.concatenate([parts.train, parts.validation]) if train is None else train
        return self.scale.statistics(self.predict(known, parts.test, right), parts.test)


def _named(told: FloatArray, target: Target) -> FloatArray:
    return told if target.kind == "box" else told.argmax(axis=1).astype(np.float64)


def _fitness(told: FloatArray, target: Target, scale: Scale) -> float:
    """Return the mean ln p of the right class of validation samples, classes weighing alike, or the score of boxes."""
    places = target.parts.validation
    if target.kind == "box":
        return scale.score(scale.statistics(told, places))
    right = target.right[places].astype(np.intp)
    held = np.maximum(told[np.arange(len(right)), right], _LEAST)
    return float(np.mean([held[right == one].mean() for one in np.unique(right)]))


def narrowed(states: FloatArray, width: int) -> FloatArray:
    """Return states [N, C] in a width that all places share, by a fixed random projection: equal capacity."""
    if states.shape[1] <= width:
        return states
    mixing: npt.NDArray[np.float64] = np.random.default_rng(0).standard_normal((states.shape[1], width))
    # Rows of samples that could not be read are NaN.
    spread = np.nanstd(states, axis=0)
    return np.asarray((states / np.where(spread > 0, spread, 1.0)) @ mixing / states.shape[1] ** 0.5)
