"""What stands beside a number: who answered, what machines failed on, refusals, thoughts, answers at the limit."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_runs import invented, write_run
from test_leaderboard import metric, results, task

from medbench.harness.results import MetricResult, Results, Written
from medbench.leaderboard.export.formats import (
    EvalResultsOptions,
    EveryEvalOptions,
    eval_result_files,
    write_every_eval,
)
from medbench.leaderboard.export.public import parquet_metadata, read_public
from medbench.leaderboard.latex import table_as_latex
from medbench.leaderboard.numbers import as_csv, as_json, make_board, make_table
from medbench.leaderboard.pages import board_as_markdown
from medbench.leaderboard.render import beside, written_cells
from medbench.leaderboard.report.document import report_of
from medbench.leaderboard.runs import NOT_OK
from medbench.leaderboard.site import collect, site_files
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.protocols import STATES, State

SILENT = {"errors": 10, "unparsed": 20, "refused": 30, "truncated": 4, "empty": 6}


def silent(value: float = 0.3) -> MetricResult:
    """Return a number of 100 samples: 10 failed, 60 have no answer, and of the 30 others all are right."""
    return replace(
        metric(value, 90), errors=10, unparsed=20, refused=30, truncated=4, empty=6, answered=30 / 90,
        among_answered=1.0, bounds=(0.27, 0.37), signature="accuracy|exact|n=90",
    )  # fmt: skip


def abstaining(title: str = "A", written: Written | None = None) -> Results:
    run = results(title, 0.3, samples=100)
    numbers: Mapping[str, MetricResult] = {"accuracy": silent()}
    states: dict[State, int] = {"ok": 30, "error": 10, "unparsed": 20, "refused": 30, "truncated": 4, "empty": 6}
    found = replace(run.tasks["dermamnist"], strict=numbers, paper=numbers, states=states, written=written)
    return replace(run, tasks={"dermamnist": found})


def on_disk(folder: Path, written: Written | None = None) -> Path:
    base = invented({"dermamnist": 0.3}, title="A")
    numbers = {"accuracy": silent()}
    found = replace(base.tasks["dermamnist"], strict=numbers, paper=numbers, written=written)
    return write_run(folder, replace(base, tasks={"dermamnist": found}))


def test_every_state_but_ok_is_counted_of_every_number() -> None:
    assert {{"errors": "error"}.get(name, name) for name in NOT_OK} == set(STATES) - {"ok"}
    assert {name: getattr(silent(), name) for name in NOT_OK} == SILENT


def test_the_share_answered_and_the_bounds_stand_in_the_cell_and_never_lead() -> None:
    page = board_as_markdown(make_board([abstaining(), results("B", 0.9, samples=100)]))
    assert "| 30.00 [20.0, 40.0]; 33.3 % answered; failures wrong 27.00, right 37.00 |" in page
    assert "`answered`: share of the answers that could be read" in page
    assert "`failures`: the number had all samples" in page
    among = page.partition("never to be compared, since silence raises them")[2]
    assert "| DermaMNIST | Accuracy | A | 33.3 % | 100.00 |" in among
    assert "**100.00**" not in page
    assert "| A | DermaMNIST | 100 | 30 | 20 | 6 | 30 | 4 | 10 |" in page


def test_a_run_that_answered_all_shows_nothing_more() -> None:
    page = board_as_markdown(make_board([results("A", 0.3), results("B", 0.9)]))
    assert not [word for word in ("answered", "failures", "Thoughts", "among") if word in page]
    assert beside(1.0, None) == beside(None, None) == []


def test_forms_for_programs_and_papers_have_them_too() -> None:
    table = make_table(make_board([abstaining()]), "strict")
    [row] = csv.DictReader(io.StringIO(as_csv([table])))
    assert {name: int(row[name]) for name in NOT_OK} == SILENT
    assert [row[name] for name in ("among_answered", "if_failed_wrong", "if_failed_right")] == ["1.0", "0.27", "0.37"]
    [line] = json.loads(as_json([table], []))["tables"][0]["lines"]
    assert (line["cells"][0]["not_ok"], line["cells"][0]["bounds"]) == (SILENT, [0.27, 0.37])
    assert "% DermaMNIST, Accuracy, A: 33.3 % answered; failures wrong 27.00, right 37.00." in table_as_latex(table)


def test_exports_have_them_too(tmp_path: Path) -> None:
    run = read_public(on_disk(tmp_path / "runs"), {})
    [text] = eval_result_files(run.results, EvalResultsOptions(datasets={"*": "me/data"})).values()
    assert "errors=10; unparsed=20; refused=30; truncated=4; empty=6; 33.3 % answered; failures wrong 27.00" in text
    document, _ = write_every_eval(tmp_path, run, EveryEvalOptions(timestamp=1), data_dir=None, with_inputs=False)
    details = json.loads(document.read_text())["evaluation_results"][0]["score_details"]["details"]
    assert (details["refused"], details["if_failed_right"], details["among_answered"]) == ("30", "0.37", "1.0")
    numbers = parquet_metadata(run)["numbers"]["dermamnist"]["strict"]["accuracy"]
    assert (numbers["refused"], numbers["bounds"]) == (30, (0.27, 0.37))


def test_the_site_shows_them_on_the_first_page_and_on_the_runs(tmp_path: Path) -> None:
    on_disk(tmp_path / "runs", Written(answers=90, at_limit=30, thinking=80, cut_thoughts=7, thought_share=0.875))
    files = site_files(collect(tmp_path / "runs", all_reports=False), "A board")
    for text in ("33.3 % answered", "failures wrong 27.00, right 37.00", "10 failed, 20 unparsed, 30 refused"):
        assert text in files["index.html"]
    page = next(text for name, text in files.items() if name.startswith("runs/"))
    for text in ("failures wrong 27.00, right 37.00", "30 refused", '<td class="number">30 (33.3 %)</td>'):
        assert text in page
    [row] = json.loads(files["data/boards.json"])[0]["tables"]["strict"]["rows"]
    assert "30 refused" in row["cells"][0]["beside"][-1]


def document_of(page: str) -> dict[str, Any]:
    text = page.partition('<script type="application/json" id="document">')[2].partition("</script>")[0]
    document: dict[str, Any] = json.loads(text)
    return document


def test_the_report_stars_a_number_with_evidence_of_a_leak(tmp_path: Path) -> None:
    path = on_disk(tmp_path)
    verdicts = {"run": path.name.rpartition("-")[2], "verdicts": {"dermamnist": "strong"}}
    write_atomically(path / "audit" / "audit.json", json.dumps(verdicts))
    [shown] = document_of("".join(report_of([path], budget=None)))["tasks"]
    assert shown["leaked"] == [True]


def test_the_report_holds_them(tmp_path: Path) -> None:
    written = Written(answers=90, at_limit=30, thinking=80, cut_thoughts=7, thought_share=0.875)
    document = document_of("".join(report_of([on_disk(tmp_path, written)], budget=None)))
    [shown] = document["tasks"]
    cell = shown["scores"]["strict"][0]["cells"][0]
    assert cell["beside"] == ["33.3 % answered", "failures wrong 27.00, right 37.00"]
    assert cell["amongAnswered"] == 1.0
    assert shown["leaked"] == [False]
    assert shown["written"] == [["80 of 90", "87.5 %", "7", "30 (33.3 %)"]]
    assert "refused" in document["states"]


@pytest.mark.parametrize(("written", "cells"), [
    (Written(answers=200, at_limit=5, thinking=0), ["0 of 200", "", "0", "5 (2.5 %)"]),
    (Written(answers=200, at_limit=0, thinking=200, cut_thoughts=3, thought_share=0.5),
     ["200 of 200", "50.0 %", "3", "0 (0.0 %)"]),
])  # fmt: skip
def test_thoughts_and_answers_at_the_limit_have_a_table_of_their_own(written: Written, cells: list[str]) -> None:
    page = board_as_markdown(make_board([abstaining(written=written)]))
    assert f"| A | DermaMNIST | {' | '.join(cells)} |" in page.partition("## Thoughts, and answers at the limit")[2]
    assert written_cells(abstaining(written=written).tasks["dermamnist"]) == cells
    quiet = board_as_markdown(make_board([abstaining(written=Written(answers=200, at_limit=0))]))
    assert "## Thoughts" not in quiet


def test_results_of_earlier_versions_have_none_of_it_and_are_shown() -> None:
    older = task({"accuracy": 0.5})
    assert written_cells(older) == [""] * 4
    assert beside(older.strict["accuracy"].answered, older.strict["accuracy"].bounds) == []
