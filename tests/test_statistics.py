"""Intervals and paired tests: against scipy, on real answers, and by simulation of clustered data."""

import csv
import time

import numpy as np
import pytest
from fixture_root import realdata
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tasks.metrics.metric import FloatArray, Metric, mean_of_scores, score_statistics
from tasks.statistics import paired
from tasks.statistics.intervals import Interval, interval, wilson
from tasks.statistics.paired import difference, holm, mcnemar

MEAN = Metric(metric_id="mean", signature="mean", statistics=lambda _: np.zeros((0, 2)), compute=mean_of_scores)
RATIO = Metric(
    metric_id="ratio", signature="ratio", statistics=lambda _: np.zeros((0, 2)),
    compute=lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1e-12),
)  # fmt: skip
"""The same number by another function, so that it is taken for a corpus metric."""


def shares(generator: np.random.Generator, clusters: int, size: int, mean: float, icc: float) -> FloatArray:
    """Return right-or-wrong answers [C, size] whose probability differs from cluster to cluster."""
    if icc == 0:
        return (generator.random((clusters, size)) < mean).astype(np.float64)
    strength = (1 - icc) / icc
    chances = generator.beta(mean * strength, (1 - mean) * strength, size=(clusters, 1))
    return (generator.random((clusters, size)) < chances).astype(np.float64)


def names(clusters: int, size: int) -> list[str]:
    return [f"c{cluster}" for cluster in range(clusters) for _ in range(size)]


def found(metric: Metric, scores: FloatArray, clusters: list[str], seed: int = 0) -> Interval:
    result = interval(metric, score_statistics(scores.ravel().tolist()), clusters, seed=seed)
    assert result is not None
    return result


SETTINGS = {
    "slake, 92 images of 11 questions": (92, 11, 0.7, 0.15, MEAN),
    "organs, 70 volumes of 126 slices": (70, 126, 0.8, 0.1, MEAN),
    "pubmedqa, independent": (500, 1, 0.6, 0.0, MEAN),
    "a corpus metric, 92 of 11": (92, 11, 0.7, 0.15, RATIO),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_cover_what_they_promise(setting: str) -> None:
    clusters, size, mean, icc, metric = SETTINGS[setting]
    generator = np.random.default_rng(5)
    runs = 300
    covered = 0
    for run in range(runs):
        one = found(metric, shares(generator, clusters, size, mean, icc), names(clusters, size), seed=run)
        covered += one.low <= mean <= one.high
    # 300 runs: 95 % give 0.923 to 0.973 in 95 of 100 simulations.
    assert 0.92 <= covered / runs <= 0.985, covered / runs


def test_intervals_of_scores_cover_what_they_promise_with_few_clusters_too() -> None:
    generator = np.random.default_rng(7)
    for clusters, size in ((12, 10), (60, 8)):
        covered = 0
        for run in range(300):
            centres = generator.beta(4, 3, size=(clusters, 1))
            scores = generator.beta(8 * centres, 8 * (1 - centres), size=(clusters, size))
            one = found(MEAN, scores, names(clusters, size), seed=run)
            covered += one.low <= 4 / 7 <= one.high
        assert 0.92 <= covered / 300 <= 0.985, (clusters, covered / 300)


def test_taking_slices_for_independent_would_be_wrong() -> None:
    generator = np.random.default_rng(3)
    scores = shares(generator, 70, 126, 0.8, 0.1)
    clustered = found(MEAN, scores, names(70, 126))
    alone = found(MEAN, scores, [str(place) for place in range(scores.size)])
    assert clustered.high - clustered.low > 2.5 * (alone.high - alone.low)
    assert clustered.design_effect > 6
    assert alone.design_effect == pytest.approx(1, abs=0.01)


def test_repeated_questions_about_one_image_do_not_narrow_it() -> None:
    scores, clusters = np.asarray([1.0, 0.0] * 10), [str(place) for place in range(20)]
    once, often = found(MEAN, scores, clusters), found(MEAN, np.tile(scores, 10), clusters * 10)
    assert (once.low, once.high) == pytest.approx((often.low, often.high))


def test_wilson_is_scipys() -> None:
    for right, samples in ((3, 10), (0, 7), (50, 50), (417, 1000)):
        theirs = stats.binomtest(right, samples).proportion_ci(method="wilson")
        assert wilson(right / samples, samples, stats.norm.ppf(0.975)) == pytest.approx((theirs.low, theirs.high))


def test_the_extremes_have_a_width() -> None:
    for value in (0.0, 1.0):
        one = found(MEAN, np.full((4, 5), value), names(4, 5))
        assert 0 <= one.low <= value <= one.high <= 1
        assert one.high - one.low > 0.3
    alone = found(MEAN, np.full((1, 20), 0.5), names(1, 20))
    assert (alone.low, alone.high, alone.method) == (0, 1, "one cluster")
    assert interval(MEAN, score_statistics([]), [], seed=0) is None


@given(
    scores=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40), seed=st.integers(0, 99),
    right_or_wrong=st.booleans(),
)  # fmt: skip
def test_an_interval_is_a_fraction_around_its_value_whatever_the_order(
    scores: list[tuple[float, int]], seed: int, right_or_wrong: bool
) -> None:
    values = [round(score) if right_or_wrong else score for score, _ in scores]
    clusters = [str(cluster) for _, cluster in scores]
    for metric in (MEAN, RATIO):
        one = interval(metric, score_statistics(values), clusters, seed=seed)
        other = interval(metric, score_statistics(values[::-1]), clusters[::-1], seed=seed)
        assert one is not None
        assert other is not None
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)
        assert -1e-9 <= one.low <= one.high <= 1 + 1e-9
        if one.method != "bootstrap":
            assert one.low - 1e-9 <= np.mean(values) <= one.high + 1e-9


