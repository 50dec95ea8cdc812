"""Small versions of the simulations behind the audit's thresholds: `python -m benchmarks.audit` has the large ones."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.audit import HONEST, MEMORISERS, judge, memoriser, report_world, retrieval, shares

RUNS = 40
TENTHS = [name for name in MEMORISERS if "10%" in name]


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_honest_models_are_not_flagged(name: str) -> None:
    found = shares(*HONEST[name], runs=RUNS)
    assert found["strong"] == 0
    assert found["suspicious"] <= 1 / RUNS
    assert (found["not_testable"] == 1) == name.startswith("yes/no")


@pytest.mark.parametrize("name", TENTHS)
def test_memorisers_of_a_tenth_of_the_cases_are_found(name: str) -> None:
    found = shares(*MEMORISERS[name], runs=RUNS)
    assert found["strong"] >= 0.95


def test_a_simulation_repeats_itself() -> None:
    one, two = (
        [judge(world, memoriser(0.03)(world, draw)) for seed in range(5) for draw in [random.Random(seed)]
         for world in [report_world(draw)]]
        for _ in range(2)
    )  # fmt: skip
    assert one == two


def test_invented_reports_repeat_each_other_as_real_ones_do() -> None:
    world = report_world(random.Random(0))
    shared = sum(reference in set(world.train) for reference, _ in world.test) / len(world.test)
    assert 0.15 < shared < 0.4
    answers = retrieval(world, random.Random(1))
    assert sum(said == reference for said, (reference, _) in zip(answers, world.test, strict=True)) > 0


def test_there_are_three_worlds_to_memorise() -> None:
    assert len(TENTHS) == 3
