"""Native folders to samples: every layout, every reason to skip, every way a file can be wrong."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_data import (
    NATIVE,
    ON_REQUEST,
    medmnist_npz,
    medqa,
    medqa_row,
    mimic_cxr,
    mimic_row,
    mpx_row,
    mpx_single,
    path_vqa,
    path_vqa_row,
    pubmedqa,
    pubmedqa_row,
    write_csv,
    write_json,
    write_lines,
)
from task_helpers import by_id, read, reasons

from medbench.tasks.catalog import get_task
from medbench.tasks.datasets import mpx
from medbench.tasks.datasets.medmnist import LABEL_SETS, spoken_name
from medbench.tasks.datasets.mpx import case_of
from medbench.tasks.datasets.native import ranked_split
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task

EVERY = {**NATIVE, **ON_REQUEST}


@pytest.mark.parametrize("task", EVERY)
def test_every_task_reads_its_native_folder(tmp_path: Path, task: str) -> None:
    spec = get_task(task)
    reading = read(task, EVERY[task](tmp_path / "native"))
    assert {sample.split for sample in reading.samples} == {"train", "test"}
    assert reading.split_method
    for sample in by_id(reading).values():
        assert sample.task == task
        assert sample.groups[spec.group_key]
        assert sample.reference
        assert spec.instruction(sample, box="BOX")
        assert all((tmp_path / "native" / ref.path).is_file() for ref in sample.images)
        assert (sample.box is not None) == (spec.kind in {"rec", "reg"})
        assert bool(sample.images) == (spec.kind != "qa")


@pytest.mark.parametrize("task", EVERY)
@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_or_foreign_folder_shows_the_expected_layout(tmp_path: Path, task: str, exists: bool) -> None:
    source = tmp_path / "elsewhere"
    if exists:
        write_json(source / "unrelated.json", {})
    with pytest.raises(DataError) as caught:
        read(task, source)
    assert str(source) in caught.value.problem
    assert ("does not exist" in caught.value.problem) != exists
    assert "Expected layout" in caught.value.hint


@pytest.mark.parametrize("folder", ["", "pvqa"])
def test_path_vqa_from_the_folder_or_its_parent(tmp_path: Path, folder: str) -> None:
    path_vqa(tmp_path / folder)
    samples = by_id(read("path-vqa", tmp_path))
    closed, opened = samples["test_0001/q2"], samples["train_0001/q1"]
    assert (closed.reference, closed.labels["answer_type"], closed.split) == ("no", "CLOSED", "test")
    assert (opened.reference, opened.labels) == ("in the canals", {"answer_type": "OPEN", "question_type": "where"})
    assert (tmp_path / closed.images[0].path).is_file()
    assert closed.groups == {"image": "test_0001"}


def test_path_vqa_counts_missing_files_and_answers(tmp_path: Path) -> None:
    (path_vqa(tmp_path) / "qas" / "train_vqa.pkl").unlink()
    rows = [path_vqa_row("test_0001", 1, label={}), path_vqa_row("test_0001", 2, label={7: 1})]
    (tmp_path / "qas" / "test_vqa.pkl").write_bytes(pickle.dumps(rows))
    reading = read("path-vqa", tmp_path)
    assert [sample.reference for sample in reading.samples] == ["7"]
    assert reasons(reading) == {"file is missing": 1, "label has no answer": 1}


@pytest.mark.parametrize("rows", [{"a": 1}, [["row"]], [{"img_id": "train_0001"}], [path_vqa_row("a", 1, label=[])]])
def test_path_vqa_refuses_other_shapes(tmp_path: Path, rows: object) -> None:
    (path_vqa(tmp_path) / "qas" / "test_vqa.pkl").write_bytes(pickle.dumps(rows))
    with pytest.raises(DataError, match=r"test_vqa\.pkl"):
        read("path-vqa", tmp_path)


@pytest.mark.parametrize("inner", ["files", ""])
def test_mimic_uses_the_first_picture_under_either_root(tmp_path: Path, inner: str) -> None:
    samples = by_id(read("mimic-cxr", mimic_cxr(tmp_path, inner=inner)))
    assert list(samples) == ["s50000001/dicom-1", "s50000002/dicom-2", "s50000004/dicom-4"]
    sample = samples["s50000004/dicom-4"]
    assert (tmp_path / sample.images[0].path).is_file()
    assert len(sample.images) == 1
    assert sample.inputs == {}
    assert sample.groups == {"image": "p10/p4/s4/dicom-4.jpg", "study": "50000004", "patient": "10000004"}


def test_mimic_trains_on_the_authors_subset_where_it_is(tmp_path: Path) -> None:
    rows = {"train": [mimic_row(2, study_id="s2")], "val": [], "test": [mimic_row(1)]}
    write_json(mimic_cxr(tmp_path) / "annotation_small.json", rows)
    reading = read("mimic-cxr", tmp_path)
    assert list(by_id(reading)) == ["ss2/dicom-2", "s50000004/dicom-4"]
    assert "annotation_small.json" in reading.split_method


def test_mimic_counts_rows_without_a_picture(tmp_path: Path) -> None:
    write_json(mimic_cxr(tmp_path) / "annotation.json", {"test": [mimic_row(4), mimic_row(5, image_path=[])]})
    reading = read("mimic-cxr", tmp_path)
    assert (len(reading.samples), reasons(reading)) == (1, {"row names no image": 1})


def test_mpx_keeps_captions(tmp_path: Path) -> None:
    reading = read("mpx-single", mpx_single(tmp_path))
    name = "MPX1002_synpic7.jpg"
    tests = [sample for sample in reading.samples if sample.split == "test"]
    assert [sample.sample_id for sample in tests] == [f"test/{name}/c0", f"test/{name}/c1"]
    assert tests[0].reference == 'A picture, with "quotes",\nand two lines.'
    assert tests[0].groups == {"image": name, "case": "MPX1002"}
    assert reasons(reading) == {"type is not caption": 2}


def test_mpx_drops_rows_with_any_empty_column_as_pandas_reads_it(tmp_path: Path) -> None:
    rows = [
        mpx_row("a.jpg", extra="x"),
        mpx_row("b.jpg", extra=""),
        mpx_row("c.jpg", extra="NA"),
        mpx_row("d.jpg", context="nan", extra="x"),
        mpx_row("e.jpg", context=" ", extra="x"),
    ]
    path = write_csv(mpx_single(tmp_path) / "MedPix_single_test.csv", rows)
    text = path.read_text(encoding="utf-8")
    path.write_text(f"\ufeff{text}f.jpg,caption\n\ng.jpg,caption,c,x,too,many\n", encoding="utf-8")
    reading = read("mpx-single", tmp_path)
    tests = [sample.images[0].path for sample in reading.samples if sample.split == "test"]
    assert tests == ["images/a.jpg", "images/e.jpg"]
    found = reasons(reading)
    assert found["column 'extra' is empty"] == 2
    assert found["column 'context' is empty"] == 2
    assert found["row has more columns than the header"] == 1


def test_what_is_empty_to_the_reader_is_missing_to_pandas() -> None:
    texts = [*sorted(mpx._EMPTY), "na", "NONE", "Null", " ", "0", "-", "N.A."]
    frame = pd.read_csv(io.StringIO("text,more\n" + "".join(f'"{text}",x\n' for text in texts)))
    assert [bool(one) for one in frame["text"].isna()] == [text in mpx._EMPTY for text in texts]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,type\na,caption\n", "context"),
        (b"", "name"),
        (b'name,type,context\na,caption,"never closed\n', "CSV"),
        (b"name,type,context\na,caption,\xff\n", "CSV"),
    ],
)
def test_an_odd_csv_is_a_data_error(tmp_path: Path, content: bytes, message: str) -> None:
    (mpx_single(tmp_path) / "MedPix_single_train.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read("mpx-single", tmp_path)
    assert "MedPix_single_train.csv" in caught.value.problem


def test_cases_of_mpx_names() -> None:
    assert case_of("MPX1204_synpic1.png") == "MPX1204"
    assert case_of("synpic1.png") == "synpic1.png"
    assert case_of("MPX_1.png") == "MPX_1.png"


def test_the_large_file_is_preferred(tmp_path: Path) -> None:
    medmnist_npz(tmp_path, "dermamnist")
    assert read("dermamnist", tmp_path).samples[0].images[0].path == "dermamnist.npz"
    medmnist_npz(tmp_path, "dermamnist_224")
    sample = by_id(read("dermamnist", tmp_path))["test/4"]
    assert (sample.images[0].path, sample.images[0].member, sample.images[0].index) == (
        "dermamnist_224.npz",
        "test_images",
        4,
    )
    assert (sample.reference, sample.groups) == ("melanoma", {"image": "test/4"})


@pytest.mark.parametrize(
    ("flag", "last"), [("retinamnist", "proliferative diabetic retinopathy"), ("breastmnist", "normal or benign")]
)
def test_stand_ins_ask_with_their_own_words(tmp_path: Path, flag: str, last: str) -> None:
    classes = len(LABEL_SETS[flag].names)
    samples = read("organsmnist", medmnist_npz(tmp_path, flag, classes=classes), flag=flag).samples
    asked = get_task("organsmnist").instruction(samples[-1])
    assert asked.endswith(f", or {last}?")
    assert samples[-1].reference == last
    assert {sample.task for sample in samples} == {"organsmnist"}


def test_medmnist_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chestmnist"):
        read("dermamnist", tmp_path, flag="chestmnist")
    images, labels = np.zeros((2, 3, 3), dtype=np.uint8), np.array([[0], [9]], dtype=np.int64)

    def write(**arrays: Any) -> None:
        both = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez(tmp_path / "dermamnist.npz", **{**both, **arrays})

    write(train_labels=labels - labels, test_labels=(labels - labels).reshape(-1))
    assert len(read("dermamnist", tmp_path).samples) == 4
    for arrays in (
        {},
        {"train_labels": labels - 8},
        {"test_labels": labels[:1]},
        {"test_labels": labels / 2},
        {"test_labels": labels.astype(np.int8) - 4},
        {"test_labels": np.zeros((2, 14), dtype=np.uint8)},
        {"test_labels": np.array([{}, {}], dtype=object)},
    ):
        write(**arrays)
        with pytest.raises(DataError, match=r"dermamnist\.npz"):
            read("dermamnist", tmp_path)


def test_sides_move_to_the_front() -> None:
    assert spoken_name("femur-left") == "left femur"
    assert spoken_name("benign keratosis-like lesions") == "benign keratosis-like lesions"


@pytest.mark.parametrize(
    ("folder", "names"),
    [("", "{}.jsonl"), ("data_clean", "{}.jsonl"), ("data_clean", "4_options/phrases_no_exclude_{}.jsonl")],
)
def test_medqa_asks_without_options_from_either_form(tmp_path: Path, folder: str, names: str) -> None:
    medqa(tmp_path / folder, names)
    samples = by_id(read("medqa", tmp_path))
    assert list(samples) == ["train/1", "train/2", "train/3", "test/1", "test/2"]
    sample = samples["test/2"]
    assert (sample.inputs, sample.choices) == ({"question": "Invented question 1: which drug?"}, {})
    assert (sample.reference, sample.labels) == ("Ibuprofen", {"answer_idx": "A", "meta_info": "step1"})
    assert sample.groups == {"document": "test/2"}
    optioned = by_id(read("medqa-options", tmp_path))["test/2"]
    assert optioned.inputs == {**sample.inputs, "options": "A. Ibuprofen\nB. Aspirin"}
    assert (optioned.reference, optioned.choices) == ("A", {"A": "Ibuprofen", "B": "Aspirin"})


def test_medqa_prefers_five_options_and_drops_a_letter_that_does_not_fit(tmp_path: Path) -> None:
    medqa(tmp_path, "4_options/phrases_no_exclude_{}.jsonl")
    medqa(tmp_path)
    path = tmp_path / "questions" / "US" / "test.jsonl"
    write_lines(path, [medqa_row(1, answer_idx="B")])
    reading = read("medqa", tmp_path)
    assert reading.split_method.endswith("questions/US/train.jsonl and questions/US/test.jsonl")
    assert by_id(reading)["test/1"].labels == {"meta_info": "step1"}
    assert reasons(read("medqa-options", tmp_path)) == {"letter and answer name different options": 1}
    path.unlink()
    assert "4_options" in read("medqa", tmp_path).split_method


@pytest.mark.parametrize("line", ["{", '{"question": 1}', "[]"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = medqa(tmp_path) / "questions" / "US" / "test.jsonl"
    path.write_text(f"{json.dumps(medqa_row(1))}\n\n{line}\n")
    with pytest.raises(DataError, match=r"test\.jsonl, line 3"):
        read("medqa", tmp_path)


def test_pubmedqa_splits_by_the_published_test_ids(tmp_path: Path) -> None:
    rows = {"101": pubmedqa_row(), "102": pubmedqa_row("no"), "103": pubmedqa_row("maybe")}
    pubmedqa(tmp_path)
    write_json(tmp_path / "test_ground_truth.json", {"102": "no", "103": "yes", "999": "yes"})
    reading = read("pubmedqa", tmp_path)
    samples = by_id(reading)
    assert {name: sample.split for name, sample in samples.items()} == {"101": "train", "102": "test"}
    assert samples["102"].inputs == {"question": "Does X predict Y?", "context": "Background.\nMethods."}
    assert (samples["102"].reference, samples["102"].groups) == ("no", {"document": "102"})
    assert len(reasons(reading)) == 2
    for name, ids in (("train_set.json", ["101"]), ("test_set.json", ["102", "103"])):
        write_json(tmp_path / "sets" / name, {key: rows[key] for key in ids})
    sets = read("pubmedqa", tmp_path / "sets")
    assert {sample.sample_id: sample.split for sample in sets.samples} == {"101": "train", "102": "test", "103": "test"}


def test_pubmedqa_refuses_another_decision(tmp_path: Path) -> None:
    write_json(pubmedqa(tmp_path) / "ori_pqal.json", {"101": pubmedqa_row("perhaps")})
    with pytest.raises(DataError, match=r"ori_pqal\.json, field 101\.final_decision"):
        read("pubmedqa", tmp_path)


@given(groups=st.sets(st.text(), max_size=60), seed=st.integers(), parts=st.integers(2, 10))
def test_our_split_gives_every_group_one_side_whatever_the_order(groups: set[str], seed: int, parts: int) -> None:
    splits = ranked_split(groups, seed=seed, parts=parts)
    assert set(splits) == groups
    assert splits == ranked_split(sorted(groups, reverse=True), seed=seed, parts=parts)
    tests = sum(split == "test" for split in splits.values())
    assert tests == (max(1, round(len(groups) / parts)) if len(groups) > 1 else 0)


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        ("path-vqa", lambda root: root / "images" / "test" / "test_0001.jpg"),
        ("mimic-cxr", lambda root: root / "files/p10/p4/s4/dicom-4.jpg"),
        ("mpx-single", lambda root: root / "images" / "MPX1002_synpic7.jpg"),
        ("slake-vqa", lambda root: root / "imgs" / "xmlab3" / "source.jpg"),
        ("slake-rec", lambda root: root / "imgs" / "xmlab3" / "source.jpg"),
    ],
)
def test_a_missing_picture_is_always_accounted_for(tmp_path: Path, task: str, spoil: Callable[[Path], Path]) -> None:
    source = NATIVE[task](tmp_path / "native")
    spoil(source).unlink()
    manifest = prepare_task(get_task(task), source, tmp_path / "data", {}).manifest
    assert manifest.counts["test"] == 0
    assert sum(count for reason, count in manifest.skipped_counts.items() if reason.startswith("image is missing"))
    assert "there are no test samples" in manifest.warnings
