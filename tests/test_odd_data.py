"""Data sets as people have them on disk: saved by Windows, walked by file managers, made again by scripts."""

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from native_data import (
    medmnist_npz,
    medqa,
    mimic_cxr,
    mimic_raw,
    mimic_row,
    mpx_single,
    path_vqa,
    path_vqa_row,
    pubmedqa,
    sa_med2d_bundle,
    sa_med2d_raw,
    slake,
    slake_question,
    write_json,
    write_picture,
)
from task_helpers import by_id, read, reasons

from medbench.tasks import suite
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.images import open_image
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import load_prepared

TEXTS = {".json", ".jsonl", ".csv", ".txt"}
MAKERS: Mapping[str, Callable[..., Path]] = {
    "slake-vqa": slake,
    "medqa": medqa,
    "pubmedqa": pubmedqa,
    "mimic-cxr": mimic_cxr,
    "mimic-cxr-both": mimic_raw,
    "mpx-single": mpx_single,
    "sa-med2d-rec": sa_med2d_raw,
    "sa-med2d-reg": sa_med2d_bundle,
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("task", MAKERS)
def test_a_data_set_that_windows_saved_is_the_same_data_set(tmp_path: Path, task: str, encoding: str) -> None:
    source = MAKERS[task](tmp_path)
    before = read(task, source)
    for path in source.rglob("*"):
        if path.suffix in TEXTS:
            path.write_bytes(path.read_text("utf-8").replace("\n", "\r\n").encode(encoding))
    after = read(task, source)
    assert [sample.sample_id for sample in after.samples] == [sample.sample_id for sample in before.samples]
    whitespace = [" ".join(sample.reference.split()) for sample in before.samples]
    assert [" ".join(sample.reference.split()) for sample in after.samples] == whitespace
    assert reasons(after) == reasons(before)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "._xmlab3", ".git"])
def test_what_a_system_leaves_moves_no_split_and_is_no_item(tmp_path: Path, name: str) -> None:
    slake(tmp_path, train=[f"xmlab{number}" for number in range(12)])
    for listed in ("train.txt", "test.txt"):
        (tmp_path / listed).unlink()
    before = read("slake-vqa", tmp_path)
    (tmp_path / "imgs" / name).mkdir()
    assert read("slake-vqa", tmp_path) == before
    bundle = sa_med2d_bundle(tmp_path / "bundle")
    regions = next((bundle / "regions_small_test").glob("ct/*.json"))
    regions.with_name(f"._{regions.name}").write_bytes(b"\0\5\x16\7")
    assert not read("sa-med2d-rec", bundle).skipped


@pytest.mark.parametrize("report", ["NaN", "null", '""', '" "'])
def test_a_report_that_is_not_there_costs_its_own_row_alone(tmp_path: Path, report: str) -> None:
    rows = {"train": [mimic_row(1)], "test": [mimic_row(2, report="TAKEN OUT"), mimic_row(4)]}
    write_json(mimic_cxr(tmp_path) / "annotation.json", rows)
    path = tmp_path / "annotation.json"
    path.write_text(path.read_text().replace('"TAKEN OUT"', report))
    reading = read("mimic-cxr", tmp_path)
    assert len(reading.samples) == 2
    assert reasons(reading) == {"report is empty": 1}


def test_so_does_a_missing_text_of_every_other_data_set(tmp_path: Path) -> None:
    slake(tmp_path / "slake")
    rows = [slake_question(1, question=None), slake_question(2, answer=float("nan")), slake_question(3)]
    write_json(tmp_path / "slake/imgs/xmlab3/question.json", rows)
    expected = {"question is empty": 1, "answer is empty": 3, "question is not in English": 2}
    assert reasons(read("slake-vqa", tmp_path / "slake")) == expected
    pubmedqa(tmp_path / "pubmedqa")
    path = tmp_path / "pubmedqa/ori_pqal.json"
    path.write_text(path.read_text().replace('"maybe"', "NaN").replace('"yes"', '" Yes"'))
    reading = read("pubmedqa", tmp_path / "pubmedqa")
    assert (by_id(reading)["101"].reference, reasons(reading)) == ("yes", {"final_decision is empty": 1})
    medqa(tmp_path / "medqa")
    path = tmp_path / "medqa/questions/US/test.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**row, "question": None}) + "\n" + json.dumps({**row, "answer": float("nan")}))
    assert reasons(read("medqa", tmp_path / "medqa")) == {"question is empty": 1, "answer is empty": 1}


@pytest.mark.parametrize(
    ("native", "label"), [("OPEN ", "OPEN"), ("open", "OPEN"), ("\u00a0Closed\n", "CLOSED"), (None, None)]
)
def test_an_answer_type_is_read_in_any_case_and_with_blanks(
    tmp_path: Path, native: str | None, label: str | None
) -> None:
    slake(tmp_path)
    write_json(tmp_path / "imgs/xmlab3/question.json", [slake_question(1, answer_type=native, q_lang="EN ")])
    assert by_id(read("slake-vqa", tmp_path))["xmlab3/q1"].labels.get("answer_type") == label


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_with_numbers_and_texts_of_numpy_is_read(tmp_path: Path, protocol: int) -> None:
    path_vqa(tmp_path)
    rows = [
        path_vqa_row("test_0001", 1, question_id=np.int64(200001001), label={np.str_("é"): np.float32(0.5)}),
        path_vqa_row("test_0001", 2, answer_type="Yes/No ", label={"no": np.uint8(1)}),
    ]
    (tmp_path / "qas/test_vqa.pkl").write_bytes(pickle.dumps(rows, protocol=protocol))
    samples = by_id(read("path-vqa", tmp_path))
    assert samples["test_0001/q200001001"].reference == "é"
    assert samples["test_0001/q2"].labels["answer_type"] == "CLOSED"


