"""Prepared tasks read back: strictly, lazily, and only as they were written."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_data import (
    write_json,
)
from task_helpers import one_task, slake_prepared

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import damaged_files, file_states, load_prepared
from medbench.tasks.sample import Box, Sample


def spoil_line(folder: Path, number: int, **fields: object) -> None:
    path = folder / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **fields})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"colour": "red"}, "colour"),
        ({"reference": 3}, "reference"),
        ({"images": [{"path": "a", "frame": 1}]}, "images.0.frame"),
        ({"box": [1, 2, 3]}, "box"),
        ({"split": "val"}, "split"),
        ({"groups": {"image": 1}}, "groups.image"),
        ({"image_size": [1.5, 2]}, "image_size"),
    ],
)
def test_a_line_that_is_no_sample_is_named_with_its_field(tmp_path: Path, fields: dict[str, Any], place: str) -> None:
    loaded = slake_prepared(tmp_path)
    spoil_line(loaded.folder, 2, **fields)
    with pytest.raises(DataError, match=rf"train\.jsonl, line 2, field {place}"):
        loaded.samples("train")
    assert len(loaded.samples("test")) == 1


def test_changed_torn_and_missing_files_are_errors(tmp_path: Path) -> None:
    loaded = slake_prepared(tmp_path)
    path = loaded.folder / "train.jsonl"
    whole = path.read_bytes()
    spoil_line(loaded.folder, 1, reference="CT")
    with pytest.raises(DataError, match="changed after it was prepared"):
        loaded.samples("train")
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2"):
        loaded.samples("train")
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        loaded.samples("train")


def test_skipped_items_are_read_as_strictly_as_samples(tmp_path: Path) -> None:
    loaded = slake_prepared(tmp_path)
    path = loaded.folder / "skipped.jsonl"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("answer is empty", "answer is odd"), encoding="utf-8")
    with pytest.raises(DataError, match="changed after it was prepared"):
        loaded.skipped()
    path.write_text(f'{whole}{{"item": 1, "reason": "odd"}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"skipped\.jsonl, line 7, field item"):
        loaded.skipped()
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        loaded.skipped()


def test_the_state_of_every_file_is_told(tmp_path: Path) -> None:
    loaded = slake_prepared(tmp_path)
    (loaded.folder / "test.jsonl").write_text("")
    (loaded.folder / "skipped.jsonl").unlink()
    assert {file.path: file.problem or "intact" for file in file_states(loaded)} == {
        "train.jsonl": "intact",
        "test.jsonl": "changed",
        "images.sha256": "intact",
        "skipped.jsonl": "missing",
    }
    assert damaged_files(loaded) == ("test.jsonl", "skipped.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "field colour"),
        ({"version": 99}, "version 99"),
        ({"spec_fingerprint": "0"}, "another declaration"),
        ({"task": "slake-rec"}, "not a manifest"),
        ({"sha256": {"train": "0"}}, "not a manifest"),
        ({"counts": {"train": "2"}}, "field counts"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = slake_prepared(tmp_path).folder / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), **fields})
    with pytest.raises(DataError, match=message) as caught:
        load_prepared(tmp_path / "data", "slake-vqa")
    assert "medbench data prepare slake-vqa" in caught.value.hint


def test_opening_reads_no_samples_and_unknown_tasks_are_usage_errors(tmp_path: Path) -> None:
    slake_prepared(tmp_path).folder.joinpath("train.jsonl").unlink()
    assert load_prepared(tmp_path / "data", "slake-vqa").manifest.counts["train"] == 2
    with pytest.raises(UsageError, match="slake-vqq"):
        load_prepared(tmp_path / "data", "slake-vqq")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


_TEXTS = st.dictionaries(_TEXT, _TEXT, max_size=3)


_NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.builds(
        Sample,
        sample_id=_TEXT,
        task=st.just("slake-vqa"),
        split=st.just("test"),
        inputs=_TEXTS,
        reference=_TEXT.filter(str.strip),
        box=st.none() | st.builds(Box, _NUMBER, _NUMBER, _NUMBER, _NUMBER),
        image_size=st.none() | st.tuples(st.integers(0, 9999), st.integers(0, 9999)),
        labels=_TEXTS,
        groups=_TEXTS.map(lambda groups: {**groups, "image": "1"}),
    )
)
def test_every_sample_survives_writing_and_reading(tmp_path: Path, sample: Sample) -> None:
    assert prepare_task(one_task(sample), tmp_path, tmp_path / "data", {}).samples("test") == (sample,)
