"""Results of MedEvalKit, MultiMedEval, LLaVA-Med and Uni-Med, as `formats.md` beside this file shows them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, TypeAdapter

from medbench.harness.predictions import rows as read
from medbench.harness.predictions.rows import Answer, AnswerType, Prediction, Source, Text
from medbench.tasks.datasets.mpx import case_of
from medbench.tasks.datasets.sa_med2d import SliceName
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import table_rows
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.validation import MaybeText, NativeRow, read_bytes, read_text_bytes


def _closed_or_open(answer: str) -> str:
    return "CLOSED" if answer.strip().lower() in {"yes", "no"} else "OPEN"


# MedEvalKit

_KIT_FORM = "Expected: the results.json that MedEvalKit writes beside metrics.json for this dataset."
_CHOICE = re.compile(r"\s*([A-Za-z])\.\s*(.*)", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class _KitAnswer(NativeRow):
    response: Answer
    answer: Text
    answer_type: AnswerType = ""
    lang: str = "en"
    question: MaybeText = ""


class _KitChoice(NativeRow):
    response: Answer
    answer: str
    choices: list[str]
    question: MaybeText = ""


class _KitReport(NativeRow):
    response: Answer
    findings: str
    impression: str
    image: list[str] = Field(default_factory=list)


def read_medevalkit(source: Source, spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the English predictions of a `results.json`."""
    path = source.path
    if spec.kind == "qa":
        for where, row in read.parse_list(path, _KitChoice, _KIT_FORM):
            choices = _kit_choices(where, row)
            right = row.answer.strip().upper()
            yield Prediction(
                where=where, prediction=marked_answer(row.response), reference=right, choices=choices,
                question=row.question,
            )  # fmt: skip
    elif spec.kind == "report":
        for where, report in read.parse_list(path, _KitReport, _KIT_FORM):
            right = f"Findings: {report.findings} Impression: {report.impression}."
            image = next(iter(report.image), "")
            yield Prediction(where=where, prediction=report.response, reference=right, image=image)
    else:
        rows = list(read.parse_list(path, _KitAnswer, _KIT_FORM))
        if others := sum(row.lang != "en" for _, row in rows):
            warn(f"{path}: {others} of {len(rows)} entries are not in English and are left out.")
        for where, answer in rows:
            if answer.lang == "en":
                kind = answer.answer_type or _closed_or_open(answer.answer)
                yield Prediction(
                    where=where, prediction=marked_answer(answer.response), reference=answer.answer, answer_type=kind,
                    question=answer.question,
                )  # fmt: skip


def _kit_choices(where: str, row: _KitChoice) -> dict[str, str]:
    found = [_CHOICE.fullmatch(line) for line in row.choices]
    choices = {match[1].upper(): match[2].strip() for match in found if match}
    if len(choices) < len(row.choices):
        raise DataError(f"{where}, field choices: not every choice begins with a letter of its own.", _KIT_FORM)
    if row.answer.strip().upper() not in choices:
        raise DataError(f"{where}, field answer: it is no letter of the field choices.", _KIT_FORM)
    return choices


def marked_answer(response: str | None) -> str | None:
    """Return the part of a response that is marked as the answer, or all of it where nothing is marked."""
    if response is None:
        return None
    boxed, answers = ([*filter(None, map(str.strip, mark.findall(response)))] for mark in (_BOXED, _ANSWER))
    return boxed[-1] if boxed else " ".join(answers) or response


# MultiMedEval

_CSV_FORM = "Expected: the CSV file that MultiMedEval writes for this task into the folder of the run."
_CSV_HEADERS: Mapping[Kind, Sequence[str]] = {
    "vqa": ("correct", "predicted", "F1", "BLEU", "recall", "correct tokens", "predicted tokens"),
    "report": ("ref", "hyp", "bleu1", "bleu4", "rougeL"),
}
_QA_COLUMNS = 5
_OPTION = re.compile(r"([A-E]): .*", re.DOTALL)
_EMPTY_REPORT = "Invalid Response"


