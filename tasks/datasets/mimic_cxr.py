"""MIMIC-CXR: chest X-rays with the radiologist's report.

Source: Johnson et al., MIMIC-CXR-JPG 2.0.0 on PhysioNet; as it is, or in the R2Gen annotation of Chen et al., 2020.
Licence: PhysioNet Credentialed Health Data License 1.5.0: access needs training and a signed agreement, and
neither reports nor pictures may leave the machine.

Two native layouts are read. The annotation, which holds the paper's selection and is preferred::

    annotation.json        {"train": [...], "val": [...], "test": [...]} of rows (invented here)
        {"id": "<dicom id>", "study_id": 50000000, "subject_id": 10000000, "split": "test",
         "report": "No finding.", "image_path": ["p10/p10000000/s50000000/<dicom id>.jpg"]}
    annotation_small.json  the Uni-Med authors' subset, of which only "train" is used; optional
    files/p10/p10000000/s50000000/<dicom id>.jpg    or p10/... beside the annotation

and the raw files, as PhysioNet ships them: the official split file, one text per study, one picture per view::

    mimic-cxr-2.0.0-split.csv[.gz]    dicom_id,study_id,subject_id,split; split is train, validate or test
    files/p10/p10000000/s50000000.txt, or the same in mimic-cxr-reports/ or reports/    (invented here)
        FINDINGS:
        The lungs are clear. ___ was told.

        IMPRESSION: Normal.
    files/p10/p10000000/s50000000/<dicom id>.jpg

Samples: `s50000000/<dicom id>`. Of the annotation one per row, with the first picture only, as in the official code;
the report is the reference, whole (the official cut at 50 words belongs to the paper's scoring protocol). Of the raw
files one per picture, since each view of a study is its own sample (paper, appendix B); the reference is a part of the
report, white space made single, and at most 800 characters long, as in the paper. Which part makes three tasks, since
their numbers are not comparable:

- `mimic-cxr`, the default: the findings.
- `mimic-cxr-impression`: the impression. Raw files only: the annotation holds one text per report.
- `mimic-cxr-both`: the findings, a space, the impression, where a report has both. Raw files only.

Split: the annotation's train and test (9997 / 3858 in the paper; its 9997 training rows are those of
`annotation_small.json`, and without that file all rows of "train" are read). Of the raw files the official test rows;
validation rows are not used, and 9997 training pictures are drawn by a seeded hash. Which ones the authors drew is
known from their subset only.

The split file has 377,110 rows. Pictures are looked for and reports are read only where a row may become a sample:
for the test rows, and for the training rows in the order of their ranks until the draw is full.

A report is free text. A section starts at a line that begins with its name and a colon (`FINDINGS:`, ` Findings :`) and
ends at the next such line. Only the names listed here count, since findings may have lines of that look of their own
(`LUNGS: clear.`). Of several sections of one name the last that is not empty counts, as in the parser that MIMIC-CXR's
authors published. A preliminary reading may stand before the report: where a line says `FINAL REPORT` and no more, only
what follows it is read.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, TypeAdapter

from medbench.tasks.datasets.native import (
    MISSING,
    collect,
    lacking,
    prefix,
    rank,
    refuse_options,
    seed_option,
    wrong_layout,
)
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.text import decoded, named_rows
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, empty_for_missing, parse_json_file, read_bytes

SectionName = Literal["findings", "impression", "both"]

_SPLIT_FILES = ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
_DEFAULT_MAX_TRAIN = 9997
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


def _none_for_missing(value: object) -> object:
    return [] if empty_for_missing(value) == "" else value


class _Row(NativeRow):
    id: str
    study_id: int | str
    subject_id: int | str
    report: MaybeText
    image_path: Annotated[list[str], BeforeValidator(_none_for_missing)]


class _Annotation(NativeRow):
    train: tuple[_Row, ...] = ()
    test: tuple[_Row, ...] = ()


_ANNOTATION = TypeAdapter(_Annotation)


def read_reports(source: Path, options: Mapping[str, str], *, task: str, layout: str, section: SectionName) -> Reading:
    """Read MIMIC-CXR; see the module's docstring.

    Raises:
        DataError: If the layout is another one, does not hold the section, or a file is broken.
        UsageError: If an option is malformed or has no effect on the layout found.
    """
    annotation = source / _ANNOTATION_FILE
    split_file = next((source / name for name in _SPLIT_FILES if (source / name).is_file()), None)
    if annotation.is_file() and section == "findings":
        refuse_options(options, options, "the annotation is already split and drawn")
        return _read_annotation(source, annotation, task)
    if split_file is not None:
        return _read_raw(source, split_file, options, task, section)
    if annotation.is_file():
        raise DataError(
            f"{annotation} holds one text per report, which {task} cannot be made of.",
            f"The raw layout is needed: {layout}",
        )
    raise wrong_layout(source, [_ANNOTATION_FILE, _SPLIT_FILES[0]], layout)


def _read_annotation(source: Path, path: Path, task: str) -> Reading:
    annotation = parse_json_file(_ANNOTATION, path)
    small = source / "annotation_small.json"
    train = parse_json_file(_ANNOTATION, small).train if small.is_file() else annotation.train
    method = f"train of {small.name if small.is_file() else path.name}, test of {path.name}"
    folder = source / "files" if (source / "files").is_dir() else source
    start = prefix(source, folder)
    found = chain(_samples(train, "train", start, task), _samples(annotation.test, "test", start, task))
    return collect(found, method)


def _samples(rows: Sequence[_Row], split: Split, start: str, task: str) -> Iterator[Sample | Skipped]:
    for row in rows:
        sample_id = f"s{row.study_id}/{row.id}"
        reason = lacking(report=row.report) if row.image_path else "row names no image"
        if reason:
            yield Skipped(item=sample_id, reason=reason)
            continue
        yield Sample(
            sample_id=sample_id,
            task=task,
            split=split,
            images=(ImageRef(path=f"{start}{row.image_path[0]}"),),
            reference=row.report,
            groups={"image": row.image_path[0], "study": str(row.study_id), "patient": str(row.subject_id)},
        )


@dataclass(frozen=True, slots=True)
class _View:
    """One picture of a study."""

    split: Split
    patient: str
    study: str
    dicom: str

    @property
    def sample_id(self) -> str:
        return f"s{self.study}/{self.dicom}"

    @property
    def study_path(self) -> str:
        return f"p{self.patient[:2]}/p{self.patient}/s{self.study}"

    @property
    def image_path(self) -> str:
        return f"{self.study_path}/{self.dicom}.jpg"


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


def _read_raw(source: Path, split_file: Path, options: Mapping[str, str], task: str, section: SectionName) -> Reading:
    limit = _max_train_option(options)
    if limit is None:
        refuse_options(options, ["seed"], "max_train=all draws nothing")
    seed = seed_option(options)
    listed = list(_listed(split_file))
    views = [item for item in listed if isinstance(item, _View)]
    studies = _Studies(source, task, section)
    train = _train(views, studies, seed, limit)
    tests = (studies.sample(view) for view in views if view.split == "test")
    draw = "all its train rows" if limit is None else f"at most {limit} images drawn of its train rows, seed {seed}"
    method = f"the test rows of {split_file.name}; training set ours, not the authors': {draw}"
    return collect((*(item for item in listed if isinstance(item, Skipped)), *train, *tests), method)


def _max_train_option(options: Mapping[str, str]) -> int | None:
    text = options.get("max_train", str(_DEFAULT_MAX_TRAIN))
    if text != "all" and not text.isdecimal():
        raise UsageError(
            f"The option max_train={text} is neither a whole number nor all.",
            f"Example: --option max_train={_DEFAULT_MAX_TRAIN}",
        )
    return None if text == "all" else int(text)


def _listed(split_file: Path) -> Iterator[_View | Skipped]:
    way_out = f"It needs {', '.join(_COLUMNS)}; download it again."
    for number, row, _ in named_rows(_unpacked(split_file), str(split_file), _COLUMNS, way_out):
        item = f"{split_file.name} line {number}"
        if row["split"] == _UNUSED_SPLIT:
            continue
        if row["split"] not in _SPLITS:
            yield Skipped(item=item, reason="split is not train, validate or test")
        elif not (
            _NUMBER.fullmatch(row["subject_id"])
            and _NUMBER.fullmatch(row["study_id"])
            and _DICOM.fullmatch(row["dicom_id"])
        ):
            yield Skipped(item=item, reason="an id is missing or malformed")
        else:
            yield _View(_SPLITS[row["split"]], row["subject_id"], row["study_id"], row["dicom_id"])


def _unpacked(path: Path) -> bytes:
    data = read_bytes(path)
    try:
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a readable CSV file: {error}.", "Download it again.") from error


def _train(views: Sequence[_View], studies: "_Studies", seed: int, limit: int | None) -> list[Sample | Skipped]:
    """Return what was skipped on the way to a full draw, then the drawn samples in the order of the split file."""
    candidates = [view for view in views if view.split == "train"]
    drawn: dict[_View, Sample] = {}
    skipped: list[Skipped] = []
    for view in sorted(candidates, key=lambda view: (rank(seed, view.sample_id), view.sample_id)):
        if len(drawn) == limit:
            break
        item = studies.sample(view)
        if isinstance(item, Sample):
            drawn[view] = item
        else:
            skipped.append(item)
    return [*skipped, *(drawn[view] for view in candidates if view in drawn)]


class _Studies:
    """Makes samples of views; the report of a study is read once for all its views."""

    def __init__(self, source: Path, task: str, section: SectionName) -> None:
        self._images = source / _IMAGES
        self._reports = [source / name for name in _REPORTS if (source / name).is_dir()]
        self._task = task
        self._section = section
        self._references: dict[str, tuple[str, str]] = {}

    def sample(self, view: _View) -> Sample | Skipped:
        if not (self._images / view.image_path).is_file():
            return Skipped(item=view.sample_id, reason=MISSING, looked_for=f"{_IMAGES}/{view.image_path}")
        if view.study_path not in self._references:
            self._references[view.study_path] = self._reference(view.study_path)
        text, problem = self._references[view.study_path]
        if problem:
            return Skipped(item=view.sample_id, reason=problem)
        return Sample(
            sample_id=view.sample_id,
            task=self._task,
            split=view.split,
            images=(ImageRef(path=f"{_IMAGES}/{view.image_path}"),),
            reference=text,
            groups={"image": view.image_path, "study": view.study, "patient": view.patient},
        )

    def _reference(self, study_path: str) -> tuple[str, str]:
        """Return the chosen text of a report, or why there is none."""
        candidates = (folder / f"{study_path}.txt" for folder in self._reports)
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return "", "report is missing"
        data = read_bytes(path)
        try:
            sections = split_report(decoded(data, str(path)))
        except DataError:
            return "", "report is not UTF-8 text"
        text = sections.text(self._section)
        return text, _problem(sections, self._section, text)


def _problem(sections: ReportSections, section: SectionName, text: str) -> str:
    if section != "impression" and not sections.findings:
        return "report has no findings"
    if section != "findings" and not sections.impression:
        return "report has no impression"
    if len(text) > _MAX_CHARACTERS:
        return f"{_CHOSEN[section]} longer than {_MAX_CHARACTERS} characters"
    return ""
