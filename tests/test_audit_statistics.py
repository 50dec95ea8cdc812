"""The numbers of an audit against other ways to get them."""

from itertools import product
from math import prod

import numpy as np
import pytest
from scipy import stats

from medbench.leaderboard.audit.outputs.evidence import is_near, longest_run, similarity
from medbench.leaderboard.audit.outputs.verdict import (
    chances_of,
    clopper_pearson,
    distribution,
    fewest_with,
    rate_found_with,
    tails,
    upper_bound,
)
from medbench.tasks.metrics.metric import FloatArray


def by_enumeration(chances: FloatArray) -> list[float]:
    found = [0.0] * (len(chances) + 1)
    for way in product((False, True), repeat=len(chances)):
        found[sum(way)] += prod(p if hit else 1 - p for p, hit in zip(chances, way, strict=True))
    return found


def by_recursion(chances: FloatArray) -> FloatArray:
    found = np.zeros(len(chances) + 1)
    found[0] = 1.0
    for chance in chances:
        found[1:] = found[1:] * (1 - chance) + found[:-1] * chance
        found[0] *= 1 - chance
    return found


def test_the_distribution_is_that_of_all_ways() -> None:
    chances = chances_of([1, 3, 1, 2, 7, 1, 2], 0.2)
    assert distribution(chances) == pytest.approx(by_enumeration(chances), rel=1e-12)


def test_the_distribution_of_many_cases_is_that_of_the_recursion() -> None:
    chances = np.random.default_rng(0).choice([0.005, 0.01, 0.0149, 0.3], size=700)
    assert distribution(chances) == pytest.approx(by_recursion(chances), rel=1e-9, abs=1e-300)


def test_cases_of_one_size_are_binomial_down_to_tiny_tails() -> None:
    tail = tails(distribution(chances_of([1] * 300, 0.005)))
    assert tail[40] == pytest.approx(stats.binom.sf(39, 300, 0.005), rel=1e-9)
    assert tail[40] < 1e-30
    assert tail[0] == 1.0


def test_a_case_with_more_references_has_a_larger_chance() -> None:
    assert chances_of([1, 2], 0.1) == pytest.approx([0.1, 0.19])


def test_no_case_at_all_is_no_match_for_certain() -> None:
    assert tails(distribution(chances_of([], 0.005))).tolist() == [1.0]


def test_the_detectable_rate_has_the_promised_power() -> None:
    cases = 180
    tail = tails(distribution(chances_of([1] * cases, 0.005)))
    needed = fewest_with(tail, 0.001, 5)
    assert needed is not None
    assert tail[needed] <= 0.001 < tail[needed - 1] or needed == 5
    rate = rate_found_with(0.8, needed, cases)
    assert stats.binom.sf(needed - 1, cases, rate) == pytest.approx(0.8)
    drawn = np.random.default_rng(1).binomial(cases, rate, 20_000)
    assert (drawn >= needed).mean() == pytest.approx(0.8, abs=0.01)


def test_nothing_is_detectable_where_no_count_is_rare_enough() -> None:
    assert fewest_with(np.ones(6), 0.001, 5) is None
    assert fewest_with(np.ones(3), 0.001, 5) is None


@pytest.mark.parametrize(("matches", "cases"), [(0, 20), (20, 20), (3, 52), (1, 1)])
def test_intervals_are_those_of_scipy(matches: int, cases: int) -> None:
    exact = stats.binomtest(matches, cases).proportion_ci(method="exact")
    assert clopper_pearson(matches, cases) == pytest.approx((exact.low, exact.high))
    one_sided = stats.binomtest(matches, cases, alternative="less").proportion_ci(method="exact")
    assert upper_bound(matches, cases) == pytest.approx(one_sided.high)


def test_no_peers_cases_bound_nothing() -> None:
    assert upper_bound(0, 0) == 1.0


def test_the_longest_run_is_the_one_of_a_slow_search() -> None:
    draw = np.random.default_rng(2)
    for _ in range(200):
        first, second = (["abcd"[i] for i in draw.integers(0, 4, size=draw.integers(0, 15))] for _ in range(2))
        slow = max(
            (
                length
                for length in range(min(len(first), len(second)) + 1)
                for i in range(len(first) - length + 1)
                for j in range(len(second) - length + 1)
                if first[i : i + length] == second[j : j + length]
            ),
        )
        run = longest_run(first, second)
        words = run["words"]
        assert words == slow
        assert first[run["first"] : run["first"] + words] == second[run["second"] : run["second"] + words]


def test_a_near_match_has_enough_words_and_nearly_all_of_them_in_order() -> None:
    words = [str(number) for number in range(20)]
    changed = ["x", *words[1:]]
    assert is_near(words, changed)
    assert not is_near(words, words[::-1])
    assert not is_near(words[:11], changed[:11])
    assert not is_near(words, words[:17])
    assert similarity(words, changed) == pytest.approx(0.95)
    assert longest_run(words, changed) == {"words": 19, "first": 1, "second": 1}
    assert similarity([], []) == 0.0
