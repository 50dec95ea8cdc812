"""Do intervals cover what they promise, and does the paired test keep its 5 %? Simulations of clustered data.

Prints a table and writes `build/bench-statistics.json`: `python -m benchmarks.statistics`, two minutes;
`--runs 500` for fewer simulations.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tasks.foundation.console import emit_table
from tasks.foundation.files import canonical_json, write_atomically
from tasks.metrics.metric import FloatArray, Metric, mean_of_scores, score_statistics
from tasks.statistics.intervals import interval
from tasks.statistics.paired import difference

OUTPUT = Path("build/bench-statistics.json")
MEAN = Metric(metric_id="mean", signature="mean", statistics=lambda _: np.zeros((0, 2)), compute=mean_of_scores)
CORPUS = Metric(
    metric_id="ratio", signature="ratio", statistics=lambda _: np.zeros((0, 2)),
    compute=lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1e-12),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A shape of data.

    Attributes:
        name: What it is like.
        clusters: Images, volumes, patients.
        size: Samples of each.
        mean: True score.
        icc: How alike the samples of a cluster are, from 0 to 1.
        metric: How the number is made.
        graded: Whether scores lie between 0 and 1 instead of being right or wrong.
    """

    name: str
    clusters: int
    size: int
    mean: float
    icc: float
    metric: Metric = MEAN
    graded: bool = False


SETTINGS = (
    Setting(name="Slake-VQA: 92 images of 11 questions", clusters=92, size=11, mean=0.7, icc=0.15),
    Setting(name="Slake-REC: 92 images of 2", clusters=92, size=2, mean=0.35, icc=0.1, graded=True),
    Setting(name="OrganSMNIST: 70 volumes of 126 slices", clusters=70, size=126, mean=0.78, icc=0.1),
    Setting(name="MIMIC-CXR: 293 patients of 13 reports", clusters=293, size=13, mean=0.3, icc=0.1, graded=True),
    Setting(name="PubMedQA: 500 documents", clusters=500, size=1, mean=0.6, icc=0.0),
    Setting(name="tiny: 20 images of 10", clusters=20, size=10, mean=0.9, icc=0.1),
    Setting(name="tiny: 12 images of 10, graded", clusters=12, size=10, mean=0.6, icc=0.2, graded=True),
    Setting(name="corpus metric: 92 images of 11", clusters=92, size=11, mean=0.7, icc=0.15, metric=CORPUS),
)


def scores(generator: np.random.Generator, setting: Setting, hard: FloatArray | None = None) -> FloatArray:
    """Return scores [C, size] whose level differs from cluster to cluster."""
    shape = (setting.clusters, setting.size)
    levels = np.full((setting.clusters, 1), setting.mean) if hard is None else hard
    if setting.graded:
        return generator.beta(6 * levels, 6 * (1 - levels), size=shape)
    return (generator.random(shape) < levels).astype(np.float64)


def levels_of(generator: np.random.Generator, setting: Setting) -> FloatArray:
    """Return the level of each cluster [C, 1]."""
    if setting.icc == 0:
        return np.full((setting.clusters, 1), setting.mean)
    strength = (1 - setting.icc) / setting.icc
    drawn = generator.beta(setting.mean * strength, (1 - setting.mean) * strength, size=(setting.clusters, 1))
    return np.clip(drawn, 1e-6, 1 - 1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Shares over all simulations.

    Attributes:
        coverage: Intervals that hold the truth.
        naive: The same, were all samples taken for independent.
        alarms: Pairs of equally good models that the paired test calls different at 5 %.
        naive_alarms: The same by McNemar or exchanges over samples.
    """

    coverage: float
    naive: float
    alarms: float
    naive_alarms: float


def simulate(setting: Setting, runs: int) -> Found:
    """Return what comes out for a setting."""
    generator = np.random.default_rng(17)
    clusters = [str(cluster) for cluster in range(setting.clusters) for _ in range(setting.size)]
    alone = [str(place) for place in range(len(clusters))]
    counts = np.zeros(4)
    for run in range(runs):
        first, second = (
            score_statistics(scores(generator, setting, levels_of(generator, setting)).ravel().tolist())
            for _ in range(2)
        )
        for place, groups in enumerate((clusters, alone)):
            one = interval(setting.metric, first, groups, seed=run)
            two = difference(setting.metric, first, second, groups, seed=run)
            counts[place] += one is not None and one.low <= setting.mean <= one.high
            counts[2 + place] += two is not None and two.p < 0.05  # noqa: PLR2004 - the promised level
    coverage, naive, alarms, naive_alarms = (counts / runs).tolist()
    return Found(coverage=coverage, naive=naive, alarms=alarms, naive_alarms=naive_alarms)


def main() -> None:
    """Simulate all settings, print the table, write the file."""
    parser = argparse.ArgumentParser(description="Simulate intervals and paired tests on clustered data.")
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    started = time.perf_counter()
    found = {setting.name: simulate(setting, runs) for setting in SETTINGS}
    rows = [
        [name, *(f"{100 * share:.1f}" for share in (one.coverage, one.naive, one.alarms, one.naive_alarms))]
        for name, one in found.items()
    ]
    title = f"{runs} simulations each; 95 % intervals and tests at 5 %, {time.perf_counter() - started:.0f} s"
    emit_table(["data", "covers %", "as if independent", "false alarms %", "as if independent"], rows, title=title)
    OUTPUT.parent.mkdir(exist_ok=True)
    write_atomically(OUTPUT, canonical_json({name: asdict(one) for name, one in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
