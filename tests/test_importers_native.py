"""Answers as LLaVA-Med and Uni-Med write them: read as their own scripts read them, and nothing else passes."""

import json
from pathlib import Path
from typing import Any

import pytest
from fixture_root import fixtures
from importer_helpers import SECRET, read, read_list, task, write_lines
from native_data import write_json

from medbench.harness.predictions.formats import FORMATS
from medbench.harness.predictions.rows import Prediction
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Box

# LLaVA-Med


def llava_answer(number: object, text: str = "Yes.") -> dict[str, object]:
    return {"question_id": number, "prompt": "?", "text": text, "answer_id": "x", "model_id": "m", "metadata": {}}


def llava_question(number: object, **fields: object) -> dict[str, object]:
    turns = [{"from": "human", "value": "?\n<image>"}, {"from": "gpt", "value": "yes"}]
    return {"id": number, "image": "a.jpg", "conversations": turns, "answer_type": "CLOSED", **fields}


def read_llava(folder: Path, answers: list[object], questions: object) -> tuple[Prediction, ...]:
    path = write_lines(folder / "answers.jsonl", *answers)
    references = folder / "test.json"
    if isinstance(questions, str):
        references.write_text(questions)
    else:
        write_json(references, questions)
    return read(path, "llava-med", task("vqa"), references)


def test_llava_med_answers_meet_their_questions_by_id(tmp_path: Path) -> None:
    questions = [llava_question(2, image="b.jpg"), llava_question("1", answer_type="OPEN")]
    second, first = read_llava(tmp_path, [llava_answer(1, "Assistant: no"), llava_answer(2)], questions)
    assert (second.prediction, second.reference, second.answer_type, second.group) == ("Yes.", "yes", "CLOSED", "b.jpg")
    assert (first.prediction, first.answer_type, first.group) == ("Assistant: no", "OPEN", "a.jpg")
    assert first.where.endswith("answers.jsonl, line 1")


@pytest.mark.parametrize(
    ("native", "answer_type"), [("yes/no", "CLOSED"), ("other", "OPEN"), ("number", "OPEN"), ("closed", "CLOSED")]
)
def test_llava_med_reads_the_forms_of_its_question_files(tmp_path: Path, native: str, answer_type: str) -> None:
    misspelt = llava_question(1, answer_type=native)
    misspelt["conversatons"] = misspelt.pop("conversations")
    lines = f"\n{json.dumps({'question_id': 1, 'text': '?', 'answer': 'yes', 'answer_type': native})}\n"
    for questions in ([misspelt], lines):
        (found,) = read_llava(tmp_path, [llava_answer(1)], questions)
        assert (found.reference, found.answer_type) == ("yes", answer_type)


