"""Do intervals cover what they promise, and does the paired test keep its 5 %? Simulations of clustered data.

Prints two tables and writes `build/bench-statistics.json`: `python -m benchmarks.statistics`, some minutes;
`--runs 300` for fewer simulations.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from medbench.tasks.foundation.console import emit_table
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.metrics.answers import class_statistics, macro_f1, macro_f1_weights
from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores, score_statistics
from medbench.tasks.metrics.reports import corpus_bleu1, corpus_bleu_weights
from medbench.tasks.statistics.intervals import interval
from medbench.tasks.statistics.paired import ALPHA, difference

OUTPUT = Path("build/bench-statistics.json")
_WORDS = 30
_SKEWED = (0.67, 0.11, 0.11, 0.05, 0.03, 0.02, 0.01)
"""Classes as unlike in size as DermaMNIST's."""

Draw = Callable[[np.random.Generator, FloatArray], FloatArray]
"""Per-sample statistics [N, K] from the level of each sample's cluster [N]."""


def _metric(
    compute: Callable[[FloatArray], FloatArray], weights: Callable[[FloatArray], FloatArray] | None = None
) -> Metric:
    return Metric(
        metric_id="simulated", signature="simulated", statistics=lambda _: np.zeros((0, 2)), compute=compute,
        weights=weights,
    )  # fmt: skip


MEAN = _metric(mean_of_scores)
MACRO_F1 = _metric(macro_f1, macro_f1_weights)
BLEU1 = _metric(corpus_bleu1, corpus_bleu_weights)


def right_or_wrong(generator: np.random.Generator, levels: FloatArray) -> FloatArray:
    """Return answers that are right as often as the level says."""
    return score_statistics((generator.random(len(levels)) < levels).astype(np.float64).tolist())


def graded(generator: np.random.Generator, levels: FloatArray) -> FloatArray:
    """Return scores from 0 to 1 around the level."""
    return score_statistics(generator.beta(6 * levels, 6 * (1 - levels)).tolist())


def rare(generator: np.random.Generator, levels: FloatArray) -> FloatArray:
    """Return scores that are 0 but where the level says otherwise; there they are partial, half on average."""
    partial = generator.beta(2, 2, size=len(levels))
    return score_statistics(np.where(generator.random(len(levels)) < levels, partial, 0.0).tolist())


def reports(generator: np.random.Generator, levels: FloatArray) -> FloatArray:
    """Return the statistics of corpus BLEU of texts in which as many words are right as the level says."""
    lengths = 5 + generator.poisson(_WORDS, size=len(levels))
    found = np.zeros((len(levels), 11))
    found[:, 0] = generator.binomial(lengths, levels)
    found[:, 4] = found[:, 8] = found[:, 9] = lengths
    found[:, 10] = 1
    return found


def classes(shares: Sequence[float]) -> Draw:
    """Return what draws answers to questions of classes; a wrong one is another class, by its size."""
    names = [str(number) for number in range(len(shares))]

    def draw(generator: np.random.Generator, levels: FloatArray) -> FloatArray:
        right = generator.choice(len(shares), size=len(levels), p=shares)
        answers = np.where(generator.random(len(levels)) < levels, right, -1)
        for number in range(len(shares)):
            wrong = (answers < 0) & (right == number)
            others = np.where(np.arange(len(shares)) == number, 0.0, shares)
            answers[wrong] = generator.choice(len(shares), size=int(wrong.sum()), p=others / others.sum())
        return class_statistics([names[one] for one in answers], [names[one] for one in right], names)

    return draw


