"""VQA-RAD as plain records: every image once, every question once, shared out over two tasks by image.

Source: Lau et al., A dataset of clinically generated visual questions and answers about radiology images,
Scientific Data 2018. Its own split shows every test image in training, so the suite splits anew.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.sample import Split
from tools.mini_suite.encoding import jpeg
from tools.mini_suite.part import Source
from tools.mini_suite.question import Question
from tools.mini_suite.seeds import shuffled

Half = Literal["slake", "path"]

IMAGES_PER_ORGAN = {"CHEST": 38, "ABD": 36, "HEAD": 36}
"""Images of one half, by body region."""

TEST_PER_ORGAN = {"CHEST": 4, "ABD": 4, "HEAD": 4}
"""How many of them are test images."""

_LONGEST_SIDE = 160
_QUALITY = 55

# Read off the pictures by us: VQA-RAD says for some heads only, and only in its answers.
_HEAD_CT = frozenset(
    f"synpic{number}.jpg"
    for number in (
        16520, 23631, 34922, 39757, 42951, 45914, 46062, 46943, 48714, 53867, 54795, 57520, 58261,
    )
)  # fmt: skip

SOURCE = Source(
    name="vqa-rad",
    title="VQA-RAD: radiology images of MedPix with clinicians' questions",
    origin="stand-in",
    licence="CC0-1.0",
    attribution=(
        "Lau, Gayen, Ben Abacha, Demner-Fushman, Scientific Data 2018, osf.io/89kps; re-keyed JSON (c) 2025 bvyih, MIT"
    ),
    retrieved_from=(
        "questions: github.com/bvyih3/CEDO@0420292a, data/vqa-rad; images: "
        "github.com/Abdallahkhale/Enhanced-BTIA-AD-Net-for-Medical-Visual-Question-Answering@1a9a790"
    ),
    changes=(
        "images made grey and small (longest side 160 px); questions de-duplicated per image; split anew by image; "
        "rows rewritten in the schema of the dataset whose layout they fill"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image of VQA-RAD with its questions, in their order of number.

    Attributes:
        name: File name in the source, e.g. `synpic54610.jpg`.
        organ: `CHEST`, `ABD` or `HEAD`.
        split: `train` or `test`, made by us.
        questions: Distinct questions; a test image keeps no `frame` questions, as in the source's test set.
    """

    name: str
    organ: str
    split: Split
    questions: tuple[Question, ...]

    @property
    def modality(self) -> str:
        """The modality in the words of SLAKE."""
        if self.organ == "CHEST":
            return "X-Ray"
        return "CT" if self.organ == "ABD" or self.name in _HEAD_CT else "MRI"


def pictures_of(half: Half, realdata: Path) -> list[Picture]:
    """Return the images of one half, train and test, in order of name.

    Args:
        half: Which of the two tasks asks.
        realdata: Folder that holds `vqa_rad`.

    Raises:
        DataError: If a file is missing or a row is not as VQA-RAD has it.
    """
    folder = realdata / "vqa_rad"
    rows = [*read_json(folder / "trainset.json"), *read_json(folder / "testset.json")]
    questions = _questions_by_image(rows)
    organs = {row["image_name"]: row["image_organ"] for row in rows}
    splits = _splits(half, organs)
    return [_picture(name, organs[name], splits[name], questions[name]) for name in sorted(splits)]


def small_jpeg(name: str, realdata: Path) -> bytes:
    """Return the image called `name` in grey, at most 160 px long.

    Raises:
        DataError: If it is missing or is no image.
    """
    path = realdata / "vqa_rad/images" / name
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.", "Give the folder with the VQA-RAD images.") from error
    grey.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    return jpeg(grey, quality=_QUALITY)


def _picture(name: str, organ: str, split: Split, questions: Iterable[Question]) -> Picture:
    kept = [question for question in questions if split == "train" or question.phrase != "frame"]
    return Picture(name=name, organ=organ, split=split, questions=tuple(kept))


def _splits(half: Half, organs: Mapping[str, str]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for organ, count in IMAGES_PER_ORGAN.items():
        names = shuffled(sorted(name for name in organs if organs[name] == organ), "vqa-rad", organ)
        mine = names[:count] if half == "slake" else names[count : 2 * count]
        splits.update({name: "test" if at < TEST_PER_ORGAN[organ] else "train" for at, name in enumerate(mine)})
    return splits


def _questions_by_image(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Question]]:
    """Keep the first of the rows that ask the same of an image; 24 of them contradict a later one."""
    asked: dict[str, dict[str, Question]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: int(row["question_id"])):
        question = _question(row)
        asked[row["image_name"]].setdefault(re.sub(r"\W+", " ", question.text.lower()).strip(), question)
    return {name: list(questions.values()) for name, questions in asked.items()}


def _question(row: Mapping[str, Any]) -> Question:
    try:
        return Question(
            text=str(row["question"]).strip(),
            answer=str(row["answer"]).strip(),
            closed={"CLOSED": True, "OPEN": False}[row["answer_type"]],
            kind=row["question_type_origin"],
            phrase=row["phrase_type"],
        )
    except KeyError as error:
        raise DataError(f"A VQA-RAD row lacks {error} or has an unknown value there: {dict(row)}.") from error
