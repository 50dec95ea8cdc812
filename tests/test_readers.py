"""Native folders to samples: every layout, every reason to skip, every way a file can be wrong."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_data import (
    NATIVE,
    medmnist,
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
    sa_med2d_bundle,
    sa_med2d_raw,
    slake,
    slake_folder,
    slake_question,
    slice_name,
    write_csv,
    write_json,
    write_lines,
    write_mask,
    write_picture,
)

from PIL import Image

from tasks.catalog import get_task
from tasks.datasets import json_stream
from tasks.datasets.json_stream import stream_object
from tasks.datasets.medmnist import LABEL_SETS, spoken_name
from tasks.datasets.mpx import case_of
from tasks.datasets.native import ranked_split
from tasks.datasets.regions import first_object, parse_box
from tasks.datasets.sa_med2d_raw import SliceName
from tasks.foundation.errors import DataError, UsageError
from tasks.prepare import prepare_task
from tasks.sample import Box, Sample
from tasks.spec import Reading


def read(task: str, source: Path, **options: str) -> Reading:
    return get_task(task).reader(source, options)


def by_id(reading: Reading) -> dict[str, Sample]:
    found = {sample.sample_id: sample for sample in reading.samples}
    assert len(found) == len(reading.samples)
    return found


def reasons(reading: Reading) -> dict[str, int]:
    return dict(Counter(item.reason for item in reading.skipped))


@pytest.mark.parametrize("task", NATIVE)
def test_every_task_reads_its_native_folder(tmp_path: Path, task: str) -> None:
    spec = get_task(task)
    reading = read(task, NATIVE[task](tmp_path / "native"))
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


@pytest.mark.parametrize("task", NATIVE)
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


# Slake


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
    with pytest.raises(DataError, match="test.txt"):
        read("slake-vqa", tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(UsageError, match="seed=x"):
        read("slake-vqa", tmp_path, seed="x")


@pytest.mark.parametrize("content", ["{", "[1]", '[{"qid": "3"}]', "", "\ud83d"])
def test_a_broken_question_file_is_named(tmp_path: Path, content: str) -> None:
    path = slake(tmp_path) / "imgs" / "xmlab2" / "question.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match="xmlab2/question.json"):
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


# Path-VQA


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
    with pytest.raises(DataError, match="test_vqa.pkl"):
        read("path-vqa", tmp_path)


# SA-Med2D


def test_the_raw_release_is_split_by_volume_and_drawn_by_modality(tmp_path: Path) -> None:
    reading = read("sa-med2d-rec", sa_med2d_raw(tmp_path))
    samples = by_id(reading)
    splits: dict[str, set[str]] = {}
    for sample in samples.values():
        splits.setdefault(sample.groups["volume"], set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert Counter(next(iter(found)) for found in splits.values()) == {"train": 10, "test": 2}
    assert Counter(sample.labels["modality"] for sample in samples.values()) == {"ct": 24, "mr": 24}
    one = samples[f"{slice_name('ct_00', 3, 0)}--0002_000"]
    assert (one.reference, one.inputs["object"]) == ("left kidney", "left kidney")
    assert (one.box, one.image_size) == (Box(4, 3, 9, 9), (20, 16))
    assert one.groups == {"image": slice_name("ct_00", 3, 0), "volume": "Abdomen--Case_00003"}
    assert "ours, not the authors'" in reading.split_method


def test_both_sa_med2d_tasks_ask_about_the_same_regions(tmp_path: Path) -> None:
    sa_med2d_raw(tmp_path)
    limits = {"max_per_modality": "5/3"}
    rec, reg = read("sa-med2d-rec", tmp_path, **limits), read("sa-med2d-reg", tmp_path, **limits)
    assert [sample.sample_id for sample in rec.samples] == [sample.sample_id for sample in reg.samples]
    drawn = Counter((sample.labels["modality"], sample.split) for sample in rec.samples)
    assert drawn == {("ct", "train"): 5, ("ct", "test"): 3, ("mr", "train"): 5, ("mr", "test"): 3}


def test_the_index_may_lie_beside_the_folder_of_the_release(tmp_path: Path) -> None:
    sa_med2d_raw(tmp_path / "SAMed2Dv1", cases=3)
    for name in ("SAMed2D_v1.json", "SAMed2D_v1_class_mapping_id.json"):
        (tmp_path / "SAMed2Dv1" / name).rename(tmp_path / name)
    sample = read("sa-med2d-reg", tmp_path).samples[0]
    assert (tmp_path / sample.images[0].path).is_file()


def test_masks_that_are_no_use_are_skipped_and_replaced_in_the_draw(tmp_path: Path) -> None:
    sa_med2d_raw(tmp_path, cases=1, modalities=("ct_00",))
    name = slice_name("ct_00", 0, 0)
    codes = ("0001_000", "0001_001", "0002_000", "0002_001", "0003_000", "0001_bad", "x")
    masks = [f"masks/{name}--{code}.png" for code in codes]
    other = slice_name("ct_00", 1, 0)
    index = {
        f"images/{name}.png": [*masks, "../outside.png"],
        f"images/{other}.png": [f"masks/{other}--0001_000.png"],
        "images/ct_00--odd.png": ["masks/ct_00--odd--0001_000.png"],
    }
    write_json(tmp_path / "SAMed2D_v1.json", index)
    write_mask(tmp_path / masks[1], (21, 16), (0, 0, 3, 3))
    write_mask(tmp_path / masks[2], (20, 16), None)
    reading = read("sa-med2d-rec", tmp_path)
    assert [sample.sample_id for sample in reading.samples] == [f"{name}--0001_000"]
    assert reasons(reading) == {
        "mask and image differ in size": 1,
        "mask is empty": 1,
        "mask is missing, unreadable or outside the folder": 2,
        "class is not in the class mapping": 3,
        "image is missing, unreadable or outside the folder": 1,
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.integers(0, 19),
    top=st.integers(0, 15),
    width=st.integers(1, 20),
    height=st.integers(1, 16),
    value=st.integers(1, 255),
)
def test_a_masks_box_is_the_tight_box_of_its_pixels(
    tmp_path: Path, left: int, top: int, width: int, height: int, value: int
) -> None:
    sa_med2d_raw(tmp_path, cases=1, modalities=("ct_00",))
    pixels = np.zeros((16, 20), dtype=np.uint8)
    pixels[top : top + height, left : left + width] = value
    Image.fromarray(pixels).save(tmp_path / "masks" / f"{slice_name('ct_00', 0, 0)}--0001_000.png")
    box = by_id(read("sa-med2d-reg", tmp_path))[f"{slice_name('ct_00', 0, 0)}--0001_000"].box
    rows, columns = np.nonzero(pixels)
    assert box == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_the_authors_bundle_is_read_in_sorted_order(tmp_path: Path) -> None:
    sa_med2d_bundle(tmp_path)
    late = write_picture(tmp_path / "images_small_test" / "ct" / "zz.png", (40, 80), "L")
    write_json(tmp_path / "regions_small_test" / "ct" / "zz.json", [{"liver": [1, 2, 3, 4]}, {"spleen": [1]}])
    write_json(tmp_path / "regions_small_test" / "ct" / "zzz.json", [{"liver": [1, 2, 3, 4]}])
    reading = read("sa-med2d-rec", tmp_path)
    tests = [sample for sample in reading.samples if sample.split == "test"]
    names = [slice_name(modality, 2, 7) for modality in ("ct", "mr")]
    assert [sample.sample_id for sample in tests] == [
        f"test/ct/{names[0]}/d0",
        "test/ct/zz/d0",
        f"test/mr/{names[1]}/d0",
    ]
    assert (tests[0].box, tests[0].image_size, tests[0].reference) == (Box(3, 7, 14, 36), (40, 80), "liver tumor")
    assert [sample.groups["volume"] for sample in tests[:2]] == ["Abdomen--Case_00002", "zz"]
    assert tests[1].images[0].path == late.relative_to(tmp_path).as_posix()
    assert reasons(reading) == {"box is not a list of four numbers": 1, "image is missing or unreadable": 1}
    assert {sample.labels["modality"] for sample in read("sa-med2d-reg", tmp_path, modalities="x_ray").samples} == {
        "x_ray"
    }


@pytest.mark.parametrize(
    "options",
    [{"max_per_modality": "10"}, {"max_per_modality": "a/b"}, {"max_per_modality": "-1/2"}, {"modalities": " , "}],
)
def test_malformed_options_of_the_raw_release(tmp_path: Path, options: Mapping[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        get_task("sa-med2d-rec").reader(sa_med2d_raw(tmp_path, cases=2), options)


def test_options_of_the_draw_are_refused_for_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_per_modality"):
        read("sa-med2d-rec", sa_med2d_bundle(tmp_path), max_per_modality="1/1")


def test_names_of_slices() -> None:
    name = SliceName.parse("mr_t1--BraTS2021--BraTS2021_00218--z_0141")
    assert name == SliceName("mr_t1", "BraTS2021", "BraTS2021--BraTS2021_00218")
    assert SliceName.parse("case_ct") is None
    assert SliceName.parse("a----b--c") is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.dictionaries(st.text(max_size=5), _JSON, max_size=6),
    chunk=st.integers(1, 20),
    indent=st.sampled_from([None, 2]),
)
def test_an_object_is_streamed_whole_under_any_chunk_size(
    tmp_path: Path, value: dict[str, Any], chunk: int, indent: int | None
) -> None:
    path = tmp_path / "object.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_CHARACTERS", chunk)
        assert dict(stream_object(path)) == value


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a"}', '{"a": [}', '{"a": 1', '{"a": 1,}', '{"a": 1} x', "{1: 2}", '{"a": "b', "nul", '{"a" 1}'],
)
def test_a_broken_index_is_named_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "object.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"object\.json is not one JSON object.*character"):
        dict(stream_object(path))


def test_an_index_that_never_ends_an_entry_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(json_stream, "_LONGEST_ENTRY", 100)
    path = tmp_path / "object.json"
    path.write_text('{"a": "' + "x" * 10_000, encoding="utf-8")
    with pytest.raises(DataError, match="object.json"):
        dict(stream_object(path))


def test_an_index_nested_without_end_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"a": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(DataError, match="nested too deep"):
        dict(stream_object(path))


# MIMIC-CXR


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


# MPx-Single


def test_mpx_keeps_captions(tmp_path: Path) -> None:
    reading = read("mpx-single", mpx_single(tmp_path))
    name = "MPX1002_synpic7.jpg"
    tests = [sample for sample in reading.samples if sample.split == "test"]
    assert [sample.sample_id for sample in tests] == [f"test/{name}/c0", f"test/{name}/c1"]
    assert tests[0].reference == 'A picture, with "quotes",\nand two lines.'
    assert tests[0].groups == {"image": name, "case": "MPX1002"}
    assert reasons(reading) == {"type is not caption but modality": 2}


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,type\na,caption\n", "context"),
        (b"", "name"),
        (b'name,type,context\na,caption,"never closed\n', "CSV"),
        (b"name,type,context\na,caption,\xff\n", "CSV"),
        (b"name,type,context\na,caption," + b"x" * 200_000 + b"\n", "CSV"),
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


# MedMNIST


def test_the_large_file_is_preferred(tmp_path: Path) -> None:
    medmnist(tmp_path, "dermamnist")
    assert read("dermamnist", tmp_path).samples[0].images[0].path == "dermamnist.npz"
    medmnist(tmp_path, "dermamnist_224")
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
    samples = read("organsmnist", medmnist(tmp_path, flag, classes=classes), flag=flag).samples
    asked = get_task("organsmnist").instruction(samples[-1])
    assert asked.endswith(f", or {last}?")
    assert samples[-1].reference == last
    assert {sample.task for sample in samples} == {"organsmnist"}


def test_medmnist_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chestmnist"):
        read("dermamnist", tmp_path, flag="chestmnist")
    images, labels = np.zeros((2, 3, 3), dtype=np.uint8), np.array([[0], [9]], dtype=np.uint8)

    def write(**arrays: Any) -> None:
        both = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez(tmp_path / "dermamnist.npz", **{**both, **arrays})

    write()
    assert reasons(read("dermamnist", tmp_path)) == {"label 9 is not one of 7 classes": 2}
    for arrays in (
        {"test_labels": labels[:1]},
        {"test_labels": labels / 2},
        {"test_labels": labels.astype(np.int8) - 4},
        {"test_labels": np.zeros((2, 14), dtype=np.uint8)},
        {"test_labels": np.array([{}, {}], dtype=object)},
    ):
        write(**arrays)
        with pytest.raises(DataError, match="dermamnist.npz"):
            read("dermamnist", tmp_path)


def test_sides_move_to_the_front() -> None:
    assert spoken_name("femur-left") == "left femur"
    assert spoken_name("benign keratosis-like lesions") == "benign keratosis-like lesions"


# MedQA and PubMedQA


@pytest.mark.parametrize(
    ("folder", "names"),
    [("", "{}.jsonl"), ("data_clean", "{}.jsonl"), ("data_clean", "4_options/phrases_no_exclude_{}.jsonl")],
)
def test_medqa_asks_without_options_and_keeps_them(tmp_path: Path, folder: str, names: str) -> None:
    medqa(tmp_path / folder, names)
    samples = by_id(read("medqa", tmp_path))
    assert list(samples) == ["train/1", "train/2", "train/3", "test/1", "test/2"]
    sample = samples["test/2"]
    assert sample.inputs == {"question": "Invented question 1: which drug?", "options": "(A) Ibuprofen\n(B) Aspirin"}
    assert (sample.reference, sample.labels) == ("Ibuprofen", {"answer_idx": "A", "meta_info": "step1"})
    assert sample.groups == {"document": "test/2"}


def test_medqa_prefers_five_options_and_drops_a_letter_that_does_not_fit(tmp_path: Path) -> None:
    medqa(tmp_path, "4_options/phrases_no_exclude_{}.jsonl")
    medqa(tmp_path)
    path = tmp_path / "questions" / "US" / "test.jsonl"
    write_lines(path, [medqa_row(1, answer_idx="B")])
    reading = read("medqa", tmp_path)
    assert reading.split_method.endswith("questions/US/train.jsonl and questions/US/test.jsonl")
    assert by_id(reading)["test/1"].labels == {"meta_info": "step1"}
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


# Splits


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
