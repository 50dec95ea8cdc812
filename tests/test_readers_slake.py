"""Slake: questions, regions, the authors' split and ours."""

from collections import Counter
from pathlib import Path

import pytest
from fixture_root import realdata
from hypothesis import given
from hypothesis import strategies as st
from native_data import (
    slake,
    slake_download,
    slake_folder,
    slake_question,
    write_json,
)
from pydantic import TypeAdapter
from task_helpers import by_id, read, reasons

from medbench.tasks.catalog import get_task
from medbench.tasks.datasets import slake as reader
from medbench.tasks.datasets.native import first_object, parse_box, ranked_split
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.sample import Box
from medbench.tasks.validation import parse_json_file


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


@pytest.mark.parametrize("validation", ["validate", "validation"])
@pytest.mark.parametrize("folder", ["", "Slake1.0"])
def test_slake_reads_the_questions_of_all_images_from_the_downloaded_files(
    tmp_path: Path, validation: str, folder: str
) -> None:
    slake_download(tmp_path / folder, validation)
    reading = read("slake-vqa", tmp_path)
    by_image: dict[str, list[str]] = {}
    for sample in reading.samples:
        by_image.setdefault(sample.groups["image"], []).append(sample.sample_id)
    assert by_image == {
        "xmlab1": ["xmlab1/q10", "xmlab1/q11", "xmlab1/q15", "xmlab1/q25", "xmlab1/q35"],
        "xmlab2": ["xmlab2/q20", "xmlab2/q21"],
        "xmlab3": ["xmlab3/q30", "xmlab3/q31"],
    }
    assert all((tmp_path / sample.images[0].path).is_file() for sample in reading.samples)
    assert reading.skipped == ()
    assert "ours, not the authors'" in reading.split_method


def test_the_downloaded_files_do_not_decide_the_split(tmp_path: Path) -> None:
    slake_download(tmp_path)
    (tmp_path / "train.txt").write_text("xmlab3 xmlab2")
    (tmp_path / "test.txt").write_text("xmlab1")
    reading = read("slake-vqa", tmp_path)
    assert {sample.groups["image"] for sample in reading.samples if sample.split == "test"} == {"xmlab1"}
    assert reading.split_method == "authors' lists train.txt and test.txt"


def test_a_folders_own_questions_go_before_the_downloaded_files(tmp_path: Path) -> None:
    slake_download(tmp_path)
    write_json(tmp_path / "imgs" / "xmlab2" / "question.json", [slake_question(77)])
    names = by_id(read("slake-vqa", tmp_path))
    assert "xmlab2/q77" in names
    assert not {"xmlab2/q20", "xmlab2/q21"} & set(names)
    assert "xmlab3/q30" in names


def test_the_downloaded_files_are_parsed_once_and_only_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slake_download(tmp_path / "download")
    parsed: list[str] = []

    def counted(adapter: TypeAdapter[object], path: Path) -> object:
        parsed.append(path.name)
        return parse_json_file(adapter, path)

    monkeypatch.setattr(reader, "parse_json_file", counted)
    read("slake-vqa", tmp_path / "download")
    assert parsed == ["train.json", "validate.json", "test.json"]
    (slake(tmp_path / "bundle") / "train.json").write_text("broken, and never opened")
    parsed.clear()
    read("slake-vqa", tmp_path / "bundle")
    assert set(parsed) == {"question.json"}


def test_what_the_downloaded_files_lack_is_accounted_for(tmp_path: Path) -> None:
    slake_download(tmp_path)
    slake_folder(tmp_path, "xmlab9", 90)
    (tmp_path / "imgs" / "xmlab9" / "question.json").unlink()
    (tmp_path / "test.json").unlink()
    rows = [
        slake_question(1, img_name="xmlab2/source.jpg"),
        slake_question(2, img_name="xmlab2/source.jpg", q_lang="zh"),
        slake_question(3, img_name="xmlab2/source.jpg", answer=""),
        slake_question(4, img_name="xmlab400/source.jpg"),
        slake_question(5, img_name="../../xmlab1/source.jpg"),
    ]
    write_json(tmp_path / "train.json", rows)
    skipped = {item.item: item.reason for item in read("slake-vqa", tmp_path).skipped}
    assert skipped == {
        "xmlab2/q2": "question is not in English",
        "xmlab2/q3": "answer is empty",
        "xmlab3/question.json": "file is missing",
        "xmlab9/question.json": "file is missing",
        "test.json": "file is missing",
        "xmlab400/q4": "folder is missing",
        "../q5": "folder is missing",
    }


@pytest.mark.parametrize("content", ["{", "{}", '[{"qid": 3}]'])
def test_a_broken_downloaded_file_is_named(tmp_path: Path, content: str) -> None:
    (slake_download(tmp_path) / "validate.json").write_text(content)
    with pytest.raises(DataError, match=r"validate\.json"):
        read("slake-vqa", tmp_path)


def test_a_question_about_no_image_is_an_error_of_its_file(tmp_path: Path) -> None:
    row = slake_question(1)
    del row["img_name"]
    write_json(slake_download(tmp_path) / "test.json", [row])
    with pytest.raises(DataError, match=r"test\.json, field 0\.img_name"):
        read("slake-vqa", tmp_path)


def test_a_file_in_the_place_of_the_image_folder_is_another_layout(tmp_path: Path) -> None:
    (tmp_path / "imgs").write_text("no folder")
    with pytest.raises(DataError, match="imgs"):
        read("slake-vqa", tmp_path)


def test_the_official_files_give_all_english_questions(tmp_path: Path) -> None:
    official = realdata("slake_text") / "Slake1.0"
    for name in ("train.json", "validate.json", "test.json"):
        (tmp_path / name).symlink_to(official / name)
    for number in range(642):
        (tmp_path / "imgs" / f"xmlab{number}").mkdir(parents=True)
        (tmp_path / "imgs" / f"xmlab{number}" / "source.jpg").write_bytes(b"a stub")
    prepared = prepare_task(get_task("slake-vqa"), tmp_path, tmp_path / "data", {})
    samples = (*prepared.samples("train"), *prepared.samples("test"))
    # 6018 and 1014 of the paper, by the authors' lists, which are not public.
    assert len(samples) == 7032
    assert len({sample.groups["image"] for sample in samples}) == 642
    assert len({sample.groups["image"] for sample in prepared.samples("test")}) == 92
    assert prepared.manifest.skipped_counts == {"question is not in English": 6995, "answer is empty": 1}


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
