"""`medbench score --task T --predictions FILE`: anybody's predictions under both protocols."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from fixture_root import fixtures

from medbench.harness.predictions.rows import Prediction
from medbench.harness.predictions.scoring import score_predictions
from medbench.tasks.answers.box_space import UNI_MED
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.sample import Box

Rows = Sequence[Mapping[str, object]]
BOX = {"box": [10, 10, 50, 50], "image_size": [100, 100]}


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def score(tmp_path: Path, task: str, rows: Rows, *options: str) -> dict[str, Any]:
    file = write(tmp_path / "predictions.jsonl", rows)
    result = medbench("score", "--task", task, "--predictions", file, "--format", "json", *options)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_document(tmp_path: Path) -> None:
    rows: Rows = [
        {"prediction": "Yes, it is.", "reference": "Yes", "answer_type": "CLOSED", "group": "a"},
        {"prediction": "the left lung", "reference": "left lung", "answer_type": "OPEN", "group": "a"},
        {"prediction": "", "reference": "liver", "answer_type": "OPEN", "group": "b"},
        {"prediction": None, "reference": "liver", "answer_type": "OPEN", "group": "c"},
    ]
    document = score(tmp_path, "slake-vqa", rows)
    assert document["task"] == "slake-vqa"
    assert document["n"] == 4
    assert document["states"] == {"ok": 2, "unparsed": 0, "empty": 1, "refused": 0, "truncated": 0, "error": 1}
    assert set(document["protocols"]) == {"paper", "strict"}
    f1 = document["protocols"]["strict"]["f1"]
    assert f1["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert (f1["n"], f1["errors"], f1["empty"]) == (3, 1, 1)
    form = "unlabelled|normalised-strictly|plain"
    assert f1["signature"] == f"f1|clipped|{form}|strict|answer=final|ci=clustered:group|n=3"
    assert document["protocols"]["strict"]["closed_accuracy"]["value"] == 1


def test_one_protocol(tmp_path: Path) -> None:
    document = score(tmp_path, "slake-reg", [{"prediction": "liver", "reference": "liver"}], "--protocol", "strict")
    assert set(document["protocols"]) == {"strict"}


def test_boxes_are_read_in_the_declared_space(tmp_path: Path) -> None:
    rows = [{"prediction": "{<10><10><50><50>}", **BOX}, {"prediction": "[10, 10, 50, 50]", **BOX}]
    official = score(tmp_path, "slake-rec", rows)
    assert official["states"]["unparsed"] == 1
    assert official["protocols"]["paper"]["iou"]["value"] == 0.5
    assert official["protocols"]["strict"]["iou"]["value"] == 0.5
    assert official["protocols"]["strict"]["iou"]["among_answered"] == 1
    assert official["protocols"]["strict"]["iou"]["answered"] == 0.5
    percent = score(tmp_path, "slake-rec", rows, "--boxes", "percent")
    assert percent["states"]["ok"] == 2
    assert percent["protocols"]["paper"]["iou"]["value"] == 1
    fraction = score(tmp_path, "slake-rec", rows, "--boxes", "fraction")
    assert fraction["states"] == {"ok": 0, "unparsed": 2, "empty": 0, "refused": 0, "truncated": 0, "error": 0}
    assert fraction["protocols"]["strict"]["iou"]["value"] == 0
    assert fraction["protocols"]["strict"]["iou"]["among_answered"] is None


def test_the_ceiling_stands_beside_the_score(tmp_path: Path) -> None:
    rows = [{"prediction": "{<1><1><3><3>}", "box": [1.5, 1.5, 3.5, 3.5], "image_size": [100, 100]}]
    iou = score(tmp_path, "slake-rec", rows)["protocols"]["strict"]["iou"]
    assert iou["ceiling"] == iou["value"] == pytest.approx(2.25 / 5.75)


def test_real_texts_equal_the_official_scores(tmp_path: Path) -> None:
    lines = (fixtures() / "metrics" / "pairs2000.jsonl").read_text("utf-8").splitlines()
    expected = json.loads((fixtures() / "metrics" / "scores_unimed.json").read_text("utf-8"))["scores"]["reg"]
    named = [pair for pair in map(json.loads, lines) if pair["kind"] == "reg"]
    paper = score(tmp_path, "slake-reg", named)["protocols"]["paper"]
    assert paper["f1"]["value"] == pytest.approx(expected["f1"], abs=1e-9)
    assert paper["bleu1"]["value"] == pytest.approx(expected["sentence_bleu"]["bleu1"], abs=1e-9)
    assert paper["accuracy"]["value"] == pytest.approx(expected["acc_exact"], abs=1e-9)


def test_choices_are_read_where_the_task_has_them(tmp_path: Path) -> None:
    rows = [
        {"prediction": "The answer is no.", "reference": "no"},
        {"prediction": "I cannot say.", "reference": "yes"},
    ]
    document = score(tmp_path, "pubmedqa", rows)
    assert document["states"]["refused"] == 1
    assert document["protocols"]["strict"]["accuracy"]["value"] == 0.5
    assert document["protocols"]["strict"]["accuracy"]["refused"] == 1
    assert document["protocols"]["paper"]["accuracy"]["value"] == 0.5


@pytest.mark.parametrize("fields", [{"choices": {"A": "warfarin", "B": "heparin"}}, {}])
@pytest.mark.parametrize("answer", ["", "A.", "none", "...", "I cannot answer.", "The answer is A."])
def test_option_a_is_never_given_away(tmp_path: Path, answer: str, fields: dict[str, object]) -> None:
    rows = [{"prediction": answer, "reference": "A", **fields} for _ in range(2)]
    expected = 1 if "A." in answer else 0
    assert score(tmp_path, "medqa-options", rows)["protocols"]["paper"]["accuracy"]["value"] == expected


def test_a_reference_is_one_of_the_answers_in_any_case(tmp_path: Path) -> None:
    document = score(tmp_path, "pubmedqa", [{"prediction": "yes", "reference": " Yes"}])
    assert document["protocols"]["paper"]["accuracy"]["value"] == 1
    file = write(tmp_path / "odd.jsonl", [{"prediction": "nevus", "reference": "nevus"}])
    result = medbench("score", "--task", "dermamnist", "--predictions", file)
    assert result.returncode == 1
    assert "melanocytic nevi" in result.stderr


def test_what_is_scored_needs_its_right_answer(tmp_path: Path) -> None:
    for task, row, words in (
        ("slake-vqa", {"prediction": "yes"}, "line 1 has no reference"),
        ("slake-rec", {"prediction": "x", "box": [1, 2, 3, 4]}, "line 1 has no box or no image_size"),
        ("slake-rec", {"prediction": "x", "image_size": [3, 4]}, "line 1 has no box or no image_size"),
    ):
        result = medbench("score", "--task", task, "--predictions", write(tmp_path / "a.jsonl", [row]))
        assert result.returncode == 1
        assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to score"),
        (["--task", "slake-vqa"], 2, "--predictions"),
        (["--predictions", "x.jsonl"], 2, "--task"),
        (["--task", "slak-vqa", "--predictions", "x.jsonl"], 2, "slake-vqa"),
        (["--task", "slake-vqa", "--predictions", "x.jsonl"], 1, "x.jsonl"),
        (["--task", "slake-vqa", "--predictions", "x.jsonl", "--boxes", "percent"], 1, "x.jsonl"),
        (["--task", "slake-vqa", "--predictions", "x.jsonl", "--from", "nonsense"], 2, "lm-eval"),
        (["runs/x", "--task", "slake-vqa"], 2, "exclude"),
        (["runs/x", "--format", "json"], 2, "--format needs --task"),
    ],
)
def test_bad_usage_is_explained(arguments: list[str], code: int, words: str) -> None:
    result = medbench("score", *arguments)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_boxes_that_change_nothing_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"prediction": "x", "reference": "x"}])
    result = medbench("score", "--task", "slake-vqa", "--predictions", file, "--boxes", "percent")
    assert result.returncode == 2
    assert "no effect" in result.stderr


def test_nothing_scored_is_a_failure(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"prediction": None, "reference": "x"}])
    result = medbench("score", "--task", "slake-vqa", "--predictions", file)
    assert result.returncode == 1
    assert "Nothing could be scored" in result.stderr


def test_boxes_that_were_read_already_are_not_read_again() -> None:
    predictions = [
        Prediction(where="1", prediction="x", reference="", box=Box(0, 0, 4, 4), predicted_box=Box(0, 0, 4, 4)),
        Prediction(where="2", prediction="[0, 0, 4, 4]", reference="", box=Box(0, 0, 4, 4)),
    ]
    scores = score_predictions(get_task("slake-rec"), predictions, None, PROTOCOLS)
    assert scores.states["unparsed"] == 1
    assert scores.protocols["paper"]["iou"].value == 0.5
    assert scores.protocols["paper"]["iou"].ceiling is None
    with pytest.raises(DataError, match="image_size"):
        score_predictions(get_task("slake-rec"), predictions, UNI_MED, PROTOCOLS)
