"""MultiMedEval's CSV file of one task: every answer beside the right one.

Source: https://github.com/corentin-ryr/MultiMedEval, `multimedeval/task_families.py` (MIT)::

    question answering, no header: right answer, raw answer, answer as read, right key, whether they agree
        C: tell the attending that he cannot fail to disclose this mistake,OPTION B IS CORRECT.,b,c,False    MedQA
        yes,maybe,maybe,yes,False                                                                            PubMedQA
    visual question answering, with header
        correct,predicted,F1,BLEU,recall,correct tokens,predicted tokens
    reports, with header
        ref,hyp,bleu1,bleu4,rougeL

- The raw answer is scored, not MultiMedEval's reading of it: in its own published MedQA file the reading differs from
  the letter that the model wrote in 28 of 1273 rows.
- MedQA: the right answer is the key; the other options are not in the file, so that the choices are the keys A to E
  without texts. The file has its texts in lower case.
- VQA: a question is closed if its answer is yes or no, as in its own scoring.
- Reports: its older versions wrote `Invalid Response` for an empty report, which is read as the empty report.
- Which questions share an image is not in the files. Image classification is not read: its files hold the numbers of
  options whose texts they do not hold.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.predictions.catalog import require_kind
from medbench.harness.predictions.record import Prediction
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.text import table_rows
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.validation import read_bytes

_FORM = "Expected: the CSV file that MultiMedEval writes for this task into the folder of the run."
_OPTION = re.compile(r"([A-E]): .*", re.DOTALL)
_OPTION_KEYS = "ABCDE"
_CLOSED_ANSWERS = frozenset({"yes", "no"})
_EMPTY_REPORT = "Invalid Response"


def read_answer_log(path: Path, spec: TaskSpec, _references: Path | None) -> Iterator[Prediction]:
    """Yield the predictions of a task's CSV file; see the module's docstring.

    Raises:
        DataError: If the file is of another form; the message names the row.
    """
    require_kind("multimedeval", spec)
    layout = _LAYOUTS[spec.kind]
    rows = _rows(path, layout)
    if layout.header and next(rows, None) != list(layout.header):
        raise DataError(f"{path} does not begin with the row {','.join(layout.header)}.", _FORM)
    for number, row in enumerate(rows, start=2 if layout.header else 1):
        where = f"{path}, row {number}"
        if len(row) != layout.columns:
            raise DataError(f"{where} has {len(row)} columns, not {layout.columns}.", _FORM)
        yield layout.convert(where, row)


def _rows(path: Path, layout: "_Layout") -> Iterator[list[str]]:
    rows = table_rows(read_bytes(path), str(path), lambda row: len(row) == layout.columns)
    return (row for _, row in rows)


def _answer(where: str, row: Sequence[str]) -> Prediction:
    right, raw, _, key, _ = row
    option = _OPTION.fullmatch(right)
    if option is None:
        return Prediction(where=where, prediction=raw, reference=right)
    if option[1] != key.upper():
        raise DataError(f"{where}: the right answer begins with another key than the fourth column has.", _FORM)
    return Prediction(where=where, prediction=raw, reference=option[1], choices=dict.fromkeys(_OPTION_KEYS, ""))


def _visual_answer(where: str, row: Sequence[str]) -> Prediction:
    right, raw = row[:2]
    closed = right.strip().lower() in _CLOSED_ANSWERS
    return Prediction(where=where, prediction=raw, reference=right, answer_type="CLOSED" if closed else "OPEN")


def _report(where: str, row: Sequence[str]) -> Prediction:
    right, raw = row[:2]
    return Prediction(where=where, prediction="" if raw == _EMPTY_REPORT else raw, reference=right)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    header: tuple[str, ...]
    columns: int
    convert: Callable[[str, Sequence[str]], Prediction]


_VQA_HEADER = ("correct", "predicted", "F1", "BLEU", "recall", "correct tokens", "predicted tokens")
_REPORT_HEADER = ("ref", "hyp", "bleu1", "bleu4", "rougeL")

_LAYOUTS: Mapping[Kind, _Layout] = {
    "qa": _Layout(header=(), columns=5, convert=_answer),
    "vqa": _Layout(header=_VQA_HEADER, columns=len(_VQA_HEADER), convert=_visual_answer),
    "report": _Layout(header=_REPORT_HEADER, columns=len(_REPORT_HEADER), convert=_report),
}
