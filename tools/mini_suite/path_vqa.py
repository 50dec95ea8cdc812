"""The Path-VQA folder `pvqa`: one half of VQA-RAD and drawn scans, in the layout of PathVQA (He et al., 2020)."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medbench.tasks.sample import Split
from tools.mini_suite import composed_questions, medpix, vqa_rad
from tools.mini_suite.encoding import grey_image, jpeg
from tools.mini_suite.part import Part, TaskRecord
from tools.mini_suite.question import Question
from tools.mini_suite.seeds import generator

PHANTOMS: dict[Split, int] = {"train": 99, "test": 12}

_SPLIT_DIGIT: dict[Split, int] = {"train": 1, "test": 3}
_PICKLE_PROTOCOL = 4


@dataclass(slots=True)
class _Half:
    """What has been written of one split so far."""

    split: Split
    files: dict[str, bytes] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    items: dict[str, str] = field(default_factory=dict)

    def add(self, image: bytes, questions: list[Question], item: str) -> None:
        number = len(self.items)
        image_id = f"{self.split}_{number:04d}"
        self.files[f"pvqa/images/{self.split}/{image_id}.jpg"] = image
        self.items[image_id] = item
        first = _SPLIT_DIGIT[self.split] * 100_000_000 + number * 1000
        self.rows.extend(_row(question, image_id, first + at) for at, question in enumerate(questions))


def build(realdata: Path) -> Part:
    """Return `pvqa/qas/{train,test}_vqa.pkl` and `pvqa/images/{train,test}/<img_id>.jpg`.

    Args:
        realdata: Folder that holds `vqa_rad`.

    Raises:
        DataError: If the source is missing or broken.
    """
    halves = (_half("train", realdata), _half("test", realdata))
    files: dict[str, bytes] = {}
    for half in halves:
        files |= half.files
        files[f"pvqa/qas/{half.split}_vqa.pkl"] = pickle.dumps(half.rows, protocol=_PICKLE_PROTOCOL)
    record = TaskRecord(
        task="path-vqa",
        folder="pvqa",
        split="seeded, by image; no image of this task is in slake-vqa or mpx-single",
        counts={half.split: len(half.rows) for half in halves},
        items={**halves[0].items, **halves[1].items},
    )
    sources = (vqa_rad.SOURCE, medpix.SOURCE, composed_questions.SOURCE)
    return Part(files=files, tasks=(record,), sources=sources, notes=(_NOTE,))


_NOTE = (
    "Path-VQA: yes and no are lower-cased as in PathVQA; all other answers of VQA-RAD are verbatim. Questions on "
    "drawn scans (material scan-phantoms) are composed by us from the drawing (material composed-questions)."
)


def _half(split: Split, realdata: Path) -> _Half:
    half = _Half(split)
    for picture in vqa_rad.pictures_of("path", realdata):
        if picture.split == split:
            image = vqa_rad.small_jpeg(picture.name, realdata)
            half.add(image, list(picture.questions), f"vqa-rad:{picture.name}")
    for image, questions in _phantoms(split):
        half.add(image, questions, "scan-phantoms+composed-questions")
    return half


def _phantoms(split: Split) -> Iterator[tuple[bytes, list[Question]]]:
    for number in range(PHANTOMS[split]):
        random = generator("path-vqa", split, number)
        body, painter = medpix.PAINTERS[number % len(medpix.PAINTERS)]
        phantom = painter(random)
        image = jpeg(grey_image(phantom.image), quality=medpix.QUALITY)
        yield image, composed_questions.about_phantom(body, phantom, random)


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
