"""Data beside the benchmark: BUSI, COVID-CT and Kermany's chest X-rays, their groups, and that only their names ask."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_data import ON_REQUEST, busi, chest_xray, covid_ct, noise, write_mask, write_picture
from PIL import Image
from task_helpers import by_id, read, reasons

from medbench.tasks.answers.choice import read_choice
from medbench.tasks.catalog import benchmark_names, get_task, main_task_names, select_among, select_tasks
from medbench.tasks.datasets.folders import LABEL_SETS, paper_of, patient_of
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.spec import Reading


def sides(reading: Reading) -> dict[str, set[str]]:
    """Return the splits in which each case has pictures."""
    found: dict[str, set[str]] = {}
    for sample in reading.samples:
        found.setdefault(sample.groups["case"], set()).add(sample.split)
    return found


def drawn_by_class(reading: Reading) -> dict[str, int]:
    tests = [sample.reference for sample in reading.samples if sample.split == "test"]
    return {name: tests.count(name) for name in LABEL_SETS["busi"].names}


@pytest.mark.parametrize("task", ON_REQUEST)
def test_only_its_name_asks_for_it(task: str) -> None:
    assert not {task} & {*benchmark_names(), *main_task_names(), *select_tasks("all,cls")}
    assert select_tasks(task) == (task,)
    with pytest.raises(UsageError):
        select_tasks(f"{task[:-1]}*")
    there = ("dermamnist", task)
    assert select_among("prepared", there) == (("dermamnist",), (task,))
    assert select_among(f"prepared,{task}", there).names == there


@pytest.mark.parametrize("task", ON_REQUEST)
def test_classes_are_asked_and_read_back(task: str, tmp_path: Path) -> None:
    spec = get_task(task)
    assert spec.choices == LABEL_SETS[task].names
    samples = read(task, ON_REQUEST[task](tmp_path)).samples
    assert {sample.reference for sample in samples} == set(spec.choices)
    for sample in samples:
        assert sample.choices == spec.choices_by_key()
        assert all(name in spec.instruction(sample) for name in spec.choices)
        assert read_choice(f"The image is {sample.reference}.", sample.choices) == sample.reference


@pytest.mark.parametrize("task", ON_REQUEST)
def test_it_is_prepared_and_says_what_is_not_known(task: str, tmp_path: Path) -> None:
    manifest = prepare_task(get_task(task), ON_REQUEST[task](tmp_path / "native"), tmp_path / "data", {}).manifest
    assert all(manifest.counts.values())
    assert any("patient" in warning for warning in manifest.warnings)
    assert not any("are in train and in test" in warning for warning in manifest.warnings)


# BUSI


def test_busi_is_split_class_by_class_and_masks_are_no_pictures(tmp_path: Path) -> None:
    reading = read("busi", busi(tmp_path / "Dataset_BUSI_with_GT"))
    assert len(reading.samples) == 30
    assert reading.skipped == ()
    assert drawn_by_class(reading) == {"benign": 2, "malignant": 2, "normal": 2}
    assert reading.split_method.endswith("4:1 in each class, alike pictures together, seed 42")
    assert len(reading.warnings) == 1
    again = read("busi", tmp_path, seed="42").samples
    assert [one.split for one in again] == [one.split for one in reading.samples]
    other = read("busi", tmp_path, seed="7")
    assert [one.split for one in other.samples] != [one.split for one in reading.samples]


def test_pictures_that_are_alike_are_one_case_on_one_side(tmp_path: Path) -> None:
    source = busi(tmp_path)
    copied = source / "benign" / "benign (1).png"
    (source / "malignant" / "malignant (11).png").write_bytes(copied.read_bytes())
    with Image.open(copied) as image:
        image.resize((72, 66)).convert("RGB").save(source / "benign" / "benign (12).jpg", quality=80)
        Image.fromarray(255 - np.asarray(image)).save(source / "normal" / "normal (13).png")
    for seed in range(12):
        reading = read("busi", source, seed=str(seed))
        assert all(len(splits) == 1 for splits in sides(reading).values())
        assert sum(sample.groups["case"] == "benign/benign (1).png" for sample in reading.samples) == 4
    assert len(sides(reading)) == 30
    assert "4 pictures are equal or nearly equal to another; all pictures are of 30 cases" in reading.warnings
    assert reading.warnings[-1] == "cases with pictures of several classes, whose labels contradict one another: 1"


def test_busi_without_a_class_or_with_a_broken_picture_is_read_with_reasons(tmp_path: Path) -> None:
    source = busi(tmp_path)
    for path in (source / "normal").iterdir():
        path.unlink()
    (source / "normal").rmdir()
    (source / "benign" / "benign (2).png").write_bytes(b"\x89PNG\r\n")
    (source / "benign" / "notes.txt").touch()
    (source / "benign" / ".DS_Store").touch()
    reading = read("busi", source)
    assert reasons(reading) == {
        "folder is missing": 1, "image is missing or unreadable": 1, "file is no picture": 1
    }  # fmt: skip
    assert len(reading.samples) == 19


def test_busi_refuses_a_seed_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed=x is not a whole number"):
        read("busi", busi(tmp_path), seed="x")


# COVID-CT


def test_covid_ct_has_the_authors_lists_and_no_paper_on_both_sides(tmp_path: Path) -> None:
    reading = read("covid-ct", covid_ct(tmp_path / "COVID-CT-master"))
    assert read("covid-ct", tmp_path).samples[0].images[0].path.startswith("COVID-CT-master/Images-processed/CT_COVID/")
    found = {name.rpartition("/")[2]: (one.split, one.reference) for name, one in by_id(reading).items()}
    ill, well = "COVID-19", "non-COVID-19"
    assert found == {
        "2020.01.24.919183-p27-132.png": ("train", ill), "bmj.m606.full-p4-22%0.png": ("train", ill),
        "2020.03.12.20034686-p17-91-1.png": ("test", ill), "PIIS0140673620301549_0%1.png": ("test", ill),
        "14.png": ("train", well), "34.jpg": ("train", well), "35%0.jpg": ("train", well),
        "0.jpg": ("test", well), "14%0.jpg": ("test", well),
    }  # fmt: skip
    assert reasons(reading) == {
        "in the validation list, which is not used": 2, "the test list has pictures of its paper": 1
    }  # fmt: skip


def test_covid_ct_names_a_picture_that_is_missing_and_one_that_is_in_no_list(tmp_path: Path) -> None:
    source = covid_ct(tmp_path / "native")
    images = source / "Images-processed" / "CT_NonCOVID"
    (images / "34.jpg").unlink()
    write_picture(images / "99.png")
    (images / "list.txt").touch()
    (source / "Data-split" / "COVID" / "valCT_COVID.txt").unlink()
    manifest = prepare_task(get_task("covid-ct"), source, tmp_path / "data", {}).manifest
    assert manifest.skipped_counts == {
        "file is missing": 1, "file is no picture": 1, "image is missing": 1, "in none of the authors' lists": 2,
        "in the validation list, which is not used": 1, "the test list has pictures of its paper": 1,
    }  # fmt: skip
    assert any("CT_NonCOVID/34.jpg" in warning for warning in manifest.warnings)


def test_covid_ct_in_packed_folders_says_where_it_looked(tmp_path: Path) -> None:
    source = covid_ct(tmp_path / "native")
    (source / "Images-processed").rename(source / "packed")
    with pytest.raises(DataError, match=r"Images-processed/CT_COVID/2020"):
        prepare_task(get_task("covid-ct"), source, tmp_path / "data", {})


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "x\0.png", "a" * 5000, "CT_COVID/x.png"])
def test_a_list_names_no_file_outside(name: str, tmp_path: Path) -> None:
    source = covid_ct(tmp_path / "native")
    with (source / "Data-split" / "COVID" / "testCT_COVID.txt").open("a", encoding="utf-8") as stream:
        stream.write(f"\n{name}\n")
    manifest = prepare_task(get_task("covid-ct"), source, tmp_path / "data", {}).manifest
    assert manifest.counts["test"] == 4
    assert sum(count for reason, count in manifest.skipped_counts.items() if reason.startswith("image")) == 1


def test_covid_ct_refuses_a_picture_in_two_lists(tmp_path: Path) -> None:
    source = covid_ct(tmp_path)
    with (source / "Data-split" / "COVID" / "testCT_COVID.txt").open("a", encoding="utf-8") as stream:
        stream.write("\n2020.01.24.919183-p27-132.png")
    with pytest.raises(DataError, match=r"testCT_COVID\.txt: '2020\.01.*' is in the list trainCT_COVID\.txt, too"):
        read("covid-ct", source)


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("2020.02.26.20026989-p34-114_1%1.png", "2020.02.26.20026989.png"),
        ("2019-novel-Coronavirus-severe-adult-respiratory-dist_2020_International-Jour-p3-91.png",
         "2019-novel-Coronavirus-severe-adult-respiratory-dist_2020_International-Jour.png"),
        ("PIIS0140673620301549_0%0.png", "PIIS0140673620301549.png"),
        ("PIIS0140673620303603%8.png", "PIIS0140673620303603.png"),
        ("kjr-21-e24-p2-8.png", "kjr-21-e24.png"),
        ("14.png", "14.png"), ("14%3.jpg", "14.jpg"), ("none", "none"),
    ],
)  # fmt: skip
def test_what_a_picture_was_taken_from_is_in_its_name(name: str, paper: str) -> None:
    assert paper_of(name) == paper


@given(st.text(max_size=40))
def test_any_name_has_a_paper_and_a_patient(name: str) -> None:
    assert paper_of(paper_of(name)) is not None
    assert len(paper_of(name)) <= len(name)
    assert patient_of(name, "train") is not None


# Chest X-rays


def test_chest_xrays_have_the_authors_split_and_patients_counted_in_each(tmp_path: Path) -> None:
    source = chest_xray(tmp_path / "chest_xray")
    write_picture(source / "val" / "PNEUMONIA" / "person1946_bacteria_4874.jpeg", mode="L")
    write_picture(source / "val" / "NORMAL" / "NORMAL2-IM-1427-0001.jpeg", mode="L")
    found = {name: (one.split, one.groups["patient"]) for name, one in by_id(read("chest-xray", tmp_path)).items()}
    assert found == {
        "train/NORMAL/IM-0115-0001.jpeg": ("train", "train/IM-0115"),
        "train/NORMAL/NORMAL2-IM-0383-0001.jpeg": ("train", "train/NORMAL2-IM-0383"),
        "train/PNEUMONIA/person1_bacteria_1.jpeg": ("train", "train/person1"),
        "train/PNEUMONIA/person1_bacteria_2.jpeg": ("train", "train/person1"),
        "val/NORMAL/NORMAL2-IM-1427-0001.jpeg": ("train", "train/NORMAL2-IM-1427"),
        "val/PNEUMONIA/person1946_bacteria_4874.jpeg": ("train", "train/person1946"),
        "test/NORMAL/IM-0001-0001.jpeg": ("test", "test/IM-0001"),
        "test/PNEUMONIA/person1_virus_6.jpeg": ("test", "test/person1"),
    }


def test_ids_of_version_3_are_the_authors_own_and_told_if_both_splits_have_one(tmp_path: Path) -> None:
    for name in ("train/PNEUMONIA/BACTERIA-77-0001.jpeg", "test/PNEUMONIA/VIRUS-77-0001.jpeg"):
        write_picture(tmp_path / "native" / name, mode="L")
    warnings = prepare_task(get_task("chest-xray"), tmp_path / "native", tmp_path / "data", {}).manifest.warnings
    assert "1 groups (patient) are in train and in test" in warnings


def test_a_chest_xray_without_a_known_name_is_a_patient_of_its_own(tmp_path: Path) -> None:
    source = chest_xray(tmp_path)
    write_picture(source / "test" / "NORMAL" / "scan.png")
    write_mask(source / "test" / "NORMAL" / "Thumbs.db.png", (8, 8), None).rename(source / "test/NORMAL/Thumbs.db")
    noise(source / "test" / "OTHER" / "x.png", 1)
    reading = read("chest-xray", source)
    assert by_id(reading)["test/NORMAL/scan.png"].groups["patient"] == "scan.png"
    assert len(reading.samples) == 7
    assert reading.skipped == ()
