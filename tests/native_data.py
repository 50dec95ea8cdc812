"""Tiny folders in the native layout of every dataset; all texts and pictures are invented."""

import csv
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Mask = tuple[int, int, int, int]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_picture(path: Path, size: tuple[int, int] = (33, 77), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(size[0] * size[1], dtype=np.uint32).reshape(size[1], size[0]) % 251
    Image.fromarray(ramp.astype(np.uint8)).convert(mode).save(path)
    return path


def slake_question(number: int, **fields: object) -> dict[str, object]:
    row = {
        "img_id": 1,
        "img_name": "x/source.jpg",
        "question": f"What modality is used in picture {number}?",
        "answer": "MRI",
        "q_lang": "en",
        "answer_type": "OPEN",
        "modality": "MRI",
        "content_type": "Modality",
        "qid": number,
    }
    return {**row, **fields}


def slake_folder(root: Path, name: str, number: int) -> None:
    folder = root / "imgs" / name
    write_picture(folder / "source.jpg")
    rows = [
        slake_question(number),
        slake_question(number + 1, question="这是什么?", q_lang="zh"),
        slake_question(number + 2, answer=""),
    ]
    write_json(folder / "question.json", rows)
    write_json(folder / "detection.json", [{"Liver": [10, 12, 20.5, 15]}, {"Left Lung": [0.0, 0.0, 33.0, 77.0]}])


def slake(root: Path, train: Sequence[str] = ("xmlab1", "xmlab2"), test: Sequence[str] = ("xmlab3",)) -> Path:
    for number, name in enumerate((*train, *test)):
        slake_folder(root, name, number * 10)
    (root / "train.txt").write_text("\n".join(train))
    (root / "test.txt").write_text(" ".join(test))
    return root


def slake_download(root: Path, validation: str = "validate") -> Path:
    """Write images 1 to 3 with their questions in three files for all images, as they are downloaded."""
    for number, split in enumerate(("train", validation, "test"), start=1):
        name = f"xmlab{number}"
        slake_folder(root, name, number * 10)
        (root / "imgs" / name / "question.json").unlink()
        rows = [slake_question(number * 10 + place, img_name=f"{name}/source.jpg") for place in range(2)]
        write_json(root / f"{split}.json", [*rows, slake_question(number * 10 + 5, img_name="xmlab1/source.jpg")])
    return root


def path_vqa_row(img_id: str, number: int, **fields: object) -> dict[str, object]:
    row = {
        "img_id": img_id,
        "question_id": number,
        "question_type": "where",
        "sent": "where are the cells located?",
        "answer_type": "other",
        "label": {"in the canals": 1},
    }
    return {**row, **fields}


def path_vqa(root: Path) -> Path:
    (root / "qas").mkdir(parents=True)
    for split in ("train", "test"):
        img_id = f"{split}_0001"
        rows = [
            path_vqa_row(img_id, 1),
            path_vqa_row(img_id, 2, answer_type="yes/no", label={"no": 1, "yes": 0.3}),
        ]
        (root / "qas" / f"{split}_vqa.pkl").write_bytes(pickle.dumps(rows))
        write_picture(root / "images" / split / f"{img_id}.jpg", mode="CMYK")
    return root


def slice_name(modality: str, case: int, place: int) -> str:
    return f"{modality}--Abdomen--Case_{case:05d}--z_{place:04d}"


def sa_med2d_raw(root: Path, cases: int = 12, modalities: Sequence[str] = ("ct_00", "mr_t1", "x_ray")) -> Path:
    index: dict[str, list[str]] = {}
    for modality in modalities:
        for case in range(cases):
            name = slice_name(modality, case, 0)
            write_picture(root / "images" / f"{name}.png", (20, 16), "L")
            masks = [f"masks/{name}--{code:04d}_000.png" for code in (1, 2)]
            for mask, code in zip(masks, (1, 2), strict=True):
                write_mask(root / mask, (20, 16), (2 + code, 3, 7 + code, 9))
            index[f"images/{name}.png"] = masks
    write_json(root / "SAMed2D_v1.json", index)
    write_json(root / "SAMed2D_v1_class_mapping_id.json", {"Abdomen": {"liver": "0001", "left_kidney": "0002"}})
    return root


def write_mask(path: Path, size: tuple[int, int], box: Mask | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    if box is not None:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(path)
    return path


def sa_med2d_bundle(root: Path) -> Path:
    for split, case in (("train", 1), ("test", 2)):
        for modality in ("ct", "mr", "x_ray"):
            name = slice_name(modality, case, 7)
            write_picture(root / f"images_small_{split}" / modality / f"{name}.png", (40, 80), "L")
            regions = [{"liver tumor": [3.0, 7.0, 11.0, 29.0]}]
            write_json(root / f"regions_small_{split}" / modality / f"{name}.json", regions)
    return root


def mimic_row(number: int, **fields: object) -> dict[str, object]:
    row: dict[str, object] = {
        "id": f"dicom-{number}",
        "study_id": 50000000 + number,
        "subject_id": 10000000 + number,
        "report": "No finding in this invented report.",
        "image_path": [f"p10/p{number}/s{number}/dicom-{number}.jpg", "p10/other.jpg"],
        "split": "train",
    }
    return {**row, **fields}


def mimic_cxr(root: Path, *, inner: str = "files") -> Path:
    rows = {"train": [mimic_row(1), mimic_row(2)], "val": [mimic_row(3)], "test": [mimic_row(4)]}
    write_json(root / "annotation.json", rows)
    for number in (1, 2, 4):
        write_picture(root / inner / f"p10/p{number}/s{number}/dicom-{number}.jpg", mode="L")
    return root


def mimic_report(findings: str = "The lungs are clear.", impression: str = "Normal.") -> str:
    return f" FINAL REPORT\n INDICATION: ___\n\n FINDINGS:\n\n {findings}\n\n IMPRESSION: {impression}\n"


def mimic_view(number: int, view: str = "a", split: str = "train") -> dict[str, str]:
    study, patient = str(50000000 + number), str(10000000 + number)
    return {"dicom_id": f"{number}-{view}", "study_id": study, "subject_id": patient, "split": split}


def mimic_study_path(number: int) -> str:
    return f"p10/p{10000000 + number}/s{50000000 + number}"


def mimic_study(root: Path, number: int, report: str, views: str = "a", reports: str = "files") -> None:
    path = root / reports / f"{mimic_study_path(number)}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report, encoding="utf-8")
    for view in views:
        write_picture(root / "files" / mimic_study_path(number) / f"{number}-{view}.jpg", mode="L")


def mimic_raw(root: Path, reports: str = "files") -> Path:
    """Write studies 1 and 2 for training, 3 for validation, and 4 with two views for testing."""
    rows = [mimic_view(1), mimic_view(2), mimic_view(3, split="validate")]
    rows += [mimic_view(4, "a", "test"), mimic_view(4, "b", "test")]
    write_csv(root / "mimic-cxr-2.0.0-split.csv", rows)
    for number in (1, 2, 3):
        mimic_study(root, number, mimic_report(), reports=reports)
    mimic_study(root, 4, mimic_report("A tube ends at ___\n of the trachea."), "ab", reports=reports)
    return root


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def mpx_row(name: str, **fields: str) -> dict[str, str]:
    return {"name": name, "type": "caption", "context": 'A picture, with "quotes",\nand two lines.', **fields}


def mpx_single(root: Path) -> Path:
    for split, case in (("train", 1001), ("test", 1002)):
        name = f"MPX{case}_synpic7.jpg"
        rows = [mpx_row(name), mpx_row(name, type="modality", context="CT"), mpx_row(name, context="A second caption.")]
        write_csv(root / f"MedPix_single_{split}.csv", rows)
        write_picture(root / "images" / name)
    return root


def medmnist_npz(
    root: Path, name: str = "dermamnist_224", *, classes: int = 7, side: int = 28, grey: bool = False
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for split, rows in (("train", 2 * classes), ("val", 1), ("test", classes)):
        shape = (rows, side, side) if grey else (rows, side, side, 3)
        values = np.arange(np.prod(shape), dtype=np.uint64) % 251
        arrays[f"{split}_images"] = values.astype(np.uint8).reshape(shape)
        arrays[f"{split}_labels"] = (np.arange(rows, dtype=np.uint8) % classes).reshape(-1, 1)
    np.savez_compressed(root / f"{name}.npz", **arrays)
    return root


def medqa_row(number: int, **fields: object) -> dict[str, object]:
    row: dict[str, object] = {
        "question": f"Invented question {number}: which drug?",
        "answer": "Ibuprofen",
        "options": {"B": "Aspirin", "A": "Ibuprofen"},
        "meta_info": "step1",
        "answer_idx": "A",
    }
    return {**row, **fields}


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def medqa(root: Path, names: str = "{}.jsonl") -> Path:
    for split, count in (("train", 3), ("test", 2)):
        write_lines(root / "questions" / "US" / names.format(split), [medqa_row(n) for n in range(count)])
    return root


def pubmedqa_row(decision: str = "yes") -> dict[str, object]:
    return {
        "QUESTION": "Does X predict Y?",
        "CONTEXTS": ["Background.", "Methods."],
        "LABELS": ["BACKGROUND", "METHODS"],
        "final_decision": decision,
        "LONG_ANSWER": "It does.",
    }


def pubmedqa(root: Path) -> Path:
    rows = {"101": pubmedqa_row(), "102": pubmedqa_row("no"), "103": pubmedqa_row("maybe")}
    write_json(root / "ori_pqal.json", rows)
    write_json(root / "test_ground_truth.json", {"102": "no"})
    return root


def noise(path: Path, number: int, size: tuple[int, int] = (96, 80)) -> Path:
    """Write a smooth picture of its own: two of different numbers are not alike, however they are scaled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(drawn).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def busi(root: Path) -> Path:
    """Write ten pictures of each class with their masks; no two are alike."""
    for place, name in enumerate(("benign", "malignant", "normal")):
        for number in range(1, 11):
            noise(root / name / f"{name} ({number}).png", 100 * place + number)
            write_mask(root / name / f"{name} ({number})_mask.png", (96, 80), (2, 3, 9, 9))
    write_mask(root / "benign" / "benign (4)_mask_1.png", (96, 80), (2, 3, 9, 9))
    return root


def covid_ct(root: Path) -> Path:
    lists = {
        "COVID": {
            "train": ["2020.01.24.919183-p27-132.png", "2020.03.12.20034686-p17-91-3.png", "bmj.m606.full-p4-22%0.png"],
            "val": ["2020.03.13.20035871-p15-74-1.png"],
            "test": ["2020.03.12.20034686-p17-91-1.png", "PIIS0140673620301549_0%1.png"],
        },
        "NonCOVID": {"train": ["14.png", "34.jpg", "35%0.jpg"], "val": ["20.jpg"], "test": ["0.jpg", "14%0.jpg"]},
    }
    for kind, parts in lists.items():
        for part, names in parts.items():
            path = root / "Data-split" / kind / f"{part}CT_{kind}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names), encoding="utf-8")
            for name in names:
                write_picture(root / "Images-processed" / f"CT_{kind}" / name)
    return root


def chest_xray(root: Path) -> Path:
    for name in (
        *("train/NORMAL/IM-0115-0001.jpeg", "train/NORMAL/NORMAL2-IM-0383-0001.jpeg"),
        *("train/PNEUMONIA/person1_bacteria_1.jpeg", "train/PNEUMONIA/person1_bacteria_2.jpeg"),
        *("test/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_6.jpeg"),
    ):
        write_picture(root / name, mode="L")
    return root


def organsmnist(root: Path) -> Path:
    return medmnist_npz(root, "organsmnist", classes=11, grey=True)


NATIVE = {
    "medqa": medqa,
    "pubmedqa": pubmedqa,
    "slake-vqa": slake,
    "path-vqa": path_vqa,
    "slake-rec": slake,
    "sa-med2d-rec": sa_med2d_raw,
    "slake-reg": slake,
    "sa-med2d-reg": sa_med2d_bundle,
    "mimic-cxr": mimic_cxr,
    "mpx-single": mpx_single,
    "dermamnist": medmnist_npz,
    "organsmnist": organsmnist,
}
"""What makes a native folder for each of the 12 tasks."""

ON_REQUEST = {"busi": busi, "covid-ct": covid_ct, "chest-xray": chest_xray}
"""The same for the tasks beside the benchmark."""
