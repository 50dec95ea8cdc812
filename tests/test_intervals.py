"""Cluster bootstrap: right on cases that can be worked out, and honest about clusters."""

import numpy as np
import pytest

from harness.intervals import cluster_bootstrap
from tasks.metrics.metric import Metric, mean_of_scores, score_statistics

MEAN = Metric(
    metric_id="mean",
    signature="mean",
    statistics=lambda items: score_statistics([1.0] * len(items)),
    compute=mean_of_scores,
)


def interval(scores: list[float], clusters: list[str], seed: int = 0) -> tuple[float, float]:
    found = cluster_bootstrap(MEAN, score_statistics(scores), clusters, seed=seed)
    assert found is not None
    return found


def test_it_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        scores = generator.binomial(1, 0.7, size=80).astype(float).tolist()
        low, high = interval(scores, [str(n) for n in range(80)], seed=trial)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


def test_repeated_questions_about_one_image_do_not_narrow_it() -> None:
    scores, clusters = [1.0, 0.0] * 10, [str(n) for n in range(20)]
    once = interval(scores, clusters)
    ten_times = interval(scores * 10, clusters * 10)
    assert ten_times == pytest.approx(once)


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter() -> None:
    scores, clusters = [0.1, 0.9, 0.4, 0.6], ["a", "b", "c", "d"]
    assert interval(scores, clusters) == interval(scores, clusters)
    assert interval(scores[::-1], clusters[::-1]) == pytest.approx(interval(scores, clusters))


def test_one_cluster_has_no_interval() -> None:
    assert cluster_bootstrap(MEAN, score_statistics([1.0, 0.0]), ["a", "a"], seed=0) is None
    assert cluster_bootstrap(MEAN, score_statistics([]), [], seed=0) is None
