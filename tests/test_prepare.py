"""Preparation: what is written, what is refused, what is read back; the bundled suite's cache; the commands."""

import dataclasses
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_data import NATIVE, medmnist, mimic_cxr, mimic_row, mpx_single, path_vqa, path_vqa_row, slake, write_json

from tasks import checks, prepare, prepared
from tasks.catalog import get_task, task_names
from tasks.cli import data_group, tasks_command
from tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from tasks.images import open_image
from tasks.prepare import load_prepared, prepare_suite, prepare_task
from tasks.prepared import MANIFEST, SAMPLE, Prepared
from tasks.sample import Box, ImageRef, Sample
from tasks.spec import Reading, Skipped, TaskSpec


def slake_prepared(tmp_path: Path, task: str = "slake-vqa") -> Prepared:
    source = tmp_path / "native"
    if not source.exists():
        slake(source)
    return prepare_task(get_task(task), source, tmp_path / "data", {})


def one_task(*samples: Sample, skipped: tuple[Skipped, ...] = (), group_key: str = "image") -> TaskSpec:
    reading = Reading(samples=samples, skipped=skipped, split_method="given")
    return dataclasses.replace(get_task("slake-vqa"), reader=lambda *_: reading, group_key=group_key)


def question(number: int, **fields: Any) -> Sample:
    defaults: dict[str, Any] = {
        "sample_id": f"q{number}",
        "task": "slake-vqa",
        "split": "test",
        "inputs": {"question": "?"},
        "reference": "yes",
        "groups": {"image": str(number)},
    }
    return Sample(**{**defaults, **fields})


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
        "image path leads out of the source folder": 2,
        "image path is no valid path": 2,
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
    with pytest.raises(RunError, match="train.jsonl"):
        slake_prepared(tmp_path)
    assert not (folder / "manifest.json").exists()
    with pytest.raises(DataError, match="not prepared"):
        load_prepared(tmp_path / "data", "slake-vqa")


def test_a_data_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(RunError, match="data"):
        slake_prepared(tmp_path)


# Reading back


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
    with pytest.raises(DataError, match=message):
        load_prepared(tmp_path / "data", "slake-vqa")


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


def test_twenty_thousand_samples_load_in_two_seconds(tmp_path: Path) -> None:
    many = tuple(question(number, box=Box(1, 2, 3, 4), labels={"modality": "CT"}) for number in range(20_000))
    result = prepare_task(one_task(*many), tmp_path, tmp_path / "data", {})
    code = (
        "import sys, time; from pathlib import Path; from tasks.prepared import _read_samples\n"
        "start = time.process_time(); found = _read_samples(Path(sys.argv[1]))\n"
        "print(len(found), time.process_time() - start)"
    )
    path = result.folder / "test.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True, timeout=60)
    count, seconds = done.stdout.split()
    assert int(count) == 20_000
    assert float(seconds) < 2


# The bundled suite


def suite(folder: Path) -> Path:
    slake(folder / "slake")
    medmnist(folder / "mnist", "breastmnist", classes=2)
    tasks = {
        "slake-vqa": {"source": "slake"},
        "slake-rec": {"source": "slake", "options": {}},
        "organsmnist": {"source": "mnist", "options": {"flag": "breastmnist"}},
    }
    write_json(folder / "suite.json", {"name": "mini", "tasks": tasks})
    return folder


