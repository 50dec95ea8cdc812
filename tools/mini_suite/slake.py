"""The Slake folder: one half of VQA-RAD for questions, axial Colin27 slices for boxes, in the layout of SLAKE 1.0.

Layout: Liu et al., SLAKE, ISBI 2021; `train.txt` and `test.txt` as the Uni-Med authors made them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medbench.tasks.sample import Split
from tools.mini_suite import colin27, composed_questions, vqa_rad
from tools.mini_suite.colin27 import Atlas, Region
from tools.mini_suite.encoding import compact_json, grey_image, jpeg
from tools.mini_suite.part import Part, TaskRecord
from tools.mini_suite.question import Question
from tools.mini_suite.seeds import generator

_FIRST_SLICE, _LAST_SLICE, _SLAB, _PERIOD = 20, 145, 5, 10
_TEST_SLABS = frozenset({2, 5, 8})
_VIEWS: dict[Split, int] = {"train": 3, "test": 1}
_VIEWS_WITH_QUESTIONS = 2
_QUALITY, _NOISE = 52, 0.006
_FIRST_SLICE_FOLDER = 300

_LOCATIONS = {"CHEST": "Lung", "ABD": "Abdomen", "HEAD": "Brain"}
_CONTENT_TYPES = {
    "PRES": "Abnormality",
    "ABN": "Abnormality",
    "POS": "Position",
    "SIZE": "Size",
    "MODALITY": "Modality",
    "PLANE": "Plane",
    "COLOR": "Color",
    "ORGAN": "Organ",
    "COUNT": "Quantity",
    "ATTRIB": "Shape",
    "OTHER": "Other",
}


@dataclass(slots=True)
class _Tree:
    """What has been written so far.

    Attributes:
        lists: Folder names by split.
        asked: Folders with questions and where they come from.
        boxed: Folders with boxes and where they come from.
        questions: Questions with an answer, by split.
        boxes: Boxes by split.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    lists: dict[Split, list[str]] = field(default_factory=lambda: {"train": [], "test": []})
    asked: dict[str, str] = field(default_factory=dict)
    boxed: dict[str, str] = field(default_factory=dict)
    questions: dict[Split, int] = field(default_factory=lambda: {"train": 0, "test": 0})
    boxes: dict[Split, int] = field(default_factory=lambda: {"train": 0, "test": 0})

    def add(
        self, number: int, split: Split, image: bytes, rows: list[dict[str, Any]], regions: Sequence[Region]
    ) -> str:
        """Add a folder and return its name."""
        folder = f"xmlab{number}"
        boxes = [{region.name: [float(edge) for edge in region.box]} for region in regions]
        self.files[f"Slake1.0/imgs/{folder}/source.jpg"] = image
        self.files[f"Slake1.0/imgs/{folder}/question.json"] = compact_json(rows)
        self.files[f"Slake1.0/imgs/{folder}/detection.json"] = compact_json(boxes)
        self.lists[split].append(folder)
        self.questions[split] += sum(row["answer"] != "" for row in rows)
        self.boxes[split] += len(boxes)
        return folder


def build(realdata: Path) -> Part:
    """Return `Slake1.0/{train,test}.txt` and `Slake1.0/imgs/xmlab*/{source.jpg,question.json,detection.json}`.

    Args:
        realdata: Folder that holds `vqa_rad` and `colin27_aal`.

    Raises:
        DataError: If a source is missing or broken.
    """
    tree = _Tree()
    _add_radiology(tree, realdata)
    _add_slices(tree, colin27.read_atlas(realdata, volume="ch2"))
    for split, folders in tree.lists.items():
        tree.files[f"Slake1.0/{split}.txt"] = (" ".join(folders) + "\n").encode()
    return Part(
        files=tree.files,
        tasks=(
            _record("slake-vqa", tree.questions, tree.asked, _IMAGE_SPLIT),
            _record("slake-rec", tree.boxes, tree.boxed, _SLAB_SPLIT),
            _record("slake-reg", tree.boxes, tree.boxed, _SLAB_SPLIT),
        ),
        sources=(vqa_rad.SOURCE, colin27.SOURCE, composed_questions.SOURCE),
        notes=(_NOTE_SLABS, _NOTE_ROWS),
    )


