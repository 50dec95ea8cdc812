"""MIMIC-CXR as PhysioNet ships it: the official split file, one text per study, one picture per view.

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
from pathlib import Path
from typing import Literal

from medbench.tasks.datasets.native import MISSING, collect, rank, refuse_options, seed_option
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.text import decoded, named_rows
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import read_bytes

SectionName = Literal["findings", "impression", "both"]

SPLIT_FILES = ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
DEFAULT_MAX_TRAIN = 9997
MAX_CHARACTERS = 800

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


def find_split_file(source: Path) -> Path | None:
    """Return the official split file in `source`, unpacked or not, or None if there is none."""
    return next((source / name for name in SPLIT_FILES if (source / name).is_file()), None)


def read_raw(source: Path, split_file: Path, options: Mapping[str, str], *, task: str, section: SectionName) -> Reading:
    """Read the raw layout of `source`, whose split file `find_split_file` found; `section` becomes the reference.

    Raises:
        DataError: If the split file is no CSV or lacks a column, or a report cannot be opened.
        UsageError: If an option is malformed or has no effect.
    """
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
    text = options.get("max_train", str(DEFAULT_MAX_TRAIN))
    if text != "all" and not text.isdecimal():
        raise UsageError(
            f"The option max_train={text} is neither a whole number nor all.",
            f"Example: --option max_train={DEFAULT_MAX_TRAIN}",
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
    if len(text) > MAX_CHARACTERS:
        return f"{_CHOSEN[section]} longer than {MAX_CHARACTERS} characters"
    return ""
