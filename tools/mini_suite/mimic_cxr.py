"""The MIMIC-CXR folder: drawn chest films with composed reports, in the `annotation.json` form of R2Gen.

Nothing in it comes from MIMIC-CXR. All ids are visibly synthetic: patients and studies begin with 9, which real ones
do not, and films are called `phantom-...`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.mini_suite.chest_films import draw_chest
from tools.mini_suite.chest_reports import draw_case
from tools.mini_suite.encoding import compact_json, grey_image, jpeg
from tools.mini_suite.part import Part, Source, TaskRecord
from tools.mini_suite.seeds import generator

STUDIES = {"train": 560, "val": 4, "test": 100}
"""Films by split; two studies in three patients, one in the others."""

_QUALITY = 36
_FIRST_PATIENT = {"train": 90_000_001, "val": 90_010_001, "test": 90_020_001}
_STUDIES_OF_THREE_PATIENTS = (1, 2, 1)

SOURCE = Source(
    name="chest-phantoms",
    title="Drawn frontal chest films with composed reports",
    origin="phantom",
    licence="Apache-2.0",
    attribution="medbench authors",
    retrieved_from="tools/mini_suite/chest_films.py and chest_reports.py",
    changes="none",
)


def build(_realdata: Path) -> Part:
    """Return `MIMIC-CXR/annotation.json` and `MIMIC-CXR/files/p90/.../*.jpg`.

    The folder with the real data is not used: all pictures are drawn.
    """
    files: dict[str, bytes] = {}
    annotation: dict[str, list[dict[str, Any]]] = {}
    for split, count in STUDIES.items():
        annotation[split] = []
        for patient, study in _studies(split, count):
            row, film = _study(split, patient, study)
            files[f"MIMIC-CXR/files/{row['image_path'][0]}"] = film
            annotation[split].append(row)
    files["MIMIC-CXR/annotation.json"] = compact_json(annotation)
    record = TaskRecord(
        task="mimic-cxr",
        folder="MIMIC-CXR",
        split="by patient, as drawn",
        counts={"train": STUDIES["train"], "test": STUDIES["test"]},
        items={"files/p90/*": "chest-phantoms", "annotation.json": "chest-phantoms"},
    )
    return Part(files=files, tasks=(record,), sources=(SOURCE,))


def _studies(split: str, count: int) -> Iterator[tuple[int, int]]:
    """Yield patient and study numbers."""
    patient, left = _FIRST_PATIENT[split], 0
    for number in range(count):
        if left == 0:
            patient += number > 0
            left = _STUDIES_OF_THREE_PATIENTS[patient % 3]
        left -= 1
        yield patient, patient * 10 + left


def _study(split: str, patient: int, study: int) -> tuple[dict[str, Any], bytes]:
    random = generator("mimic-cxr", study)
    findings, report = draw_case(random)
    film = jpeg(grey_image(draw_chest(findings, random)), quality=_QUALITY)
    name = f"phantom-{study - 900_000_000:06d}"
    row = {
        "id": name,
        "study_id": study,
        "subject_id": patient,
        "report": report,
        "image_path": [f"p{str(patient)[:2]}/p{patient}/s{study}/{name}.jpg"],
        "split": split,
    }
    return row, film
