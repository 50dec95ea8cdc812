"""Preparation: what is written, what is skipped, what is refused."""

import json
import pickle
from pathlib import Path

import pytest
from native_data import (
    NATIVE,
    mimic_cxr,
    mimic_row,
    mpx_single,
    path_vqa,
    path_vqa_row,
    write_json,
)
from task_helpers import one_task, question, slake_prepared

from tasks import checks, prepare, prepared
from tasks.catalog import get_task
from tasks.foundation.errors import DataError, RunError, UsageError
from tasks.images import open_image
from tasks.prepare import load_prepared, prepare_task
from tasks.prepared import MANIFEST, SAMPLE
from tasks.sample import ImageRef, Sample
from tasks.spec import Skipped


@pytest.mark.parametrize("task", NATIVE)
def test_every_task_is_prepared_read_back_and_decoded(tmp_path: Path, task: str) -> None:
    spec, source = get_task(task), NATIVE[task](tmp_path / "native")
    reading = spec.reader(source.resolve(), {})
    written = prepare_task(spec, source, tmp_path / "data", {})
    loaded = load_prepared(tmp_path / "data", task)
    assert loaded.manifest == written.manifest
    assert loaded.source == source.resolve()
    for split in prepared.SPLITS:
        expected = tuple(sample for sample in reading.samples if sample.split == split)
        assert loaded.samples(split) == expected
        assert loaded.manifest.counts[split] == len(expected) > 0
        for ref in expected[-1].images:
            assert open_image(loaded.source, ref).mode == "RGB"
    assert sum(loaded.manifest.skipped_counts.values()) == len(reading.skipped) == len(loaded.manifest.skipped)
    assert loaded.manifest.warnings == ()


def test_the_manifest_says_everything(tmp_path: Path) -> None:
    manifest = slake_prepared(tmp_path).manifest
    spec = get_task("slake-vqa")
    assert (manifest.task, manifest.version, manifest.spec_fingerprint) == (spec.name, spec.version, spec.fingerprint())
    assert manifest.counts == {"train": 2, "test": 1}
    assert manifest.skipped_counts == {"question is not in English": 3, "answer is empty": 3}
    assert Skipped(item="xmlab1/q2", reason="answer is empty") in manifest.skipped
    assert manifest.split_method == "authors' lists train.txt and test.txt"


def test_the_same_data_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first, second = slake_prepared(tmp_path / "a"), slake_prepared(tmp_path / "b")
    assert first.manifest.data_fingerprint == second.manifest.data_fingerprint
    assert first.manifest.source != second.manifest.source
    assert slake_prepared(tmp_path / "a").manifest == first.manifest
    assert "/native" not in (first.folder / "test.jsonl").read_text()
    path = tmp_path / "b" / "native" / "imgs" / "xmlab3" / "question.json"
    write_json(path, [{**json.loads(path.read_text())[0], "answer": "CT"}])
    assert slake_prepared(tmp_path / "b").manifest.data_fingerprint != first.manifest.data_fingerprint


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "native" / "a.jpg").write_bytes(b"x")
    spec = one_task(
        question(1, images=(ImageRef(path="a.jpg"),)),
        question(2, images=(ImageRef(path="a.jpg"), ImageRef(path="b.jpg"))),
        question(3, images=(ImageRef(path="../secret.jpg"),)),
        question(4, images=(ImageRef(path="a\0.jpg"),)),
        question(5, reference=" \n"),
        question(6, reference="\ud800"),
        question(7, sample_id="q\udfff"),
        question(8, images=(ImageRef(path="/etc/hostname"),)),
        question(9, images=(ImageRef(path="x" * 5000),)),
        skipped=(Skipped(item="q0\udfff", reason="was \udfff"),),
    )
    result = prepare_task(spec, tmp_path / "native", tmp_path / "data", {})
    assert [sample.sample_id for sample in result.samples("test")] == ["q1"]
    assert result.manifest.skipped_counts == {
        "was ?": 1,
        "image is missing": 1,
        "image path is no path inside the source folder": 4,
        "reference is empty": 1,
        "text is not valid Unicode": 2,
    }
    assert load_prepared(tmp_path / "data", "slake-vqa").manifest == result.manifest


