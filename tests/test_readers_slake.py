"""Slake: questions, regions, the authors' split and ours."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_data import (
    slake,
    slake_folder,
    slake_question,
    write_json,
)
from task_helpers import by_id, read, reasons

from tasks.datasets.native import ranked_split
from tasks.datasets.regions import first_object, parse_box
from tasks.foundation.errors import DataError, UsageError
from tasks.sample import Box


def test_slake_keeps_english_questions_with_an_answer(tmp_path: Path) -> None:
    reading = read("slake-vqa", slake(tmp_path))
    samples = by_id(reading)
    assert list(samples) == ["xmlab1/q0", "xmlab2/q10", "xmlab3/q20"]
    assert samples["xmlab3/q20"].split == "test"
    assert samples["xmlab3/q20"].labels == {"answer_type": "OPEN", "modality": "MRI", "content_type": "Modality"}
    assert samples["xmlab3/q20"].images[0].path == "imgs/xmlab3/source.jpg"
    assert reasons(reading) == {"question is not in English": 3, "answer is empty": 3}
    assert "authors" in reading.split_method


def test_slake_accounts_for_every_folder_named_or_found(tmp_path: Path) -> None:
    slake(tmp_path, train=("xmlab1",), test=("xmlab3",))
    slake_folder(tmp_path, "xmlab9", 90)
    (tmp_path / "train.txt").write_text("xmlab1 xmlab77 ../imgs/xmlab9 ..")
    (tmp_path / "imgs" / "xmlab3" / "question.json").unlink()
    reading = read("slake-vqa", tmp_path)
    assert list(by_id(reading)) == ["xmlab1/q0"]
    skipped = {item.item: item.reason for item in reading.skipped}
    assert skipped["imgs/xmlab77"] == skipped["imgs/../imgs/xmlab9"] == skipped["imgs/.."] == "folder is missing"
    assert skipped["xmlab3/question.json"] == "file is missing"
    assert skipped["imgs/xmlab9"] == "in neither train.txt nor test.txt"


def test_slake_without_lists_is_split_by_us_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "Slake1.0"
    for number in range(14):
        slake_folder(root, f"xmlab{number}", number * 10)
    reading = read("slake-rec", tmp_path)
    splits = {sample.groups["image"]: sample.split for sample in reading.samples}
    assert Counter(splits.values()) == {"train": 12, "test": 2}
    assert all({sample.split} == {splits[sample.groups["image"]]} for sample in reading.samples)
    assert "ours, not the authors'" in reading.split_method
    assert reading.samples[0].images[0].path.startswith("Slake1.0/imgs/")
    assert read("slake-rec", tmp_path) == reading
    other = read("slake-rec", tmp_path, seed="7")
    assert {sample.groups["image"]: sample.split for sample in other.samples} != splits


def test_the_paper_sized_split_of_our_own_has_92_test_images() -> None:
    splits = ranked_split((f"xmlab{number}" for number in range(642)), seed=42, parts=7)
    assert Counter(splits.values()) == {"train": 550, "test": 92}


def test_slake_refuses_lists_that_overlap_a_lone_list_and_a_useless_seed(tmp_path: Path) -> None:
    slake(tmp_path)
    with pytest.raises(UsageError, match="seed"):
        read("slake-vqa", tmp_path, seed="1")
    (tmp_path / "test.txt").write_text("xmlab1 xmlab3")
    with pytest.raises(DataError, match="xmlab1"):
        read("slake-vqa", tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt"):
        read("slake-vqa", tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(UsageError, match="seed=x"):
        read("slake-vqa", tmp_path, seed="x")


@pytest.mark.parametrize("content", ["{", "[1]", '[{"qid": "3"}]', "", "\ud83d"])
def test_a_broken_question_file_is_named(tmp_path: Path, content: str) -> None:
    path = slake(tmp_path) / "imgs" / "xmlab2" / "question.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"xmlab2/question\.json"):
        read("slake-vqa", tmp_path)


def test_errors_name_the_field_and_keep_the_text_out(tmp_path: Path) -> None:
    path = tmp_path / "imgs" / "xmlab1" / "question.json"
    slake(tmp_path)
    write_json(path, [slake_question(1), slake_question(2, answer=["a secret text"])])
    with pytest.raises(DataError, match=r"field 1\.answer") as caught:
        read("slake-vqa", tmp_path)
    assert "secret" not in str(caught.value)


def test_slake_regions_ask_for_the_box_or_for_the_name(tmp_path: Path) -> None:
    slake(tmp_path)
    box, name = by_id(read("slake-rec", tmp_path))["xmlab3/d0"], by_id(read("slake-reg", tmp_path))["xmlab3/d0"]
    assert box.inputs == {"object": "Liver"}
    assert name.inputs == {}
    assert box.box == name.box == Box(10, 12, 30.5, 27)
    assert box.image_size == (33, 77)
    assert box.reference == name.reference == box.labels["object"] == "Liver"


def test_slake_regions_skip_what_is_no_box(tmp_path: Path) -> None:
    folder = slake(tmp_path) / "imgs" / "xmlab1"
    entries = [
        {},
        {"A": [1, 2, 3]},
        {"B": [1, 2, 3, "4"]},
        {"C": [1, 2, -3, 4]},
        {"D": [0, 0, 0, 5], "E": [1, 1, 1, 1]},
    ]
    write_json(folder / "detection.json", entries)
    (tmp_path / "imgs" / "xmlab2" / "detection.json").unlink()
    (tmp_path / "imgs" / "xmlab3" / "source.jpg").write_bytes(b"no image")
    reading = read("slake-rec", tmp_path)
    assert {sample.sample_id: sample.reference for sample in reading.samples} == {"xmlab1/d4": "D"}
    assert reasons(reading) == {
        "entry names no object": 1,
        "box is not a list of four numbers": 1,
        "box is not four finite numbers": 1,
        "box has a negative size": 1,
        "file is missing": 1,
        "image is missing or unreadable": 1,
    }


@given(value=st.one_of(st.none(), st.text(), st.lists(st.one_of(st.floats(), st.integers(), st.text()), max_size=5)))
def test_a_box_is_finite_and_ordered_or_has_a_reason(value: object) -> None:
    box = parse_box(value)
    if isinstance(box, str):
        assert box.startswith("box ")
    else:
        assert box.left <= box.right
        assert box.top <= box.bottom


def test_a_box_of_infinite_numbers_is_none() -> None:
    assert parse_box([1, 2, float("inf"), 4]) == "box is not four finite numbers"
    assert parse_box([10**400, 0, 1, 1]) == "box is not four finite numbers"
    assert first_object({"a": [1, 2, 3, 4]}) == ("a", Box(1, 2, 4, 6))
