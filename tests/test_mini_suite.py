"""The committed mini suite against its manifest, its promises, and its build."""

import csv
import gzip
import io
import json
import pickle
import re
import struct
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from click.testing import CliRunner
from fixture_root import realdata
from PIL import Image

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.suite import DATA
from tools.mini_suite import mimic_cxr, path_vqa, text_qa
from tools.mini_suite.__main__ import BYTE_BUDGET, main
from tools.mini_suite.chest_films import Findings, Side, draw_chest
from tools.mini_suite.chest_reports import draw_case
from tools.mini_suite.nifti import read_volume
from tools.mini_suite.part import Part
from tools.mini_suite.seeds import generator, shuffled

TASKS = {
    "dermamnist",
    "medqa",
    "medqa-options",
    "mimic-cxr",
    "mpx-single",
    "organsmnist",
    "path-vqa",
    "pubmedqa",
    "pubmedqa-context",
    "sa-med2d-rec",
    "sa-med2d-reg",
    "slake-rec",
    "slake-reg",
    "slake-vqa",
}
REDISTRIBUTABLE = {"Apache-2.0", "Apache-2.0 AND CC-BY-4.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "MIT"}
SPLITS = ("train", "test")

Row = dict[str, Any]
Json = Any


class BuiltinsOnly(pickle.Unpickler):
    """Refuses every global: the pickles of the suite hold plain data."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")


def suite() -> Row:
    return dict(json.loads((DATA / "suite.json").read_text(encoding="utf-8")))


def json_of(path: str) -> Json:
    return json.loads((DATA / path).read_text(encoding="utf-8"))


def path_vqa_rows(split: str) -> list[Row]:
    rows = BuiltinsOnly(io.BytesIO((DATA / f"pvqa/qas/{split}_vqa.pkl").read_bytes())).load()
    assert isinstance(rows, list)
    return rows


def slake_folders(split: str) -> list[str]:
    return (DATA / f"Slake1.0/{split}.txt").read_text(encoding="utf-8").split()


def slake_rows(split: str, name: str) -> list[Row]:
    return [row for folder in slake_folders(split) for row in json_of(f"Slake1.0/imgs/{folder}/{name}.json")]


def medpix_rows(split: str) -> list[Row]:
    with (DATA / f"MedPix/MedPix_single_{split}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def medqa_questions(split: str) -> list[str]:
    lines = (DATA / f"MedQA/questions/US/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def flat(tree: Row, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in tree.items():
        found |= {prefix + name: value} if isinstance(value, str) else flat(value, f"{prefix}{name}/")
    return found


def native_counts() -> dict[str, dict[str, int]]:
    """Count samples in the native files, without the readers of `medbench.tasks.datasets`."""
    pubmed, truth = json_of("PubMedQA/ori_pqal.json"), json_of("PubMedQA/test_ground_truth.json")
    annotation = json_of("MIMIC-CXR/annotation.json")
    boxes = {split: len(slake_rows(split, "detection")) for split in SPLITS}
    regions = {"total": sum(map(len, json_of("SAMed2Dv1/SAMed2D_v1.json").values()))}
    medqa = {split: len(medqa_questions(split)) for split in SPLITS}
    decisions = {"train": len(pubmed.keys() - truth.keys()), "test": len(truth)}
    arrays = {flag: np.load(DATA / f"MedMNIST/{flag}.npz") for flag in ("retinamnist", "breastmnist")}
    return {
        "dermamnist": {split: len(arrays["retinamnist"][f"{split}_labels"]) for split in SPLITS},
        "organsmnist": {split: len(arrays["breastmnist"][f"{split}_labels"]) for split in SPLITS},
        "medqa": medqa,
        "medqa-options": medqa,
        "pubmedqa": decisions,
        "pubmedqa-context": decisions,
        "mimic-cxr": {split: len(annotation[split]) for split in SPLITS},
        "mpx-single": {
            split: sum(row["type"] == "caption" and row["context"] != "" for row in medpix_rows(split))
            for split in SPLITS
        },
        "path-vqa": {split: len(path_vqa_rows(split)) for split in SPLITS},
        "slake-vqa": {split: sum(row["answer"] != "" for row in slake_rows(split, "question")) for split in SPLITS},
        "slake-rec": boxes,
        "slake-reg": boxes,
        "sa-med2d-rec": regions,
        "sa-med2d-reg": regions,
    }


def test_manifest_lists_exactly_the_committed_bytes() -> None:
    listed = flat(suite()["files"])
    there = {path.relative_to(DATA).as_posix(): path for path in DATA.rglob("*") if path.is_file()}
    del there["suite.json"]
    assert {name: file_sha256(path) for name, path in there.items()} == listed


def test_suite_is_within_its_budget() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) <= BYTE_BUDGET


def test_counts_of_the_manifest_are_those_of_the_native_files() -> None:
    tasks = suite()["tasks"]
    assert set(tasks) == TASKS
    assert {name: task["counts"] for name, task in tasks.items()} == native_counts()


def test_every_test_split_has_between_40_and_400_samples() -> None:
    sizes = {name: task["counts"].get("test", 40) for name, task in suite()["tasks"].items()}
    assert all(40 <= size <= 400 for size in sizes.values()), sizes
    cases: Counter[str] = Counter()
    for image, masks in json_of("SAMed2Dv1/SAMed2D_v1.json").items():
        cases["--".join(image.split("--")[1:3])] += len(masks)
    regions = sorted(cases.values())
    sixth = round(len(regions) / 6)
    assert sum(regions[:sixth]) >= 40, "the smallest sixth of the cases that a seed can choose"
    assert sum(regions[-sixth:]) <= 400, "the largest one"


def test_every_material_has_a_licence_that_allows_redistribution() -> None:
    document, text = suite(), (DATA.parent / "LICENSES.md").read_text(encoding="utf-8")
    for material in document["materials"].values():
        assert material["licence"] in REDISTRIBUTABLE
        assert material["origin"] in {"real", "stand-in", "phantom"}
        assert all(material[key] for key in ("title", "attribution", "retrieved_from", "changes"))
        assert f"## {material['title']}\n" in text
        assert material["attribution"] in text


def test_every_image_belongs_to_an_item_with_a_material() -> None:
    document = suite()
    patterns: dict[str, list[str]] = {}
    for task in document["tasks"].values():
        for pattern, value in task["items"].items():
            assert set(value.split(":")[0].split("+")) <= set(document["materials"])
            patterns.setdefault(task["source"], []).append(pattern)
    for path in flat(document["files"]):
        folder, _, rest = path.partition("/")
        if rest.endswith((".jpg", ".png", ".npz")):
            # A mask belongs to the item of its image, whose name it begins with.
            names = {rest, Path(rest).stem, Path(rest).parent.name, Path(rest).stem.rpartition("--")[0]}
            assert any(fnmatchcase(name, pattern) for name in names for pattern in patterns[folder]), path


def test_no_question_document_or_patient_crosses_splits() -> None:
    assert not set(medqa_questions("train")) & set(medqa_questions("test"))
    truth = json_of("PubMedQA/test_ground_truth.json")
    rows = json_of("PubMedQA/ori_pqal.json")
    assert {key: rows[key]["final_decision"] for key in truth} == truth
    patients = [{row["subject_id"] for row in part} for part in json_of("MIMIC-CXR/annotation.json").values()]
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_no_picture_crosses_splits_or_visual_question_tasks() -> None:
    pictures: Counter[str] = Counter()
    for path, digest in flat(suite()["files"]).items():
        if path.endswith(".jpg"):
            pictures[digest] += 1
    assert max(pictures.values()) == 1
    tasks = suite()["tasks"]
    sources = [
        value for name in ("slake-vqa", "path-vqa") for value in tasks[name]["items"].values() if "synpic" in value
    ]
    assert len(sources) == len(set(sources)) > 200
    assert not set(slake_folders("train")) & set(slake_folders("test"))
    assert not {row["img_id"] for row in path_vqa_rows("train")} & {row["img_id"] for row in path_vqa_rows("test")}


def test_axial_test_slices_keep_their_distance_from_train_slices() -> None:
    items = suite()["tasks"]["slake-rec"]["items"]
    levels = {split: set[int]() for split in SPLITS}
    for split in SPLITS:
        for folder in slake_folders(split):
            if folder in items:
                levels[split].add(int(items[folder].rpartition("z=")[2]))
    assert min(abs(one - other) for one in levels["train"] for other in levels["test"]) >= 6


def test_slake_rows_have_the_native_schema_and_an_empty_answer() -> None:
    keys = ["img_id", "img_name", "question", "answer", "q_lang", "location", "modality", "answer_type"]
    keys += ["base_type", "content_type", "triple", "qid"]
    for split in SPLITS:
        rows = slake_rows(split, "question")
        assert all(list(row) == keys for row in rows)
        assert sum(row["answer"] == "" for row in rows) == 1
        assert len({row["qid"] for row in rows}) == len(rows)


def test_slake_boxes_lie_in_their_picture_and_left_is_on_the_right() -> None:
    compared = 0
    for split in SPLITS:
        for folder in slake_folders(split):
            with Image.open(DATA / f"Slake1.0/imgs/{folder}/source.jpg") as image:
                width, height = image.size
            boxes: dict[str, list[float]] = {}
            for entry in json_of(f"Slake1.0/imgs/{folder}/detection.json"):
                boxes |= entry
            for left, top, wide, high in boxes.values():
                assert left >= 0
                assert top >= 0
                assert left + wide <= width
                assert top + high <= height
                assert min(wide, high) >= 6
            for name in boxes:
                if name.startswith("Left ") and (other := boxes.get(name.replace("Left", "Right"))):
                    compared += 1
                    assert boxes[name][0] + boxes[name][2] / 2 > other[0] + other[2] / 2
    assert compared > 300


def test_sa_med2d_names_masks_and_classes_follow_the_release() -> None:
    index = json_of("SAMed2Dv1/SAMed2D_v1.json")
    classes = json_of("SAMed2Dv1/SAMed2D_v1_class_mapping_id.json")
    known = {(dataset, number) for dataset, names in classes.items() for number in names.values()}
    form = re.compile(r"masks/[a-z0-9_]+--(\w+)--[\w-]+--[xyz]_\d{4}--(\d{4})_\d{3}\.png")
    for image, masks in index.items():
        with Image.open(DATA / "SAMed2Dv1" / image) as picture:
            size = picture.size
        for mask in masks:
            found = form.fullmatch(mask)
            assert found, mask
            assert found.groups() in known
            with Image.open(DATA / "SAMed2Dv1" / mask) as opened:
                values = np.asarray(opened)
                assert (opened.size, opened.mode) == (size, "L")
            assert set(np.unique(values).tolist()) == {0, 255}
    files = {path.relative_to(DATA / "SAMed2Dv1").as_posix() for path in (DATA / "SAMed2Dv1").rglob("*.png")}
    assert files == set(index) | {mask for masks in index.values() for mask in masks}


def test_chest_ids_are_visibly_synthetic_and_reports_short() -> None:
    rows = [row for part in json_of("MIMIC-CXR/annotation.json").values() for row in part]
    assert all(row["id"].startswith("phantom-") and str(row["subject_id"])[0] == "9" for row in rows)
    assert all(15 <= len(row["report"].split()) <= 35 for row in rows)
    assert all((DATA / "MIMIC-CXR/files" / row["image_path"][0]).is_file() for row in rows)
    assert max(Counter(row["report"] for row in rows).values()) < len(rows) / 40


def test_medpix_has_every_kind_of_row_and_missing_captions() -> None:
    for split in SPLITS:
        rows = medpix_rows(split)
        assert {row["type"] for row in rows} == {"caption", "modality", "plane"}
        assert sum(row["context"] == "" for row in rows) == 2
        assert all((DATA / "MedPix/images" / row["name"]).is_file() for row in rows)


def test_a_report_says_what_the_film_shows() -> None:
    for number in range(60):
        findings, report = draw_case(generator("test", number))
        said = report.lower()
        assert ("cardiomegaly" in said or "ly enlarged" in said) == (findings.heart != "normal")
        for side, amount in findings.effusions:
            assert re.search(rf"{amount} ({side} )?pleural effusion( is present on the {side})?", said)
        sides = set(re.findall(r"a (right|left) pneumothorax|a pneumothorax is present on the (right|left)", said))
        assert {"".join(pair) for pair in sides} == ({findings.pneumothorax} if findings.pneumothorax else set())
        if findings.consolidation:
            side, zone = findings.consolidation
            assert re.search(rf"(consolidation|opacity) in the {side} {zone} (lung )?zone", said)


@pytest.mark.parametrize(("side", "columns"), [("right", slice(14, 40)), ("left", slice(64, 90))])
def test_fluid_is_bright_on_the_side_that_the_report_names(side: Side, columns: slice) -> None:
    fluid = draw_chest(Findings(effusions=((side, "large"),)), generator("test", side))
    clear = draw_chest(Findings(), generator("test", side))
    other = slice(64, 90) if side == "right" else slice(14, 40)
    base = slice(60, 72)
    brighter = fluid[base, columns].mean() / clear[base, columns].mean()
    assert brighter > 1.15 * fluid[base, other].mean() / clear[base, other].mean()


def test_a_film_is_drawn_again_as_it_was_committed() -> None:
    row = json_of("MIMIC-CXR/annotation.json")["test"][0]
    random = generator("mimic-cxr", row["study_id"])
    findings, report = draw_case(random)
    film = draw_chest(findings, random) * 255
    with Image.open(DATA / "MIMIC-CXR/files" / row["image_path"][0]) as image:
        committed = np.asarray(image).astype(np.float64)
    assert report == row["report"]
    # JPEG loses a few grey levels, and other processors may round the last bit otherwise.
    assert np.abs(film - committed).mean() < 4


def real_sources() -> Path:
    return realdata("pubmedqa").parent


@pytest.mark.parametrize("build", [text_qa.build_medqa, text_qa.build_pubmedqa, path_vqa.build])
def test_a_part_is_built_again_to_the_same_bytes(build: Callable[[Path], Part]) -> None:
    part = build(real_sources())
    assert part.files
    assert [path for path, content in part.files.items() if (DATA / path).read_bytes() != content] == []


def test_one_part_can_be_built_from_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "suite"
    arguments = ["--realdata", str(real_sources()), "--output", str(output), "--part", "pubmedqa"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert file_sha256(output / "PubMedQA/ori_pqal.json") == file_sha256(DATA / "PubMedQA/ori_pqal.json")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1, "a folder without suite.json is not ours to replace"
    assert (output / "PubMedQA/ori_pqal.json").is_file()


def test_a_missing_source_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ori_pqal\.json is missing"):
        text_qa.build_pubmedqa(tmp_path)


def nifti(path: Path, *, step: float = 1.0, kind: int = 2) -> Path:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<4h", header, 40, 3, 2, 3, 4)
    struct.pack_into("<h", header, 70, kind)
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<12f", header, 280, step, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header) + bytes(range(24))))
    return path


def test_nifti_runs_x_first(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii.gz"))
    assert volume.shape == (2, 3, 4)
    assert [volume[1, 0, 0], volume[0, 1, 0], volume[0, 0, 1]] == [1, 2, 6]


@pytest.mark.parametrize(("step", "kind"), [(-1.0, 2), (1.0, 16)])
def test_nifti_refuses_other_axes_and_types(tmp_path: Path, step: float, kind: int) -> None:
    with pytest.raises(DataError):
        read_volume(nifti(tmp_path / "a.nii.gz", step=step, kind=kind))


def test_shuffling_depends_on_the_names_alone() -> None:
    assert shuffled(range(20), "a") == shuffled(range(20), "a")
    assert shuffled(range(20), "a") != shuffled(range(20), "b")
    assert sorted(shuffled(range(20), "a")) == list(range(20))


def test_patients_have_one_or_two_studies() -> None:
    rows = json_of("MIMIC-CXR/annotation.json")
    assert {split: len(part) for split, part in rows.items()} == mimic_cxr.STUDIES
    assert set(Counter(row["subject_id"] for row in rows["train"]).values()) == {1, 2}
