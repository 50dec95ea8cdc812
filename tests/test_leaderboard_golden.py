"""Every renderer's bytes, for a board with all marks; made anew by `python tests/test_leaderboard_golden.py`."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from test_compare import answers, compared
from test_leaderboard import declared, metric, results, task

from medbench.leaderboard.latex import Wishes, table_as_latex
from medbench.leaderboard.numbers import as_csv, as_json, gains_over, make_board, make_table
from medbench.leaderboard.pages import board_as_markdown, breakdown_as_markdown, comparison_as_markdown, gains_section
from medbench.leaderboard.paper import LAYOUTS, read_publication
from medbench.leaderboard.render import table_as_markdown
from medbench.tasks.protocols import PROTOCOLS

GOLDEN = Path(__file__).parent / "golden" / "leaderboard"


@cache
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
    part = {
        "task": "dermamnist", "title": "DermaMNIST", "label": "site", "value": "left | arm", "metric": "accuracy",
        "score": 0.25, "low": 0.1, "high": 0.5, "clusters": 4, "n": 8, "samples": 9,
    }  # fmt: skip
    primary = make_table(None, "paper", published=[table3], layout=LAYOUTS["table2"])
    return {
        "board.md": board_as_markdown(board, tables, ["## A section", ""]),
        "models_as_rows.md": table_as_markdown(tables[0], models_as_rows=True) + "\n",
        "mean.md": table_as_markdown(averaged) + "\n",
        "board.csv": as_csv([*tables, averaged]),
        "board.json": as_json(tables, ["MINI SUITE: say so"]),
        "board.tex": table_as_latex(tables[0], Wishes(caption="A & B")),
        "gains.md": gains_section(primary, "RadFM") + "\n",
        "table6.md": table_as_markdown(make_table(board, "paper", layout=LAYOUTS["table6"])) + "\n",
        "compare.md": comparison_as_markdown(
            compared({"dermamnist": (answers(1, 0.9, clusters=8), answers(2, 0.4, clusters=8))})
        ),
        "breakdown.md": breakdown_as_markdown(runs[0], "paper", pd.DataFrame([part])),
    }


@pytest.mark.parametrize("name", list(pages()))
def test_the_bytes_are_those_of_before(name: str) -> None:
    assert pages()[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_a_leaked_baseline_counts_nowhere() -> None:
    table = make_table(None, "paper", published=[read_publication("table3")], layout=LAYOUTS["table2"])
    gains = gains_over(table, "RadFM", "report").set_index("model")
    assert gains["datasets"]["Uni-Med"] == 1


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (GOLDEN / file).write_text(text, encoding="utf-8")
