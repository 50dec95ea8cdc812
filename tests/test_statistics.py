"""Intervals and paired tests: against scipy, on real answers, and by simulation of clustered data."""

import csv
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from fixture_root import realdata
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.statistics import SETTINGS, simulated_intervals
from medbench.tasks.metrics.answers import class_statistics
from medbench.tasks.metrics.metric import FloatArray, Metric, mean_of_scores, score_statistics
from medbench.tasks.metrics.reports import corpus_bleu_statistics
from medbench.tasks.metrics.table import macro_f1_metric
from medbench.tasks.protocols import metrics_for
from medbench.tasks.statistics import paired
from medbench.tasks.statistics.intervals import Interval, interval
from medbench.tasks.statistics.paired import difference, holm, levels_to_reach, mcnemar

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


def found(metric: Metric, scores: FloatArray, clusters: list[str]) -> Interval:
    result = interval(metric, score_statistics(scores.ravel().tolist()), clusters)
    assert result is not None
    return result


SIMULATED = {setting.name: setting for setting in SETTINGS}
CLOSE = [
    "Slake-VQA: 92 images of 11 questions", "OrganSMNIST: 70 volumes of 126 slices", "PubMedQA: 500 documents",
    "20 images of 10", "12 images of 10, graded", "20 images of 1 to 58", "6 images of 20", "6 images of 10, graded",
    "12 patients of 4 reports, BLEU-1", "60 documents, 99.5 % right", "macro-F1: 60 samples, 98 % right",
    "macro-F1: 60 samples, 80 % right", "macro-F1: 20 images of 10, 95 % right",
    "macro-F1: 6 images of 20, 90 % right", "macro-F1: 400 of classes as DermaMNIST's, 98 %",
]  # fmt: skip
ONE_SIDED = [
    "20 images of 10, all right mostly", "6 images of 20, near all right", "100 documents, 99 % right",
    "200 samples, 1 % partly right", "200 samples, 2 % partly right", "60 samples, 5 % partly right",
    "20 images of 10, 5 % partly right", "6 images of 20, 5 % partly right",
]  # fmt: skip
"""The truth is so near the edge that even the interval of a model that is always wrong (or right) holds it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLOSE, *ONE_SIDED])
def test_intervals_cover_what_they_promise(name: str) -> None:
    found = simulated_intervals(SIMULATED[name], 300)
    # 300 runs: 95 % give 0.923 to 0.973 in 95 of 100 simulations.
    assert 0.92 <= found["coverage"] <= (0.98 if name in CLOSE else 1), found
    if name in ONE_SIDED:
        assert min(found["below"], found["above"]) == 0, found


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
    assert (once.low, once.high) == pytest.approx((often.low, often.high), abs=1e-3)


def test_of_independent_answers_it_is_wilsons_interval() -> None:
    for right, samples in ((400, 1000), (250, 500), (30, 60)):
        one = found(MEAN, np.asarray([1.0] * right + [0.0] * (samples - right)), [str(n) for n in range(samples)])
        theirs = stats.binomtest(right, samples).proportion_ci(method="wilson")
        assert (one.low, one.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    for samples in (5, 60):
        one = found(MEAN, np.ones(samples), [str(n) for n in range(samples)])
        square = stats.t.ppf(0.975, samples - 1) ** 2
        assert (one.low, one.high) == pytest.approx((samples / (samples + square), 1))


def test_shares_are_covered_near_the_edges_too_where_wilsons_goes_down_to_90() -> None:
    for samples in (20, 60, 200):
        clusters = [str(n) for n in range(samples)]
        bounds = [
            found(MEAN, np.repeat([1.0, 0.0], [right, samples - right]), clusters) for right in range(samples + 1)
        ]
        for true in np.linspace(0.2 / samples, 0.5, 200):
            holds = [right for right, one in enumerate(bounds) if one.low <= true <= one.high]
            assert stats.binom.pmf(holds, samples, true).sum() > 0.94, (samples, true)


def test_clusters_that_all_tell_have_students_interval() -> None:
    for levels, most in (([0.08, 0.1, 0.12, 0.14, 0.15, 0.16], 0.44), ([0.5, 0.6, 0.65, 0.55, 0.7, 0.45], 0.75)):
        one = found(MEAN, np.asarray(levels), names(6, 1))
        reach = stats.t.ppf(0.975, 5) * stats.sem(levels)
        assert np.mean(levels) + reach <= one.high < most
    many = np.linspace(0.02, 0.14, 60)
    one = found(MEAN, many, names(60, 1))
    reach = stats.t.ppf(0.975, 59) * stats.sem(many)
    # All zero, they would have an upper bound of 6.3 %.
    assert (one.low, one.high) == pytest.approx((many.mean() - reach, many.mean() + reach), abs=0.003)


@pytest.mark.parametrize(("clusters", "size"), [(10, 1), (100, 1), (500, 1), (20, 10), (6, 20)])
def test_a_partly_right_answer_never_lowers_the_upper_bound(clusters: int, size: int) -> None:
    none = np.zeros((clusters, size))
    highest = found(MEAN, none, names(clusters, size)).high
    for score in (0.01, 0.1, 0.3, 0.5, 0.8, 1.0):
        none[0, 0] = score
        one = found(MEAN, none, names(clusters, size))
        assert 0 < one.low < score / none.size < one.high
        assert one.high > highest
        highest = one.high
    # The second cluster tells how alike the samples of one are, which may narrow it; but no further than this.
    lowest = found(MEAN, np.zeros((clusters, size)), [str(place) for place in range(clusters * size)]).high
    for cluster in range(1, clusters):
        none[cluster, 0] = 0.5
        assert found(MEAN, none, names(clusters, size)).high >= lowest


def test_scores_near_the_edge_are_as_good_as_there() -> None:
    for clusters, size in ((100, 1), (20, 10), (6, 20)):
        scores = np.zeros((clusters, size))
        there = found(MEAN, scores, names(clusters, size))
        scores[:, 0] = 1e-6
        assert found(MEAN, scores, names(clusters, size)).high == pytest.approx(there.high, abs=1e-3)


def test_one_wrong_answer_among_clusters_does_not_settle_how_alike_they_are() -> None:
    right = np.ones((20, 10))
    whole = found(MEAN, right, names(20, 10))
    right[3, 4] = 0
    one = found(MEAN, right, names(20, 10))
    alone = found(MEAN, right, [str(n) for n in range(200)])
    assert one.low < whole.low < alone.low
    assert 1 - one.low > 2 * (1 - alone.low)


def test_the_extremes_have_a_width() -> None:
    for value in (0.0, 1.0):
        one = found(MEAN, np.full((4, 5), value), names(4, 5))
        assert 0 <= one.low <= value <= one.high <= 1
        assert one.high - one.low > 0.3
    alone = found(MEAN, np.full((1, 20), 0.5), names(1, 20))
    assert (alone.low, alone.high, alone.method) == (0, 1, "one cluster")
    assert interval(MEAN, score_statistics([]), []) is None


def metric_of(wanted: str) -> Metric:
    [metric] = [one for one in metrics_for("mimic-cxr", "report", "strict") if one.metric_id == wanted]
    return metric


def meteor_rows(count: int, *, right: bool) -> FloatArray:
    """Return METEOR's statistics of reports of ten words, all matched or none."""
    row = np.zeros(24)
    row[0:2], row[23] = 10, 1
    if right:
        row[4:6], row[21:23] = 10, 10
    return np.tile(row, (count, 1))


