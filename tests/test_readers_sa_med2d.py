"""SA-Med2D: the raw release, its streamed index and the authors' bundle."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_data import (
    sa_med2d_bundle,
    sa_med2d_raw,
    slice_name,
    write_json,
    write_mask,
    write_picture,
)
from PIL import Image
from task_helpers import by_id, read, reasons

from medbench.tasks.catalog import get_task
from medbench.tasks.datasets.sa_med2d import SliceName, stream_index
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.sample import Box


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
    codes = ("0001_000", "0001_001", "0002_000", "0002_001", "0003_000", "0001_bad", "x", "0001_\ud800", "0001_\0")
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
        "mask is missing, unreadable or outside the folder": 4,
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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=4), max_size=6),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    indent=st.sampled_from([None, 2]),
)
def test_an_index_is_streamed_whole_in_any_encoding(
    tmp_path: Path, value: dict[str, list[str]], encoding: str, indent: int | None
) -> None:
    path = tmp_path / "object.json"
    path.write_text(json.dumps(value, indent=indent), encoding=encoding)
    assert dict(stream_index(path)) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"a"}', '{"a": [}', '{"a": []', '{"a": [],}', '{"a": []} x', "{1: []}", '{"a": ["b'),
        *("nul", '{"a" []}', '{"a": "b"}', '{"a": [1]}', '{"a": {}}', '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"),
    ],
)
def test_a_broken_index_is_a_data_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "object.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"object\.json is not one JSON object"):
        dict(stream_index(path))