@pytest.mark.parametrize(
    ("answers", "questions", "problem"),
    [
        ([1], [1, 2, 3], r"2 of 3 questions of .*test\.json have no answer in .*answers\.jsonl; the first is '2'"),
        ([1, 2, 9], [1], r"2 of 3 answers of .* have no question in .*; the first is '2'"),
        ([1, 1], [1], r"answers\.jsonl, line 2 has the question id of .*line 1: '1'"),
        ([1], [1, 1], r"test\.json, entry 1 has the question id of"),
    ],
)
def test_llava_med_files_that_do_not_fit_are_errors(
    tmp_path: Path, answers: list[int], questions: list[int], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        read_llava(tmp_path, [llava_answer(number) for number in answers], [llava_question(n) for n in questions])


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"conversations": []}, "entry 0 has neither an answer nor a turn from 'gpt'"),
        ({"conversations": [{"from": "human", "value": SECRET}]}, "neither an answer"),
        ({"conversations": [{"value": SECRET}]}, "field 0"),
        ({"answer_type": SECRET}, r"field 0\.answer_type"),
    ],
)
def test_llava_med_questions_without_an_answer_are_errors(
    tmp_path: Path, fields: dict[str, object], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read_llava(tmp_path, [llava_answer(1)], [llava_question(1, **fields)])
    assert SECRET not in str(caught.value)
    assert "question file" in caught.value.hint


# Uni-Med's own scripts


@pytest.mark.parametrize(
    ("name", "fields", "group", "answer_type"),
    [
        ("slake-vqa", {"answer_type": "OPEN"}, "", "OPEN"),
        ("path-vqa", {"answer_type": "CLOSED", "question_id": 200422003}, "200422", "CLOSED"),
        ("slake-reg", {"image_id": "xmlab3"}, "xmlab3", ""),
        ("sa-med2d-reg", {"image_id": "ct_00--Set--Case_01--x_0040"}, "Set--Case_01", ""),
        ("sa-med2d-reg", {"image_id": "other"}, "other", ""),
        ("mimic-cxr", {"image_path": "p10/p10000000/s50000000/a.jpg"}, "p10000000", ""),
        ("mimic-cxr", {"image_path": "a.jpg"}, "a.jpg", ""),
        ("dermamnist", {"index": 4}, "", ""),
    ],
)
def test_official_answers_are_read_with_what_ties_them(
    tmp_path: Path, name: str, fields: dict[str, object], group: str, answer_type: str
) -> None:
    row = {"question": "?", "answer_gt": "Left Lung", "answer_pred": "left lung", **fields}
    (found,) = read_list(tmp_path, "uni-med", name, row)
    assert (found.prediction, found.reference) == ("left lung", "Left Lung")
    assert (found.group, found.answer_type) == (group, answer_type)
    assert found.where.endswith("entry 0")


def test_official_captions_are_tied_by_case(tmp_path: Path) -> None:
    names = ("MPX1234_synpic1.png", "MPX1234_synpic2.png", "MPX9_synpic3.png")
    rows = [{"image_path": f"images/{name}", "question": "?", "answer_gt": "a", "answer_pred": ""} for name in names]
    groups = [found.group for found in read_list(tmp_path, "uni-med", "mpx-single", *rows)]
    assert groups[0] == groups[1] != groups[2]


def test_official_boxes_are_read_as_their_script_read_them(tmp_path: Path) -> None:
    """The records are what `eval_ref.py` itself wrote, with its scores."""
    document = json.loads((fixtures() / "metrics" / "official_unimed.json").read_text())
    records: list[dict[str, Any]] = [pair["record"] for pair in document["ref_pairs"]]
    predictions = read_list(tmp_path, "uni-med", "slake-rec", *records)
    assert FORMATS["uni-med"].boxes_are_read
    for found, record in zip(predictions, records, strict=True):
        assert found.box == Box(*record["gt_bbox"])
        assert (found.reference, found.group, found.image_size) == ("Liver", "0", None)
        stored = record["pred_bbox"]
        if isinstance(stored, str):
            assert record["iou_score"] == 0
            assert (found.predicted_box, found.prediction) == (None, stored.removeprefix("Unable to match: "))
        else:
            assert found.predicted_box == Box(*stored)
            assert json.loads(found.prediction or "") == stored


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"pred_bbox": SECRET}, "entry 0, field pred_bbox"),
        ({"pred_bbox": [1, 2, 3]}, r"field 0\.pred_bbox"),
        ({"pred_bbox": None}, r"field 0\.pred_bbox"),
        ({"gt_bbox": [1, 2, 3, float("nan")]}, r"field 0\.gt_bbox"),
        ({"gt_bbox": [3, 2, 1, 4]}, r"field 0\.gt_bbox"),
    ],
)
def test_official_boxes_of_another_form_are_errors(tmp_path: Path, fields: dict[str, object], problem: str) -> None:
    row = {"image_id": "x", "item": SECRET, "gt_bbox": [1, 2, 3, 4], "pred_bbox": [1, 2, 3, 4], **fields}
    with pytest.raises(DataError, match=problem) as caught:
        read_list(tmp_path, "uni-med", "slake-rec", row)
    assert SECRET not in str(caught.value)


def test_an_upside_down_box_of_a_model_is_kept(tmp_path: Path) -> None:
    row = {"image_id": "x", "item": "Liver", "gt_bbox": [1, 2, 3, 4], "pred_bbox": [9.0, 8.0, 7.0, 6.0]}
    (found,) = read_list(tmp_path, "uni-med", "sa-med2d-rec", row)
    assert found.predicted_box == Box(9.0, 8.0, 7.0, 6.0)
