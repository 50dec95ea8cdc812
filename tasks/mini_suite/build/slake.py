"""The Slake folder: one half of VQA-RAD for questions, axial Colin27 slices for boxes, in the layout of SLAKE 1.0.

Layout: Liu et al., SLAKE, ISBI 2021; `train.txt` and `test.txt` as the Uni-Med authors made them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.mini_suite.build import colin27, vqa_rad
from tasks.mini_suite.build.colin27 import Atlas, View
from tasks.mini_suite.build.encoding import compact_json, grey_image, jpeg
from tasks.mini_suite.build.part import Part, TaskRecord
from tasks.mini_suite.build.seeds import generator
from tasks.mini_suite.build.vqa_rad import Picture, Question
from tasks.sample import Split

_FIRST_SLICE, _LAST_SLICE, _SLAB, _PERIOD = 20, 145, 5, 10
_TEST_SLABS = frozenset({2, 5, 8})
_VIEWS: dict[Split, int] = {"train": 3, "test": 1}
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
    """What has been written so far."""

    files: dict[str, bytes] = field(default_factory=dict)
    lists: dict[Split, list[str]] = field(default_factory=lambda: {"train": [], "test": []})
    items: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, split: Split, image: bytes, questions: list[dict[str, Any]], boxes: list[Any]) -> str:
        folder = f"xmlab{number}"
        self.files[f"Slake1.0/imgs/{folder}/source.jpg"] = image
        self.files[f"Slake1.0/imgs/{folder}/question.json"] = compact_json(questions)
        self.files[f"Slake1.0/imgs/{folder}/detection.json"] = compact_json(boxes)
        self.lists[split].append(folder)
        return folder


def build(realdata: Path) -> Part:
    """Return `Slake1.0/{train,test}.txt` and `Slake1.0/imgs/xmlab*/{source.jpg,question.json,detection.json}`.

    Args:
        realdata: Folder that holds `vqa_rad` and `colin27_aal`.

    Raises:
        DataError: If a source is missing or broken.
    """
    asked, boxed = _Tree(), _Tree()
    questions = _add_questions(asked, realdata)
    boxes = _add_slices(boxed, realdata)
    files = {**asked.files, **boxed.files}
    for split in ("train", "test"):
        files[f"Slake1.0/{split}.txt"] = (" ".join(asked.lists[split] + boxed.lists[split]) + "\n").encode()
    return Part(
        files=files,
        tasks=(
            _record("slake-vqa", questions, asked.items, "seeded, by image; no image of this task is in path-vqa"),
            *(_record(task, boxes, boxed.items, _SLAB_SPLIT) for task in ("slake-rec", "slake-reg")),
        ),
        sources=(vqa_rad.SOURCE, colin27.SOURCE),
        notes=(_NOTE_SLABS, _NOTE_ROWS),
    )


_SLAB_SPLIT = "by axial slab of one volume; slabs are 5 mm thick and 5 mm apart"
_NOTE_SLABS = (
    "Slake-REC/REG: all slices show one head, Colin27. Test slices come from slabs that lie 5 mm or more from every "
    "train slab, so the tasks measure localisation in new views and levels, not in new people. Pictures follow the "
    "radiological convention: the patient's right is on the left."
)
_NOTE_ROWS = (
    "Slake-VQA: question and answer are verbatim; location, modality and content_type are mapped or read off the "
    "picture by us; one row per split has an empty answer on purpose, as SLAKE has (qid 1622), and a reader skips it."
)


def _record(task: str, counts: dict[str, int], items: dict[str, str], split: str) -> TaskRecord:
    return TaskRecord(task=task, folder="Slake1.0", split=split, counts=counts, items=items)


def _add_questions(tree: _Tree, realdata: Path) -> dict[str, int]:
    """Add the VQA-RAD folders and return how many questions have an answer."""
    counts = {"train": 0, "test": 0}
    next_id = 0
    for number, picture in enumerate(vqa_rad.pictures_of("slake", realdata)):
        rows = [_row(question, picture, number, next_id + at) for at, question in enumerate(picture.questions)]
        next_id += len(rows)
        if counts[picture.split] == 0:
            rows[-1]["answer"] = ""
        counts[picture.split] += sum(row["answer"] != "" for row in rows)
        folder = tree.add(number, picture.split, vqa_rad.small_jpeg(picture.name, realdata), rows, [])
        tree.items[folder] = f"vqa-rad:{picture.name}"
    return counts


def _row(question: Question, picture: Picture, number: int, question_id: int) -> dict[str, Any]:
    return {
        "img_id": number,
        "img_name": f"xmlab{number}/source.jpg",
        "question": question.text,
        "answer": question.answer,
        "q_lang": "en",
        "location": _LOCATIONS[picture.organ],
        "modality": picture.modality,
        "answer_type": "CLOSED" if question.closed else "OPEN",
        "base_type": "vqa",
        "content_type": _CONTENT_TYPES[question.kind.split(",")[0].strip()],
        "triple": ["vhead", "_", "_"],
        "qid": question_id,
    }


def _add_slices(tree: _Tree, realdata: Path) -> dict[str, int]:
    """Add the Colin27 folders and return how many boxes there are."""
    atlas = colin27.read_atlas(realdata, volume="ch2")
    counts = {"train": 0, "test": 0}
    number = _FIRST_SLICE_FOLDER
    for slab, start in enumerate(range(_FIRST_SLICE, _LAST_SLICE, _PERIOD)):
        split: Split = "test" if slab in _TEST_SLABS else "train"
        for index in range(start, start + _SLAB):
            for view in _views(atlas, index, _VIEWS[split]):
                boxes = [{region.name: list(map(float, region.box))} for region in view.regions]
                folder = tree.add(number, split, jpeg(grey_image(view.image), quality=_QUALITY), [], boxes)
                tree.items[folder] = f"colin27:axial z={index}, slab {slab}"
                counts[split] += len(boxes)
                number += 1
    return counts


def _views(atlas: Atlas, index: int, count: int) -> list[View]:
    """Return views with at least one structure."""
    drawn = (
        colin27.draw_view(atlas, "axial", index, generator("slake", index, at), noise=_NOISE) for at in range(count)
    )
    return [view for view in drawn if view.regions]