def models(generator: np.random.Generator, clusters: int, size: int, gain: float) -> tuple[FloatArray, FloatArray]:
    """Return scores of two models that find the same images hard; the first is better by `gain`."""
    hard = generator.normal(0, 1, size=(clusters, 1))
    own = [generator.normal(0, 0.7, size=(clusters, 1)) for _ in range(2)]
    first, second = (
        (generator.normal(0, 1, size=(clusters, size)) + hard + one < 0.5 + more).astype(np.float64)
        for one, more in zip(own, (gain, 0.0), strict=True)
    )
    return first, second


def compared(first: FloatArray, second: FloatArray, clusters: list[str], metric: Metric = MEAN, seed: int = 0) -> float:
    one = difference(
        metric, score_statistics(first.ravel().tolist()), score_statistics(second.ravel().tolist()), clusters, seed=seed
    )
    assert one is not None
    return one.p


def test_equal_models_are_found_different_in_one_of_twenty() -> None:
    generator = np.random.default_rng(11)
    alarms, naive = 0, 0
    for run in range(300):
        first, second = models(generator, 40, 12, 0.0)
        alarms += compared(first, second, names(40, 12), seed=run) < 0.05
        naive += compared(first, second, [str(place) for place in range(480)]) < 0.05
    assert alarms / 300 <= 0.08, alarms / 300
    assert naive / 300 > 0.12


def test_a_corpus_metric_is_tested_alike() -> None:
    generator = np.random.default_rng(12)
    ps = [
        compared(*models(generator, 30, 6, gain), names(30, 6), RATIO, seed=run)
        for run in range(60)
        for gain in (0.0, 1.5)
    ]
    assert np.mean(np.asarray(ps[::2]) < 0.05) <= 0.12
    assert np.mean(np.asarray(ps[1::2]) < 0.05) > 0.8


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_cases() -> None:
    gain = 0.5
    generator = np.random.default_rng(13)
    true = float(np.mean([np.subtract(*models(generator, 4000, 6, gain)).mean() for _ in range(5)]))
    found = []
    for run in range(200):
        first, second = (score_statistics(one.ravel().tolist()) for one in models(generator, 60, 6, gain))
        found.append(difference(MEAN, first, second, names(60, 6), seed=run))
    power = float(np.mean([one is not None and one.p < 0.05 for one in found]))
    ratio = true / float(np.mean([one.detectable for one in found if one is not None]))
    # With a normal statistic the power at `ratio` times the detectable size follows from the two quantiles.
    promised = float(stats.norm.cdf(ratio * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) - stats.norm.ppf(0.975)))
    assert power == pytest.approx(promised, abs=0.1)


