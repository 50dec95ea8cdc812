"""MPx-Single: one MedPix picture, one caption.

Source: Wu et al., RadFM, 2023: `MedPix_single_{train,test}.csv` of its data_csv, pictures from MedPix
(https://medpix.nlm.nih.gov). Licence: none stated; the rights in pictures and texts lie with the MedPix
contributors, so neither may be passed on.

Native layout::

    MedPix_single_train.csv, MedPix_single_test.csv   with at least these columns; rows invented here
        name,type,context
        MPX1000_synpic1000.jpg,caption,Axial image through the upper abdomen.
        MPX1000_synpic1000.jpg,modality,CT
    images/MPX1000_synpic1000.jpg

Samples: one per row of type `caption`, `test/MPX1000_synpic1000.jpg/c0` (picture, then the place among the
captions of this picture). Dropped with a reason, as in the official code: rows with any empty column, where
empty is what pandas reads as missing (``NA``, ``nan``, ``None``, ...); rows of another type; rows whose
picture is missing.

Split: the two files (31416 / 6664 in the paper). Cases are not kept apart by it: the group `case` is the
part of the picture's name before `_synpic`, or the picture itself where the name has no case.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from medbench.tasks.datasets.native import collect, find_root, prefix, present_splits
from medbench.tasks.foundation.text import named_rows
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
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


def read_captions(source: Path, _options: Mapping[str, str], *, task: str, layout: str) -> Reading:
    """Read MPx-Single; see the module's docstring.

    Raises:
        DataError: If the layout is another one, a file is no CSV, or a column is missing.
    """
    root = find_root(source, ["RadFM_data_csv"], list(_NAMES.values()), layout)
    present, missing = present_splits({split: root / name for split, name in _NAMES.items()}, source, layout)
    folder = root if (root / "images").is_dir() else source
    images = f"{prefix(source, folder)}images"
    parts = (_split_samples(split, path, images, task, layout) for split, path in present.items())
    return collect(chain(missing, *parts), "RadFM's train and test files")


def _split_samples(split: Split, path: Path, images: str, task: str, layout: str) -> Iterator[Sample | Skipped]:
    captions: Counter[str] = Counter()
    for number, row, beyond in named_rows(read_bytes(path), str(path), _COLUMNS, f"Expected layout: {layout}"):
        reason = "row has more columns than the header" if beyond else _unusable(row)
        if reason:
            yield Skipped(item=f"{path.name} line {number}", reason=reason)
            continue
        name = row["name"]
        yield Sample(
            sample_id=f"{split}/{name}/c{captions[name]}",
            task=task,
            split=split,
            images=(ImageRef(path=f"{images}/{name}"),),
            reference=row["context"],
            groups={"image": name, "case": case_of(name)},
        )
        captions[name] += 1


def case_of(name: str) -> str:
    """Return the case number in a picture's name, or the name where it has none."""
    match = _CASE.match(name)
    return match.group(1) if match else name


def _unusable(row: Mapping[str, str]) -> str:
    for column, value in row.items():
        if value in _EMPTY:
            return f"column {column!r} is empty"
    return "" if row["type"] == "caption" else "type is not caption"
