"""The paper's tables as they are bundled: whole, with their spreads, and with gains that come out as printed."""

import re
from pathlib import Path

import pytest
from command_line import medbench

from medbench.leaderboard.numbers import gains_over, make_table
from medbench.leaderboard.paper import FOLDER, LAYOUTS, publications, read_publication
from medbench.leaderboard.render import legend, table_as_markdown
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import metric_ids
from medbench.tasks.spec import Kind

TABLES = {"table2a": 8, "table2b": 6, "table2c": 6, "table2d": 15, "table2e": 4, "table3": 5, "table5": 5, "table6": 1}
KINDS: tuple[Kind, ...] = ("vqa", "rec", "reg", "report", "cls")
ROUNDING = 0.1
"""In percent: scores are printed with two decimals and gains with one, so one counted again differs by up to 0.08."""


def test_all_of_the_papers_tables_are_there_each_with_its_source() -> None:
    assert {name: len(read_publication(name).models) for name in publications()} == TABLES
    for name in TABLES:
        assert re.fullmatch(r"Uni-Med \(arXiv 2409\.17508\), Table \d[a-e]?", read_publication(name).source), name
        assert (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").startswith("# Table ")


@pytest.mark.parametrize("name", TABLES)
def test_every_number_is_of_a_metric_that_the_task_has(name: str) -> None:
    for model in read_publication(name).models.values():
        for task, scores in model.scores.items():
            assert set(scores) <= set(metric_ids(task, get_task(task).kind, "paper"))
            assert set(model.spread.get(task, {})) <= set(scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLES if name not in {"table3", "table6"}])
def test_the_gains_that_the_paper_prints_come_out_of_its_numbers(name: str) -> None:
    published = read_publication(name)
    table = make_table(None, "paper", published=[published], layout=LAYOUTS["table2"])
    places = {column.name: place for place, column in enumerate(table.columns)}
    checked = 0
    for model, reported in published.models.items():
        for kind in KINDS if reported.gains else ():
            again = gains_over(table, reported.over, kind).iloc[places[model]]
            assert 100 * again.relative == pytest.approx(reported.gains[kind], abs=ROUNDING), (model, kind)
            checked += 1
        if reported.gains:
            total = gains_over(table, reported.over).iloc[places[model]]
            assert total.datasets == 10
            assert 100 * total.relative == pytest.approx(reported.gains["total"], abs=ROUNDING), model
    baselines = {reported.over for reported in published.models.values() if reported.over}
    assert checked == len(KINDS) * (TABLES[name] - len(baselines))


def test_the_rows_that_the_paper_prints_twice_are_the_same() -> None:
    def scores(table: str, model: str) -> object:
        return read_publication(table).models[model].scores

    whole = scores("table2a", "CMoE, soft, token & task")
    for table, model in (
        ("table2b", "CMoE, rate 4, projection"), ("table2c", "CMoE, 5 experts"), ("table2d", "rank 8, CMoE soft"),
        ("table5", "CMoE, text identifier & task token"),
    ):  # fmt: skip
        assert scores(table, model) == whole
    assert scores("table5", "CMoE, text identifier") == scores("table2a", "CMoE, soft, token")
    for table in ("table2b", "table2c", "table5"):
        assert scores(table, "MLP") == scores("table2a", "MLP")
    assert scores("table2d", "rank 4, MLP") == scores("table2e", "LoRA, MLP")


def test_spreads_stand_beside_the_numbers() -> None:
    table6 = make_table(None, "paper", published=[read_publication("table6")], layout=LAYOUTS["table6"])
    page = table_as_markdown(table6)
    assert "| Slake-REC | Mean IoU | 37.71 ± 0.52 |" in page
    assert "37.71 ± 0.52 |" in page
    assert "±" in legend([table6])
    cell = next(table6.lines())[1][0]
    assert cell is not None
    # Several trainings, but the paper does not say how many.
    assert cell.runs is None
    table3 = make_table(None, "paper", published=[read_publication("table3")], layout=LAYOUTS["table3"])
    assert "**27.79** ± 2.50" in table_as_markdown(table3)


def test_names_that_two_tables_share_are_told_apart() -> None:
    both = [read_publication("table3"), read_publication("table6"), read_publication("table2a")]
    names = [column.name for column in make_table(None, "paper", published=both).columns]
    assert len(set(names)) == len(names)
    assert {"Uni-Med, Table 3", "Uni-Med, Table 6", "MLP"} <= set(names)


def test_a_file_of_ones_own_may_leave_out_all_but_the_scores(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("source: Mine\nprotocol: paper\nmodels: {M: {scores: {slake-vqa: {bleu1: 50}}}}\n")
    assert read_publication(str(file)).models["M"].runs == 1
    file.write_text("source: Mine\nprotocol: paper\nmodels: {M: {scores: {slake-vqa: {bleu1: 500}}}}\n")
    with pytest.raises(UsageError, match="holds no published numbers"):
        read_publication(str(file))


def test_the_command_line_shows_them_with_gains() -> None:
    shown = medbench("leaderboard", "--reported", "table2e", "--layout", "table2", "--baseline", "LoRA, MLP")
    assert shown.returncode == 0, shown.stderr
    assert "| LoRA-MoE, CMoE soft (reported) |" in shown.stdout
    gains = shown.stdout.partition("## Gain over a baseline")[2]
    row = next(line for line in gains.splitlines() if line.startswith("| LoRA-MoE, CMoE soft |"))
    assert row.startswith("| LoRA-MoE, CMoE soft | +7.3 % | -14.5 % | +6.5 % | +21.4 % | +7.7 % | +5.7 % |")
    assert "Source: Uni-Med (arXiv 2409.17508), Table 2e." in shown.stdout
