"""The JSON lists that Uni-Med's own evaluation scripts write.

Source: https://github.com/MSIIP/Uni-Med at 80446866b4bda5ff4249fc17fb8293534ffa3595, `eval_{vqa,identify,ref,caption,
cls}.py`::

    slakevqa_en.json                {"question": "...", "answer_type": "OPEN", "answer_gt": "MRI", "answer_pred": "mri"}
    path_vqa.json                   the same with "question_id": 200422000
    invref_{slake,sa_med}.json      {"image_id": "xmlab3", "question": "...", "answer_gt": "...", "answer_pred": "..."}
    mimic_caption, medpix_single    {"image_path": "...", "question": "...", "answer_gt": "...", "answer_pred": "..."}
    medmnist_2d_{derma,organs}      {"index": 0, "question": "...", "answer_gt": "...", "answer_pred": "..."}
    ref_{slake,sa_med}.json         {"image_id": "xmlab3", "item": "Liver", "iou_score": 0.9, "gt_bbox": [82.0, ...],
                                     "pred_bbox": [81.92, ...] or "Unable to match: {<1600>..."}

- `answer_pred` is in lower case, without `<unk>`; `answer_gt` is the first 50 words of the reference. What was cut off
  is not in the file, so that strict numbers on long reports are against the cut references.
- Boxes are stored read: both in pixels (left, top, right, bottom), the model's as hundredths of the image's size scaled
  to it. The size itself is not stored. What the scripts could not read has no box and keeps its text.
- Predictions are tied together by image, volume, case or patient as far as the file tells: Slake questions are not.
  The number of a Path-VQA question is the number of its image and three digits.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from medbench.harness.predictions.catalog import require_kind
from medbench.harness.predictions.json_lines import AnswerType, Numbers, Text, UprightBox, parse_list
from medbench.harness.predictions.record import Prediction
from medbench.tasks.datasets.mpx import case_of
from medbench.tasks.datasets.sa_med2d_raw import SliceName
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow

_FORM = "Expected: the JSON list that Uni-Med's evaluation script for this task writes beside metric.json."
_UNREAD = "Unable to match: "
_QUESTIONS_PER_IMAGE = 1000
_PARTS_OF_A_REPORT_PATH = 4


class _Row(NativeRow):
    image_id: Text = ""
    image_path: str = ""
    question_id: int | None = None


class _AnswerRow(_Row):
    answer_gt: str
    answer_pred: str
    answer_type: AnswerType = ""


class _BoxRow(_Row):
    item: str
    gt_bbox: UprightBox
    pred_bbox: Numbers | str


_ANSWER_ROWS = TypeAdapter(list[_AnswerRow])
_BOX_ROWS = TypeAdapter(list[_BoxRow])


def read_official_results(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of one results file; see the module's docstring.

    Raises:
        DataError: If the file is of another form; the message names the entry and the field.
    """
    require_kind("uni-med", spec)
    if spec.kind == "rec":
        for where, located in parse_list(path, _BOX_ROWS, _FORM):
            yield _located(where, located, _group(located, spec))
        return
    for where, row in parse_list(path, _ANSWER_ROWS, _FORM):
        yield Prediction(
            where=where,
            prediction=row.answer_pred,
            reference=row.answer_gt,
            answer_type=row.answer_type,
            group=_group(row, spec),
        )


def _located(where: str, row: _BoxRow, group: str) -> Prediction:
    text, box = _answer(where, row.pred_bbox)
    return Prediction(
        where=where, prediction=text, reference=row.item, box=Box(*row.gt_bbox), group=group, predicted_box=box
    )


def _answer(where: str, stored: Numbers | str) -> tuple[str, Box | None]:
    if not isinstance(stored, str):
        return str(list(stored)), Box(*stored)
    if not stored.startswith(_UNREAD):
        raise DataError(f"{where}, field pred_bbox: a text there begins with {_UNREAD!r}.", _FORM)
    return stored.removeprefix(_UNREAD), None


def _group(row: _Row, spec: TaskSpec) -> str:
    if row.question_id is not None:
        return str(row.question_id // _QUESTIONS_PER_IMAGE)
    image = row.image_id or row.image_path
    return _UNITS.get(spec.group_key, str)(image) if image else ""


def _patient_of(path: str) -> str:
    """Return the patient of `p10/p10000000/s50000000/<dicom id>.jpg`, or the path where it has another form."""
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) == _PARTS_OF_A_REPORT_PATH else path


def _case_of(path: str) -> str:
    return case_of(PurePosixPath(path).name)


def _volume_of(image_id: str) -> str:
    name = SliceName.parse(image_id)
    return name.volume if name else image_id


_UNITS: Mapping[str, Callable[[str], str]] = {"patient": _patient_of, "case": _case_of, "volume": _volume_of}
