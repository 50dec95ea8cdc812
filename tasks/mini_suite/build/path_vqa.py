"""The Path-VQA folder `pvqa`: one half of VQA-RAD in the layout of PathVQA (He et al., 2020)."""

import pickle
from pathlib import Path
from typing import Any

from tasks.mini_suite.build import vqa_rad
from tasks.mini_suite.build.part import Part, TaskRecord
from tasks.mini_suite.build.vqa_rad import Picture, Question
from tasks.sample import Split

_SPLIT_DIGIT: dict[Split, int] = {"train": 1, "test": 3}
_PICKLE_PROTOCOL = 4


def build(realdata: Path) -> Part:
    """Return `pvqa/qas/{train,test}_vqa.pkl` and `pvqa/images/{train,test}/<img_id>.jpg`.

    Args:
        realdata: Folder that holds `vqa_rad`.

    Raises:
        DataError: If the source is missing or broken.
    """
    files: dict[str, bytes] = {}
    items: dict[str, str] = {}
    counts: dict[str, int] = {}
    pictures = vqa_rad.pictures_of("path", realdata)
    for split in ("train", "test"):
        rows: list[dict[str, Any]] = []
        for number, picture in enumerate(picture for picture in pictures if picture.split == split):
            image_id = f"{split}_{number:04d}"
            files[f"pvqa/images/{split}/{image_id}.jpg"] = vqa_rad.small_jpeg(picture.name, realdata)
            items[image_id] = f"vqa-rad:{picture.name}"
            rows.extend(_rows(picture, image_id, number))
        files[f"pvqa/qas/{split}_vqa.pkl"] = _pickled(rows)
        counts[split] = len(rows)
    record = TaskRecord(
        task="path-vqa",
        folder="pvqa",
        split="seeded, by image; no image of this task is in slake-vqa",
        counts=counts,
        items=items,
    )
    note = "Path-VQA: yes and no are lower-cased as in PathVQA; all other answers are verbatim."
    return Part(files=files, tasks=(record,), sources=(vqa_rad.SOURCE,), notes=(note,))


def _rows(picture: Picture, image_id: str, number: int) -> list[dict[str, Any]]:
    first = _SPLIT_DIGIT[picture.split] * 100_000_000 + number * 1000
    return [_row(question, image_id, first + at) for at, question in enumerate(picture.questions)]


def _row(question: Question, image_id: str, question_id: int) -> dict[str, Any]:
    yes_or_no = question.answer.lower() in {"yes", "no"}
    return {
        "sent": question.text,
        "label": {question.answer.lower() if yes_or_no else question.answer: 1},
        "img_id": image_id,
        "question_id": question_id,
        "question_type": question.text.split()[0].lower(),
        "answer_type": "yes/no" if yes_or_no else "other",
    }


def _pickled(rows: list[dict[str, Any]]) -> bytes:
    """Pickle with every value built anew, because pickle's bytes depend on which objects are shared."""
    fresh = [{key: dict(value) if isinstance(value, dict) else value for key, value in row.items()} for row in rows]
    return pickle.dumps(fresh, protocol=_PICKLE_PROTOCOL)
