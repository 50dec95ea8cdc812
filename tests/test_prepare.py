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
    slake,
    write_json,
)
from task_helpers import one_task, question, slake_prepared

from medbench.tasks import prepare, prepared
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.images import open_image
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import MANIFEST, SAMPLE, damaged_files, load_prepared
from medbench.tasks.sample import SPLITS, ImageRef, Sample
from medbench.tasks.spec import Skipped


@pytest.mark.parametrize("task", NATIVE)
def test_every_task_is_prepared_read_back_and_decoded(tmp_path: Path, task: str) -> None:
    spec, source = get_task(task), NATIVE[task](tmp_path / "native")
    reading = spec.reader(source.resolve(), {})
    written = prepare_task(spec, source, tmp_path / "data", {})
    loaded = load_prepared(tmp_path / "data", task)
    assert loaded.manifest == written.manifest
    assert loaded.source == source.resolve()
    for split in SPLITS:
        expected = tuple(sample for sample in reading.samples if sample.split == split)
        assert loaded.samples(split) == expected
        assert loaded.manifest.counts[split] == len(expected) > 0
        for ref in expected[-1].images:
            assert open_image(loaded.source, ref).mode == "RGB"
    assert sum(loaded.manifest.skipped_counts.values()) == len(reading.skipped)
    assert loaded.skipped() == reading.skipped
    named = {ref.path for sample in reading.samples for ref in sample.images}
    assert loaded.image_hashes() == {path: file_sha256(loaded.source / path) for path in sorted(named)}
    assert damaged_files(loaded) == ()
    # The invented arrays have the few pixels of the sets' smallest size.
    assert all("28 x 28 pixels" in warning and spec.kind == "cls" for warning in loaded.manifest.warnings)


def test_the_manifest_says_everything(tmp_path: Path) -> None:
    done = slake_prepared(tmp_path)
    manifest, spec = done.manifest, get_task("slake-vqa")
    assert (manifest.task, manifest.version, manifest.spec_fingerprint) == (spec.name, spec.version, spec.fingerprint())
    assert manifest.counts == {"train": 2, "test": 1}
    assert manifest.skipped_counts == {"question is not in English": 3, "answer is empty": 3}
    assert Skipped(item="xmlab1/q2", reason="answer is empty") in done.skipped()
    assert manifest.skipped_sha256 == file_sha256(done.folder / "skipped.jsonl")
    assert manifest.images_sha256 == file_sha256(done.folder / "images.sha256")
    assert {path.name for path in done.folder.iterdir()} == {
        *("train.jsonl", "test.jsonl", "skipped.jsonl", "images.sha256", "manifest.json")
    }
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


def test_every_skipped_item_is_listed_however_many(tmp_path: Path) -> None:
    skipped = tuple(Skipped(item=f"row {number}", reason="odd") for number in range(5000))
    done = prepare_task(one_task(question(1), skipped=skipped), tmp_path, tmp_path / "data", {})
    assert done.skipped() == skipped
    assert done.manifest.skipped_counts == {"odd": 5000}
    assert (done.folder / "manifest.json").stat().st_size < 4000


def test_the_bytes_of_the_images_are_part_of_the_datas_identity(tmp_path: Path) -> None:
    first = slake_prepared(tmp_path).manifest
    picture = tmp_path / "native" / "imgs" / "xmlab3" / "source.jpg"
    picture.write_bytes(picture.read_bytes() + b"\0")
    second = slake_prepared(tmp_path).manifest
    assert second.sha256 == first.sha256
    assert second.images_sha256 != first.images_sha256
    assert second.data_fingerprint != first.data_fingerprint


def test_images_can_be_left_unread_and_the_manifest_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = slake_prepared(tmp_path)

    def fail(*_: object) -> dict[str, str]:
        raise AssertionError("images were read")

    monkeypatch.setattr(prepared, "hash_images", fail)
    done = prepare_task(hashed.spec, tmp_path / "native", tmp_path / "data", {}, image_hashes="none")
    assert done.manifest.images_sha256 is None
    assert done.image_hashes() is None
    assert not (done.folder / "images.sha256").exists()
    assert done.manifest.data_fingerprint != hashed.manifest.data_fingerprint
    assert load_prepared(tmp_path / "data", "slake-vqa").manifest == done.manifest
    assert damaged_files(done) == ()


def test_images_that_cannot_be_hashed_leave_what_was_prepared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = slake_prepared(tmp_path)

    def fail(*_: object) -> dict[str, str]:
        raise DataError("unreadable")

    monkeypatch.setattr(prepared, "hash_images", fail)
    with pytest.raises(DataError, match="unreadable"):
        slake_prepared(tmp_path)
    assert load_prepared(tmp_path / "data", "slake-vqa").manifest == before.manifest
    assert damaged_files(before) == ()


def test_text_only_tasks_have_no_images_to_hash(tmp_path: Path) -> None:
    done = prepare_task(get_task("medqa"), NATIVE["medqa"](tmp_path / "native"), tmp_path / "data", {})
    assert done.image_hashes() == {}


def test_only_images_of_usable_samples_are_hashed(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    spec = one_task(
        question(1, images=(ImageRef(path="b.jpg"), ImageRef(path="a.jpg"))),
        question(2, images=(ImageRef(path="a.jpg", member="x", index=2),)),
        question(3, images=(ImageRef(path="c.jpg"),), reference=""),
    )
    done = prepare_task(spec, tmp_path, tmp_path / "data", {})
    assert list(done.image_hashes() or ()) == ["a.jpg", "b.jpg"]


def test_a_folder_of_images_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    slake(tmp_path / "native")
    (tmp_path / "native" / "imgs").rename(tmp_path / "disk")
    (tmp_path / "native" / "imgs").symlink_to(tmp_path / "disk", target_is_directory=True)
    done = slake_prepared(tmp_path)
    assert done.manifest.counts == {"train": 2, "test": 1}
    assert open_image(done.source, done.samples("test")[0].images[0]).mode == "RGB"


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

    monkeypatch.setattr(prepare, "locate", counted)
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
