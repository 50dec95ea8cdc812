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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from medbench.tasks.datasets.native import (
    RegionKind,
    collect,
    detections,
    find_root,
    is_litter,
    ranked_split,
    refuse_options,
    region_sample,
    relative,
    seed_option,
    wrong_layout,
)
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, parse_json_file, read_text_bytes

_PARTS = 7
_QUESTION_FILES = (("train.json",), ("validate.json", "validation.json"), ("test.json",))
_Found = Iterable[Sample | Skipped]


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


def read_questions(source: Path, options: Mapping[str, str], *, task: str, layout: str) -> Reading:
    """Read Slake-VQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a file is broken.
    """
    root, folders = _root(source, layout)
    shared, skipped = _shared_questions(root, folders)

    def questions(folder: Path, split: Split) -> Iterator[Sample | Skipped]:
        path, name = folder / "question.json", folder.name
        rows = parse_json_file(_QUESTIONS, path) if path.is_file() else shared.get(name)
        if rows is None:
            yield Skipped(item=f"{name}/question.json", reason="file is missing")
        image = ImageRef(path=relative(source, folder / "source.jpg"))
        for row in rows or ():
            reason = _unusable(row)
            sample_id = f"{name}/q{row.qid}"
            yield Skipped(item=sample_id, reason=reason) if reason else _sample(row, sample_id, task, split, image)

    reading = _read(root, folders, options, questions)
    return replace(reading, skipped=(*reading.skipped, *skipped))


def read_regions(source: Path, options: Mapping[str, str], *, task: str, layout: str, kind: RegionKind) -> Reading:
    """Read Slake-REC or Slake-REG; raises like `read_questions`."""
    root, folders = _root(source, layout)
    make = partial(region_sample, task, kind)

    def regions(folder: Path, split: Split) -> Iterator[Sample | Skipped]:
        return detections(
            make, source, folder / "source.jpg", folder / "detection.json", folder.name, f"{folder.name}/source.jpg",
            split=split, labels={}, groups={"image": folder.name},
        )  # fmt: skip

    return _read(root, folders, options, regions)


def _root(source: Path, layout: str) -> tuple[Path, list[str]]:
    """Return where the files are, and the folders of images."""
    root = find_root(source, ["Slake1.0"], ["imgs"], layout)
    images = root / "imgs"
    found = images.iterdir() if images.is_dir() else ()
    folders = sorted(path.name for path in found if path.is_dir() and not is_litter(path.name))
    if not folders:
        raise wrong_layout(source, ["imgs/<name>"], layout)
    return root, folders


def _read(
    root: Path, folders: Sequence[str], options: Mapping[str, str], items: Callable[[Path, Split], _Found]
) -> Reading:
    splits, method = _splits(root, folders, options)

    def found() -> Iterator[Sample | Skipped]:
        for name, split in splits.items():
            folder = root / "imgs" / name
            if "/" in name or name in {".", ".."} or not folder.is_dir():
                yield Skipped(item=f"imgs/{name}", reason="folder is missing")
            else:
                yield from items(folder, split)
        for name in folders:
            if name not in splits:
                yield Skipped(item=f"imgs/{name}", reason="in neither train.txt nor test.txt")

    return collect(found(), method)


def _splits(root: Path, folders: Sequence[str], options: Mapping[str, str]) -> tuple[dict[str, Split], str]:
    train, test = root / "train.txt", root / "test.txt"
    if not train.exists() and not test.exists():
        seed = seed_option(options)
        method = f"ours, not the authors': random {_PARTS - 1}:1 by image, seed {seed}"
        return dict(sorted(ranked_split(folders, seed=seed, parts=_PARTS).items())), method
    refuse_options(options, ["seed"], "the split is given by train.txt and test.txt")
    files: tuple[tuple[Split, Path], ...] = (("train", train), ("test", test))
    names = {split: read_text_bytes(path).decode().split() for split, path in files}
    both = sorted(set(names["train"]).intersection(names["test"]))
    if both:
        raise DataError(
            f"{root}: {len(both)} images are in train.txt and in test.txt, {both[0]!r} for one.",
            "Restore the authors' lists, or remove both for a split of our own.",
        )
    return {name: split for split, listed in names.items() for name in listed}, "authors' lists train.txt and test.txt"


def _shared_questions(root: Path, folders: Sequence[str]) -> tuple[dict[str, list[_NamedQuestion]], list[Skipped]]:
    """Read the files with the questions of all images, if an image needs them: rows by folder, and what is missing."""
    candidates = [[root / name for name in names] for names in _QUESTION_FILES]
    files = [next((path for path in paths if path.is_file()), paths[0]) for paths in candidates]
    present = [path for path in files if path.is_file()]
    if not present or all((root / "imgs" / name / "question.json").is_file() for name in folders):
        return {}, []
    rows: dict[str, list[_NamedQuestion]] = {}
    skipped = [Skipped(item=path.name, reason="file is missing") for path in files if path not in present]
    named = [parse_json_file(_NAMED_QUESTIONS, path) for path in present]
    for row in chain.from_iterable(named):
        name = row.img_name.partition("/")[0]
        if name in folders:
            rows.setdefault(name, []).append(row)
        else:
            skipped.append(Skipped(item=f"{name}/q{row.qid}", reason="folder is missing"))
    return rows, skipped


def _unusable(row: _Question) -> str:
    if row.q_lang.strip().lower() != "en":
        return "question is not in English"
    if not row.question.strip():
        return "question is empty"
    return "" if row.answer else "answer is empty"


def _sample(row: _Question, sample_id: str, task: str, split: Split, image: ImageRef) -> Sample:
    labels = {
        "answer_type": row.answer_type.strip().upper(),
        "modality": row.modality,
        "content_type": row.content_type,
    }
    return Sample(
        sample_id=sample_id,
        task=task,
        split=split,
        images=(image,),
        inputs={"question": row.question},
        reference=row.answer,
        labels={key: label for key, label in labels.items() if label},
        groups={"image": sample_id.partition("/")[0]},
    )
