"""MIMIC-CXR: chest X-rays with the radiologist's report. Both native layouts, and samples: docs/data.md.

Source: Johnson et al., MIMIC-CXR-JPG 2.0.0 on PhysioNet; as it is, or in the R2Gen annotation of Chen et al., 2020.
Licence: PhysioNet Credentialed Health Data License 1.5.0: access needs training and a signed agreement, and
neither reports nor images may leave the machine.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator

from medbench.tasks.datasets.native import MISSING, Found, Native, collect, lacking, left_out, rank, sorted_out
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import decoded, named_rows
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, empty_for_missing, parse_json_file, read_bytes

SectionName = Literal["findings", "impression", "both"]

_SECTIONS: Mapping[str, SectionName] = {"mimic-cxr-impression": "impression", "mimic-cxr-both": "both"}
_SPLIT_FILES = ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
_DEFAULT_MAX_TRAIN = "9997"
_MAX_CHARACTERS = 800
_IMAGES = "files"
_REPORTS = ("files", "mimic-cxr-reports/files", "reports/files")
_COLUMNS = ("dicom_id", "study_id", "subject_id", "split")
_SPLITS: Mapping[str, Split] = {"train": "train", "test": "test"}
_UNUSED_SPLIT = "validate"

_NAMES = {
    "findings": "FINDINGS?",
    "impression": "IMPRESSIONS?|CONCLUSIONS?|IMPRESSION AND RECOMMENDATIONS?",
    "combined": r"FINDINGS?(?: AND |\s*[&/]\s*)IMPRESSIONS?|IMPRESSIONS?(?: AND |\s*[&/]\s*)FINDINGS?",
    # What else ends a section: the frequent names in MIMIC-CXR.
    "other": (
        r"ADDENDUM|ATTENDING|CLINICAL (?:HISTORY|INDICATION|INFORMATION)|COMMENTS?|COMPARISONS?"
        r"|COMPARISON (?:EXAM|FILM)|DATE|EXAM|EXAMINATION|HISTORY|INDICATIONS?|NOTIFICATION|PATIENT HISTORY|PROCEDURE"
        r"|PROVISIONAL FINDINGS IMPRESSION \(PFI\)|REASON FOR EXAM(?:INATION)?|RECOMMENDATION(?:S|\(S\))?"
        r"|REFERENCE EXAM|TECHNIQUE|TYPE OF EXAMINATION|WET READ"
    ),
}
_ANY = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _NAMES.items()).replace(" ", r"[ \t]+")
# A name in small letters is the middle of a wrapped sentence.
_HEADER = re.compile(rf"^[ \t]*(?=[A-Z])(?i:{_ANY})[ \t]*:", re.MULTILINE)
_FINAL_REPORT = re.compile(r"^[ \t]*FINAL REPORT[ \t\r]*$", re.IGNORECASE | re.MULTILINE)

# The ids become parts of paths.
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)
_DICOM = re.compile(r"[\w-]{1,100}", re.ASCII)

_CHOSEN = {"findings": "findings are", "impression": "impression is", "both": "findings and impression are"}
_ANNOTATION_FILE = "annotation.json"


class _Row(NativeRow):
    id: str
    study_id: int | str
    subject_id: int | str
    report: MaybeText
    image_path: Annotated[list[str], BeforeValidator(lambda given: [] if empty_for_missing(given) == "" else given)]


class _Annotation(NativeRow):
    train: tuple[_Row, ...] = ()
    test: tuple[_Row, ...] = ()


def read_reports(native: Native) -> Reading:
    """Read MIMIC-CXR.

    Raises DataError if the layout is another one, does not hold the task's section, or a file is broken; UsageError if
    an option is malformed or has no effect on the layout found.
    """
    source, section = native.source, _SECTIONS.get(native.task, "findings")
    annotation = source / _ANNOTATION_FILE
    split_file = next((source / name for name in _SPLIT_FILES if (source / name).is_file()), None)
    if annotation.is_file() and section == "findings":
        native.refuse_options(native.options, "the annotation is already split and drawn")
        return _read_annotation(native, annotation)
    if split_file is not None:
        return _read_raw(native, split_file, section)
    if annotation.is_file():
        problem = f"{annotation} holds one text per report, which {native.task} cannot be made of."
        raise DataError(problem, f"The raw layout is needed: {native.layout}")
    raise native.other_layout(_ANNOTATION_FILE, _SPLIT_FILES[0])


def _read_annotation(native: Native, path: Path) -> Reading:
    annotation = parse_json_file(_Annotation, path)
    small, files = path.with_name("annotation_small.json"), native.source / "files"
    train = parse_json_file(_Annotation, small).train if small.is_file() else annotation.train
    method = f"train of {small.name if small.is_file() else path.name}, test of {path.name}"
    start = native.prefix(files if files.is_dir() else native.source)

    def samples(rows: Sequence[_Row], split: Split) -> Found:
        for row in rows:
            item, image = f"s{row.study_id}/{row.id}", next(iter(row.image_path), None)
            if image is None:
                yield Skipped(item=item, reason="row names no image")
                continue
            yield lacking(item, report=row.report) or Sample(
                sample_id=item, task=native.task, split=split, images=(ImageRef(path=f"{start}{image}"),),
                reference=row.report,
                groups={"image": image, "study": str(row.study_id), "patient": str(row.subject_id)},
            )  # fmt: skip

    return collect(chain(samples(train, "train"), samples(annotation.test, "test")), method)


class _View(NamedTuple):
    """One image of a study."""

    sample_id: str
    split: Split
    patient: str
    study: str
    report: str  # Path of the report without its suffix, below the folder of reports.
    image: str  # Path of the image, below `files`.


@dataclass(frozen=True, slots=True)
class ReportSections:
    """What a report says is seen and what it means, white space made single; empty where it says nothing.

    `one_section` tells whether both are the text of one section (`FINDINGS AND IMPRESSION:`).
    """

    findings: str
    impression: str
    one_section: bool = False

    def text(self, section: SectionName) -> str:
        """Return the text of `section`; `both` is empty where one of the two is."""
        if section == "findings":
            return self.findings
        if section == "impression" or self.one_section:
            return self.impression
        return f"{self.findings} {self.impression}" if self.findings and self.impression else ""


def split_report(report: str) -> ReportSections:
    """Return findings and impression of a report; the marks `___` of de-identification are kept.

    A section for both at once stands for each of the two that has no section of its own.
    """
    final = _FINAL_REPORT.search(report)
    text = report[final.end() :] if final else report
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    found: dict[str, str] = {}
    for header, end in zip(headers, ends, strict=False):
        content = " ".join(text[header.end() : end].split())
        if content:
            found[header.lastgroup or ""] = content
    findings, impression, combined = (found.get(kind, "") for kind in ("findings", "impression", "combined"))
    return ReportSections(
        findings=findings or combined,
        impression=impression or combined,
        one_section=bool(combined) and not findings and not impression,
    )


def _read_raw(native: Native, split_file: Path, section: SectionName) -> Reading:
    most = native.option("max_train", _DEFAULT_MAX_TRAIN, r"all|\d+", "neither a whole number nor all")
    limit = None if most == "all" else int(most)
    if limit is None:
        native.refuse_options(["seed"], "max_train=all draws nothing")
    seed, folders = native.seed(), [native.source / name for name in _REPORTS if (native.source / name).is_dir()]

    @cache
    def reference(report: str) -> tuple[str, str]:
        return _reference([folder / f"{report}.txt" for folder in folders], section)

    def sample(view: _View) -> Sample | Skipped:
        image = f"{_IMAGES}/{view.image}"
        if not (native.source / image).is_file():
            return Skipped(item=view.sample_id, reason=MISSING, looked_for=image)
        text, problem = reference(view.report)
        return left_out(view.sample_id, problem) or Sample(
            sample_id=view.sample_id, task=native.task, split=view.split, images=(ImageRef(path=image),),
            reference=text, groups={"image": view.image, "study": view.study, "patient": view.patient},
        )  # fmt: skip

    listed = list(_listed(split_file))
    views = [item for item in listed if isinstance(item, _View)]
    # What is drawn comes in the order of the split file, after what was skipped on the way to a full draw.
    train = [view for view in views if view.split == "train"]
    order = {view.sample_id: place for place, view in enumerate(train)}
    ranked = sorted(train, key=lambda view: (rank(seed, view.sample_id), view.sample_id))
    drawn, unusable = sorted_out(map(sample, ranked), limit)
    drawn.sort(key=lambda sample: order[sample.sample_id])
    tests = (sample(view) for view in views if view.split == "test")
    skipped = [item for item in listed if isinstance(item, Skipped)]
    draw = "all its train rows" if limit is None else f"at most {limit} images drawn of its train rows, seed {seed}"
    method = f"the test rows of {split_file.name}; training set ours, not the authors': {draw}"
    return collect((*skipped, *unusable, *drawn, *tests), method)


def _listed(split_file: Path) -> Iterator[_View | Skipped]:
    way_out = f"It needs {', '.join(_COLUMNS)}; download it again."
    for number, row, _ in named_rows(_unpacked(split_file), str(split_file), _COLUMNS, way_out):
        dicom, study, patient, split = (row[column] for column in _COLUMNS)
        if split == _UNUSED_SPLIT:
            continue
        reason = "" if split in _SPLITS else "split is not train, validate or test"
        if not (_NUMBER.fullmatch(patient) and _NUMBER.fullmatch(study) and _DICOM.fullmatch(dicom)):
            reason = reason or "an id is missing or malformed"
        report = f"p{patient[:2]}/p{patient}/s{study}"
        yield left_out(f"{split_file.name} line {number}", reason) or _View(
            f"s{study}/{dicom}", _SPLITS[split], patient, study, report, f"{report}/{dicom}.jpg"
        )


def _unpacked(path: Path) -> bytes:
    data = read_bytes(path)
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}.", "Download it again.") from error


def _reference(candidates: Sequence[Path], section: SectionName) -> tuple[str, str]:
    """Return the chosen text of a report, or why there is none."""
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        return "", "report is missing"
    data = read_bytes(path)
    try:
        sections = split_report(decoded(data, str(path)))
    except DataError:
        return "", "report is not UTF-8 text"
    text, problem = sections.text(section), ""
    if section != "impression" and not sections.findings:
        problem = "report has no findings"
    elif section != "findings" and not sections.impression:
        problem = "report has no impression"
    elif len(text) > _MAX_CHARACTERS:
        problem = f"{_CHOSEN[section]} longer than {_MAX_CHARACTERS} characters"
    return text, problem
