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

and the raw files, see `medbench.tasks.datasets.mimic_raw`::

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
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, TypeAdapter

from medbench.tasks.datasets.mimic_raw import SPLIT_FILES, SectionName, find_split_file, read_raw
from medbench.tasks.datasets.native import collect, lacking, prefix, refuse_options, wrong_layout
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, empty_for_missing, parse_json_file

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
    annotation, split_file = source / _ANNOTATION_FILE, find_split_file(source)
    if annotation.is_file() and section == "findings":
        refuse_options(options, options, "the annotation is already split and drawn")
        return _read_annotation(source, annotation, task)
    if split_file is not None:
        return read_raw(source, split_file, options, task=task, section=section)
    if annotation.is_file():
        raise DataError(
            f"{annotation} holds one text per report, which {task} cannot be made of.",
            f"The raw layout is needed: {layout}",
        )
    raise wrong_layout(source, [_ANNOTATION_FILE, SPLIT_FILES[0]], layout)


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
