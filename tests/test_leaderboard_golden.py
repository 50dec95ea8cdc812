"""Every renderer's bytes, for a board with all marks; made anew by `python tests/test_leaderboard_golden.py`."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_compare import answers, compared
from test_leaderboard import declared, metric, results, task

from medbench.leaderboard.board import make_board
from medbench.leaderboard.breakdown import Part
from medbench.leaderboard.breakdown_page import render_breakdown
from medbench.leaderboard.compare_page import render_comparison
from medbench.leaderboard.gains import gains_over
from medbench.leaderboard.latex import render_latex
from medbench.leaderboard.layouts import LAYOUTS
from medbench.leaderboard.markdown import render_markdown, render_table
from medbench.leaderboard.plain_formats import render_csv, render_json
from medbench.leaderboard.published.read import read_publication
from medbench.leaderboard.sections import render_gains
from medbench.leaderboard.table import make_table
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.statistics.intervals import Interval

GOLDEN = Path(__file__).parent / "golden" / "leaderboard"


def pages() -> dict[str, str]:
    """Return every page by the name of its file."""
    limited = replace(metric(0.41), ceiling=0.874)
    rec = replace(task({"iou": 0.41}), title="Slake-REC", kind="rec", paper={"iou": limited}, strict={"iou": limited})
    first = replace(declared(results("A", 0.9), "slake-rec"), tasks={**results("A", 0.9).tasks, "slake-rec": rec})
    runs = [first, results("B <b>|x", 0.6), results("C", None)]
    board = make_board(runs, {runs[0].run: frozenset({"slake-rec"})})
    tables = [make_table(board, protocol) for protocol in PROTOCOLS]
    averaged = make_table(make_board([results("A", value) for value in (0.5, 0.6, 0.7)]), "strict", grouped=True)
    table3 = read_publication("table3")
    part = Part(
        task="dermamnist", title="DermaMNIST", label="site", value="left | arm", metric="accuracy", score=0.25, n=8,
        samples=9,
        interval=Interval(low=0.1, high=0.5, method="wilson", clusters=4, design_effect=1.5),
    )  # fmt: skip
    primary = make_table(None, "paper", published=[table3], layout=LAYOUTS["table2"])
    return {
        "board.md": render_markdown(board, tables, ["## A section", ""]),
        "models_as_rows.md": render_table(tables[0], models_as_rows=True) + "\n",
        "mean.md": render_table(averaged) + "\n",
        "board.csv": render_csv([*tables, averaged]),
        "board.json": render_json(tables, ["MINI SUITE: say so"]),
        "board.tex": render_latex(tables[0], "A & B"),
        "gains.md": render_gains(primary, "RadFM") + "\n",
        "table6.md": render_table(make_table(board, "paper", layout=LAYOUTS["table6"])) + "\n",
        "compare.md": render_comparison(
            compared({"dermamnist": (answers(1, 0.9, clusters=8), answers(2, 0.4, clusters=8))})
        ),
        "breakdown.md": render_breakdown(runs[0], "paper", [part]),
    }


@pytest.mark.parametrize("name", list(pages()))
def test_the_bytes_are_those_of_before(name: str) -> None:
    assert pages()[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_a_leaked_baseline_counts_nowhere() -> None:
    table = make_table(None, "paper", published=[read_publication("table3")], layout=LAYOUTS["table2"])
    gains = dict(zip([column.name for column in table.columns], gains_over(table, "RadFM", "report"), strict=True))
    assert gains["Uni-Med"].datasets == 1


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (GOLDEN / file).write_text(text, encoding="utf-8")