def test_a_suite_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepare_suite(suite(tmp_path / "suite"), tmp_path / "cache")
    assert data.parent == tmp_path / "cache"
    assert data.name.startswith("mini-")
    assert len(data.name) == len("mini-") + 12
    assert {path.name for path in data.iterdir()} == {"slake-vqa", "slake-rec", "organsmnist"}
    assert load_prepared(data, "organsmnist").manifest.options == {"flag": "breastmnist"}

    def fail(*_: object) -> Prepared:
        raise AssertionError("prepared again")

    monkeypatch.setattr(prepare, "prepare_task", fail)
    assert prepare_suite(tmp_path / "suite", tmp_path / "cache") == data
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [data.name]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: (data / "slake-rec" / "manifest.json").unlink(),
        lambda data: (data / "slake-rec" / "train.jsonl").unlink(),
        lambda data: (data / "slake-rec" / "train.jsonl").write_text("{}"),
        lambda data: (data / "slake-rec" / "manifest.json").write_text("{"),
    ],
)
def test_a_suite_that_is_not_whole_is_prepared_again(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    data = prepare_suite(suite(tmp_path / "suite"), tmp_path / "cache")
    spoil(data)
    assert prepare_suite(tmp_path / "suite", tmp_path / "cache") == data
    assert len(load_prepared(data, "slake-rec").samples("train")) == 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [data.name]


def test_a_suite_that_moved_or_changed_is_prepared_again(tmp_path: Path) -> None:
    data = prepare_suite(suite(tmp_path / "a"), tmp_path / "cache")
    assert prepare_suite(suite(tmp_path / "b"), tmp_path / "cache") == data
    assert load_prepared(data, "slake-vqa").source == (tmp_path / "b" / "slake").resolve()
    text = (tmp_path / "b" / "suite.json").read_text()
    (tmp_path / "b" / "suite.json").write_text(text.replace("mini", "mini2"))
    assert prepare_suite(tmp_path / "b", tmp_path / "cache") != data


def test_several_callers_at_once_get_one_whole_suite(tmp_path: Path) -> None:
    suite(tmp_path / "suite")
    found: list[Path] = []
    calls = [
        threading.Thread(target=lambda: found.append(prepare_suite(tmp_path / "suite", tmp_path / "cache")))
        for _ in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(load_prepared(found[0], "slake-rec").samples("test")) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found[0].name]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDBENCH_HOME", str(tmp_path / "home"))
    assert prepare_suite(suite(tmp_path / "suite")).parent == tmp_path / "home"
    monkeypatch.setenv("MEDBENCH_HOME", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    assert prepare.medbench_home() == tmp_path / "user" / ".cache" / "medbench"


@pytest.mark.parametrize(
    "tasks", [{"slake-vqa": {}}, {"slake-vqa": {"source": "../../elsewhere"}}, {"unknown": {"source": "slake"}}]
)
def test_a_malformed_suite_is_refused_and_leaves_nothing(tmp_path: Path, tasks: Mapping[str, object]) -> None:
    write_json(suite(tmp_path / "suite") / "suite.json", {"tasks": tasks})
    with pytest.raises(MedbenchError):
        prepare_suite(tmp_path / "suite", tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


# The commands


def run(*arguments: object, command: Any = data_group) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_table_of_tasks_says_what_is_prepared(tmp_path: Path) -> None:
    slake_prepared(tmp_path)
    lines = run("--data-dir", tmp_path / "data", command=tasks_command).stdout.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert set(task_names()) <= set(rows)
    assert rows["slake-vqa"][-1] == "yes"
    assert rows["slake-rec"][-1] == "no"
    assert "6018" in rows["slake-vqa"]
    assert "r_at_0.5" in rows["slake-rec"]


def test_the_list_shows_layouts_and_options() -> None:
    text = run("list", "sa-med2d-rec", "mimic-cxr").stdout
    assert "max_per_modality" in text
    assert "annotation.json" in text
    assert "may leave your machine" in text
    assert "path-vqa" not in text
    assert all(name in run("list").stdout for name in task_names())


def test_prepare_and_verify(tmp_path: Path) -> None:
    slake(tmp_path / "native")
    data = tmp_path / "data"
    done = run("prepare", "slake-*", "--source", tmp_path / "native", "--data-dir", data)
    assert done.exception is None
    assert "2 train, 1 test" in done.stderr
    assert "skipped 3: answer is empty" in done.stderr
    verified = run("verify", "--data-dir", data)
    assert verified.exception is None
    assert "slake-vqa  train   6018      2       -6016  intact" in verified.stdout
    (data / "slake-rec" / "test.jsonl").write_text("")
    failed = run("verify", "slake-rec", "slake-vqa", "--data-dir", data)
    assert isinstance(failed.exception, DataError)
    assert failed.exception.exit_code == 1
    assert "slake-rec (test.jsonl)" in failed.exception.problem
    assert "slake-vqa" not in failed.exception.problem


def test_verify_notices_an_edited_manifest(tmp_path: Path) -> None:
    path = slake_prepared(tmp_path).folder / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), "data_fingerprint": "0" * 64})
    failed = run("verify", "slake-vqa", "--data-dir", tmp_path / "data")
    assert "manifest.json" in str(failed.exception)


def test_options_are_passed_on(tmp_path: Path) -> None:
    medmnist(tmp_path / "native", "breastmnist", classes=2)
    command = ("prepare", "dermamnist", "--source", tmp_path / "native", "--data-dir", tmp_path / "data")
    assert run(*command, "--option", "flag=breastmnist").exception is None
    assert load_prepared(tmp_path / "data", "dermamnist").manifest.options == {"flag": "breastmnist"}
    for options in (["--option", "flag"], ["--option", "flag=a", "--option", "flag=b"], ["--option", "colour=red"]):
        assert isinstance(run(*command, *options).exception, UsageError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "slake-vqa"], "--source"),
        (["prepare", "slake-vqx", "--source", "."], "slake-vqa"),
        (["prepare", "mini", "slake-vqa"], "alone"),
        (["prepare", "mini", "--source", "."], "alone"),
        (["verify", "--data-dir", "nowhere"], "medbench data prepare"),
        (["verify", "slake-vqa", "--data-dir", "nowhere"], "medbench data prepare"),
        (["list", "slak-vqa"], "slake-vqa"),
    ],
)
def test_mistakes_end_with_a_hint(arguments: list[str], message: str) -> None:
    found = run(*arguments).exception
    assert isinstance(found, MedbenchError)
    assert message in str(found)


def test_mini_prepares_the_bundled_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.mini_suite.DATA", suite(tmp_path / "suite"))
    done = run("prepare", "mini", "--data-dir", tmp_path / "cache")
    assert done.exception is None
    assert load_prepared(Path(done.stdout.strip()), "slake-vqa").manifest.counts["test"] == 1


def test_checks_are_made_once_per_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counted(folder: Path, path: str) -> Path:
        looked.append(path)
        return folder / path

    monkeypatch.setattr(checks, "inside", counted)
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
        {"type is not caption but modality": 2},
    )
