"""BUSI, COVID-CT and Kermany's chest X-rays: one image, one class, told by its folder. Files, samples: docs/data.md.

Sources: Al-Dhabyani et al., Dataset of breast ultrasound images, 2020; Zhao et al., COVID-CT-Dataset, 2020
(https://github.com/UCSD-AI4H/COVID-CT); Kermany et al., Cell 2018 (https://data.mendeley.com/datasets/rscbjbr9sj).
Licences: none stated; none stated, images belong to the papers' authors and publishers; CC BY 4.0.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, product
from pathlib import Path
from typing import Any

from medbench.tasks.alike import ImageIndex, Printer
from medbench.tasks.datasets.medmnist import LabelSet
from medbench.tasks.datasets.native import Found, Native, collect, is_litter, left_out, ranked_split
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import read_text_bytes

LABEL_SETS: Mapping[str, LabelSet] = {
    "busi": LabelSet("breast ultrasound image", ("benign", "malignant", "normal")),
    "covid-ct": LabelSet("chest CT image", ("COVID-19", "non-COVID-19")),
    "chest-xray": LabelSet("chest X-ray image of a child", ("normal", "pneumonia")),
}

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_PARTS = 5
_MASK = re.compile(r"_mask(_\d+)?\.png")
_LISTS = ("COVID", "NonCOVID")
# `2020.03.12.20034686-p17-91-3.png` is from page 17 of a paper, `PIIS0140673620301549_0%1.png` a panel of a figure.
_PLACE_IN_PAPER = re.compile(r"-p\d+-|(?:_\d+)?(?:%\d+)?$", re.ASCII)
_FOLDERS: Mapping[str, Split] = {"train": "train", "val": "train", "test": "test"}
# `person1_virus_6`, `IM-0115-0001`, `NORMAL2-IM-1427-0001`: a count; `BACTERIA-1008087-0001`: the authors' own id.
_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)|(?:NORMAL|BACTERIA|VIRUS)-(\d+)", re.ASCII)


def read_ultrasound(native: Native) -> Reading:
    """Read BUSI, every picture of it; a DataError if the layout is another one."""
    classes, seed = LABEL_SETS[native.task].names, native.seed()
    root = native.root("Dataset_BUSI_with_GT", *classes)
    walked = list(chain.from_iterable(_pictures(root, name) for name in classes))
    items = [item for item in walked if isinstance(item, str) and not _MASK.search(item)]
    cases = _cases(native, root, items)
    splits: dict[str, Split] = {}
    for name in classes:
        splits |= ranked_split((case for case in cases if _folder(case) == name), seed=seed, parts=_PARTS)
    found = (
        left_out(item, "" if case else "image is missing or unreadable")
        or _sample(native, root, item, splits[case], _folder(item), case=case)
        for item, case in zip(items, cases, strict=True)
    )
    method = f"ours, the authors have none: random {_PARTS - 1}:1 in each class, alike pictures together, seed {seed}"
    return collect(chain(found, (item for item in walked if isinstance(item, Skipped))), method, _odd(items, cases))


def read_ct(native: Native) -> Reading:
    """Read COVID-CT; a DataError if the layout is another one, or a picture is in two of the authors' lists."""
    root = native.root("COVID-CT-master", "Data-split")
    of_classes = zip(_LISTS, LABEL_SETS[native.task].names, strict=True)
    found = chain.from_iterable(_listed(native, root, kind, label) for kind, label in of_classes)
    warning = "no name of a picture says the patient: those of one paper, or else of one figure, are taken for one case"
    return collect(found, "the authors' lists; no training picture is of a paper that the test list has", [warning])


def read_xrays(native: Native) -> Reading:
    """Read Kermany's chest X-rays; a DataError if the layout is another one."""
    root = native.root("chest_xray", "train", "test")
    warning = "that train and test share no patient is the authors' word; in each, numbers as in person1 begin anew"
    return collect(_xrays(native, root), "the authors' folders; a copy's val, once of train, is train", [warning])


def _pictures(root: Path, folder: str) -> Iterator[str | Skipped]:
    """Yield the pictures in a folder by their paths below the root, and as skipped what else is there."""
    if not (root / folder).is_dir():
        yield Skipped(item=folder, reason="folder is missing")
        return
    for name in sorted(path.name for path in (root / folder).iterdir() if not is_litter(path.name)):
        item = f"{folder}/{name}"
        yield left_out(item, "" if Path(name).suffix.lower() in _SUFFIXES else "file is no picture") or item


def _folder(item: str) -> str:
    return item.partition("/")[0]


