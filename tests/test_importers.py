"""Other people's predictions: every format reads as it is written, and nothing else passes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from fixture_root import realdata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from importer_helpers import SECRET, read, read_lines, read_list, refusal, task, write_table
from native_data import write_json

from medbench.harness.predictions.formats import FORMATS, TABLE
from medbench.harness.predictions.peers import marked_answer
from medbench.harness.predictions.rows import Prediction
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind

# The catalog


def test_every_entry_loads_and_names_known_kinds(tmp_path: Path) -> None:
    assert TABLE in FORMATS
    for name, entry in FORMATS.items():
        assert set(entry.kinds) <= set(get_args(Kind))
        references = tmp_path / "missing.json" if entry.references == "always" else None
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / "missing", name, task(entry.kinds[0]), references)


def test_an_unknown_format_is_named_with_the_closest_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format of predictions named 'medevalkitt'(.|\n)*Did you mean medevalkit"):
        read(tmp_path / "x", "medevalkitt", task("vqa"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, entry in FORMATS.items() for kind in get_args(Kind) if kind not in entry.kinds],
)
def test_a_kind_that_a_format_does_not_hold_is_refused(tmp_path: Path, name: str, kind: Kind) -> None:
    with pytest.raises(UsageError, match=rf"'{name}' holds no predictions of the kind {kind}(.|\n)*table"):
        read(tmp_path / "x", name, task(kind), tmp_path / "y" if FORMATS[name].references == "always" else None)


def test_references_are_demanded_and_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file of references(.|\n)*--references FILE"):
        read(tmp_path / "x", "llava-med", task("vqa"))
    with pytest.raises(UsageError, match=r"takes no file of references(.|\n)*--references"):
        read(tmp_path / "x", "medevalkit", task("vqa"), tmp_path / "y")


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_a_file_without_predictions_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"holds no predictions for slake-vqa(.|\n)*table"):
        read(tmp_path / "p.jsonl", TABLE, task("vqa"))


# JSON lines


def test_json_lines_give_what_they_say(tmp_path: Path) -> None:
    first, second, third = read_lines(
        tmp_path,
        {"prediction": "MRI", "reference": "CT", "answer_type": "open", "group": 7, "sample_id": "a", "more": [1]},
        "",
        {"prediction": None, "reference": "yes", "answer_type": "Closed", "group": None, "choices": None},
        {"prediction": 3, "reference": 2.5, "choices": {"2.5": "half", "b": "other"}},
    )
    assert (first.prediction, first.reference, first.answer_type, first.group) == ("MRI", "CT", "OPEN", "7")
    assert first.where.endswith("p.jsonl, line 1")
    assert (second.prediction, second.answer_type, second.group, second.choices) == (None, "CLOSED", "", {})
    assert second.where.endswith("line 3")
    assert (third.prediction, third.reference, third.choices) == ("3", "2.5", {"2.5": "half", "b": "other"})


@pytest.mark.parametrize("reference", [{}, {"reference": None}, {"reference": "Liver"}])
def test_json_lines_of_boxes(tmp_path: Path, reference: dict[str, object]) -> None:
    row = {"prediction": "[1, 2, 3, 4]", "box": [1, 2.5, 3, 4], "image_size": [512, 256], **reference}
    (found,) = read_lines(tmp_path, row, kind="rec")
    assert (found.box, found.image_size) == (Box(1.0, 2.5, 3.0, 4.0), (512, 256))
    assert found.reference == (reference.get("reference") or "")


def test_the_mark_of_an_editor_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prediction": "a", "reference": "b"}\r\n')
    assert read(path, TABLE, task("vqa"))[0].prediction == "a"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"reference": SECRET}, "field prediction: Field required"),
        ({"prediction": SECRET, "reference": [1]}, "field reference"),
        ({"prediction": [SECRET], "reference": "x"}, "field prediction"),
        ({"prediction": True, "reference": SECRET}, "field prediction"),
        ({"prediction": SECRET, "reference": "x", "answer_type": "both"}, "field answer_type"),
        ({"prediction": "x", "reference": "x", "answer_type": [SECRET]}, "field answer_type"),
        ({"prediction": SECRET, "reference": "x", "group": [1]}, "field group"),
        ({"prediction": "x", "reference": "x", "choices": {SECRET: 1}}, "field choices"),
        ({"prediction": "x", "reference": "x", "choices": [SECRET]}, "field choices"),
        ({"prediction": "x", "reference": SECRET, "choices": {"A": "x"}}, "field reference: it is no key"),
        ('{"prediction": Infinity, "reference": "x"}', "field prediction"),
        (f'{{"prediction": "{SECRET}", "refer', "is not JSON"),
        (f'["{SECRET}"]', "object"),
    ],
)
def test_a_broken_line_is_named_without_its_values(tmp_path: Path, row: object, field: str) -> None:
    error = refusal(tmp_path, {"prediction": "a", "reference": "b"}, row)
    assert "p.jsonl, line 2" in error.problem
    assert field in error.problem
    assert error.hint


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"image_size": [0, 10]}, "image_size"),
        ({"image_size": [10, -1]}, "image_size"),
        ({"image_size": [10]}, "image_size"),
        ({"box": [1, 2, 3]}, "box"),
        ({"box": [1, 2, 3, float("nan")]}, "box"),
        ({"box": [1, 2, 3, float("inf")]}, "box"),
        ({"box": [1, 2, 3, "4"]}, "box"),
        ({"box": [1, 2, 3, 10**400]}, "box"),
        ({"box": [5, 2, 3, 4]}, "left, top, right, bottom"),
        ({"box": [1, 5, 3, 4]}, "left, top, right, bottom"),
    ],
)
def test_a_broken_box_is_named(tmp_path: Path, fields: dict[str, object], field: str) -> None:
    whole: dict[str, object] = {"prediction": SECRET, "box": [1, 2, 3, 4], "image_size": [512, 256]}
    error = refusal(tmp_path, {**whole, **fields}, kind="rec")
    assert "line 1" in error.problem
    assert field in error.problem


def test_a_sample_answered_twice_is_an_error(tmp_path: Path) -> None:
    row = {"prediction": "a", "reference": "b", "sample_id": SECRET}
    assert "line 3 has the sample_id of" in refusal(tmp_path, row, {**row, "sample_id": 1}, row).problem


def test_numbers_too_long_for_python_are_errors(tmp_path: Path) -> None:
    assert "line 1" in refusal(tmp_path, f'{{"prediction": {"9" * 5000}, "reference": "x"}}').problem


# MedEvalKit


def test_medevalkit_slake_is_read_in_english_and_says_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "lang": "en",
        "answer_type": "OPEN",
        "answer": "MRI",
        "question": "?",
        "prompt": "?",
        "response": "It is MRI",
    }
    chinese = {**row, "lang": "zh", "answer": "磁共振", "correct": False}
    first, second = read_list(
        tmp_path, "medevalkit", "slake-vqa", row, chinese, {**row, "answer_type": "CLOSED", "response": None}
    )
    assert (first.prediction, first.reference, first.answer_type) == ("It is MRI", "MRI", "OPEN")
    assert (second.prediction, second.answer_type) == (None, "CLOSED")
    assert first.where.endswith("results.json, entry 0")
    assert second.where.endswith("results.json, entry 2")
    assert "1 of 3 entries are not in English" in capsys.readouterr().err


def test_medevalkit_without_answer_types_is_closed_where_the_answer_is_yes_or_no(tmp_path: Path) -> None:
    rows = [{"question": "?", "answer": answer, "response": "x"} for answer in ("yes", "No ", "liver")]
    found = read_list(tmp_path, "medevalkit", "path-vqa", *rows)
    assert [prediction.answer_type for prediction in found] == ["CLOSED", "CLOSED", "OPEN"]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Yes, there is.", "Yes, there is."),
        (r"First \boxed{no}, then \boxed{yes}.", "yes"),
        (r"So \boxed{\text{left lung}}", r"\text{left lung}"),
        (r"Put it in \boxed{}. yes", r"Put it in \boxed{}. yes"),
        (r"\boxed{unclosed", r"\boxed{unclosed"),
        ("<think>liver?</think><answer> spleen\n</answer>", "spleen"),
        ("<answer>A</answer> or <answer>B</answer>", "A B"),
        ("<answer>unclosed", "<answer>unclosed"),
        ("", ""),
        (None, None),
    ],
)
def test_medevalkit_answers_that_are_marked_are_taken_alone(response: str | None, answer: str | None) -> None:
    assert marked_answer(response) == answer


@pytest.mark.parametrize("choices", [["A. aspirin", "B. warfarin"], ["A.aspirin", "B.warfarin"]])
def test_medevalkit_choices_become_texts_by_letter(tmp_path: Path, choices: list[str]) -> None:
    (found,) = read_list(
        tmp_path, "medevalkit", "pubmedqa", {"prompt": "?", "answer": "b", "choices": choices, "response": "B"}
    )
    assert (found.prediction, found.reference) == ("B", "B")
    assert found.choices == {"A": "aspirin", "B": "warfarin"}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"answer": "C"}, "entry 0, field answer"),
        ({"choices": ["A. x", SECRET]}, "entry 0, field choices"),
        ({"choices": ["A. x", "A. y"]}, "entry 0, field choices"),
        ({"choices": 3}, r"field 0\.choices"),
        ({"response": [SECRET]}, r"field 0\.response"),
    ],
)
def test_medevalkit_choices_of_another_form_are_errors(tmp_path: Path, fields: dict[str, object], problem: str) -> None:
    row = {"answer": "A", "choices": ["A. x", "B. y"], "response": "A", **fields}
    with pytest.raises(DataError, match=problem) as caught:
        read_list(tmp_path, "medevalkit", "pubmedqa", row)
    assert SECRET not in str(caught.value)
    assert "MedEvalKit" in caught.value.hint


def test_medevalkit_reports_are_compared_in_the_form_that_was_asked_for(tmp_path: Path) -> None:
    row = {"image": ["a.jpg"], "findings": "Clear lungs.", "impression": "Normal", "response": "Findings: clear."}
    (found,) = read_list(tmp_path, "medevalkit", "mimic-cxr", row)
    assert (found.prediction, found.reference) == ("Findings: clear.", "Findings: Clear lungs. Impression: Normal.")


def test_medevalkit_metrics_are_not_results(tmp_path: Path) -> None:
    path = write_json(tmp_path / "metrics.json", {"total metrics": {"acc": 0.5}})
    with pytest.raises(DataError, match=r"valid (array|list)(.|\n)*beside metrics\.json"):
        read(path, "medevalkit", task("vqa"))


# MultiMedEval

VQA_HEADER = ("correct", "predicted", "F1", "BLEU", "recall", "correct tokens", "predicted tokens")
REPORT_HEADER = ("ref", "hyp", "bleu1", "bleu4", "rougeL")


def test_multimedeval_questions_with_options_and_without(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "QA.csv",
        ("C: stop,\nthe drug", "OPTION B IS CORRECT.", "b", "c", False),
        ("yes", "Yes: it does", "Invalid answer", "yes", False),
    )
    option, free = read(path, "multimedeval", task("qa"))
    assert (option.prediction, option.reference) == ("OPTION B IS CORRECT.", "C")
    assert option.choices == {"A": "", "B": "", "C": "", "D": "", "E": ""}
    assert (free.prediction, free.reference, free.choices) == ("Yes: it does", "yes", {})
    assert free.where.endswith("QA.csv, row 2")


def test_multimedeval_visual_questions(tmp_path: Path) -> None:
    rows = (("yes", "Yes.", 1.0, 1.0, 1.0, "{'yes'}", "{'yes'}"), ("left lung", "", 0, 0, 0, "set()", "set()"))
    closed, open_one = read(write_table(tmp_path / "SLAKE.csv", VQA_HEADER, *rows), "multimedeval", task("vqa"))
    assert (closed.prediction, closed.reference, closed.answer_type) == ("Yes.", "yes", "CLOSED")
    assert (open_one.prediction, open_one.reference, open_one.answer_type) == ("", "left lung", "OPEN")
    assert open_one.where.endswith("row 3")


def test_multimedeval_reports(tmp_path: Path) -> None:
    rows = (("Clear.", "Clear lungs.", 0.5, 0.1, 0.6), ("Clear.", "Invalid Response", 0.0, 0.0, 0.0))
    found = read(write_table(tmp_path / "M.csv", REPORT_HEADER, *rows), "multimedeval", task("report"))
    assert [(prediction.prediction, prediction.reference) for prediction in found] == [
        ("Clear lungs.", "Clear."),
        ("", "Clear."),
    ]


@pytest.mark.parametrize(
    ("kind", "rows", "problem"),
    [
        ("qa", [("C: x", "b", "b", "d", "False")], "row 1: the right answer begins with another key"),
        ("qa", [("yes", SECRET)], "row 1 has 2 columns, not 5"),
        ("vqa", [("yes", "Yes.", "1", "1", "1", "x", "x")], "does not begin with the row correct,predicted"),
        ("vqa", [VQA_HEADER, ("yes", SECRET)], "row 2 has 2 columns, not 7"),
        ("report", [VQA_HEADER], "does not begin with the row ref,hyp"),
    ],
)
def test_multimedeval_files_of_another_form_are_errors(
    tmp_path: Path, kind: Kind, rows: list[tuple[str, ...]], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read(write_table(tmp_path / "x.csv", *rows), "multimedeval", task(kind))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("data", [b'"a"b,c\n', b'"a\n'])
def test_multimedeval_files_that_are_no_csv_are_errors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(DataError, match="not a readable CSV file"):
        read(tmp_path / "x.csv", "multimedeval", task("qa"))


def published(name: str) -> tuple[tuple[Prediction, ...], list[list[str]], float]:
    folder = realdata("multimedeval_pmc_llama")
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    accuracy: float = json.loads((folder / f"metrics_{name}.json").read_text())["accuracy"]
    return read(folder / f"{name}.csv", "multimedeval", get_task("pubmedqa")), rows, accuracy


def test_the_published_answers_of_pmc_llama_to_pubmedqa_give_the_published_accuracy() -> None:
    predictions, _, accuracy = published("PubMedQA")
    right = sum(found.prediction == found.reference for found in predictions)
    assert len(predictions) == 500
    assert {found.reference for found in predictions} == {"yes", "no", "maybe"}
    assert right / 500 == accuracy == 0.684


def test_the_published_answers_of_pmc_llama_to_medqa_give_what_the_model_wrote() -> None:
    """The published 0.4721 is of answers as MultiMedEval read them, which are not always the letters written."""
    predictions, rows, accuracy = published("MedQA")
    assert len(predictions) == 1273
    assert {found.reference for found in predictions} == set("ABCDE")
    written = [found.prediction == f"OPTION {found.reference} IS CORRECT." for found in predictions]
    read = [row[2].upper() == found.reference for row, found in zip(rows, predictions, strict=True)]
    assert sum(read) == 601
    assert sum(read) / 1273 == accuracy
    assert sum(written) == 604
    misread = [index for index, row in enumerate(rows) if row[1] != f"OPTION {row[2].upper()} IS CORRECT."]
    assert len(misread) == 28
    assert {index for index in range(1273) if written[index] != read[index]} <= set(misread)


# Whatever comes

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_TEXT_FIELDS = (
    "prediction reference answer_type group sample_id question_id id text answer response lang image image_id item "
    "image_path answer_gt answer_pred findings impression"
)
_OWN_VALUES: dict[str, st.SearchStrategy[object]] = {
    **{name: st.sampled_from(["a", "A", "OPEN", "en", 1]) for name in _TEXT_FIELDS.split()},
    "choices": st.just(["A. a", "B. b"]) | st.just({"A": "a", "a": "b"}),
    "conversations": st.just([{"from": "gpt", "value": "a"}]),
    **{name: st.just([1, 2, 3, 4]) for name in ("box", "gt_bbox", "pred_bbox")},
    "image_size": st.just([5, 5]),
}
_ROWS = st.fixed_dictionaries({}, optional={name: own | _VALUES for name, own in _OWN_VALUES.items()})


def _as_bytes(dump: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: dump(value).encode("utf-8", "surrogatepass")


_DOCUMENTS = (
    st.binary(max_size=60)
    | _VALUES.map(_as_bytes(json.dumps))
    | st.lists(_ROWS, max_size=3).map(_as_bytes(json.dumps))
    | st.lists(_ROWS, max_size=3).map(_as_bytes(lambda rows: "\n".join(map(json.dumps, rows))))
    | st.lists(st.lists(st.text(max_size=5), min_size=5, max_size=5), max_size=3).map(
        _as_bytes(lambda rows: "\n".join(",".join(row) for row in rows))
    )
)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, entry in FORMATS.items() for kind in entry.kinds])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=_DOCUMENTS, right=_DOCUMENTS)
def test_whatever_comes_is_read_or_refused(tmp_path: Path, name: str, kind: Kind, data: bytes, right: bytes) -> None:
    (tmp_path / "predictions").write_bytes(data)
    (tmp_path / "references").write_bytes(right)
    references = tmp_path / "references" if FORMATS[name].references == "always" else None
    try:
        found = read(tmp_path / "predictions", name, task(kind), references)
    except MedbenchError:
        return
    assert found
    assert all(isinstance(prediction.where, str) for prediction in found)
