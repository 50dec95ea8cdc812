"""Predictions that somebody else made: read from any of several formats, scored by the protocols of our own runs.

`formats.md` beside this file shows each format, says where it comes from, and how it is read.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AliasChoices, BeforeValidator, Field, TypeAdapter

from medbench.adapters.base import Answer as Understood
from medbench.harness.predictions import json_lines
from medbench.harness.predictions.json_lines import Answer, AnswerType, Prediction, Text
from medbench.harness.results import MetricResult
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import doubt_of, numbers_of, predict
from medbench.tasks.answers.box_space import BOX_SPACES, UNI_MED, BoxSpace
from medbench.tasks.catalog import get_task
from medbench.tasks.datasets.mpx import case_of
from medbench.tasks.datasets.sa_med2d import SliceName
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.foundation.files import table_rows
from medbench.tasks.protocols import PROTOCOLS, Item, Protocol, State, count_states, evaluate
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.validation import NativeRow, read_bytes, read_text_bytes

DEFAULT_FORMAT = "jsonl"


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


class _KitChoice(NativeRow):
    response: Answer
    answer: str
    choices: list[str]


class _KitReport(NativeRow):
    response: Answer
    findings: str
    impression: str


def read_medevalkit(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the English predictions of a `results.json`."""
    if spec.kind == "qa":
        for where, row in json_lines.parse_list(path, _KitChoice, _KIT_FORM):
            choices = _kit_choices(where, row)
            right = row.answer.strip().upper()
            yield Prediction(where=where, prediction=marked_answer(row.response), reference=right, choices=choices)
    elif spec.kind == "report":
        for where, report in json_lines.parse_list(path, _KitReport, _KIT_FORM):
            right = f"Findings: {report.findings} Impression: {report.impression}."
            yield Prediction(where=where, prediction=report.response, reference=right)
    else:
        rows = list(json_lines.parse_list(path, _KitAnswer, _KIT_FORM))
        if others := sum(row.lang != "en" for _, row in rows):
            warn(f"{path}: {others} of {len(rows)} entries are not in English and are left out.")
        for where, answer in rows:
            if answer.lang == "en":
                kind = answer.answer_type or _closed_or_open(answer.answer)
                said = marked_answer(answer.response)
                yield Prediction(where=where, prediction=said, reference=answer.answer, answer_type=kind)


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