def _sample(native: Native, root: Path, item: str, split: Split, label: str, **groups: str) -> Sample:
    known = LABEL_SETS[native.task]
    return Sample(
        sample_id=item, task=native.task, split=split, images=(ImageRef(path=f"{native.prefix(root)}{item}"),),
        inputs={"subject": known.subject, "classes": known.listing}, reference=label,
        choices={name: name for name in known.names}, labels={"label": label}, groups={"image": item, **groups},
    )  # fmt: skip


def _cases(native: Native, root: Path, items: Sequence[str]) -> list[str]:
    """Return for each picture the first that is equal or nearly equal, through others too; nothing if unreadable."""
    from scipy.cluster.hierarchy import DisjointSet

    refs = [ImageRef(path=f"{native.prefix(root)}{item}") for item in items]
    with closing(Printer()) as printer:
        prints = printer.prints([(native.source, ref) for ref in refs], keep=False)
    alike: Any = DisjointSet(range(len(items)))
    for match in ImageIndex(prints).match(prints):
        if match.how != "review":
            alike.merge(match.row, match.image)
    first = {place: items[min(subset)] for subset in alike.subsets() for place in subset}
    return ["" if found is None else first[place] for place, found in enumerate(prints)]


def _odd(items: Sequence[str], cases: Sequence[str]) -> Iterator[str]:
    """Yield what is odd about the pictures of BUSI."""
    yield "no patient is published (780 pictures are of 600): one may have pictures in train and in test"
    members: dict[str, list[str]] = {}
    for item, case in zip(items, cases, strict=True):
        members.setdefault(case, []).append(_folder(item))
    members.pop("", None)
    if repeated := sum(len(found) for found in members.values() if len(found) > 1):
        yield f"{repeated} pictures are equal or nearly equal to another; all pictures are of {len(members)} cases"
    if torn := sum(len(set(found)) > 1 for found in members.values()):
        yield f"cases with pictures of several classes, whose labels contradict one another: {torn}"


def _listed(native: Native, root: Path, kind: str, label: str) -> Found:
    """Yield the pictures of one class of COVID-CT by the authors' lists, then those that are in none."""
    parts: dict[str, str] = {}
    for part in _FOLDERS:
        path = root / "Data-split" / kind / f"{part}CT_{kind}.txt"
        if not path.is_file():
            yield Skipped(item=native.relative(path), reason="file is missing", looked_for=native.relative(path))
            continue
        for name in filter(None, map(str.strip, read_text_bytes(path).decode().splitlines())):
            if parts.setdefault(name, part) != part:
                problem = f"{path}: {name!r} is in the list {parts[name]}CT_{kind}.txt, too."
                raise DataError(problem, "Restore the authors' lists.")
    folder, tested = f"Images-processed/CT_{kind}", {paper_of(name) for name, part in parts.items() if part == "test"}
    for name, part in parts.items():
        reason = "in the validation list, which is not used" if part == "val" else ""
        if part == "train" and paper_of(name) in tested:
            reason = "the test list has pictures of its paper"
        item, split = f"{folder}/{name}", _FOLDERS[part]
        yield left_out(item, reason) or _sample(native, root, item, split, label, document=paper_of(name))
    for found in _pictures(root, folder):
        if isinstance(found, Skipped) or found.rpartition("/")[2] not in parts:
            yield found if isinstance(found, Skipped) else Skipped(item=found, reason="in none of the authors' lists")


def paper_of(name: str) -> str:
    """Return what a picture of COVID-CT was taken from, by its name: a paper, of the others a figure or a scan."""
    stem, period, suffix = name.rpartition(".")
    # `14.png` and `14%0.jpg` are of different sources, so the suffix stays.
    return f"{_PLACE_IN_PAPER.split(stem, maxsplit=1)[0]}{period}{suffix}"


def _xrays(native: Native, root: Path) -> Found:
    parts = [part for part in _FOLDERS if part != "val" or (root / part).is_dir()]
    for part, label in product(parts, LABEL_SETS[native.task].names):
        for item in _pictures(root, f"{part}/{label.upper()}"):
            if isinstance(item, Skipped):
                yield item
            else:
                split = _FOLDERS[part]
                yield _sample(native, root, item, split, label, patient=patient_of(item, split))


def patient_of(item: str, split: Split) -> str:
    """Return the patient of a chest X-ray by its name, or the name where it has none; a count is told by its split."""
    name = item.rpartition("/")[2]
    if (match := _PATIENT.match(name)) is None:
        return name
    counted, own = match.groups()
    return own or f"{split}/{counted}"