def test_a_model_equals_itself() -> None:
    scores = score_statistics(shares(np.random.default_rng(1), 20, 5, 0.5, 0.2).ravel().tolist())
    one = difference(MEAN, scores, scores, names(20, 5), seed=0)
    assert one is not None
    assert (one.value, one.low, one.high, one.p) == (0, 0, 0, 1)
    alone = difference(MEAN, scores[:5], scores[5:10], ["a"] * 5, seed=0)
    assert alone is not None
    assert (alone.p, alone.test) == (1, "none")


def test_mcnemar_is_scipys() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(10, 3) == pytest.approx(stats.binomtest(10, 13).pvalue)
    first, second = np.asarray([[1.0]] * 10 + [[0.0]] * 3 + [[1.0]] * 7), np.asarray([[0.0]] * 10 + [[1.0]] * 10)
    assert compared(first, second, [str(place) for place in range(20)]) == pytest.approx(mcnemar(10, 3))


def test_few_clusters_are_exchanged_in_all_ways() -> None:
    first, second = np.ones((5, 2)), np.zeros((5, 2))
    assert compared(first, second, names(5, 2)) == pytest.approx(2 / 32)


def test_many_clusters_give_the_p_of_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    first, second = models(generator, 900, 2, 0.12)
    exchanged = compared(first, second, names(900, 2))
    monkeypatch.setattr(paired, "MANY", 100)
    assert compared(first, second, names(900, 2)) == pytest.approx(exchanged, abs=0.02)
    assert compared(first, first, names(900, 2)) == 1


def test_a_hundred_thousand_samples_take_seconds() -> None:
    """As a ratio: ten times the samples take no more than some twenty times as long."""
    generator = np.random.default_rng(4)

    def seconds(count: int) -> float:
        scores = score_statistics(generator.random(count).tolist())
        clusters = [str(place) for place in range(count)]
        started = time.process_time()
        interval(MEAN, scores, clusters, seed=0)
        difference(MEAN, scores, scores[::-1].copy(), clusters, seed=0)
        return time.process_time() - started

    seconds(10_000)
    assert seconds(100_000) < 25 * seconds(10_000)


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def matrix(task: str) -> dict[str, list[float]]:
    """Return which questions each model has right."""
    file = realdata("medagentsbench_matrix") / f"{task}_zero_shot_matrix.csv"
    with file.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    models = [name for name in rows[0] if name not in {"realidx", "question_sha256_16", "gold"}]
    return {model: [float(row[model] == row["gold"]) for row in rows] for model in models}


def test_real_answers_are_told_apart_where_they_differ() -> None:
    answers = matrix("medqa")
    items = [str(place) for place in range(1273)]
    clear = difference(
        MEAN, score_statistics(answers["o3-mini"]), score_statistics(answers["gpt-4o-mini"]), items, seed=0
    )
    close = difference(
        MEAN, score_statistics(answers["o3-mini"]), score_statistics(answers["DeepSeek-R1"]), items, seed=0
    )
    assert clear is not None
    assert close is not None
    assert (clear.test, close.test) == ("mcnemar", "mcnemar")
    assert clear.value == pytest.approx(0.9269 - 0.7337, abs=2e-4)
    assert clear.p < 1e-20
    assert close.value == pytest.approx(0.9269 - 0.9199, abs=2e-4)
    assert close.p > 0.2
    assert close.low < 0 < close.high