@pytest.mark.parametrize("right", [True, False])
def test_corpus_metrics_have_a_width_at_the_extremes_too(right: bool) -> None:
    texts = ["the heart is of normal size", "no acute disease is seen here"] * 20
    said = texts if right else ["zebra"] * 40
    kinds = ["a", "b", "c", "d"] * 10
    rows = {
        "bleu1": corpus_bleu_statistics(said, texts),
        "bleu4": corpus_bleu_statistics(said, texts),
        "meteor": meteor_rows(40, right=right),
    }
    scored = [(metric_of(name), statistics) for name, statistics in rows.items()]
    answers = kinds if right else ["e"] * 40
    scored.append((macro_f1_metric("x", lambda _: ("", "")), class_statistics(answers, kinds, ["a", "b", "c", "d"])))
    for metric, statistics in scored:
        one = interval(metric, statistics, [str(place) for place in range(40)])
        assert one is not None
        value = float(metric.compute(statistics.sum(axis=0)))
        assert value == pytest.approx(float(right), abs=1e-6), metric.metric_id
        assert one.low - 1e-9 <= value <= one.high + 1e-9
        width = stats.t.ppf(0.975, 39) ** 2
        assert one.high - one.low == pytest.approx(width / (40 + width), rel=1e-6), metric.metric_id


def test_rows_that_count_nothing_change_nothing() -> None:
    generator = np.random.default_rng(8)
    counted = score_statistics(generator.random(40).tolist())
    other = score_statistics(generator.random(40).tolist())
    nothing = np.zeros((40, 2))
    clusters = [f"c{place // 2}" for place in range(40)]
    more = [*clusters, *(f"d{place // 2}" for place in range(20)), *clusters[:20]]
    one, same = interval(MEAN, counted, clusters), interval(MEAN, np.concatenate([counted, nothing]), more)
    assert one is not None
    assert one == same
    assert one.design_effect == pytest.approx(1, abs=0.6)
    pair = difference(MEAN, counted, other, clusters, seed=0)
    longer = [np.concatenate([rows, nothing]) for rows in (counted, other)]
    padded = difference(MEAN, longer[0], longer[1], more, seed=0)
    assert pair is not None
    assert padded is not None
    assert replace(padded, samples=40) == pair


