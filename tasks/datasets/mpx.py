"""MPx-Single: one MedPix image, one caption. Files and samples: docs/data.md.

Source: Wu et al., RadFM, 2023: `MedPix_single_{train,test}.csv` of its data_csv, images from MedPix
(https://medpix.nlm.nih.gov). Licence: none stated; the rights in images and texts lie with the MedPix
contributors, so neither may be passed on.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medbench.tasks.datasets.native import Found, Native, collect, left_out
from medbench.tasks.foundation.files import named_rows
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading
from medbench.tasks.validation import read_bytes

_NAMES: dict[Split, str] = {"train": "MedPix_single_train.csv", "test": "MedPix_single_test.csv"}
_COLUMNS = ("name", "type", "context")
_CASE = re.compile(r"(MPX\d+)_", re.ASCII)

# What pandas.read_csv takes for a missing value by default; the official code reads with it and then drops.
_EMPTY = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)


def read_captions(native: Native) -> Reading:
    """Read MPx-Single; a DataError if the layout is another one, a file is no CSV, or a column is missing."""
    root = native.root("RadFM_data_csv", *_NAMES.values())
    images = native.relative((root if (root / "images").is_dir() else native.source) / "images")

    def samples(split: Split, path: Path) -> Found:
        captions: Counter[str] = Counter()
        way_out = f"Expected layout: {native.layout}"
        for number, row, beyond in named_rows(read_bytes(path), str(path), _COLUMNS, way_out):
            reason = "row has more columns than the header" if beyond else _unusable(row)
            name = row["name"]
            yield left_out(f"{path.name} line {number}", reason) or Sample(
                sample_id=f"{split}/{name}/c{captions[name]}", task=native.task, split=split,
                images=(ImageRef(path=f"{images}/{name}"),), reference=row["context"],
                groups={"image": name, "case": case_of(name)},
            )  # fmt: skip
            captions[name] += not reason

    files = {split: root / name for split, name in _NAMES.items()}
    return collect(native.by_split(files, samples), "RadFM's train and test files")


def case_of(name: str) -> str:
    """Return the case number in an image's name, or the name where it has none."""
    match = _CASE.match(name)
    return match.group(1) if match else name


def _unusable(row: Mapping[str, str]) -> str:
    for column, value in row.items():
        if value in _EMPTY:
            return f"column {column!r} is empty"
    return "" if row["type"] == "caption" else "type is not caption"