def test_hostile_text_of_a_pickle_is_skipped(tmp_path: Path) -> None:
    rows = [path_vqa_row("test_0001", 1), path_vqa_row("test_0001", 2, sent="\ud800"), path_vqa_row("../../a", 3)]
    (path_vqa(tmp_path) / "qas" / "test_vqa.pkl").write_bytes(pickle.dumps(rows))
    manifest = prepare_task(get_task("path-vqa"), tmp_path, tmp_path / "data", {}).manifest
    assert manifest.counts["test"] == 1
    assert manifest.skipped_counts["text is not valid Unicode"] == 1
    assert sum(manifest.skipped_counts.values()) == 2


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd"])
def test_hostile_paths_of_mimic_are_never_opened(tmp_path: Path, path: str) -> None:
    rows = {"train": [], "test": [mimic_row(4), mimic_row(5, image_path=[path])]}
    write_json(mimic_cxr(tmp_path) / "annotation.json", rows)
    result = prepare_task(get_task("mimic-cxr"), tmp_path, tmp_path / "data", {})
    assert [sample.sample_id for sample in result.samples("test")] == ["s50000004/dicom-4"]
    assert sum(result.manifest.skipped_counts.values()) == 1


def test_the_list_of_skipped_items_is_capped_but_not_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "MAX_LISTED_SKIPS", 4)
    manifest = slake_prepared(tmp_path).manifest
    assert (len(manifest.skipped), sum(manifest.skipped_counts.values())) == (4, 6)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((question(1), question(1)), "q1"),
        ((question(1, task="medqa"),), "malformed"),
        ((question(1, groups={}),), "malformed"),
        ((question(1, split="val"),), "malformed"),
        ((), "no items"),
        ((question(1, reference=""), question(2, reference="")), "2 x reference is empty"),
    ],
)
def test_readings_that_are_refused_as_a_whole(tmp_path: Path, samples: tuple[Sample, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_task(one_task(*samples), tmp_path, tmp_path / "data", {})
    assert not (tmp_path / "data").exists()


def test_an_empty_split_and_shared_groups_are_warnings(tmp_path: Path) -> None:
    alone = prepare_task(one_task(question(1)), tmp_path, tmp_path / "data", {})
    assert alone.manifest.warnings == ("there are no train samples",)
    shared = one_task(question(1, split="train"), question(2, groups={"image": "1"}), question(3))
    warnings = prepare_task(shared, tmp_path, tmp_path / "data", {}).manifest.warnings
    assert warnings == ("1 groups (image) are in train and in test",)


def test_unknown_options_are_errors_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_task(get_task("sa-med2d-rec"), tmp_path, tmp_path, {"modality": "ct"})
    assert "modalities" in caught.value.hint
    with pytest.raises(UsageError, match="seed"):
        prepare_task(get_task("path-vqa"), tmp_path, tmp_path, {"seed": "1"})


def test_a_crash_leaves_no_manifest_beside_new_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = slake_prepared(tmp_path).folder

    def fail(path: Path, _text: str) -> None:
        raise RunError(f"disk full at {path.name}")

    monkeypatch.setattr(prepare, "write_atomically", fail)
    with pytest.raises(RunError, match=r"train\.jsonl"):
        slake_prepared(tmp_path)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(DataError, match="not prepared"):
        load_prepared(tmp_path / "data", "slake-vqa")


def test_a_data_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(RunError, match="data"):
        slake_prepared(tmp_path)


def test_checks_are_made_once_per_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(folder: Path, path: str) -> Path:
        looked.append(path)
        return folder / path

    monkeypatch.setattr(checks, "locate", counted)
    (tmp_path / "a.jpg").write_bytes(b"x")
    samples = [question(number, images=(ImageRef(path="a.jpg"),)) for number in range(5)]
    prepare_task(one_task(*samples), tmp_path, tmp_path / "data", {})
    assert looked == ["a.jpg"]


def test_unknown_fields_are_refused_by_the_validators() -> None:
    for adapter, value in (
        (SAMPLE, {"sample_id": "1", "task": "t", "split": "test", "reference": "r"}),
        (MANIFEST, {}),
    ):
        with pytest.raises(ValueError, match="nonsense"):
            adapter.validate_json(json.dumps({**value, "nonsense": 1}))


def test_mpx_counts_survive_the_whole_way(tmp_path: Path) -> None:
    manifest = prepare_task(get_task("mpx-single"), mpx_single(tmp_path / "native"), tmp_path / "data", {}).manifest
    assert (manifest.counts, manifest.skipped_counts) == (
        {"train": 2, "test": 2},
        {"type is not caption": 2},
    )
