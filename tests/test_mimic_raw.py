"""MIMIC-CXR as PhysioNet ships it: split file, reports, pictures, the draw of training pictures. All is invented."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from native_data import (
    mimic_cxr,
    mimic_raw,
    mimic_report,
    mimic_study,
    mimic_study_path,
    mimic_view,
    write_csv,
    write_json,
)
from task_helpers import by_id, read, reasons

from medbench.tasks.catalog import get_task
from medbench.tasks.datasets import mimic_cxr as reader
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task

SPLIT_FILE = "mimic-cxr-2.0.0-split.csv"
VARIANTS = ("mimic-cxr-impression", "mimic-cxr-both")


@pytest.mark.parametrize("reports", ["files", "mimic-cxr-reports/files", "reports/files"])
def test_every_view_of_a_study_is_a_sample_wherever_the_reports_lie(tmp_path: Path, reports: str) -> None:
    reading = read("mimic-cxr", mimic_raw(tmp_path, reports))
    samples = by_id(reading)
    assert list(samples) == ["s50000001/1-a", "s50000002/2-a", "s50000004/4-a", "s50000004/4-b"]
    assert [sample.split for sample in samples.values()] == ["train", "train", "test", "test"]
    sample = samples["s50000004/4-b"]
    assert sample.reference == "A tube ends at ___ of the trachea."
    image = f"{mimic_study_path(4)}/4-b.jpg"
    assert sample.images[0].path == f"files/{image}"
    assert sample.groups == {"image": image, "study": "50000004", "patient": "10000004"}
    assert sample.inputs == {}
    assert reading.skipped == ()
    assert SPLIT_FILE in reading.split_method
    assert "ours, not the authors'" in reading.split_method


def test_the_split_file_may_be_packed(tmp_path: Path) -> None:
    plain = mimic_raw(tmp_path) / SPLIT_FILE
    expected = read("mimic-cxr", tmp_path)
    (tmp_path / f"{SPLIT_FILE}.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    plain.unlink()
    packed = read("mimic-cxr", tmp_path)
    assert packed.samples == expected.samples
    assert f"{SPLIT_FILE}.gz" in packed.split_method


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("mimic-cxr", "A tube ends at ___ of the trachea."),
        ("mimic-cxr-impression", "Normal."),
        ("mimic-cxr-both", "A tube ends at ___ of the trachea. Normal."),
    ],
)
def test_each_variant_has_its_part_of_the_report(tmp_path: Path, task: str, expected: str) -> None:
    prepared = prepare_task(get_task(task), mimic_raw(tmp_path / "native"), tmp_path / "data", {})
    assert {sample.reference for sample in prepared.samples("test")} == {expected}
    assert prepared.manifest.counts == {"train": 2, "test": 2}
    assert get_task(task).credentialed


@pytest.mark.parametrize("task", VARIANTS)
def test_variants_stand_beside_the_task_of_the_paper(task: str) -> None:
    spec = get_task(task)
    assert (spec.variant_of, spec.counts, spec.licence) == ("mimic-cxr", {}, get_task("mimic-cxr").licence)
    assert "split.csv" in spec.layout


FINDINGS, IMPRESSION = "F" * 500 + ".", "I" * 500 + "."
REPORTS = {
    1: mimic_report(FINDINGS, IMPRESSION),
    2: mimic_report("", "Normal."),
    3: mimic_report("Clear.", ""),
    4: mimic_report("F" * 801, "I" * 801),
    5: mimic_report("F" * 400 + " \n " + "F" * 399, "I" * 800),
    6: "No header at all.",
}


@pytest.mark.parametrize(
    ("task", "usable", "skipped"),
    [
        (
            "mimic-cxr",
            [1, 3, 5],
            {"report has no findings": 2, "findings are longer than 800 characters": 1},
        ),
        (
            "mimic-cxr-impression",
            [1, 2, 5],
            {"report has no impression": 2, "impression is longer than 800 characters": 1},
        ),
        (
            "mimic-cxr-both",
            [],
            {
                "report has no findings": 2,
                "report has no impression": 1,
                "findings and impression are longer than 800 characters": 3,
            },
        ),
    ],
)
def test_reports_without_the_section_or_with_too_much_of_it_are_skipped(
    tmp_path: Path, task: str, usable: list[int], skipped: dict[str, int]
) -> None:
    write_csv(tmp_path / SPLIT_FILE, [mimic_view(number, split="test") for number in REPORTS])
    for number, report in REPORTS.items():
        mimic_study(tmp_path, number, report)
    reading = read(task, tmp_path)
    assert list(by_id(reading)) == [f"s{50000000 + number}/{number}-a" for number in usable]
    assert reasons(reading) == skipped


def test_rows_without_picture_or_report_are_skipped_one_by_one(tmp_path: Path) -> None:
    files = mimic_raw(tmp_path) / "files"
    (files / mimic_study_path(4) / "4-a.jpg").unlink()
    (files / f"{mimic_study_path(1)}.txt").unlink()
    (files / f"{mimic_study_path(2)}.txt").write_bytes(b" FINDINGS: \xff")
    reading = read("mimic-cxr", tmp_path)
    assert list(by_id(reading)) == ["s50000004/4-b"]
    assert {item.item: item.reason for item in reading.skipped} == {
        "s50000001/1-a": "report is missing",
        "s50000002/2-a": "report is not UTF-8 text",
        "s50000004/4-a": "image is missing",
    }


def test_no_folder_of_reports_at_all_is_a_reason_too(tmp_path: Path) -> None:
    write_csv(tmp_path / SPLIT_FILE, [mimic_view(1, split="test")])
    assert reasons(read("mimic-cxr", tmp_path)) == {"image is missing": 1}
    with pytest.raises(DataError, match="image is missing"):
        prepare_task(get_task("mimic-cxr"), tmp_path, tmp_path / "data", {})


@pytest.mark.parametrize("column", ["dicom_id", "study_id", "subject_id"])
@pytest.mark.parametrize("value", ["", "../../etc", "1/2", "1 2", "\uff11", "1\n2", "1" * 5000])
def test_malformed_ids_never_become_paths(tmp_path: Path, column: str, value: str) -> None:
    rows = [{**mimic_view(1, split="test"), column: value}, mimic_view(4, split="test")]
    write_csv(mimic_raw(tmp_path) / SPLIT_FILE, rows)
    reading = read("mimic-cxr", tmp_path)
    assert list(by_id(reading)) == ["s50000004/4-a"]
    assert reasons(reading) == {"an id is missing or malformed": 1}


def test_short_rows_and_unknown_splits_are_named_by_their_line(tmp_path: Path) -> None:
    path = mimic_raw(tmp_path) / SPLIT_FILE
    path.write_text(f"{path.read_text()}5-a,50000005\n\n6-a,50000006,10000006,val\n7-a,50000007,10000007,test,more\n")
    skipped = {item.item: item.reason for item in read("mimic-cxr", tmp_path).skipped}
    assert skipped == {
        f"{SPLIT_FILE} line 7": "split is not train, validate or test",
        f"{SPLIT_FILE} line 9": "split is not train, validate or test",
        "s50000007/7-a": "image is missing",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "dicom_id"),
        (b"dicom_id,study_id,split\n", "subject_id"),
        (b'dicom_id,study_id,subject_id,split\n"never closed', "CSV"),
        (b"dicom_id,study_id,subject_id,split\n\xff,1,1,test", "CSV"),
    ],
)
def test_an_odd_split_file_is_a_data_error(tmp_path: Path, content: bytes, message: str) -> None:
    (mimic_raw(tmp_path) / SPLIT_FILE).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read("mimic-cxr", tmp_path)
    assert SPLIT_FILE in caught.value.problem


@pytest.mark.parametrize(
    "spoil", [lambda packed: packed[:-10], lambda _: b"no gzip", lambda packed: packed[:20] + b"\0\0\0" + packed[23:]]
)
def test_a_broken_packed_split_file_is_a_data_error(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = mimic_raw(tmp_path) / SPLIT_FILE
    (tmp_path / f"{SPLIT_FILE}.gz").write_bytes(spoil(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(DataError, match="not a readable CSV file"):
        read("mimic-cxr", tmp_path)


def test_a_row_named_twice_is_refused(tmp_path: Path) -> None:
    write_csv(mimic_raw(tmp_path) / SPLIT_FILE, [mimic_view(1), mimic_view(1), mimic_view(4, split="test")])
    with pytest.raises(DataError, match="s50000001/1-a"):
        prepare_task(get_task("mimic-cxr"), tmp_path, tmp_path / "data", {})


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Forty training studies, of which every fourth has no findings, and one for testing."""
    write_csv(tmp_path / SPLIT_FILE, [*(mimic_view(number) for number in range(40)), mimic_view(99, split="test")])
    for number in (*range(40), 99):
        mimic_study(tmp_path, number, mimic_report("" if number % 4 == 0 else "Clear."))
    return tmp_path


