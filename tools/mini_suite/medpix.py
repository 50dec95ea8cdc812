"""The MedPix folder: drawn scans with composed captions, in the form of RadFM's `MedPix_single_*.csv`.

Nothing in it comes from MedPix.
"""

import csv
from io import StringIO
from pathlib import Path

from medbench.tasks.sample import Split
from tools.mini_suite.abdomen_scans import draw_abdomen
from tools.mini_suite.brain_scans import draw_brain
from tools.mini_suite.encoding import grey_image, jpeg
from tools.mini_suite.knee_films import draw_knee
from tools.mini_suite.part import Part, Source, TaskRecord
from tools.mini_suite.phantom import Phantom
from tools.mini_suite.seeds import generator

PICTURES: dict[Split, int] = {"train": 450, "test": 81}

PAINTERS = (("abdomen", draw_abdomen), ("brain", draw_brain), ("knee", draw_knee))
QUALITY = 36
_OTHER_ROWS_EVERY = 5
"""Every so many pictures have rows on modality and plane too, which the task does not use."""

_WITHOUT_CAPTION = 2
"""So many pictures per split have a caption row without text, as the real file has; a reader skips it."""

SOURCE = Source(
    name="scan-phantoms",
    title="Drawn abdominal CT, brain MR and knee films with composed captions",
    origin="phantom",
    licence="Apache-2.0",
    attribution="medbench authors",
    retrieved_from="tools/mini_suite/abdomen_scans.py, brain_scans.py and knee_films.py",
    changes="none",
)


def build(_realdata: Path) -> Part:
    """Return `MedPix/MedPix_single_{train,test}.csv` and `MedPix/images/*.jpg`.

    The folder with the real data is not used: all pictures are drawn.
    """
    files: dict[str, bytes] = {}
    for split, count in PICTURES.items():
        rows: list[tuple[str, str, str]] = []
        for number in range(count):
            body, painter = PAINTERS[number % len(PAINTERS)]
            phantom = painter(generator("medpix", split, number))
            name = f"phantom-{split}-{body}-{number:04d}.jpg"
            files[f"MedPix/images/{name}"] = jpeg(grey_image(phantom.image), quality=QUALITY)
            rows.extend(_rows(name, phantom, number, missing=number >= count - _WITHOUT_CAPTION))
        files[f"MedPix/MedPix_single_{split}.csv"] = _table(rows)
    record = TaskRecord(
        task="mpx-single",
        folder="MedPix",
        split="as drawn",
        counts={split: count - _WITHOUT_CAPTION for split, count in PICTURES.items()},
        items={"images/*": "scan-phantoms", "MedPix_single_*.csv": "scan-phantoms"},
    )
    note = "MPx-Single: two caption rows per split have no text on purpose, as the real file has; a reader skips them."
    return Part(files=files, tasks=(record,), sources=(SOURCE,), notes=(note,))


def _rows(name: str, phantom: Phantom, number: int, *, missing: bool) -> list[tuple[str, str, str]]:
    rows = [(name, "caption", "" if missing else phantom.caption)]
    if number % _OTHER_ROWS_EVERY == 0:
        rows += [(name, "modality", phantom.modality), (name, "plane", phantom.plane)]
    return rows


def _table(rows: list[tuple[str, str, str]]) -> bytes:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("name", "type", "context"))
    writer.writerows(rows)
    return stream.getvalue().encode()