def read_multimedeval(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of a task's CSV file."""
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
_MODEL_SPEAKER = "gpt"


class _LlavaAnswer(NativeRow):
    question_id: Text
    text: Answer


class _Turn(NativeRow):
    speaker: str = Field(alias="from")
    value: Text


class _LlavaQuestion(NativeRow):
    question_id: Text = Field(validation_alias=AliasChoices("question_id", "id"))
    answer: Text | None = None
    conversations: list[_Turn] = Field([], validation_alias=AliasChoices("conversations", "conversatons"))
    answer_type: Annotated[AnswerType, _OWN_TYPE] = ""
    image: str | None = None


R = TypeVar("R", _LlavaAnswer, _LlavaQuestion)


def read_llava_med(path: Path, _spec: TaskSpec, references: Path | None) -> Iterator[Prediction]:
    """Yield the answers in the order of the questions, which the file of references holds."""
    question_file = references or path
    answers = _by_id(json_lines.parse_lines(path, TypeAdapter(_LlavaAnswer), _ANSWERS_FORM))
    if read_text_bytes(question_file).lstrip().startswith(b"["):
        questions = _by_id(json_lines.parse_list(question_file, _LlavaQuestion, _QUESTIONS_FORM))
    else:
        questions = _by_id(json_lines.parse_lines(question_file, TypeAdapter(_LlavaQuestion), _QUESTIONS_FORM))
    _refuse_missing(f"questions of {question_file}", f"answer in {path}", questions, answers)
    _refuse_missing(f"answers of {path}", f"question in {question_file}", answers, questions)
    for name, (place, question) in questions.items():
        spoken = (turn.value for turn in question.conversations if turn.speaker == _MODEL_SPEAKER)
        right = question.answer if question.answer is not None else next(spoken, None)
        if right is None:
            raise DataError(f"{place} has neither an answer nor a turn from {_MODEL_SPEAKER!r}.", _QUESTIONS_FORM)
        where, said = answers[name]
        kind, group = question.answer_type, question.image or ""
        yield Prediction(where=where, prediction=said.text, reference=right, answer_type=kind, group=group)


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


class _OfficialAnswer(_OfficialRow):
    answer_gt: str
    answer_pred: str
    answer_type: AnswerType = ""


class _OfficialBox(_OfficialRow):
    item: str
    gt_bbox: json_lines.RightEdges
    pred_bbox: json_lines.Edges | str


def read_uni_med(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of one results file of Uni-Med's scripts."""
    if spec.kind != "rec":
        for where, row in json_lines.parse_list(path, _OfficialAnswer, _OFFICIAL_FORM):
            kind, said, group = row.answer_type, row.answer_pred, _official_group(row, spec)
            yield Prediction(where=where, prediction=said, reference=row.answer_gt, answer_type=kind, group=group)
        return
    for where, found in json_lines.parse_list(path, _OfficialBox, _OFFICIAL_FORM):
        stored, group = found.pred_bbox, _official_group(found, spec)
        if isinstance(stored, str):
            if not stored.startswith(_UNREAD):
                raise DataError(f"{where}, field pred_bbox: a text there begins with {_UNREAD!r}.", _OFFICIAL_FORM)
            said, box = stored.removeprefix(_UNREAD), None
        else:
            said, box = str(list(stored)), Box(*stored)
        yield Prediction(
            where=where, prediction=said, reference=found.item, box=Box(*found.gt_bbox), group=group, predicted_box=box
        )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFormat:
    """One form in which predictions come."""

    title: str  # Who writes it.
    # Reads a file for a task, with one of references where needed; a DataError names the line that is of another form.
    read: Callable[[Path, TaskSpec, Path | None], Iterator[Prediction]]
    kinds: tuple[Kind, ...]  # The kinds of task whose predictions it holds.
    needs_references: bool = False  # Whether the right answers come in a second file.
    boxes_are_read: bool = False  # Whether its writer has read the boxes: then `predicted_box` is all that counts.
    description: str  # What the file is, and what is lost in it.


FORMATS: Mapping[str, PredictionFormat] = {
    DEFAULT_FORMAT: PredictionFormat(
        title="JSON lines", read=json_lines.read_json_lines, kinds=get_args(Kind),
        description="one JSON object a line with `prediction` and `reference`; the form to write yourself",
    ),
    "medevalkit": PredictionFormat(
        title="MedEvalKit", read=read_medevalkit, kinds=("qa", "vqa", "report"),
        description="`results.json` of MedQA_USMLE, PubMedQA, SLAKE, PATH_VQA, VQA_RAD or MIMIC_CXR; English rows",
    ),
    "multimedeval": PredictionFormat(
        title="MultiMedEval", read=read_multimedeval, kinds=("qa", "vqa", "report"),
        description="the CSV that it writes per task; the raw answers are scored, not its reading of them",
    ),
    "llava-med": PredictionFormat(
        title="LLaVA-Med", read=read_llava_med, kinds=("qa", "vqa", "report", "reg", "cls"), needs_references=True,
        description="its answers file (JSON lines); `--references` is the question file with the right answers",
    ),
    "uni-med": PredictionFormat(
        title="Uni-Med's own scripts", read=read_uni_med, kinds=("vqa", "rec", "reg", "report", "cls"),
        boxes_are_read=True,
        description="the JSON of its evaluation scripts; they store answers in lower case and the first 50 words "
        "of references",
    ),
}  # fmt: skip


def read_predictions(
    path: Path, format_name: str, spec: TaskSpec, references: Path | None = None
) -> tuple[Prediction, ...]:
    """Read somebody's predictions for a task, each beside its reference; `references` for formats that need them.

    Raises UsageError if there is no such format, it does not hold this kind of task, or `references` is given or left
    out wrongly; DataError if a file is missing, is not in the format or holds no predictions.
    """
    if format_name not in FORMATS:
        raise unknown_name("format of predictions", format_name, FORMATS)
    form = FORMATS[format_name]
    named = f"The format {format_name!r}"
    if references is not None and not form.needs_references:
        problem = f"{named} takes no file of references: it holds them itself."
        raise UsageError(problem, f"Leave out --references {references}.")
    if spec.kind not in form.kinds:
        way_out = f"It holds {', '.join(form.kinds)}. Any kind can be given in the format {DEFAULT_FORMAT!r}."
        raise UsageError(f"{named} holds no predictions of the kind {spec.kind} ({spec.name}).", way_out)
    if references is None and form.needs_references:
        way_out = f"Give it with --references FILE. It is read with the predictions: {form.description}."
        raise UsageError(f"{named} holds no right answers, and no file of references was given.", way_out)
    predictions = tuple(form.read(path, spec, references))
    if not predictions:
        way_out = f"Expected in the format {format_name!r}: {form.description}."
        raise DataError(f"{path} holds no predictions for {spec.name}.", way_out)
    return predictions


# Scoring

_METRICS = TypeAdapter(dict[str, MetricResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScores:
    """What the protocols make of predictions; `doubt` says why boxes may have been read in the wrong space."""

    task: str
    samples: int
    states: dict[State, int]
    protocols: dict[Protocol, dict[str, MetricResult]]
    doubt: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the document that `medbench score --format json` prints."""
        protocols = {name: _METRICS.dump_python(metrics, mode="json") for name, metrics in self.protocols.items()}
        return {"task": self.task, "n": self.samples, "states": self.states, "protocols": protocols}


def score(
    task: str, predictions: str | Path | Iterable[Mapping[str, Any]], *, source: str = DEFAULT_FORMAT,
    references: Path | None = None, boxes: str = "", protocols: Sequence[Protocol] = PROTOCOLS,
) -> PredictionScores:  # fmt: skip
    """Score anybody's predictions of a task: a file in one of `FORMATS`, or objects with the fields of a line of JSON.

    `boxes` is how the model writes boxes: `uni-med` by default, see `medbench.tasks.answers.box_space`. Raises
    UsageError if there is no such task, format or space, or something was given that has no effect; DataError that
    names line and field if the predictions are of another form.
    """
    spec = get_task(task)
    if isinstance(predictions, str | Path):
        found: Sequence[Prediction] = read_predictions(Path(predictions), source, spec, references)
    else:
        found = tuple(json_lines.predictions_of(predictions, spec))
        if not found:
            raise DataError(f"There are no predictions for {spec.name}.", "Give one object for each.")
    return score_predictions(spec, found, _space(spec, source, boxes), protocols)


def _space(spec: TaskSpec, source: str, boxes: str) -> BoxSpace | None:
    if boxes and spec.kind != "rec":
        raise UsageError(f"--boxes has no effect on {spec.name}, whose answers are no boxes.", "Leave it out.")
    if FORMATS[source].boxes_are_read:
        if boxes:
            problem = f"--boxes has no effect on the format {source}, which holds boxes in pixels."
            raise UsageError(problem, "Leave it out.")
        return None
    if boxes and boxes not in BOX_SPACES:
        raise unknown_name("way to write boxes", boxes, BOX_SPACES)
    return BOX_SPACES[boxes or UNI_MED.name]


def score_predictions(
    spec: TaskSpec, predictions: Sequence[Prediction], boxes: BoxSpace | None, protocols: Sequence[Protocol]
) -> PredictionScores:
    """Score predictions of one task; without a space for boxes those count that their writer has read.

    DataError if one of REC lacks box or image size, or a reference is no answer of a closed list; MedbenchError if
    Java, which a metric needs, cannot start.
    """
    samples = [_sample(prediction, spec, boxes) for prediction in predictions]
    items = [_item(*pair, spec, boxes) for pair in zip(predictions, samples, strict=True)]
    evaluations = {protocol: evaluate(spec.name, spec.kind, protocol, items) for protocol in protocols}
    unit = "group" if any(prediction.group for prediction in predictions) else "sample"
    return PredictionScores(
        task=spec.name, samples=len(items), states=count_states(items),
        protocols=numbers_of(spec, evaluations, items, samples, unit=unit, boxes=boxes),
        doubt=doubt_of(spec, samples, items, boxes, "--boxes"),
    )  # fmt: skip


def _sample(one: Prediction, spec: TaskSpec, boxes: BoxSpace | None) -> Sample:
    """Return what a prediction answers, as a sample of our own."""
    choices = one.choices or spec.choices_by_key()
    reference = _reference(one, spec, choices)
    if spec.kind == "rec" and boxes is not None and (one.box is None or one.image_size is None):
        way_out = "Give the right box as `box` [x1, y1, x2, y2] in pixels and the image's `image_size` [width, height]."
        raise DataError(f"{one.where} has no box or no image_size, which {spec.name} is scored by.", way_out)
    return Sample(
        sample_id=one.where, task=spec.name, split="test", reference=reference, choices=choices, box=one.box,
        image_size=one.image_size, labels={"answer_type": one.answer_type} if one.answer_type else {},
        groups={"group": one.group} if one.group else {},
    )  # fmt: skip


def _item(prediction: Prediction, sample: Sample, spec: TaskSpec, boxes: BoxSpace | None) -> Item:
    text, error = prediction.prediction or "", "failed" if prediction.prediction is None else ""
    record = GenerationRecord(run="", sample_id=sample.sample_id, text=text, error=error)

    def parse(said: str, *_: object) -> Understood:
        if boxes is None or spec.kind != "rec" or sample.image_size is None:
            return Understood(text=said, box=prediction.predicted_box)
        return Understood(text=said, box=boxes.read(said, sample.image_size))

    return predict(record, sample, spec, parse)


def _reference(prediction: Prediction, spec: TaskSpec, choices: Mapping[str, str]) -> str:
    """Return the reference, where there are choices as the key that it names in any case."""
    if not choices:
        return prediction.reference
    given = prediction.reference.strip().lower()
    for key in choices:
        if key.lower() == given:
            return key
    way_out = f"Allowed: {', '.join(choices)}. Other answers need the field `choices` (key to text) in the line."
    raise DataError(f"{prediction.where} has a reference that is none of the answers of {spec.name}.", way_out)