def read_multimedeval(source: Source, spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the predictions of a task's CSV file."""
    path = source.path
    header = list(_CSV_HEADERS.get(spec.kind, ()))
    columns = len(header) or _QA_COLUMNS
    rows = (row for _, row in table_rows(read_bytes(path), str(path), lambda row: len(row) == columns))
    if header and next(rows, None) != header:
        raise DataError(f"{path} does not begin with the row {','.join(header)}.", _CSV_FORM)
    for number, row in enumerate(rows, start=2 if header else 1):
        where = f"{path}, row {number}"
        if len(row) != columns:
            raise DataError(f"{where} has {len(row)} columns, not {columns}.", _CSV_FORM)
        right, raw = row[:2]
        if spec.kind == "report":
            yield Prediction(where=where, prediction="" if raw == _EMPTY_REPORT else raw, reference=right)
        elif spec.kind == "vqa":
            yield Prediction(where=where, prediction=raw, reference=right, answer_type=_closed_or_open(right))
        elif (option := _OPTION.fullmatch(right)) is None:
            yield Prediction(where=where, prediction=raw, reference=right)
        elif option[1] != row[3].upper():
            raise DataError(f"{where}: the right answer begins with another key than the fourth column has.", _CSV_FORM)
        else:
            yield Prediction(where=where, prediction=raw, reference=option[1], choices=dict.fromkeys("ABCDE", ""))


# LLaVA-Med

_ANSWERS_FORM = 'Expected: the answers file of LLaVA-Med, JSON lines with "question_id" and "text".'
_QUESTIONS_FORM = (
    'Expected: the question file of LLaVA-Med, a JSON list or JSON lines with "id" and "conversations", or with '
    '"question_id" and "answer".'
)
_PATH_VQA_TYPES: Mapping[str, str] = {"yes/no": "CLOSED", "other": "OPEN", "number": "OPEN"}
_OWN_TYPE = BeforeValidator(lambda one: _PATH_VQA_TYPES.get(one.strip().lower(), one) if isinstance(one, str) else one)
_SPEAKER, _MODEL_SPEAKER = "human", "gpt"


class _LlavaAnswer(NativeRow):
    question_id: Text
    text: Answer


class _Turn(NativeRow):
    speaker: str = Field(alias="from")
    value: Text


class _LlavaQuestion(NativeRow):
    question_id: Text = Field(validation_alias=AliasChoices("question_id", "id"))
    answer: Text | None = None
    text: MaybeText = ""
    conversations: list[_Turn] = Field([], validation_alias=AliasChoices("conversations", "conversatons"))
    answer_type: Annotated[AnswerType, _OWN_TYPE] = ""
    image: str | None = None


R = TypeVar("R", _LlavaAnswer, _LlavaQuestion)


def read_llava_med(source: Source, _spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the answers in the order of the questions, which the file of references holds."""
    path, question_file = source.path, source.references or source.path
    answers = _by_id(read.parse_lines(path, TypeAdapter(_LlavaAnswer), _ANSWERS_FORM))
    if read_text_bytes(question_file).lstrip().startswith(b"["):
        questions = _by_id(read.parse_list(question_file, _LlavaQuestion, _QUESTIONS_FORM))
    else:
        questions = _by_id(read.parse_lines(question_file, TypeAdapter(_LlavaQuestion), _QUESTIONS_FORM))
    _refuse_missing(f"questions of {question_file}", f"answer in {path}", questions, answers)
    _refuse_missing(f"answers of {path}", f"question in {question_file}", answers, questions)
    for name, (place, question) in questions.items():
        spoken = {turn.speaker: turn.value for turn in reversed(question.conversations)}
        right = question.answer if question.answer is not None else spoken.get(_MODEL_SPEAKER)
        if right is None:
            raise DataError(f"{place} has neither an answer nor a turn from {_MODEL_SPEAKER!r}.", _QUESTIONS_FORM)
        where, said = answers[name]
        image = question.image or ""
        yield Prediction(
            where=where, prediction=said.text, reference=right, answer_type=question.answer_type, group=image,
            sample_id=name, question=spoken.get(_SPEAKER, question.text), image=image,
        )  # fmt: skip


def _by_id(rows: Iterator[tuple[str, R]]) -> dict[str, tuple[str, R]]:
    found: dict[str, tuple[str, R]] = {}
    for where, row in rows:
        if row.question_id in found:
            problem = f"{where} has the question id of {found[row.question_id][0]}: {row.question_id!r}."
            raise DataError(problem, "Answers are joined by their ids; keep one of the two.")
        found[row.question_id] = (where, row)
    return found


def _refuse_missing(what: str, partner: str, given: Mapping[str, object], there: Mapping[str, object]) -> None:
    if missing := [name for name in given if name not in there]:
        problem = f"{len(missing)} of {len(given)} {what} have no {partner}; the first is {missing[0]!r}."
        raise DataError(problem, "Give all answers of one run, and the question file that they were made from.")


# Uni-Med

_OFFICIAL_FORM = "Expected: the JSON list that Uni-Med's evaluation script for this task writes beside metric.json."
_UNREAD = "Unable to match: "
_QUESTIONS_PER_IMAGE = 1000
_PARTS_OF_A_REPORT_PATH = 4


class _OfficialRow(NativeRow):
    image_id: Text = ""
    image_path: str = ""
    question_id: int | None = None
    index: int | None = None
    question: MaybeText = ""

    def asked(self, spec: TaskSpec) -> dict[str, Any]:
        """Return what tells which question it is, and what ties it to others."""
        number = self.index if self.question_id is None else self.question_id
        image = self.image_id or self.image_path
        return {
            "sample_id": "" if number is None else str(number), "question": self.question, "image": image,
            "group": _official_group(self, spec),
        }  # fmt: skip


class _OfficialAnswer(_OfficialRow):
    answer_gt: str
    answer_pred: str
    answer_type: AnswerType = ""


class _OfficialBox(_OfficialRow):
    item: str
    gt_bbox: read.RightEdges
    pred_bbox: read.Edges | str


def read_uni_med(source: Source, spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the predictions of one results file of Uni-Med's scripts."""
    path = source.path
    if spec.kind != "rec":
        for where, row in read.parse_list(path, _OfficialAnswer, _OFFICIAL_FORM):
            yield Prediction(
                where=where, prediction=row.answer_pred, reference=row.answer_gt, answer_type=row.answer_type,
                **row.asked(spec),
            )  # fmt: skip
        return
    for where, found in read.parse_list(path, _OfficialBox, _OFFICIAL_FORM):
        stored = found.pred_bbox
        if isinstance(stored, str):
            if not stored.startswith(_UNREAD):
                raise DataError(f"{where}, field pred_bbox: a text there begins with {_UNREAD!r}.", _OFFICIAL_FORM)
            said, box = stored.removeprefix(_UNREAD), None
        else:
            said, box = str(list(stored)), Box(*stored)
        yield Prediction(
            where=where, prediction=said, reference=found.item, box=Box(*found.gt_bbox), predicted_box=box,
            boxes_are_read=True, **found.asked(spec),
        )  # fmt: skip


def _official_group(row: _OfficialRow, spec: TaskSpec) -> str:
    if row.question_id is not None:
        return str(row.question_id // _QUESTIONS_PER_IMAGE)
    image = row.image_id or row.image_path
    path = PurePosixPath(image)
    if spec.group_key == "patient" and len(path.parts) == _PARTS_OF_A_REPORT_PATH:
        # p10/p10000000/s50000000/<dicom id>.jpg
        return path.parts[1]
    if spec.group_key == "case" and image:
        return case_of(path.name)
    if spec.group_key == "volume" and (slice_name := SliceName.parse(image)):
        return slice_name.volume
    return image
