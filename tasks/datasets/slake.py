"""Slake: questions about, and boxes in, 642 CT, MRI and X-ray images; English half of a bilingual dataset.

Source: Liu et al., SLAKE, ISBI 2021 (https://www.med-vqa.com/slake). Licence: CC BY 4.0.

Native layout, as the official Uni-Med code reads it::

    train.txt, test.txt        folder names separated by white space: the authors' split by image
    imgs/xmlab3/source.jpg
    imgs/xmlab3/question.json  [{"img_id": 3, "img_name": "xmlab3/source.jpg", "question":
                                 "What modality is used to take this image?", "answer": "MRI", "q_lang": "en",
                                 "answer_type": "OPEN", "modality": "MRI", "content_type": "Modality",
                                 "qid": 44, ...}, ...]
    imgs/xmlab3/detection.json [{"Liver": [10.0, 12.0, 20.5, 15.0]}, ...]  left, top, width, height in pixels

As it is downloaded from its authors or from the Hub, the questions may be in three files instead::

    train.json, validate.json (validation.json on the Hub), test.json    [the same rows, of all images]

An image without a `question.json` of its own has the rows whose `img_name` starts with the name of its folder.

Samples: a VQA sample `xmlab3/q44` for every English question with a non-empty answer (6018 / 1014 in the
paper); a REC and a REG sample `xmlab3/d0` for every entry of `detection.json`, by its place in the list
(1421 / 201).

Split: `train.txt` and `test.txt`. These are the authors' own random 6:1 split by image, published with their
processed data only; it is not the official Slake split, and the names of the three JSON files say nothing about
it. Without the two lists the split is ours: images ordered by a seeded hash, one seventh (92 of 642) for testing.
Numbers on it are not comparable with the paper's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from medbench.tasks.datasets import instructions
from medbench.tasks.datasets.native import (
    SEED_OPTION,
    collect,
    find_root,
    ranked_split,
    refuse_options,
    relative,
    seed_option,
    wrong_layout,
)
from medbench.tasks.datasets.regions import Region, first_object, region_samples
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.litter import is_litter
from medbench.tasks.images import image_size
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped, TaskSpec
from medbench.tasks.validation import MaybeText, NativeRow, parse_json_file, read_text_bytes

LAYOUT = (
    "train.txt, test.txt, imgs/<name>/{source.jpg,question.json,detection.json}; "
    "questions also from train.json, validate.json or validation.json, test.json"
)
_SOURCE = "Slake 1.0, https://www.med-vqa.com/slake; train.txt and test.txt come with the Uni-Med authors' data"
_LICENCE = "CC BY 4.0"
_PARTS = 7
_QUESTION_FILES = (("train.json",), ("validate.json", "validation.json"), ("test.json",))


class _Question(NativeRow):
    qid: int
    question: MaybeText
    answer: MaybeText
    q_lang: MaybeText
    answer_type: MaybeText
    modality: MaybeText = ""
    content_type: MaybeText = ""


class _NamedQuestion(_Question):
    img_name: str


_QUESTIONS = TypeAdapter(list[_Question])
_NAMED_QUESTIONS = TypeAdapter(list[_NamedQuestion])
_DETECTIONS = TypeAdapter(list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    split: Split
    path: Path
    image: ImageRef
    groups: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _SharedQuestions:
    """Questions by folder of their image, and what is missing to them."""

    rows: Mapping[str, Sequence[_Question]] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()


def read_questions(source: Path, options: Mapping[str, str]) -> Reading:
    """Read Slake-VQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a file is broken.
    """
    root = _root(source)
    shared = _shared_questions(root)
    reading = _read(source, root, options, partial(_questions, shared=shared.rows))
    return replace(reading, skipped=(*reading.skipped, *shared.skipped))


def read_regions(source: Path, options: Mapping[str, str], *, task: str, kind: Literal["rec", "reg"]) -> Reading:
    """Read Slake-REC or Slake-REG; raises like `read_questions`."""
    return _read(source, _root(source), options, lambda folder: region_samples(_regions(folder), task, kind))


def _root(source: Path) -> Path:
    root = find_root(source, ["Slake1.0"], ["imgs"], LAYOUT)
    if not _image_folders(root):
        raise wrong_layout(source, ["imgs/<name>"], LAYOUT)
    return root


def _image_folders(root: Path) -> list[str]:
    folder = root / "imgs"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))


def _read(
    source: Path, root: Path, options: Mapping[str, str], items: Callable[[_Folder], Iterator[Sample | Skipped]]
) -> Reading:
    folders = _image_folders(root)
    splits, method = _splits(root, folders, options)

    def found() -> Iterator[Sample | Skipped]:
        for name, split in splits.items():
            yield from _items_of_folder(source, root, name, split, items)
        for name in folders:
            if name not in splits:
                yield Skipped(item=f"imgs/{name}", reason="in neither train.txt nor test.txt")

    return collect(found(), method)


def _splits(root: Path, folders: list[str], options: Mapping[str, str]) -> tuple[dict[str, Split], str]:
    train, test = root / "train.txt", root / "test.txt"
    if not train.exists() and not test.exists():
        seed = seed_option(options)
        method = f"ours, not the authors': random {_PARTS - 1}:1 by image, seed {seed}"
        return dict(sorted(ranked_split(folders, seed=seed, parts=_PARTS).items())), method
    refuse_options(options, ["seed"], "the split is given by train.txt and test.txt")
    names: dict[Split, list[str]] = {"train": _listed(train), "test": _listed(test)}
    both = sorted(set(names["train"]).intersection(names["test"]))
    if both:
        raise DataError(
            f"{root}: {len(both)} images are in train.txt and in test.txt, {both[0]!r} for one.",
            "Restore the authors' lists, or remove both for a split of our own.",
        )
    return {name: split for split, listed in names.items() for name in listed}, "authors' lists train.txt and test.txt"


def _listed(path: Path) -> list[str]:
    return read_text_bytes(path).decode().split()


def _items_of_folder(
    source: Path, root: Path, name: str, split: Split, items: Callable[[_Folder], Iterator[Sample | Skipped]]
) -> Iterator[Sample | Skipped]:
    path = root / "imgs" / name
    if "/" in name or name in {".", ".."} or not path.is_dir():
        yield Skipped(item=f"imgs/{name}", reason="folder is missing")
        return
    image = ImageRef(path=relative(source, path / "source.jpg"))
    yield from items(_Folder(name, split, path, image, {"image": name}))


def _questions(folder: _Folder, shared: Mapping[str, Sequence[_Question]]) -> Iterator[Sample | Skipped]:
    path = folder.path / "question.json"
    rows = parse_json_file(_QUESTIONS, path) if path.is_file() else shared.get(folder.name)
    if rows is None:
        yield Skipped(item=f"{folder.name}/question.json", reason="file is missing")
        return
    for row in rows:
        sample_id = f"{folder.name}/q{row.qid}"
        if row.q_lang.strip().lower() != "en":
            yield Skipped(item=sample_id, reason="question is not in English")
        elif not row.question.strip():
            yield Skipped(item=sample_id, reason="question is empty")
        elif not row.answer:
            yield Skipped(item=sample_id, reason="answer is empty")
        else:
            yield _question_sample(folder, sample_id, row)


def _shared_questions(root: Path) -> _SharedQuestions:
    """Read the files with the questions of all images, if there are any and an image needs them."""
    folders = _image_folders(root)
    candidates = [[root / name for name in names] for names in _QUESTION_FILES]
    files = [next((path for path in paths if path.is_file()), paths[0]) for paths in candidates]
    present = [path for path in files if path.is_file()]
    needed = any(not (root / "imgs" / name / "question.json").is_file() for name in folders)
    if not needed or not present:
        return _SharedQuestions()
    missing = [Skipped(item=path.name, reason="file is missing") for path in files if path not in present]
    rows, homeless = _rows_by_folder(present, folders)
    return _SharedQuestions(rows=rows, skipped=(*missing, *homeless))


def _rows_by_folder(files: Sequence[Path], folders: Sequence[str]) -> tuple[dict[str, list[_Question]], list[Skipped]]:
    rows: dict[str, list[_Question]] = {name: [] for name in folders}
    homeless: list[Skipped] = []
    for path in files:
        for row in parse_json_file(_NAMED_QUESTIONS, path):
            name = row.img_name.partition("/")[0]
            if name in rows:
                rows[name].append(row)
            else:
                homeless.append(Skipped(item=f"{name}/q{row.qid}", reason="folder is missing"))
    return {name: listed for name, listed in rows.items() if listed}, homeless


def _question_sample(folder: _Folder, sample_id: str, row: _Question) -> Sample:
    labels = {
        "answer_type": row.answer_type.strip().upper(),
        "modality": row.modality,
        "content_type": row.content_type,
    }
    return Sample(
        sample_id=sample_id,
        task=SLAKE_VQA.name,
        split=folder.split,
        images=(folder.image,),
        inputs={"question": row.question},
        reference=row.answer,
        labels={name: label for name, label in labels.items() if label},
        groups=folder.groups,
    )


def _regions(folder: _Folder) -> Iterator[Region | Skipped]:
    path = folder.path / "detection.json"
    try:
        size = image_size(folder.path / "source.jpg")
        entries = parse_json_file(_DETECTIONS, path) if path.is_file() else None
    except SampleError:
        item, lost = f"{folder.name}/source.jpg", "" if (folder.path / "source.jpg").exists() else folder.image.path
        yield Skipped(item=item, reason="image is missing or unreadable", looked_for=lost)
        return
    if entries is None:
        yield Skipped(item=f"{folder.name}/detection.json", reason="file is missing")
        return
    for index, entry in enumerate(entries):
        region_id = f"{folder.name}/d{index}"
        found = first_object(entry)
        if isinstance(found, str):
            yield Skipped(item=region_id, reason=found)
            continue
        name, box = found
        yield Region(
            region_id=region_id,
            split=folder.split,
            image=folder.image,
            image_size=size,
            name=name,
            box=box,
            labels={},
            groups=folder.groups,
        )


SLAKE_VQA = TaskSpec(
    name="slake-vqa",
    kind="vqa",
    title="Slake-VQA",
    version=2,
    prompt=instructions.VQA[1],
    train_prompts=instructions.VQA,
    group_key="image",
    counts={"train": 6018, "test": 1014},
    source=_SOURCE,
    licence=_LICENCE,
    layout=LAYOUT,
    reader=read_questions,
    options={"seed": SEED_OPTION},
)

SLAKE_REC = TaskSpec(
    name="slake-rec",
    kind="rec",
    title="Slake-REC",
    version=2,
    prompt=instructions.REC[1],
    train_prompts=instructions.REC,
    group_key="image",
    counts={"train": 1421, "test": 201},
    source=_SOURCE,
    licence=_LICENCE,
    layout=LAYOUT,
    reader=partial(read_regions, task="slake-rec", kind="rec"),
    options={"seed": SEED_OPTION},
)

SLAKE_REG = TaskSpec(
    name="slake-reg",
    kind="reg",
    title="Slake-REG",
    version=2,
    prompt=instructions.REG[1],
    train_prompts=instructions.REG,
    group_key="image",
    counts={"train": 1421, "test": 201},
    source=_SOURCE,
    licence=_LICENCE,
    layout=LAYOUT,
    reader=partial(read_regions, task="slake-reg", kind="reg"),
    options={"seed": SEED_OPTION},
)
