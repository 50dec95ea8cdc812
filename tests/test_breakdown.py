"""`medbench breakdown`: parts that add up to the whole, and what is told of labels that are not there."""

import json
from pathlib import Path

import pytest
from command_line import medbench

from medbench.harness.results import read_results
from medbench.leaderboard.pages import breakdown_as_markdown
from medbench.leaderboard.samples import ScoreTable, break_down, labels_of, read_score_table
from medbench.tasks.foundation.errors import EXIT_USAGE, UsageError

TASKS = ("path-vqa", "slake-vqa", "sa-med2d-rec", "pubmedqa")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    done = medbench("run", "--model", "mock:constant", "--tasks", ",".join(TASKS), "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("mock*")
    return path


@pytest.fixture(scope="module")
def tables(run: Path) -> list[ScoreTable]:
    results = read_results(run)
    return [read_score_table(run, results, task) for task in results.tasks]


def test_the_parts_of_a_label_are_the_whole(run: Path, tables: list[ScoreTable]) -> None:
    results = read_results(run)
    for label in ("answer_type", "modality", "box_size"):
        parts = break_down(results, tables, "paper", by=label)
        assert len(parts)
        for task, own in parts.groupby("task"):
            whole = results.tasks[str(task)].paper[own["metric"].iloc[0]]
            assert own["n"].sum() == whole.n
            assert own["samples"].sum() == results.tasks[str(task)].samples
            assert (own["score"].fillna(0) * own["n"]).sum() / whole.n == pytest.approx(whole.value, abs=1e-6)
            assert own["value"].nunique() == len(own) > 1
            assert (own["low"] <= own["score"].fillna(0)).all()
            assert (own["score"].fillna(0) <= own["high"]).all()


def test_labels_that_name_samples_divide_nothing(tables: list[ScoreTable]) -> None:
    by_task = {table.task: list(labels_of(table)) for table in tables}
    assert {"answer_type", "content_type", "modality"} == set(by_task["slake-vqa"])
    assert by_task["pubmedqa"] == []
    assert "box_size" in by_task["sa-med2d-rec"]


def test_an_unknown_label_is_told(run: Path, tables: list[ScoreTable]) -> None:
    with pytest.raises(UsageError, match="No task has a label 'organs'") as failure:
        break_down(read_results(run), tables, "paper", by="organs")
    assert "slake-vqa: answer_type content_type modality" in failure.value.hint


def test_the_command_line_breaks_down(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    done = medbench("breakdown", run, "--by", "answer_type", "--output", page)
    assert done.returncode == 0, done.stderr
    assert "Slake-VQA  answer_type  CLOSED" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert "MINI SUITE" in text
    assert "| Path-VQA | answer\\_type | CLOSED | BLEU-1 |" in text or "| Path-VQA | answer_type | CLOSED |" in text
    assert "all metrics" not in text
    more = medbench("breakdown", run, "--by", "answer_type", "--every-metric")
    assert more.stdout.count("\n") > done.stdout.count("\n")
    nothing = medbench("breakdown", run, "--tasks", "pubmedqa")
    assert "no label divides" in nothing.stdout
    wrong = medbench("breakdown", run, "--tasks", "medqa")
    assert (wrong.returncode, "There is none of medqa" in wrong.stderr) == (EXIT_USAGE, True)


def test_hostile_labels_stay_text(run: Path, tables: list[ScoreTable]) -> None:
    results = read_results(run)
    parts = break_down(results, tables, "paper", by="answer_type").assign(value="<script>|x")
    assert "<script>" not in breakdown_as_markdown(results, "paper", parts)


def test_a_line_that_is_no_score_is_named(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    file = copy / "scores" / "slake-vqa.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[2] = json.dumps({"sample_id": "x"})
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = medbench("breakdown", copy)
    assert done.returncode != 0
    assert "slake-vqa.jsonl, line 3 is no score" in done.stderr
    assert "medbench score" in done.stderr
    assert "Traceback" not in done.stderr
