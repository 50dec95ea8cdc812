"""MedQA: questions of the United States medical licensing examination.

Source: Jin et al., MedQA, 2021 (https://github.com/jind11/MedQA). Licence: MIT (repository).

Native layout (`data_clean` or its parent is given)::

    questions/US/train.jsonl, questions/US/test.jsonl                       five options, as in the paper
    questions/US/4_options/phrases_no_exclude_{train,test}.jsonl            or four options

        {"question": "A junior orthopaedic surgery resident is completing a carpal tunnel repair ... Which of
         the following is the correct next action for the resident to take?",
         "answer": "Tell the attending that he cannot fail to disclose this mistake", "answer_idx": "B",
         "options": {"A": "Disclose the error ...", "B": "Tell ...", ...}, "meta_info": "step1", ...}

Samples (`test/17` for line 17), the two tasks and the split: docs/data.md.
"""

from functools import partial
from pathlib import Path

from medbench.tasks.datasets.native import Found, Native, collect, filled, lacking
from medbench.tasks.sample import SPLITS, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, parse_json, read_text_bytes

_FORMS = ("{}.jsonl", "4_options/phrases_no_exclude_{}.jsonl")


class _Row(NativeRow):
    question: MaybeText
    answer: MaybeText
    options: dict[str, MaybeText]
    answer_idx: MaybeText
    meta_info: MaybeText = ""

    @property
    def letter(self) -> str:
        """The answer's letter; empty where it names another text, which would score a right answer as wrong."""
        return self.answer_idx if self.options.get(self.answer_idx) == self.answer else ""


def read_questions(native: Native) -> Reading:
    """Read MedQA; a DataError if the layout is another one or a line is broken."""
    root = native.root("data_clean", "questions/US") / "questions" / "US"
    forms: list[dict[Split, Path]] = [{split: root / name.format(split) for split in SPLITS} for name in _FORMS]
    files = max(forms, key=lambda paths: sum(path.is_file() for path in paths.values()))
    found = native.by_split(files, partial(_split_samples, native.task))
    present = " and ".join(native.relative(path) for path in files.values() if path.is_file())
    return collect(found, f"the dataset's own files {present}")


def _split_samples(task: str, split: Split, path: Path) -> Found:
    for number, line in enumerate(read_text_bytes(path).splitlines(), start=1):
        if line.strip():
            row, item = parse_json(_Row, line, f"{path}, line {number}"), f"{split}/{number}"
            yield lacking(item, question=row.question, answer=row.answer) or _sample(task, row, split, item)


def _sample(task: str, row: _Row, split: Split, item: str) -> Sample | Skipped:
    if task == "medqa":
        inputs, choices, labels = {"question": row.question}, {}, filled(answer_idx=row.letter, meta_info=row.meta_info)
    elif row.letter:
        choices, labels = dict(sorted(row.options.items())), filled(meta_info=row.meta_info)
        shown = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
        inputs = {"question": row.question, "options": shown}
    else:
        return Skipped(item=item, reason="letter and answer name different options")
    return Sample(
        sample_id=item, task=task, split=split, inputs=inputs, reference=row.letter if choices else row.answer,
        choices=choices, labels=labels, groups={"document": item},
    )  # fmt: skip