def true_macro_f1(shares: Sequence[float], accuracy: float) -> float:
    """Return macro-F1 of endless such answers."""
    sizes = np.asarray(shares)
    alarms = (1 - accuracy) * sizes * ((sizes / (1 - sizes)).sum() - sizes / (1 - sizes))
    return float(macro_f1(np.concatenate([accuracy * sizes, alarms, (1 - accuracy) * sizes])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A shape of data.

    Attributes:
        name: What it is like.
        sizes: Samples of each image, volume, patient.
        level: Mean level of the clusters.
        icc: How alike the samples of a cluster are, from 0 to 1.
        draw: What a sample is, given its cluster's level.
        truth: The number that endless data would give.
        metric: How the number is made.
    """

    name: str
    sizes: tuple[int, ...]
    level: float
    icc: float
    draw: Draw = right_or_wrong
    truth: float
    metric: Metric = MEAN


def _of(name: str, clusters: int, size: int, level: float, icc: float, draw: Draw = right_or_wrong) -> Setting:
    return Setting(name=name, sizes=(size,) * clusters, level=level, icc=icc, draw=draw, truth=level)


def _rare(name: str, clusters: int, size: int, level: float, icc: float) -> Setting:
    return replace(_of(name, clusters, size, level, icc, rare), truth=level / 2)


def _classes(name: str, shares: Sequence[float], clusters: int, size: int, level: float, icc: float = 0.0) -> Setting:
    made = _of(name, clusters, size, level, icc, classes(shares))
    return replace(made, truth=true_macro_f1(shares, level), metric=MACRO_F1)


_EVEN = (1 / 7,) * 7
SETTINGS = (
    _of("Slake-VQA: 92 images of 11 questions", 92, 11, 0.7, 0.15),
    _of("Slake-REC: 92 images of 2, graded", 92, 2, 0.35, 0.1, graded),
    _of("OrganSMNIST: 70 volumes of 126 slices", 70, 126, 0.78, 0.1),
    _of("MIMIC-CXR: 293 patients of 13 reports, graded", 293, 13, 0.3, 0.1, graded),
    replace(_of("MIMIC-CXR: the same, BLEU-1", 293, 13, 0.3, 0.1, reports), metric=BLEU1),
    _of("PubMedQA: 500 documents", 500, 1, 0.6, 0.0),
    _of("20 images of 10", 20, 10, 0.9, 0.1),
    _of("20 images of 10, all right mostly", 20, 10, 0.98, 0.1),
    replace(_of("20 images of 1 to 58", 1, 1, 0.7, 0.1), sizes=tuple(1 + 3 * place for place in range(20))),
    _of("12 images of 10, graded", 12, 10, 0.6, 0.2, graded),
    _of("6 images of 20", 6, 20, 0.7, 0.05),
    _of("6 images of 20, near all right", 6, 20, 0.95, 0.1),
    _of("6 images of 10, graded", 6, 10, 0.6, 0.1, graded),
    replace(_of("12 patients of 4 reports, BLEU-1", 12, 4, 0.3, 0.1, reports), metric=BLEU1),
    _of("100 documents, 99 % right", 100, 1, 0.99, 0.0),
    _of("60 documents, 99.5 % right", 60, 1, 0.995, 0.0),
    _rare("200 samples, 1 % partly right", 200, 1, 0.01, 0.0),
    _rare("200 samples, 2 % partly right", 200, 1, 0.02, 0.0),
    _rare("60 samples, 5 % partly right", 60, 1, 0.05, 0.0),
    _rare("20 images of 10, 5 % partly right", 20, 10, 0.05, 0.1),
    _rare("6 images of 20, 5 % partly right", 6, 20, 0.05, 0.1),
    _classes("macro-F1: 60 samples, 98 % right", _EVEN, 60, 1, 0.98),
    _classes("macro-F1: 60 samples, 80 % right", _EVEN, 60, 1, 0.8),
    _classes("macro-F1: 20 images of 10, 95 % right", _EVEN, 20, 10, 0.95, 0.1),
    _classes("macro-F1: 6 images of 20, 90 % right", _EVEN, 6, 20, 0.9, 0.1),
    _classes("macro-F1: 400 of classes as DermaMNIST's, 98 %", _SKEWED, 400, 1, 0.98),
    _classes("macro-F1: 400 of the same, 80 %", _SKEWED, 400, 1, 0.8),
)


def levels_of(generator: np.random.Generator, setting: Setting) -> FloatArray:
    """Return the level of each sample's cluster [N]."""
    drawn = np.full(len(setting.sizes), setting.level)
    if setting.icc > 0:
        strength = (1 - setting.icc) / setting.icc
        drawn = generator.beta(setting.level * strength, (1 - setting.level) * strength, size=len(setting.sizes))
    return np.repeat(np.clip(drawn, 1e-6, 1 - 1e-6), setting.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Shares over all simulations.

    Attributes:
        coverage: Intervals that hold the truth.
        below: Intervals that lie above it.
        above: Intervals that lie below it.
        width: Their mean width.
        naive: Coverage, were all samples taken for independent.
        pairs: Intervals of the difference of two equally good models that hold 0.
        alarms: Such pairs that the paired test calls different at 5 %.
        naive_alarms: The same by McNemar or exchanges over samples.
    """

    coverage: float
    below: float
    above: float
    width: float
    naive: float
    pairs: float
    alarms: float
    naive_alarms: float


_INTERVALS = ("coverage", "below", "above", "width", "naive")
_PAIRS = ("pairs", "alarms", "naive_alarms")
_RUNS_A_PAIR = 4
"""Exchanging is slow, and one in twenty is seen with fewer simulations."""


def simulate(setting: Setting, runs: int) -> Found:
    """Return what comes out for a setting."""
    return Found(**simulated_intervals(setting, runs), **_simulated_pairs(setting, runs // _RUNS_A_PAIR))


def simulated_intervals(setting: Setting, runs: int) -> dict[str, float]:
    """Return the shares of `Found` that intervals decide."""
    generator, clusters = np.random.default_rng(17), _clusters(setting)
    ones = [_interval(generator, setting, clusters) for _ in range(runs)]
    return dict(zip(_INTERVALS, np.mean(ones, axis=0).tolist(), strict=True))


def _simulated_pairs(setting: Setting, runs: int) -> dict[str, float]:
    generator, clusters = np.random.default_rng(18), _clusters(setting)
    pairs = [_pair(generator, setting, clusters, seed) for seed in range(runs)]
    return dict(zip(_PAIRS, np.mean(pairs, axis=0).tolist(), strict=True))


def _clusters(setting: Setting) -> list[str]:
    return [str(place) for place, size in enumerate(setting.sizes) for _ in range(size)]


def _interval(generator: np.random.Generator, setting: Setting, clusters: Sequence[str]) -> list[float]:
    statistics, truth = setting.draw(generator, levels_of(generator, setting)), setting.truth
    one, naive = (interval(setting.metric, statistics, groups) for groups in (clusters, _alone(clusters)))
    if one is None or naive is None:
        return [0.0] * len(_INTERVALS)
    holds, naive_holds = one.low <= truth <= one.high, naive.low <= truth <= naive.high
    return [holds, truth < one.low, truth > one.high, one.high - one.low, naive_holds]


def _pair(generator: np.random.Generator, setting: Setting, clusters: Sequence[str], seed: int) -> list[float]:
    first, second = (setting.draw(generator, levels_of(generator, setting)) for _ in range(2))
    pair = difference(setting.metric, first, second, clusters, seed=seed)
    same = len(set(clusters)) == len(clusters)
    naive = pair if same else difference(setting.metric, first, second, _alone(clusters), seed=seed)
    if pair is None or naive is None:
        return [0.0] * len(_PAIRS)
    return [pair.low <= 0 <= pair.high, pair.p < ALPHA, naive.p < ALPHA]


def _alone(clusters: Sequence[str]) -> list[str]:
    return [str(place) for place in range(len(clusters))]


def main() -> None:
    """Simulate all settings, print the tables, write the file."""
    parser = argparse.ArgumentParser(description="Simulate intervals and paired tests on clustered data.")
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    started = time.perf_counter()
    found = {setting.name: simulate(setting, runs) for setting in SETTINGS}
    shown = {name: {key: f"{100 * share:.1f}" for key, share in asdict(one).items()} for name, one in found.items()}
    title = f"{runs} simulations each, {time.perf_counter() - started:.0f} s; 95 % intervals, in %"
    rows = [[name, *(one[column] for column in _INTERVALS)] for name, one in shown.items()]
    emit_table(["data", "covers", "truth below", "truth above", "mean width", "as if independent"], rows, title=title)
    rows = [[name, *(one[column] for column in _PAIRS)] for name, one in shown.items()]
    title = f"{runs // _RUNS_A_PAIR} pairs of equally good models; intervals of the difference, test at 5 %, in %"
    emit_table(["data", "interval holds 0", "false alarms", "as if independent"], rows, title=title)
    OUTPUT.parent.mkdir(exist_ok=True)
    write_atomically(OUTPUT, canonical_json({name: asdict(one) for name, one in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
