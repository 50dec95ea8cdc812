"""MIMIC-CXR: chest X-rays with the radiologist's report.

Source: Johnson et al., MIMIC-CXR-JPG 2.0.0 on PhysioNet, in the R2Gen annotation of Chen et al., 2020.
Licence: PhysioNet Credentialed Health Data License 1.5.0: access needs training and a signed agreement, and
neither reports nor pictures may leave the machine.

Native layout::

    annotation.json        {"train": [...], "val": [...], "test": [...]} of rows (invented here)
        {"id": "<dicom id>", "study_id": 50000000, "subject_id": 10000000, "split": "test",
         "report": "No finding.", "image_path": ["p10/p10000000/s50000000/<dicom id>.jpg"]}
    annotation_small.json  the Uni-Med authors' subset, of which only "train" is used; optional
    files/p10/p10000000/s50000000/<dicom id>.jpg    or p10/... beside the annotation

Samples: one per row, `s50000000/<dicom id>`, with the first picture only, as in the official code; the
report is the reference, whole (the official cut at 50 words belongs to the paper's scoring protocol).

Split: the annotation's train and test (9997 / 3858 in the paper; its 9997 training rows are those of
`annotation_small.json`, and without that file all rows of "train" are read).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from tasks.datasets import instructions
from tasks.datasets.native import collect, find_root, prefix
from tasks.sample import ImageRef, Sample, Split
from tasks.spec import Reading, Skipped, TaskSpec
from tasks.validation import NativeRow, parse_json_file

LAYOUT = "annotation.json (R2Gen form) [, annotation_small.json], files/p10/p.../s.../<dicom id>.jpg (or p10/...)"


class _Row(NativeRow):
    id: str
    study_id: int | str
    subject_id: int | str
    report: str
    image_path: list[str]


class _Annotation(NativeRow):
    train: tuple[_Row, ...] = ()
    test: tuple[_Row, ...] = ()


_ANNOTATION = TypeAdapter(_Annotation)


def read_reports(source: Path, _options: Mapping[str, str]) -> Reading:
    """Read MIMIC-CXR; see the module's docstring.

    Raises:
        DataError: If the layout is another one or the annotation is broken.
    """
    root = find_root(source, [], ["annotation.json"], LAYOUT)
    annotation = parse_json_file(_ANNOTATION, root / "annotation.json")
    small = root / "annotation_small.json"
    train = parse_json_file(_ANNOTATION, small).train if small.is_file() else annotation.train
    method = f"train of {small.name if small.is_file() else 'annotation.json'}, test of annotation.json"
    folder = root / "files" if (root / "files").is_dir() else root
    start = prefix(source, folder)
    return collect(chain(_samples(train, "train", start), _samples(annotation.test, "test", start)), method)


def _samples(rows: Sequence[_Row], split: Split, start: str) -> Iterator[Sample | Skipped]:
    for row in rows:
        sample_id = f"s{row.study_id}/{row.id}"
        if not row.image_path:
            yield Skipped(item=sample_id, reason="row names no image")
            continue
        yield Sample(
            sample_id=sample_id,
            task=MIMIC_CXR.name,
            split=split,
            images=(ImageRef(path=f"{start}{row.image_path[0]}"),),
            reference=row.report,
            groups={"image": row.image_path[0], "study": str(row.study_id), "patient": str(row.subject_id)},
        )


MIMIC_CXR = TaskSpec(
    name="mimic-cxr",
    kind="report",
    title="MIMIC-CXR",
    version=1,
    prompt=instructions.CHEST_REPORT[0],
    train_prompts=instructions.CHEST_REPORT,
    group_key="patient",
    counts={"train": 9997, "test": 3858},
    source="MIMIC-CXR-JPG 2.0.0, https://physionet.org/content/mimic-cxr-jpg, with R2Gen's annotation.json",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    credentialed=True,
    layout=LAYOUT,
    reader=read_reports,
)
