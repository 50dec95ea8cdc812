"""Golden counts of the audit of data on real datasets; how each is counted is in the name of its test."""

import json
from pathlib import Path

import pytest
from audit_data_items import (
    against,
    as_task,
    check,
    compared,
    path_vqa_items,
    slake_items,
    slake_pictures,
    slake_tree,
    vqa,
    vqa_rad_items,
)
from audit_terminal import medbench
from fixture_root import realdata

from medbench.leaderboard.audit.data.findings import Overlap, consistency
from medbench.leaderboard.audit.data.items import Item
from medbench.tasks.catalog import get_task
from medbench.tasks.prepare import prepare_task
from medbench.tasks.sample import ImageRef


def slake_overlap(train_language: str, test_language: str) -> Overlap:
    folder = realdata("slake_text")
    test = as_task(slake_items(folder, "test", test_language))
    train = as_task(slake_items(folder, "train", train_language))
    return against(compared(test, train), "slake-vqa train")


@pytest.mark.parametrize(
    ("train", "test", "pictures"), [("", "", 142), ("en", "en", 0), ("zh", "zh", 0), ("zh", "en", 72), ("en", "zh", 70)]
)
def test_slake_pictures_in_train_and_test_by_language(train: str, test: str, pictures: int) -> None:
    found = check(slake_overlap(train, test), "id:image")
    assert found.groups == pictures
    assert found.of_groups == (96 if test else 180)


def test_slake_questions_are_templates_and_no_item_leaks() -> None:
    overlap = slake_overlap("en", "en")
    equal, item = check(overlap, "text"), check(overlap, "item")
    assert equal.of == 1061
    # 997 letter by letter; the normaliser sees through case and marks.
    assert equal.shared >= 997
    assert equal.null is not None
    assert abs(equal.share - equal.null) < 0.05
    assert item.shared == check(overlap, "near_item").shared == 0
    assert overlap.verdict == "no_evidence"


@pytest.mark.slow
def test_vqa_rad_test_questions_about_training_pictures() -> None:
    folder = realdata("vqa_rad")
    test = as_task(vqa_rad_items(folder, "test"), task="vqa-rad", family="vqa-rad")
    train = as_task(vqa_rad_items(folder, "train"), task="vqa-rad", family="vqa-rad")
    audit = compared(test, train)
    overlap = against(audit, "vqa-rad train")
    assert (check(overlap, "image").shared, check(overlap, "image").of) == (451, 451)
    assert (overlap.verdict, audit.mark) == ("strong", "‡")
    # Ids were left out of these rows: that they are missing is said although the pictures say enough.
    assert check(overlap, "id:image").state == "unknown"


@pytest.mark.slow
def test_vqa_rad_as_it_is_on_the_hub() -> None:
    folder = realdata("vqa_rad")
    lines = (folder / "hf_flaviagiammarino_rows.jsonl").read_text(encoding="utf-8").splitlines()
    items: dict[str, list[Item]] = {"train": [], "test": []}
    for row in map(json.loads, lines):
        picture = ImageRef(path=row["image_name"])
        item = vqa(row["row"], row["question"], row["answer"], images=(picture,), source=folder / "images")
        items[row["split"]].append(item)
    test = as_task(items["test"], task="vqa-rad", family="vqa-rad")
    train = as_task(items["train"], task="vqa-rad", family="vqa-rad")
    overlap = against(compared(test, train), "vqa-rad train")
    assert (check(overlap, "image").shared, check(overlap, "image").of) == (446, 451)


def test_path_vqa_exact_duplicates_and_contradicting_groups() -> None:
    folder = realdata("path_vqa_text")
    found = {split: consistency(path_vqa_items(folder, split)) for split in ("train", "val", "test")}
    assert {split: one.exact_duplicates for split, one in found.items()} == {"train": 101, "val": 20, "test": 42}
    assert sum(one.exact_duplicates for one in found.values()) == 163
    assert (found["test"].contradicting_groups, found["test"].contradicting_rows) == (387, 931)
    assert [round(100 * found[split].ceiling, 2) for split in ("train", "val", "test")] == [92.72, 92.01, 91.97]


def test_pubmedqa_shares_nothing(tmp_path: Path) -> None:
    prepare_task(get_task("pubmedqa"), realdata("pubmedqa"), tmp_path, {})
    result = medbench("audit", "data", "--data-dir", tmp_path, "--format", "json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["tasks"]["pubmedqa"]["test_items"] == 500
    (own,) = document["tasks"]["pubmedqa"]["overlaps"]
    assert {one["check"]: one["shared"] for one in own["checks"]} == dict.fromkeys(
        ("item", "near_item", "text", "near_text", "id:document"), 0
    )


@pytest.mark.slow
def test_the_language_twin_on_the_command_line(tmp_path: Path) -> None:
    folder = realdata("slake_text")
    train, test = slake_pictures(folder, "train", "en"), slake_pictures(folder, "test", "en")
    native = slake_tree(tmp_path / "native", folder, train, test)
    prepare_task(get_task("slake-vqa"), native, tmp_path / "data", {})
    result = medbench(
        "audit", "data", "--data-dir", tmp_path / "data", "--train", native / "train.json", "--images", native / "imgs",
        "--format", "json",
    )  # fmt: skip
    assert result.returncode == 4, result.stderr
    document = json.loads(result.stdout)
    found = {
        one["corpus"]: {each["check"]: each for each in one["checks"]}
        for one in document["tasks"]["slake-vqa"]["overlaps"]
    }
    twin = found["train.json [zh]"]
    assert (twin["id:image name"]["groups"], twin["id:image name"]["of_groups"]) == (72, 96)
    assert twin["item"]["shared"] == 0
    own, english = found["slake-vqa train"], found["train.json [en]"]
    assert (own["id:image"]["groups"], english["id:image name"]["groups"]) == (0, 0)
    # The dataset's own split is clean: the mark is not set by the file of the user.
    assert document["marks"] == {}
