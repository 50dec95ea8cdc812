"""LLaVA-Med's answers, joined with its question file, which has the right answers.

Source: https://github.com/microsoft/LLaVA-Med, `llava/eval/model_vqa.py` and, up to version 1.0, `model_vqa_med.py` and
`run_eval.py`. The answers are JSON lines::

    {"question_id": 10, "prompt": "Is there ...?", "text": "Yes.", "answer_id": "...", "model_id": "..."}

The references are the question file, a JSON list or JSON lines, of either form::

    {"id": 10, "image": "a.jpg", "answer_type": "CLOSED", "conversations": [{"from": "human", "value": "Is there ...?"},
                                                                            {"from": "gpt", "value": "Yes"}]}
    {"question_id": 10, "image": "a.jpg", "answer_type": "CLOSED", "answer": "Yes"}

`conversatons`, as some of its files spell it, is read as well; so are the answer types of Path-VQA (`yes/no` is closed,
`other` and `number` are open). `text` is taken as it is, also where its first version left a speaker's name in front.
The image ties predictions together.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, TypeAdapter

from medbench.harness.predictions.catalog import require_kind, require_references
from medbench.harness.predictions.json_lines import AnswerType, Said, Text, parse_lines, parse_list, read_document
from medbench.harness.predictions.record import Prediction
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow

_ANSWERS_FORM = 'Expected: the answers file of LLaVA-Med, JSON lines with "question_id" and "text".'
_QUESTIONS_FORM = (
    'Expected: the question file of LLaVA-Med, a JSON list or JSON lines with "id" and "conversations", or with '
    '"question_id" and "answer".'
)
_PATH_VQA_TYPES: Mapping[str, str] = {"yes/no": "CLOSED", "other": "OPEN", "number": "OPEN"}
_MODEL_SPEAKER = "gpt"


def _own_type(value: object) -> object:
    return _PATH_VQA_TYPES.get(value.strip().lower(), value) if isinstance(value, str) else value


class _Answer(NativeRow):
    question_id: Text
    text: Said


class _Turn(NativeRow):
    speaker: str = Field(alias="from")
    value: Text


class _Question(NativeRow):
    question_id: Text = Field(validation_alias=AliasChoices("question_id", "id"))
    answer: Text | None = None
    conversations: list[_Turn] = Field(
        default_factory=list, validation_alias=AliasChoices("conversations", "conversatons")
    )
    answer_type: Annotated[AnswerType, BeforeValidator(_own_type)] = ""
    image: str | None = None

    @property
    def right_answer(self) -> str | None:
        """The answer, or the first turn of the model; None if there is neither."""
        spoken = (turn.value for turn in self.conversations if turn.speaker == _MODEL_SPEAKER)
        return self.answer if self.answer is not None else next(spoken, None)


class _HasId(Protocol):
    @property
    def question_id(self) -> str: ...


R = TypeVar("R", bound=_HasId)

_ANSWER = TypeAdapter(_Answer)
_QUESTION = TypeAdapter(_Question)
_QUESTIONS = TypeAdapter(list[_Question])


def read_answers(path: Path, spec: TaskSpec, references: Path | None) -> Iterator[Prediction]:
    """Yield the answers in the order of the questions; see the module's docstring.

    Raises:
        UsageError: If no file of references was given.
        DataError: If a file is of another form, or the two do not hold the same questions.
    """
    require_kind("llava-med", spec)
    question_file = require_references("llava-med", references)
    answers = _by_id(parse_lines(path, _ANSWER, _ANSWERS_FORM))
    questions = _by_id(_read_questions(question_file))
    _refuse_missing(f"questions of {question_file}", f"answer in {path}", questions, answers)
    _refuse_missing(f"answers of {path}", f"question in {question_file}", answers, questions)
    for name, (place, question) in questions.items():
        yield _prediction(*answers[name], place, question)


def _read_questions(path: Path) -> Iterator[tuple[str, _Question]]:
    if read_document(path).lstrip().startswith(b"["):
        return parse_list(path, _QUESTIONS, _QUESTIONS_FORM)
    return parse_lines(path, _QUESTION, _QUESTIONS_FORM)


def _by_id(rows: Iterator[tuple[str, R]]) -> dict[str, tuple[str, R]]:
    found: dict[str, tuple[str, R]] = {}
    for where, row in rows:
        if row.question_id in found:
            raise DataError(
                f"{where} has the question id of {found[row.question_id][0]}: {row.question_id!r}.",
                "Answers are joined by their ids; keep one of the two.",
            )
        found[row.question_id] = (where, row)
    return found


def _refuse_missing(what: str, partner: str, given: Mapping[str, object], there: Mapping[str, object]) -> None:
    missing = [name for name in given if name not in there]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(given)} {what} have no {partner}; the first is {missing[0]!r}.",
            "Give all answers of one run, and the question file that they were made from.",
        )


def _prediction(where: str, answer: _Answer, place: str, question: _Question) -> Prediction:
    reference = question.right_answer
    if reference is None:
        raise DataError(f"{place} has neither an answer nor a turn from {_MODEL_SPEAKER!r}.", _QUESTIONS_FORM)
    return Prediction(
        where=where,
        prediction=answer.text,
        reference=reference,
        answer_type=question.answer_type,
        group=question.image or "",
    )