_SLAB_SPLIT = "by axial slab of one volume; slabs are 5 mm thick and 5 mm apart"
_IMAGE_SPLIT = f"VQA-RAD seeded, by image, none of them in path-vqa; Colin27 {_SLAB_SPLIT}"
_NOTE_SLABS = (
    "Slake-REC/REG: all slices show one head, Colin27. Test slices come from slabs that lie 5 mm or more from every "
    "train slab, so the tasks measure localisation in new views and levels, not in new people. Pictures follow the "
    "radiological convention: the patient's right is on the left."
)
_NOTE_ROWS = (
    "Slake-VQA: question and answer of VQA-RAD are verbatim; location, modality and content_type are mapped or read "
    "off the picture by us; one row per split has an empty answer on purpose, as SLAKE has (qid 1622), and a reader "
    "skips it. Questions on Colin27 slices are composed by us from the atlas (material composed-questions)."
)


def _record(task: str, counts: Mapping[Split, int], items: Mapping[str, str], split: str) -> TaskRecord:
    return TaskRecord(
        task=task,
        folder="Slake1.0",
        split=split,
        counts={name: counts[name] for name in ("train", "test")},
        items=items,
    )


def _add_radiology(tree: _Tree, realdata: Path) -> None:
    for number, picture in enumerate(vqa_rad.pictures_of("slake", realdata)):
        location = _LOCATIONS[picture.organ]
        rows = _rows(picture.questions, number, location, picture.modality)
        if tree.questions[picture.split] == 0:
            rows[-1]["answer"] = ""
        folder = tree.add(number, picture.split, vqa_rad.small_jpeg(picture.name, realdata), rows, ())
        tree.asked[folder] = f"vqa-rad:{picture.name}"


def _add_slices(tree: _Tree, atlas: Atlas) -> None:
    number = _FIRST_SLICE_FOLDER
    for slab, start in enumerate(range(_FIRST_SLICE, _LAST_SLICE, _PERIOD)):
        split: Split = "test" if slab in _TEST_SLABS else "train"
        for index in range(start, start + _SLAB):
            for at in range(_VIEWS[split]):
                _add_slice(tree, atlas, index, at, number, split)
                number += 1


def _add_slice(tree: _Tree, atlas: Atlas, index: int, at: int, number: int, split: Split) -> None:
    view = colin27.draw_view(atlas, "axial", index, generator("slake", index, at), noise=_NOISE)
    questions: list[Question] = []
    if at < _VIEWS_WITH_QUESTIONS:
        questions = composed_questions.about_slice(view, generator("slake", "questions", index, at))
    rows = _rows(questions, number, "Brain", "MRI")
    folder = tree.add(number, split, jpeg(grey_image(view.image), quality=_QUALITY), rows, view.regions)
    origin = f"axial z={index}"
    if rows:
        tree.asked[folder] = f"colin27+composed-questions:{origin}"
    if view.regions:
        tree.boxed[folder] = f"colin27:{origin}"


def _rows(questions: Sequence[Question], number: int, location: str, modality: str) -> list[dict[str, Any]]:
    """Return the rows of one picture; `qid` is 100 times its number plus the place of the question."""
    return [
        {
            "img_id": number,
            "img_name": f"xmlab{number}/source.jpg",
            "question": question.text,
            "answer": question.answer,
            "q_lang": "en",
            "location": location,
            "modality": modality,
            "answer_type": "CLOSED" if question.closed else "OPEN",
            "base_type": "vqa",
            "content_type": _CONTENT_TYPES[question.kind.split(",")[0].strip()],
            "triple": ["vhead", "_", "_"],
            "qid": 100 * number + at,
        }
        for at, question in enumerate(questions)
    ]
