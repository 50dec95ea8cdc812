r"""MedEvalKit's `results.json`: a list of the questions it asked, each with the answer.

Source: https://github.com/alibaba-damo-academy/MedEvalKit, `utils/base_dataset.py` and one module per dataset::

    SLAKE               {"lang": "en", "answer_type": "OPEN", "question": "...", "answer": "MRI", "response": "MRI"}
    PATH_VQA, VQA_RAD   {"question": "...", "answer": "yes", "response": "Yes"}
    MedQA_USMLE         {"choices": ["A. aspirin", "B. warfarin", ...], "answer": "B", "response": "B"}
    PubMedQA            {"choices": ["A.yes", "B.no", "C.maybe"], "answer": "A", "response": "A"}
    MIMIC_CXR           {"image": ["..."], "findings": "...", "impression": "...", "response": "..."}

- `response` is the raw answer. Where it holds `\boxed{...}` or `<answer>...</answer>`, which its prompts ask reasoning
  models for, that is the answer, as in its own scoring. Null is a call that failed.
- SLAKE holds questions in English and Chinese; the Chinese ones are left out and counted in a warning.
- PATH_VQA and VQA_RAD have no answer type: a question is closed if its answer is yes or no, as in its own scoring.
- A report is compared with `Findings: ... Impression: ....`, the form that its prompt asks for and its scoring uses.
- Which questions share an image or a patient is not in the files.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from medbench.harness.predictions.catalog import require_kind
from medbench.harness.predictions.json_lines import AnswerType, Said, Text, parse_list
from medbench.harness.predictions.record import Prediction
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow

_FORM = "Expected: the results.json that MedEvalKit writes beside metrics.json for this dataset."
_ENGLISH = "en"
_CLOSED_ANSWERS = frozenset({"yes", "no"})
_CHOICE = re.compile(r"\s*([A-Za-z])\.\s*(.*)", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class _Row(NativeRow):
    response: Said


class _AnswerRow(_Row):
    answer: Text
    answer_type: AnswerType = ""
    lang: str = _ENGLISH


class _ChoiceRow(_Row):
    answer: str
    choices: list[str]


class _ReportRow(_Row):
    findings: str
    impression: str


_ANSWER_ROWS = TypeAdapter(list[_AnswerRow])
_CHOICE_ROWS = TypeAdapter(list[_ChoiceRow])
_REPORT_ROWS = TypeAdapter(list[_ReportRow])


def read_results(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the English predictions of a `results.json`; see the module's docstring.

    Raises:
        DataError: If the file is of another form; the message names the entry and the field.
    """
    require_kind("medevalkit", spec)
    if spec.kind == "qa":
        yield from (_choice(where, row) for where, row in parse_list(path, _CHOICE_ROWS, _FORM))
    elif spec.kind == "report":
        yield from (_report(where, row) for where, row in parse_list(path, _REPORT_ROWS, _FORM))
    else:
        yield from (_answer(where, row) for where, row in _english(path))


def _english(path: Path) -> Iterator[tuple[str, _AnswerRow]]:
    rows = list(parse_list(path, _ANSWER_ROWS, _FORM))
    others = sum(row.lang != _ENGLISH for _, row in rows)
    if others:
        warn(f"{path}: {others} of {len(rows)} entries are not in English and are left out.")
    yield from ((where, row) for where, row in rows if row.lang == _ENGLISH)


def _answer(where: str, row: _AnswerRow) -> Prediction:
    closed = row.answer.strip().lower() in _CLOSED_ANSWERS
    return Prediction(
        where=where,
        prediction=_marked_answer(row.response),
        reference=row.answer,
        answer_type=row.answer_type or ("CLOSED" if closed else "OPEN"),
    )


def _choice(where: str, row: _ChoiceRow) -> Prediction:
    choices = _choices(where, row.choices)
    reference = row.answer.strip().upper()
    if reference not in choices:
        raise DataError(f"{where}, field answer: it is no letter of the field choices.", _FORM)
    return Prediction(where=where, prediction=_marked_answer(row.response), reference=reference, choices=choices)


def _choices(where: str, lines: list[str]) -> dict[str, str]:
    found = [_CHOICE.fullmatch(line) for line in lines]
    choices = {match[1].upper(): match[2].strip() for match in found if match}
    if len(choices) < len(lines):
        raise DataError(f"{where}, field choices: not every choice begins with a letter of its own.", _FORM)
    return choices


def _report(where: str, row: _ReportRow) -> Prediction:
    reference = f"Findings: {row.findings} Impression: {row.impression}."
    return Prediction(where=where, prediction=row.response, reference=reference)


def _marked_answer(response: str | None) -> str | None:
    """Return the part of a response that is marked as the answer, or all of it where nothing is marked."""
    if response is None:
        return None
    boxed = _filled(_BOXED, response)
    return boxed[-1] if boxed else " ".join(_filled(_ANSWER, response)) or response


def _filled(mark: re.Pattern[str], response: str) -> list[str]:
    found = (match[1].strip() for match in mark.finditer(response))
    return [answer for answer in found if answer]