def trained(source: Path, **options: str) -> list[str]:
    return [sample.sample_id for sample in read("mimic-cxr", source, **options).samples if sample.split == "train"]


def test_the_draw_is_full_repeatable_and_nested(many: Path) -> None:
    everything = trained(many)
    assert len(everything) == 30
    assert trained(many, max_train="all") == everything == sorted(everything)
    ten = trained(many, max_train="10")
    assert len(ten) == 10
    assert ten == trained(many, max_train="10", seed="42") == sorted(ten)
    assert set(trained(many, max_train="5")) < set(ten)
    assert trained(many, max_train="10", seed="7") != ten
    assert trained(many, max_train="0") == []


def test_the_method_of_the_draw_is_told(many: Path) -> None:
    assert "at most 10 images drawn" in read("mimic-cxr", many, max_train="10", seed="7").split_method
    assert "seed 7" in read("mimic-cxr", many, max_train="10", seed="7").split_method
    assert "at most 9997 images" in read("mimic-cxr", many).split_method
    assert "all its train rows" in read("mimic-cxr", many, max_train="all").split_method


def test_a_draw_reads_no_more_reports_than_it_needs(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(path: Path) -> bytes:
        if path.suffix == ".txt":
            opened.append(path.name)
        return path.read_bytes()

    monkeypatch.setattr(reader, "read_bytes", counted)
    reading = read("mimic-cxr", many, max_train="5")
    assert len(opened) == len(set(opened)) == len(reading.samples) + len(reading.skipped)
    assert len(opened) < 20


def test_a_report_is_read_once_for_all_its_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(path: Path) -> bytes:
        if path.suffix == ".txt":
            opened.append(path.name)
        return path.read_bytes()

    monkeypatch.setattr(reader, "read_bytes", counted)
    read("mimic-cxr", mimic_raw(tmp_path))
    assert opened.count("s50000004.txt") == 1


@pytest.mark.parametrize("value", ["-1", "many", "", "1.5"])
def test_a_malformed_limit_is_a_usage_error(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=f"max_train={value}"):
        read("mimic-cxr", mimic_raw(tmp_path), max_train=value)


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed"):
        read("mimic-cxr", mimic_raw(tmp_path / "raw"), max_train="all", seed="1")
    with pytest.raises(UsageError, match="seed=x"):
        read("mimic-cxr", tmp_path / "raw", seed="x")
    mimic_cxr(tmp_path / "annotated")
    for name in ("max_train", "seed"):
        with pytest.raises(UsageError, match=f"{name} has no effect"):
            read("mimic-cxr", tmp_path / "annotated", **{name: "1"})


def test_the_annotation_goes_before_the_raw_files(tmp_path: Path) -> None:
    mimic_raw(mimic_cxr(tmp_path))
    assert "annotation.json" in read("mimic-cxr", tmp_path).split_method
    assert "split.csv" in read("mimic-cxr-impression", tmp_path).split_method


@pytest.mark.parametrize("task", VARIANTS)
def test_variants_cannot_be_made_of_the_annotation(tmp_path: Path, task: str) -> None:
    with pytest.raises(DataError, match="one text per report") as caught:
        read(task, mimic_cxr(tmp_path))
    assert SPLIT_FILE in caught.value.hint
    assert "raw layout" in caught.value.hint


@pytest.mark.parametrize("task", ["mimic-cxr", *VARIANTS])
def test_another_folder_shows_the_layouts(tmp_path: Path, task: str) -> None:
    write_json(tmp_path / "unrelated.json", {})
    with pytest.raises(DataError, match=r"no annotation\.json and no mimic-cxr-2\.0\.0-split\.csv") as caught:
        read(task, tmp_path)
    assert "Expected layout" in caught.value.hint
