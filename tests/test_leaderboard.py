"""The leaderboard as a user gets it: marks, refusals, escapes, the same bytes twice."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import medbench

from medbench.harness.results import MetricResult, ModelInfo, Results, TaskResult
from medbench.leaderboard.latex import Wishes, table_as_latex
from medbench.leaderboard.numbers import as_csv, as_json, gains_over, make_board, make_table
from medbench.leaderboard.pages import board_as_markdown
from medbench.leaderboard.paper import LAYOUTS, read_publication
from medbench.leaderboard.render import latex_text, legend, table_as_markdown
from medbench.leaderboard.runs import leaks_of, overlaps_in
from medbench.tasks.foundation.errors import EXIT_USAGE, DataError, UsageError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.statistics.paired import bounds, geometric_gain, ranks, relative_gain


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
    page = board_as_markdown(make_board([results("A", 0.2), results("B", 0.9), results("C", 0.5)]))
    assert paper_row(page) == (
        "| DermaMNIST | Accuracy | 20.00 [10.0, 30.0] | **90.00** [80.0, 100.0] | <u>50.00</u> [40.0, 60.0] |"
    )


def test_ties_are_both_best() -> None:
    assert paper_row(board_as_markdown(make_board([results("A", 0.5), results("B", 0.5)]))).count("**50.00**") == 2


def test_unequal_coverage_is_not_ranked() -> None:
    page = board_as_markdown(make_board([results("A", 0.2), results("B", 0.9, samples=10)]))
    assert "**90.00**" not in page


def test_a_score_on_fewer_samples_does_not_lead() -> None:
    failing = results("A", 1.0)
    fewer = replace(failing.tasks["dermamnist"], paper={"accuracy": metric(1.0, n=11)})
    page = board_as_markdown(make_board([replace(failing, tasks={"dermamnist": fewer}), results("B", 0.5)]))
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
    assert "**90" not in board_as_markdown(make_board([results("A", 0.9)]))


def test_what_was_not_scored_is_no_zero() -> None:
    assert "| n/a |" in paper_row(board_as_markdown(make_board([results("A", None)])))


def test_the_mini_suite_is_never_shown_beside_the_paper() -> None:
    with pytest.raises(UsageError, match="different suites"):
        make_board([results("A", 0.5), results("B", 0.5, suite="paper")])


def test_different_data_are_refused() -> None:
    other = results("B", 0.5)
    moved = replace(other, tasks={"dermamnist": replace(other.tasks["dermamnist"], data="e" * 64)})
    with pytest.raises(UsageError, match="different data of dermamnist"):
        make_board([results("A", 0.5), moved])


def test_notices_stand_on_top_and_names_are_harmless() -> None:
    page = board_as_markdown(make_board([results("<script>|x", 0.5)]))
    assert "> **MINI SUITE: say so**" in page
    assert "<script>" not in page
    assert paper_row(page).count("|") == 4


def test_the_same_board_gives_the_same_bytes() -> None:
    runs = [results("A", 0.2), results("B", 0.9)]
    assert board_as_markdown(make_board(runs)) == board_as_markdown(make_board(runs))


def test_no_run_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="No run"):
        make_board([])


def declared(results_of: Results, *trained_on: str) -> Results:
    return replace(results_of, model=replace(results_of.model, declared=True, trained_on=trained_on))


def test_zero_shot_is_marked_only_where_training_was_declared() -> None:
    for run, marked in (
        (results("A", 0.5), False),
        (declared(results("A", 0.5)), True),
        (declared(results("A", 0.5), "dermamnist"), False),
    ):  # fmt: skip
        page = board_as_markdown(make_board([run]))
        assert ("50.00 [40.0, 60.0] <sup>zs</sup>" in page) == marked
        assert ("zero-shot, the model is known" in page) == marked


def test_a_number_with_evidence_of_a_leak_is_starred_and_leads_nobody() -> None:
    runs = [results("A", 0.9), results("B", 0.6), results("C", 0.5)]
    table = make_table(make_board(runs, {runs[0].run: frozenset({"dermamnist"})}), "paper")
    assert table_as_markdown(table).splitlines()[2] == (
        "| DermaMNIST | Accuracy | 90.00\\* [80.0, 100.0] | **60.00** [50.0, 70.0] | <u>50.00</u> [40.0, 60.0] |"
    )
    assert "such a number leads nobody" in legend([table])


def test_tasks_whose_data_overlap_are_marked(tmp_path: Path) -> None:
    file = tmp_path / "audit-data.json"
    file.write_text(json.dumps({"marks": {"dermamnist": "‡", "medqa": ""}}), encoding="utf-8")
    assert overlaps_in(file) == {"dermamnist"}
    table = make_table(make_board([results("A", 0.5)]), "paper", overlapping=overlaps_in(file))
    assert table_as_markdown(table).splitlines()[2].startswith("| DermaMNIST ‡ | Accuracy |")
    assert "every model trained on it" in legend([table])
    assert r"DermaMNIST $\ddagger$" in table_as_latex(table)
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="is no audit of data"):
        overlaps_in(file)


def test_runs_of_one_model_become_mean_and_standard_deviation() -> None:
    runs = [results("A", value) for value in (0.5, 0.6, 0.7)]
    three = make_table(make_board(runs), "paper", grouped=True)
    assert table_as_markdown(three).splitlines()[2] == "| DermaMNIST | Accuracy | 60.00 ± 10.00 |"
    two = make_table(make_board(runs[:2]), "paper", grouped=True)
    # The standard deviation of two numbers says nothing.
    assert table_as_markdown(two).splitlines()[2] == "| DermaMNIST | Accuracy | 55.00 |"
    assert two.columns[0].kind == "runs"
    mixed = make_board([results("B", 0.1), *runs, results("B", 0.2)])
    assert [column.name for column in make_table(mixed, "paper", grouped=True).columns] == ["B", "A"]
    missing = [*runs, replace(results("A", 0.1), tasks={})]
    assert list(make_table(make_board(missing), "paper", grouped=True).lines()) == []


TABLE_3 = read_publication("table3")


def test_the_papers_table_3_is_rebuilt_with_its_marks() -> None:
    table = make_table(None, "paper", published=[TABLE_3], layout=LAYOUTS["table3"])
    page = table_as_markdown(table)
    assert page == (Path(__file__).parent / "golden" / "table3.md").read_text(encoding="utf-8").rstrip("\n")
    by_row = {(first.task, first.metric): cells for first, cells in table.lines()}
    radfm = by_row["mpx-single", "bleu1"][1]
    assert radfm is not None
    assert (radfm.leaked, radfm.standing, radfm.value) == (True, "none", 0.2101)
    assert by_row["slake-vqa", "bleu1"][3] is None
    latex = table_as_latex(table, Wishes(caption="Table 3 & more"))
    assert latex == (Path(__file__).parent / "golden" / "table3.tex").read_text(encoding="utf-8")
    for mark in (r"\bfseries 82.12", r"\underline{81.66}", "21.01{$^{*}$}", r"\cellcolor[gray]{0.9}21.51", r"\& more"):
        assert mark in latex


def test_published_numbers_stand_only_beside_the_papers_data_and_protocol() -> None:
    mini, paper = make_board([results("A", 0.5)]), make_board([results("A", 0.5, suite="paper")])
    with pytest.raises(UsageError, match="never stand beside the suite 'mini'"):
        make_table(mini, "paper", published=[TABLE_3])
    with pytest.raises(UsageError, match="not 'strict'"):
        make_table(paper, "strict", published=[TABLE_3])
    beside = make_table(paper, "paper", published=[TABLE_3])
    [(_, cells)] = beside.lines()
    assert [column.kind for column in beside.columns] == ["run", *["reported"] * 5]
    assert [cell and cell.standing for cell in cells] == ["none"] * 3 + [None, None, "none"]


def test_other_forms_hold_the_same_numbers() -> None:
    runs = [results("=A|b", 0.5), declared(results("B", 0.4))]
    tables = [make_table(make_board(runs), protocol) for protocol in PROTOCOLS]
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert [(row["protocol"], row["model"], row["value"], row["zero_shot"]) for row in rows[:2]] == [
        ("paper", "'=A|b", "0.5", "False"), ("paper", "B", "0.4", "True"),
    ]  # fmt: skip
    document = json.loads(as_json(tables, ["MINI SUITE: say so"]))
    assert document["notices"] == ["MINI SUITE: say so"]
    assert document["tables"][0]["lines"][0]["cells"][1]["zero_shot"] is True
    turned = table_as_markdown(tables[0], models_as_rows=True)
    assert turned.splitlines()[0] == "| Model | DermaMNIST Accuracy |"
    assert len(turned.splitlines()) == 4
    assert latex_text(r"50 % of a_b & {c} \ ~^#$") == (
        r"50 \% of a\_b \& \{c\} \textbackslash{} \textasciitilde{}\textasciicircum{}\#\$"
    )


def test_the_papers_gain_is_both_ways_positive_and_the_geometric_is_not() -> None:
    ours, theirs = np.asarray([0.20, 0.50]), np.asarray([0.10, 1.00])
    assert relative_gain(ours, theirs) == pytest.approx(0.25)
    assert relative_gain(theirs, ours) == pytest.approx(0.25)
    assert geometric_gain(ours, theirs) == pytest.approx(0)
    zero = np.asarray([0.0, 0.5])
    assert relative_gain(ours, zero) == pytest.approx(0)
    assert np.isnan(relative_gain(ours, np.zeros(2)))


def test_gains_count_what_both_have_and_nothing_that_leaked() -> None:
    table = make_table(None, "paper", published=[TABLE_3], layout=LAYOUTS["table2"])
    total = gains_over(table, "Med-Flamingo").set_index("model")
    assert total["datasets"][["Uni-Med", "RadFM", "XrayGPT"]].tolist() == [6, 5, 2]
    assert total["relative"]["Med-Flamingo"] == 0
    with pytest.raises(UsageError, match="No model of the table is called 'GPT'"):
        gains_over(table, "GPT")


def test_ranks_share_and_are_intervals() -> None:
    assert ranks(np.asarray([[0.3, 0.9, 0.3]])).tolist() == [[2.5, 1.0, 2.5]]
    low, high = bounds(np.asarray([[1.0, 2.0]] * 97 + [[2.0, 1.0]] * 3))
    assert (low.tolist(), high.tolist()) == ([1.0, 1.0], [2.0, 2.0])


@pytest.mark.slow
def test_the_command_line_ranks_and_tells_gains(tmp_path: Path) -> None:
    for model in ("mock:oracle", "mock:constant", "blind"):
        done = medbench("run", "--model", model, "--tasks", "vqa,qa", "--output-dir", tmp_path)
        assert done.returncode == 0, done.stderr
    runs = sorted(folder for folder in tmp_path.iterdir() if folder.is_dir())
    page = medbench("leaderboard", *runs, "--baseline", "Blind baseline")
    assert page.returncode == 0, page.stderr
    assert "## Ranks" in page.stdout
    ranked = page.stdout.partition("## Ranks")[2]
    line = next(line for line in ranked.splitlines() if line.startswith("| Slake-VQA | BLEU-1 |"))
    assert line.endswith(" | 1 |")
    assert "## Gain over a baseline" in page.stdout
    assert medbench("leaderboard", *runs, "--baseline", "Blind baseline").stdout == page.stdout
    for form, first in (("csv", "protocol,task,metric"), ("json", "{"), ("latex", "% \\usepackage")):
        assert medbench("leaderboard", *runs, "--format", form).stdout.startswith(first)
    refused = medbench("leaderboard", *runs, "--reported", "table3")
    assert (refused.returncode, "never stand beside the suite 'mini'" in refused.stderr) == (EXIT_USAGE, True)
    unknown = medbench("leaderboard", "--reported", "table33")
    assert (unknown.returncode, "Did you mean table3" in unknown.stderr) == (EXIT_USAGE, True)
    none = medbench("leaderboard")
    assert (none.returncode, "No run was given." in none.stderr) == (EXIT_USAGE, True)


def test_evidence_is_read_from_the_audit_of_this_run_alone(tmp_path: Path) -> None:
    run = results("A", 0.5)
    file = tmp_path / "audit" / "audit.json"
    file.parent.mkdir()
    assert leaks_of([tmp_path], [run]) == {}
    file.write_text(json.dumps({"run": run.run, "verdicts": {"dermamnist": "strong", "medqa": "no_evidence"}}))
    assert leaks_of([tmp_path], [run]) == {run.run: frozenset({"dermamnist"})}
    file.write_text(json.dumps({"run": "another", "verdicts": {}}))
    with pytest.raises(DataError, match="is no audit of this run"):
        leaks_of([tmp_path], [run])
