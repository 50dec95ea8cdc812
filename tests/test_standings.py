"""Who leads: on the samples that the runs share, by their scores; nobody at zero; ranks and gains by the same rule."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_leaderboard import metric, results

from medbench.harness.results import Results
from medbench.leaderboard.compare import Ranking, field_of, rank_runs, standings_of
from medbench.leaderboard.numbers import Board, Number, gains_over, make_board, make_table
from medbench.leaderboard.pages import board_as_markdown, gains_section, ranks_section
from medbench.leaderboard.paper import Layout, Publication, Reported
from medbench.leaderboard.render import told_under
from medbench.leaderboard.samples import ItemScore, ScoreRecord, ScoreTable, score_table

TASK = "dermamnist"
LAYOUT = Layout(name="one", rows=((TASK, "accuracy"),))


def scores(right: Sequence[float], *, failed: Collection[int] = (), samples: int | None = None) -> ScoreTable:
    """Return the scores of samples s0, s1, ...; those that failed have none."""
    records = []
    for place in range(samples or len(right)):
        there = place not in failed
        item = {"accuracy": ItemScore(statistics=(right[place], 1.0), value=right[place])} if there else {}
        records.append(
            ScoreRecord(
                sample_id=f"s{place}", group=f"g{place}", state="ok" if there else "error", prediction="a", box=None,
                labels={}, paper=item, strict=item,
            )
        )  # fmt: skip
    return score_table(TASK, "cls", records)


def run_of(title: str, table: ScoreTable, *, suite: str = "mini") -> Results:
    """Return the results that these scores have."""
    statistics = table.columns["strict"]["accuracy"].statistics
    value = float(statistics[:, 0].sum() / len(statistics)) if len(statistics) else None
    run = results(title, value, suite=suite, samples=len(table.records))
    number = replace(metric(value, len(statistics)), errors=len(table.records) - len(statistics))
    numbers = {"accuracy": number}
    return replace(run, tasks={TASK: replace(run.tasks[TASK], paper=numbers, strict=numbers)})


def board_of(tables: Mapping[str, ScoreTable], leaked: Collection[str] = (), suite: str = "mini") -> Board:
    runs = [run_of(title, table, suite=suite) for title, table in tables.items()]
    leaks = {run.run: frozenset({TASK}) for run in runs if run.model.title in leaked}
    return make_board(runs, leaks, {run.run: {TASK: tables[run.model.title]} for run in runs})


def ranking_of(tables: Mapping[str, ScoreTable], leaked: Collection[str] = ()) -> Ranking:
    board = board_of(tables, leaked)
    scores = {run.run: {TASK: tables[run.model.title]} for run in board.runs}
    return rank_runs(board.runs, scores, board.names, "strict", board.leaks)


def line_of(board: Board) -> tuple[Number, Sequence[Number | None]]:
    """Return the one line of a board under the strict protocol, and the numbers of its runs."""
    [line] = make_table(board, "strict").lines()
    return line


def standings(board: Board) -> list[str | None]:
    return [number.standing if number else None for number in line_of(board)[1]]


# A is right on 49 of the 90 samples that both have, B on 50; of its own 95 samples A has more right.
A = scores([1.0] * 49 + [0.0] * 41 + [1.0] * 5 + [0.0] * 5, failed=range(95, 100))
B = scores([1.0] * 50 + [0.0] * 40 + [0.0] * 5 + [0.0] * 5, failed=range(90, 95))


def test_two_runs_that_failed_on_other_samples_are_compared_on_those_that_both_have() -> None:
    board = board_of({"A": A, "B": B})
    frame = board.numbers[board.numbers["protocol"] == "strict"]
    assert frame["value"].is_monotonic_decreasing
    assert list(frame["compared"]) == pytest.approx([49 / 90, 50 / 90])
    assert list(frame["standing"]) == standings(board) == ["second", "best"]
    assert set(frame["remark"]) == {"compared on the 90 of 100 samples that all of them scored"}
    [told] = told_under(make_table(board, "strict"))
    assert told == "- DermaMNIST, Accuracy: compared on the 90 of 100 samples that all of them scored."


def test_one_failed_sample_takes_no_rank_and_no_standing_away() -> None:
    tables = {"A": scores([1.0] * 60 + [0.0] * 40), "B": scores([1.0] * 50 + [0.0] * 50, failed=[99])}
    assert standings(board_of(tables)) == ["best", "second"]
    [ranks] = ranking_of(tables).tasks
    assert [rank and rank.rank for rank in ranks.ranks] == [1.0, 2.0]
    assert ranks.remark == "compared on the 99 of 100 samples that all of them scored"
    assert len(ranking_of(tables).overall) == 2


def test_a_run_with_few_samples_takes_no_part_and_does_not_take_the_others_ranks() -> None:
    tables = {
        "A": scores([1.0] * 60 + [0.0] * 40), "B": scores([1.0] * 50 + [0.0] * 50),
        "C": scores([1.0] * 100, failed=range(40, 100)),
    }  # fmt: skip
    assert standings(board_of(tables)) == ["best", "second", "none"]
    assert line_of(board_of(tables))[0].remark == "compared without C (40 of 100 samples)"
    ranking = ranking_of(tables)
    assert [rank and rank.rank for rank in ranking.tasks[0].ranks] == [1.0, 2.0, None]
    assert [rank and rank.rank for rank in ranking.overall] == [1.0, 2.0, None]
    told = ranks_section(["A", "B", "C"], ranking)
    assert "- DermaMNIST: compared without C (40 of 100 samples)." in told
    assert "- C: no mean rank, it has too few samples of DermaMNIST." in told
    assert "| **All tasks** | mean rank | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) |  |" in told


@pytest.mark.parametrize(("tables", "reason"), [
    ({"A": scores([1.0] * 100), "B": scores([1.0] * 100, failed=range(50))},
     "fewer than two of the runs scored 80 % of the 100 samples"),
    ({f"M{place}": scores([1.0] * 100, failed=range(15 * place, 15 * place + 15)) for place in range(4)},
     "the runs have only 40 of 100 samples in common"),
    ({"A": scores([1.0] * 5, failed=range(5)), "B": scores([1.0] * 5, failed=range(5))}, "nothing was scored"),
])  # fmt: skip
def test_too_few_shared_samples_give_no_rank_and_say_why(tables: dict[str, ScoreTable], reason: str) -> None:
    found = field_of(list(tables.values()), "strict", "accuracy")
    assert found.reason == reason
    assert found.values == (None,) * len(tables)
    ranking = ranking_of(tables)
    assert ranking.tasks == ()
    assert f"- DermaMNIST: no rank: {reason}." in ranks_section(list(tables), ranking)
    if reason != "nothing was scored":
        assert set(standings(board_of(tables))) == {"none"}
        assert line_of(board_of(tables))[0].remark == reason


def test_without_scores_by_sample_equal_counts_prove_nothing_where_samples_failed() -> None:
    board = make_board([run_of("A", A), run_of("B", B)])
    assert standings(board) == ["none", "none"]
    assert "its scores by sample are not at hand" in line_of(board)[0].remark
    whole = [run_of("A", scores([1.0, 0.0])), run_of("B", scores([1.0, 1.0]))]
    assert standings(make_board(whole)) == ["second", "best"]


@pytest.mark.parametrize(("values", "standings"), [
    ((0.0, 0.0), ("none", "none")), ((0.00004, 0.0), ("none", "none")), ((0.3, 0.0), ("best", "none")),
    ((0.3, 0.3), ("best", "best")), ((0.3, 0.3, 0.2), ("best", "best", "second")), ((0.3, None), ("none", "none")),
    ((None, 0.1, 0.2), ("none", "second", "best")),
])  # fmt: skip
def test_nobody_leads_at_zero_or_alone(values: Sequence[float | None], standings: Sequence[str]) -> None:
    assert standings_of(values) == tuple(standings)


def test_a_row_of_zeros_has_no_best_on_the_page() -> None:
    page = board_as_markdown(board_of({"A": scores([0.0] * 5), "B": scores([0.0] * 5)}))
    assert "0.00 [0.0, 10.0] | 0.00 [0.0, 10.0] |" in page


def test_a_number_with_evidence_of_a_leak_neither_leads_nor_ranks() -> None:
    tables = {
        "A": scores([1.0] * 9 + [0.0]), "B": scores([1.0] * 6 + [0.0] * 4), "C": scores([1.0] * 5 + [0.0] * 5),
    }  # fmt: skip
    assert standings(board_of(tables, ["A"])) == ["none", "best", "second"]
    assert [rank and rank.rank for rank in ranking_of(tables, ["A"]).tasks[0].ranks] == [None, 1.0, 2.0]
    two = {"A": tables["A"], "B": tables["B"]}
    assert ranking_of(two, ["A"]).left_out == {"DermaMNIST": "only one of the runs may be ranked there"}


def test_gains_are_counted_on_shared_samples() -> None:
    table = make_table(board_of({"A": A, "B": B}), "strict")
    gains = gains_over(table, "B")
    # On the numbers that the cells show A would gain.
    assert list(gains["points"]) == pytest.approx([-1 / 90, 0.0])
    assert list(gains["datasets"]) == [1, 1]


def test_gains_leave_out_what_is_not_of_the_same_samples_and_say_so() -> None:
    few = {"A": scores([1.0] * 100), "B": scores([1.0] * 50 + [0.0] * 50, failed=range(50))}
    table = make_table(board_of(few), "strict")
    gain = gains_over(table, "B").iloc[0]
    assert (gain.datasets, np.isnan(gain.points), gain.left_out) == (0, True, ("DermaMNIST",))
    assert "- A: without DermaMNIST, of which not the same samples were scored." in gains_section(table, "B")


@pytest.mark.parametrize(("failed", "datasets"), [((), 1), ((7,), 0)])
def test_a_run_gains_over_a_papers_number_only_with_the_whole_test_split(failed: Sequence[int], datasets: int) -> None:
    paper = Publication(
        source="A paper, Table 1", protocol="paper", models={"Base": Reported(scores={TASK: {"accuracy": 50.0}})}
    )
    board = board_of({"A": scores([1.0] * 60 + [0.0] * 40, failed=failed)}, suite="paper")
    table = make_table(board, "paper", published=[paper], layout=LAYOUT)
    ours = gains_over(table, "Base").iloc[0]
    assert ours.datasets == datasets
    assert ours.relative == pytest.approx(0.2 if datasets else np.nan, nan_ok=True)


def test_the_mean_of_runs_is_compared_on_shared_samples_too() -> None:
    runs = [run_of("A", A), run_of("A", scores([1.0] * 100)), run_of("B", B)]
    tables = [A, scores([1.0] * 100), B]
    board = make_board(runs, {}, {run.run: {TASK: table} for run, table in zip(runs, tables, strict=True)})
    [(_, [first, second])] = make_table(board, "strict", grouped=True).lines()
    assert first is not None
    assert second is not None
    assert first.compared == pytest.approx((49 / 90 + 1) / 2)
    assert (first.standing, second.standing) == ("best", "second")
