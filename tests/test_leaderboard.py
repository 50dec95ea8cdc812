"""The leaderboard as a user gets it: marks, refusals, escapes, the same bytes twice."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from harness.model_info import ModelInfo
from harness.results import MetricResult, Results, TaskResult
from leaderboard.board import make_board
from leaderboard.markdown import render_markdown
from tasks.foundation.errors import UsageError
from tasks.foundation.files import fingerprint


def metric(value: float | None, n: int = 50) -> MetricResult:
    interval = None if value is None else (max(0.0, value - 0.1), min(1.0, value + 0.1))
    return MetricResult(
        value=value, ci=interval, n=n, errors=0, unparsed=0, truncated=0, empty=0, signature="accuracy|exact|n=50"
    )


def task(values: Mapping[str, float | None], samples: int = 50) -> TaskResult:
    return TaskResult(
        title="DermaMNIST",
        kind="cls",
        version=1,
        data="d" * 64,
        samples=samples,
        states={"ok": samples, "error": 0, "empty": 0, "truncated": 0, "unparsed": 0},
        paper={name: metric(value, samples) for name, value in values.items()},
        strict={name: metric(value, samples) for name, value in values.items()},
    )


def results(title: str, value: float | None, *, suite: str = "mini", samples: int = 50) -> Results:
    return Results(
        run=fingerprint([title, value, samples])[:12],
        model=ModelInfo(name="m", title=title, weights="w" * 64, device="cpu", dtype="float32", trained_on=()),
        suite="mini" if suite == "mini" else "paper",
        limit=None,
        seed=0,
        notices=("MINI SUITE: say so",) if suite == "mini" else (),
        tasks={"dermamnist": task({"accuracy": value}, samples)},
        unsupported=(),
    )


def paper_row(page: str) -> str:
    return next(line for line in page.splitlines() if line.startswith("| DermaMNIST | Accuracy |"))


def test_best_is_bold_second_is_underlined_and_others_are_plain() -> None:
    page = render_markdown(make_board([results("A", 0.2), results("B", 0.9), results("C", 0.5)]))
    assert paper_row(page) == (
        "| DermaMNIST | Accuracy | 20.00 [10.0, 30.0] | **90.00** [80.0, 100.0] | <u>50.00</u> [40.0, 60.0] |"
    )


def test_ties_are_both_best() -> None:
    assert paper_row(render_markdown(make_board([results("A", 0.5), results("B", 0.5)]))).count("**50.00**") == 2


def test_unequal_coverage_is_not_ranked() -> None:
    page = render_markdown(make_board([results("A", 0.2), results("B", 0.9, samples=10)]))
    assert "**90.00**" not in page


def test_a_score_on_fewer_samples_does_not_lead() -> None:
    failing = results("A", 1.0)
    fewer = replace(failing.tasks["dermamnist"], paper={"accuracy": metric(1.0, n=11)})
    page = render_markdown(make_board([replace(failing, tasks={"dermamnist": fewer}), results("B", 0.5)]))
    assert "**" not in paper_row(page)


def test_different_definitions_and_one_run_twice_are_refused() -> None:
    newer = results("B", 0.5)
    task_of = newer.tasks["dermamnist"]
    other = replace(task_of, paper={"accuracy": replace(task_of.paper["accuracy"], signature="accuracy|new|n=50")})
    with pytest.raises(UsageError, match="different definitions"):
        make_board([results("A", 0.5), replace(newer, tasks={"dermamnist": other})])
    with pytest.raises(UsageError, match="given twice"):
        make_board([newer, newer])


def test_one_model_leads_nobody() -> None:
    assert "**90" not in render_markdown(make_board([results("A", 0.9)]))


def test_what_was_not_scored_is_no_zero() -> None:
    assert "| n/a |" in paper_row(render_markdown(make_board([results("A", None)])))


def test_the_mini_suite_is_never_shown_beside_the_paper() -> None:
    with pytest.raises(UsageError, match="different suites"):
        make_board([results("A", 0.5), results("B", 0.5, suite="paper")])


def test_different_data_are_refused() -> None:
    other = results("B", 0.5)
    moved = replace(other, tasks={"dermamnist": replace(other.tasks["dermamnist"], data="e" * 64)})
    with pytest.raises(UsageError, match="different data of dermamnist"):
        make_board([results("A", 0.5), moved])


def test_notices_stand_on_top_and_names_are_harmless() -> None:
    page = render_markdown(make_board([results("<script>|x", 0.5)]))
    assert "> **MINI SUITE: say so**" in page
    assert "<script>" not in page
    assert paper_row(page).count("|") == 4


def test_the_same_board_gives_the_same_bytes() -> None:
    runs = [results("A", 0.2), results("B", 0.9)]
    assert render_markdown(make_board(runs)) == render_markdown(make_board(runs))


def test_no_run_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="No run"):
        make_board([])