def test_pairs_that_count_for_one_model_only_are_no_noise_of_our_making() -> None:
    """ROUGE leaves out empty answers: then the two means are of unlike many samples."""
    scores = np.full(100, 0.7)
    scores[:50] += np.linspace(-0.02, 0.02, 50)
    first, second = score_statistics(scores.tolist()), score_statistics((scores - 0.1).tolist())
    second[::2] = 0
    one = difference(MEAN, first, second, [str(place) for place in range(100)], seed=0)
    assert one is not None
    assert one.value == pytest.approx(0.1, abs=0.005)
    assert one.error < 0.002


@given(
    scores=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40),
    right_or_wrong=st.booleans(),
)  # fmt: skip
def test_an_interval_is_a_fraction_around_its_value_whatever_the_order(
    scores: list[tuple[float, int]], right_or_wrong: bool
) -> None:
    values = [round(score) if right_or_wrong else score for score, _ in scores]
    clusters = [str(cluster) for _, cluster in scores]
    for metric in (MEAN, RATIO):
        one = interval(metric, score_statistics(values), clusters)
        other = interval(metric, score_statistics(values[::-1]), clusters[::-1])
        assert one is not None
        assert other is not None
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-9)
        assert -1e-9 <= one.low <= np.mean(values) + 1e-9
        assert np.mean(values) - 1e-9 <= one.high <= 1 + 1e-9


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
    assert (one.value, one.p) == (0, 1)
    assert -0.2 < one.low < 0 < one.high < 0.2
    alone = difference(MEAN, scores[:5], scores[5:10], ["a"] * 5, seed=0)
    assert alone is not None
    assert (alone.p, alone.test) == (1, "none")


def test_mcnemar_is_scipys() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(10, 3) == pytest.approx(stats.binomtest(10, 13).pvalue)
    first, second = np.asarray([[1.0]] * 10 + [[0.0]] * 3 + [[1.0]] * 7), np.asarray([[0.0]] * 10 + [[1.0]] * 10)
    assert compared(first, second, [str(place) for place in range(20)]) == pytest.approx(mcnemar(10, 3))


@pytest.mark.parametrize("pairs", [2, 5, 60])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pairs_without_a_difference_prove_little(pairs: int, value: float) -> None:
    same = score_statistics([value] * pairs)
    one = difference(MEAN, same, same, [str(place) for place in range(pairs)], seed=0)
    assert one is not None
    square = stats.t.ppf(0.975, pairs - 1) ** 2
    assert (one.low, one.high) == pytest.approx((-square / (pairs + square), square / (pairs + square)))


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.0), (0.02, 0.02), (0.1, 0.05)])
def test_intervals_of_a_rare_difference_cover_it(gain: float, loss: float) -> None:
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(200):
        drawn = generator.random(200)
        first, second = drawn < gain, (drawn >= gain) & (drawn < gain + loss)
        rows = [score_statistics(one.astype(float).tolist()) for one in (first, second)]
        one = difference(MEAN, rows[0], rows[1], [str(place) for place in range(200)], seed=0)
        assert one is not None
        covered += one.low <= gain - loss <= one.high
    assert covered / 200 >= 0.92, covered / 200


def test_nothing_is_detectable_where_the_test_cannot_reach() -> None:
    one = difference(MEAN, score_statistics([0.9] * 24), score_statistics([0.2] * 24), names(6, 4), seed=0)
    assert one is not None
    assert one.p == one.least_p == 2 / 64
    assert np.isnan(one.detectable_at(0.05 / 2))
    assert 0 < one.detectable_at(0.05) < 1
    tied = np.full((6, 4), 0.9)
    tied[0] = 0.2
    five = difference(MEAN, score_statistics(tied.ravel().tolist()), score_statistics([0.2] * 24), names(6, 4), seed=0)
    assert five is not None
    assert five.p == five.least_p == 2 / 32
    assert np.isnan(five.detectable)
    alone = difference(MEAN, score_statistics([1.0] * 3), score_statistics([0.0] * 3), ["a"] * 3, seed=0)
    assert alone is not None
    assert np.isnan(alone.detectable)


def test_what_is_detectable_grows_with_the_number_of_comparisons() -> None:
    first, second = (score_statistics(one.ravel().tolist()) for one in models(np.random.default_rng(3), 60, 4, 0.2))
    one = difference(MEAN, first, second, names(60, 4), seed=0)
    assert one is not None
    assert one.detectable < one.detectable_at(0.05 / 12) < 1.6 * one.detectable


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
        interval(MEAN, scores, clusters)
        difference(MEAN, scores, scores[::-1].copy(), clusters, seed=0)
        return time.process_time() - started

    seconds(10_000)
    assert seconds(100_000) < 25 * seconds(10_000)


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(ps=st.lists(st.floats(1e-4, 1), min_size=1, max_size=8))
def test_a_p_below_its_level_is_significant_by_holm_and_no_other(ps: list[float]) -> None:
    for place, (level, adjusted) in enumerate(zip(levels_to_reach(ps), holm(ps), strict=True)):
        # Where both are met exactly, the last digits of a product and of a quotient decide.
        tie = math.isclose(ps[place], level)
        assert tie or (ps[place] < level) == (adjusted < 0.05), (ps, place)


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
