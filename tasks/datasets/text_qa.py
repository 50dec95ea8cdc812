"""MedQA and PubMedQA: questions that have no image. Files, samples, the two tasks of each and the splits: docs/data.md.

MedQA, questions of the United States medical licensing examination. Source: Jin et al., MedQA, 2021
(https://github.com/jind11/MedQA). Licence: MIT (repository).

PubMedQA (expert-labelled part): is the claim in the title of a paper true, by its abstract? Source: Jin et al.,
PubMedQA, 2019 (https://github.com/pubmedqa/pubmedqa). Licence: MIT.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from medbench.tasks import validation
from medbench.tasks.datasets.native import Found, Native, collect, filled, lacking
from medbench.tasks.sample import SPLITS, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow

_FORMS = ("{}.jsonl", "4_options/phrases_no_exclude_{}.jsonl")


class _ExamRow(NativeRow):
    question: MaybeText
    answer: MaybeText
    options: dict[str, MaybeText]
    answer_idx: MaybeText
    meta_info: MaybeText = ""

    @property
    def letter(self) -> str:
        """The answer's letter; empty where it names another text, which would score a right answer as wrong."""
        return self.answer_idx if self.options.get(self.answer_idx) == self.answer else ""


def read_medqa(native: Native) -> Reading:
    """Read MedQA; a DataError if the layout is another one or a line is broken."""
    root = native.root("data_clean", "questions/US") / "questions" / "US"
    forms: list[dict[Split, Path]] = [{split: root / name.format(split) for split in SPLITS} for name in _FORMS]
    files = max(forms, key=lambda paths: sum(path.is_file() for path in paths.values()))
    found = native.by_split(files, partial(_exam_samples, native.task))
    present = " and ".join(native.relative(path) for path in files.values() if path.is_file())
    return collect(found, f"the dataset's own files {present}")


def _exam_samples(task: str, split: Split, path: Path) -> Found:
    for number, line in enumerate(validation.read_text_bytes(path).splitlines(), start=1):
        if line.strip():
            row, item = validation.parse_json(_ExamRow, line, f"{path}, line {number}"), f"{split}/{number}"
            yield lacking(item, question=row.question, answer=row.answer) or _exam_sample(task, row, split, item)


def _exam_sample(task: str, row: _ExamRow, split: Split, item: str) -> Sample | Skipped:
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


_Decision = Literal["yes", "no", "maybe"]


def _bare_word(value: object) -> object:
    text = validation.empty_for_missing(value)
    return text.strip().lower() if isinstance(text, str) else text


class _ClaimRow(NativeRow):
    QUESTION: MaybeText
    CONTEXTS: list[MaybeText]
    final_decision: Annotated[_Decision | Literal[""], BeforeValidator(_bare_word)]


_CHOICES = {decision: decision for decision in get_args(_Decision)}


def read_pubmedqa(native: Native) -> Reading:
    """Read PubMedQA; a DataError if the layout is another one or a file is broken."""
    root = native.root("data", "test_set.json", "train_set.json", "ori_pqal.json")
    if (root / "ori_pqal.json").is_file():
        rows = _claims(root / "ori_pqal.json")
        truth = validation.parse_json_file(dict[str, _Decision], root / "test_ground_truth.json")
        found = _split_by_truth(rows, truth, native.task)
        return collect(found, "test ids of test_ground_truth.json, all others train")
    files = {split: root / f"{split}_set.json" for split in SPLITS}
    found = native.by_split(files, lambda split, path: _claim_samples(_claims(path), split, native.task))
    return collect(found, "train_set.json and test_set.json")


def _claims(path: Path) -> dict[str, _ClaimRow]:
    return validation.parse_json_file(dict[str, _ClaimRow], path)


def _split_by_truth(rows: Mapping[str, _ClaimRow], truth: Mapping[str, _Decision], task: str) -> Found:
    untested = {pmid: row for pmid, row in rows.items() if pmid not in truth}
    agreeing = {pmid: row for pmid, row in rows.items() if truth.get(pmid) == row.final_decision}
    yield from _claim_samples(untested, "train", task)
    yield from _claim_samples(agreeing, "test", task)
    for pmid, decision in truth.items():
        if pmid not in rows:
            yield Skipped(item=pmid, reason="test id is not in ori_pqal.json")
        elif rows[pmid].final_decision != decision:
            yield Skipped(item=pmid, reason="final_decision differs from test_ground_truth.json")


def _claim_samples(rows: Mapping[str, _ClaimRow], split: Split, task: str) -> Found:
    for pmid, row in rows.items():
        yield lacking(pmid, QUESTION=row.QUESTION, final_decision=row.final_decision) or Sample(
            sample_id=pmid, task=task, split=split, reference=row.final_decision, choices=_CHOICES,
            inputs={"question": row.QUESTION, "context": "\n".join(row.CONTEXTS)}, groups={"document": pmid},
        )  # fmt: skip
