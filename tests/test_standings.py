"""Who leads: on the samples that the runs share, by their scores; nobody at zero; ranks and gains by the same rule."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_leaderboard import metric, results

from medbench.harness.results import Results
from medbench.leaderboard.board import Board, make_board
from medbench.leaderboard.compare import Side
from medbench.leaderboard.gains import gains_over
from medbench.leaderboard.layouts import Layout
from medbench.leaderboard.markdown import render_markdown, told_under
from medbench.leaderboard.published.read import Publication, Reported
from medbench.leaderboard.ranking import Ranking, rank_runs
from medbench.leaderboard.score_table import Column, ItemScore, ScoreRecord, ScoreTable
from medbench.leaderboard.sections import render_gains, render_ranks
from medbench.leaderboard.standings import field_of, standings_of
from medbench.leaderboard.table import make_table
from medbench.tasks.protocols import PROTOCOLS, metrics_for

TASK = "dermamnist"
LAYOUT = Layout(name="one", rows=((TASK, "accuracy"),))


def scores(right: Sequence[float], *, failed: Collection[int] = (), samples: int | None = None) -> ScoreTable:
    """Return the scores of samples s0, s1, ...; those that failed have none."""
    there = [place for place in range(samples or len(right)) if place not in failed]
    items = {place: ItemScore(statistics=(right[place], 1.0), value=right[place]) for place in there}
    by_metric = [{"accuracy": items[place]} if place in items else {} for place in range(samples or len(right))]
    records = [
        ScoreRecord(
            sample_id=f"s{place}", group=f"g{place}", state="ok" if one else "error", prediction="a", box=None,
            labels={}, paper=one, strict=one,
        )
        for place, one in enumerate(by_metric)
    ]  # fmt: skip
    [accuracy] = [one for one in metrics_for(TASK, "cls", "strict") if one.metric_id == "accuracy"]
    statistics = np.asarray([[right[place], 1.0] for place in there], dtype=np.float64).reshape(len(there), 2)
    column = Column(metric=accuracy, rows=np.asarray(there, dtype=np.intp), statistics=statistics)
    return ScoreTable(task=TASK, records=records, columns={protocol: {"accuracy": column} for protocol in PROTOCOLS})


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
    sides = [Side(results=run, tables={TASK: tables[run.model.title]}) for run in board.runs]
    return rank_runs(sides, board.names, "strict", board.leaks)


# A is right on 49 of the 90 samples that both have, B on 50; of its own 95 samples A has more right.
A = scores([1.0] * 49 + [0.0] * 41 + [1.0] * 5 + [0.0] * 5, failed=range(95, 100))
B = scores([1.0] * 50 + [0.0] * 40 + [0.0] * 5 + [0.0] * 5, failed=range(90, 95))


def test_two_runs_that_failed_on_other_samples_are_compared_on_those_that_both_have() -> None:
    board = board_of({"A": A, "B": B})
    [row] = board.rows["strict"]
    shown = [cell and cell.value for cell in row.cells]
    assert shown[0] > shown[1]  # type: ignore[operator]
    assert row.compared == pytest.approx((49 / 90, 50 / 90))
    assert row.standings == ("second", "best")
    assert row.remark == "compared on the 90 of 100 samples that all of them scored"
    [told] = told_under(make_table(board, "strict"))
    assert told == "- DermaMNIST, Accuracy: compared on the 90 of 100 samples that all of them scored."


def test_one_failed_sample_takes_no_rank_and_no_standing_away() -> None:
    tables = {"A": scores([1.0] * 60 + [0.0] * 40), "B": scores([1.0] * 50 + [0.0] * 50, failed=[99])}
    assert board_of(tables).rows["strict"][0].standings == ("best", "second")
    [ranks] = ranking_of(tables).tasks
    assert [rank and rank.rank for rank in ranks.ranks] == [1.0, 2.0]
    assert ranks.remark == "compared on the 99 of 100 samples that all of them scored"
    assert len(ranking_of(tables).overall) == 2


def test_a_run_with_few_samples_takes_no_part_and_does_not_take_the_others_ranks() -> None:
    tables = {
        "A": scores([1.0] * 60 + [0.0] * 40), "B": scores([1.0] * 50 + [0.0] * 50),
        "C": scores([1.0] * 100, failed=range(40, 100)),
    }  # fmt: skip
    [row] = board_of(tables).rows["strict"]
    assert row.standings == ("best", "second", "none")
    assert row.remark == "compared without C (40 of 100 samples)"
    ranking = ranking_of(tables)
    assert [rank and rank.rank for rank in ranking.tasks[0].ranks] == [1.0, 2.0, None]
    assert ranking.overall == ()
    assert "- DermaMNIST: compared without C (40 of 100 samples)." in render_ranks(["A", "B", "C"], ranking)


@pytest.mark.parametrize(("tables", "reason"), [
    ({"A": scores([1.0] * 100), "B": scores([1.0] * 100, failed=range(50))},
     "fewer than two of the runs scored 80 % of the 100 samples"),
    ({f"M{place}": scores([1.0] * 100, failed=range(15 * place, 15 * place + 15)) for place in range(4)},
     "the runs have only 40 of 100 samples in common"),
    ({"A": scores([1.0] * 5, failed=range(5)), "B": scores([1.0] * 5, failed=range(5))}, "nothing was scored"),
])  # fmt: skip
def test_too_few_shared_samples_give_no_rank_and_say_why(tables: dict[str, ScoreTable], reason: str) -> None:
    found = field_of([(table, table.columns["strict"]["accuracy"]) for table in tables.values()])
    assert found.reason == reason
    assert found.values == (None,) * len(tables)
    ranking = ranking_of(tables)
    assert ranking.tasks == ()
    assert f"- DermaMNIST: no rank: {reason}." in render_ranks(list(tables), ranking)
    if reason != "nothing was scored":
        [row] = board_of(tables).rows["strict"]
        assert set(row.standings) == {"none"}
        assert row.remark == reason


def test_without_scores_by_sample_equal_counts_prove_nothing_where_samples_failed() -> None:
    [row] = make_board([run_of("A", A), run_of("B", B)]).rows["strict"]
    assert row.standings == ("none", "none")
    assert "its scores by sample are not at hand" in row.remark
    whole = [run_of("A", scores([1.0, 0.0])), run_of("B", scores([1.0, 1.0]))]
    assert make_board(whole).rows["strict"][0].standings == ("second", "best")


@pytest.mark.parametrize(("values", "standings"), [
    ((0.0, 0.0), ("none", "none")), ((0.00004, 0.0), ("none", "none")), ((0.3, 0.0), ("best", "none")),
    ((0.3, 0.3), ("best", "best")), ((0.3, 0.3, 0.2), ("best", "best", "second")), ((0.3, None), ("none", "none")),
    ((None, 0.1, 0.2), ("none", "second", "best")),
])  # fmt: skip
def test_nobody_leads_at_zero_or_alone(values: Sequence[float | None], standings: Sequence[str]) -> None:
    assert standings_of(values) == tuple(standings)


def test_a_row_of_zeros_has_no_best_on_the_page() -> None:
    page = render_markdown(board_of({"A": scores([0.0] * 5), "B": scores([0.0] * 5)}))
    assert "0.00 [0.0, 10.0] | 0.00 [0.0, 10.0] |" in page


def test_a_number_with_evidence_of_a_leak_neither_leads_nor_ranks() -> None:
    tables = {
        "A": scores([1.0] * 9 + [0.0]), "B": scores([1.0] * 6 + [0.0] * 4), "C": scores([1.0] * 5 + [0.0] * 5),
    }  # fmt: skip
    assert board_of(tables, ["A"]).rows["strict"][0].standings == ("none", "best", "second")
    assert [rank and rank.rank for rank in ranking_of(tables, ["A"]).tasks[0].ranks] == [None, 1.0, 2.0]
    two = {"A": tables["A"], "B": tables["B"]}
    assert ranking_of(two, ["A"]).left_out == {"DermaMNIST": "only one of the runs may be ranked there"}


def test_gains_are_counted_on_shared_samples() -> None:
    table = make_table(board_of({"A": A, "B": B}), "strict")
    [ours, none] = gains_over(table, "B")
    assert (ours.datasets, none.points) == (1, 0.0)
    # On the numbers that the cells show A would gain.
    assert ours.points == pytest.approx(-1 / 90)


def test_gains_leave_out_what_is_not_of_the_same_samples_and_say_so() -> None:
    few = {"A": scores([1.0] * 100), "B": scores([1.0] * 50 + [0.0] * 50, failed=range(50))}
    table = make_table(board_of(few), "strict")
    gain = gains_over(table, "B")[0]
    assert (gain.datasets, gain.points, gain.left_out) == (0, None, ("DermaMNIST",))
    assert "- A: without DermaMNIST, of which not the same samples were scored." in render_gains(table, "B")


@pytest.mark.parametrize(("failed", "datasets"), [((), 1), ((7,), 0)])
def test_a_run_gains_over_a_papers_number_only_with_the_whole_test_split(failed: Sequence[int], datasets: int) -> None:
    paper = Publication(
        source="A paper, Table 1", protocol="paper", models={"Base": Reported(scores={TASK: {"accuracy": 50.0}})}
    )
    board = board_of({"A": scores([1.0] * 60 + [0.0] * 40, failed=failed)}, suite="paper")
    table = make_table(board, "paper", published=[paper], layout=LAYOUT)
    [ours, _] = gains_over(table, "Base")
    assert ours.datasets == datasets
    assert ours.relative == (pytest.approx(0.2) if datasets else None)


def test_the_mean_of_runs_is_compared_on_shared_samples_too() -> None:
    runs = [run_of("A", A), run_of("A", scores([1.0] * 100)), run_of("B", B)]
    tables = [A, scores([1.0] * 100), B]
    board = make_board(runs, {}, {run.run: {TASK: table} for run, table in zip(runs, tables, strict=True)})
    [line] = make_table(board, "strict", grouped=True).lines
    first, second = line.cells
    assert first is not None
    assert second is not None
    assert first.compared == pytest.approx((49 / 90 + 1) / 2)
    assert (first.standing, second.standing) == ("best", "second")