Change = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def arrays(folder: Path, **changed: Change) -> None:
    path = medmnist_npz(folder) / "dermamnist_224.npz"
    with np.load(path) as stored:
        whole: dict[str, Any] = dict(stored)
    whole |= {name: change(whole[name]) for name, change in changed.items()}
    np.savez(path, **whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test_images": lambda images: images / 255}, r"float64.*astype\('uint8'\)"),
        ({"train_images": lambda images: images.astype(np.int16)}, "int16"),
        ({"test_images": lambda images: np.moveaxis(images, -1, 1)}, "channels come first"),
        ({"test_images": lambda images: np.repeat(images[..., :1], 28, axis=3)}, "Volumes"),
        ({"test_images": lambda images: images[..., :2]}, r"\[7, 28, 28, 2\]"),
        ({"test_labels": lambda labels: labels + 1}, "go from 1 to 7; the 7 classes are 0 to 6"),
        ({"test_labels": lambda labels: labels.astype(np.int64) - 1}, "go from -1 to 5"),
        ({"test_labels": lambda labels: np.eye(len(labels), dtype=np.uint8)}, r"\[7, 7\]; expected whole numbers"),
        ({"test_labels": lambda labels: labels.astype(np.float32)}, "float32"),
    ],
)
def test_arrays_of_another_form_are_refused_when_they_are_prepared(
    tmp_path: Path, changed: dict[str, Change], said: str
) -> None:
    arrays(tmp_path, **changed)
    with pytest.raises(DataError, match=f"(?s){said}"):
        read("dermamnist", tmp_path)


def test_one_channel_and_flat_labels_are_read(tmp_path: Path) -> None:
    arrays(tmp_path, test_images=lambda images: images[..., :1], test_labels=lambda labels: labels.reshape(-1))
    done = prepare_task(get_task("dermamnist"), tmp_path, tmp_path / "data", {})
    sample = done.samples("test")[3]
    assert load_prepared(tmp_path / "data", "dermamnist").manifest == done.manifest
    assert np.asarray(open_image(done.source, sample.images[0])).shape == (28, 28, 3)


@pytest.mark.parametrize(("name", "side"), [("dermamnist", 28), ("dermamnist_64", 64), ("dermamnist_224", 28)])
def test_another_size_than_the_papers_is_said(tmp_path: Path, name: str, side: int) -> None:
    medmnist_npz(tmp_path, name, side=side)
    done = prepare_task(get_task("dermamnist"), tmp_path, tmp_path / "data", {})
    [warning] = done.manifest.warnings
    assert f"{side} x {side} pixels, the paper's 224 x 224" in warning


@pytest.mark.parametrize(
    ("there", "named"),
    [("d1.png", "d1.png"), ("D1.JPG", "D1.JPG"), ("d1.jpg", "there is files/p10/s1/d1.jpg"), ("d2.jpg", None)],
)
def test_a_missing_picture_is_named_with_what_is_there_instead(tmp_path: Path, there: str, named: str | None) -> None:
    written = "p10\\s1\\d1.jpg" if there == "d1.jpg" else "p10/s1/d1.jpg"
    rows = [mimic_row(number, image_path=[written]) for number in range(5)]
    write_json(tmp_path / "annotation.json", {"train": [], "test": rows})
    write_picture(tmp_path / "files/p10/s1" / there)
    with pytest.raises(DataError) as raised:
        prepare_task(get_task("mimic-cxr"), tmp_path, tmp_path / "data", {})
    assert f"5 x image is missing. 1 files are missing; looked for files/{written}" in raised.value.problem
    assert (named or "there is") in raised.value.problem if named else "there is" not in raised.value.problem


def test_missing_pictures_among_others_are_a_warning(tmp_path: Path) -> None:
    mimic_cxr(tmp_path)
    (tmp_path / "files/p10/p2/s2/dicom-2.jpg").unlink()
    done = prepare_task(get_task("mimic-cxr"), tmp_path, tmp_path / "data", {})
    assert any("looked for files/p10/p2/s2/dicom-2.jpg" in warning for warning in done.manifest.warnings)


def test_a_folder_whose_name_is_no_text_is_refused_and_a_link_to_it_is_not(tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    slake(place)
    for source, data in ((place, tmp_path / "data"), (slake(tmp_path / "plain"), place / "data")):
        with pytest.raises(UsageError, match="not UTF-8"):
            prepare_task(get_task("slake-vqa"), source, data, {})
    (tmp_path / "link").symlink_to(place)
    assert prepare_task(get_task("slake-vqa"), tmp_path / "link", tmp_path / "data", {}).manifest.counts["test"] == 1


def test_an_edited_check_prepares_the_suite_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_json(tmp_path / "suite.json", {"tasks": {}}).parent
    before = suite.prepare_suite(source, tmp_path / "cache")
    for name in ("prepare.py", "images.py", "files.py", "slake.py"):
        monkeypatch.setattr(
            suite, "file_sha256", lambda path, name=name: "x" if path.name == name else file_sha256(path)
        )
        assert suite.prepare_suite(source, tmp_path / "cache") != before
