"""MedQA: questions of the United States medical licensing examination.

Source: Jin et al., MedQA, 2021 (https://github.com/jind11/MedQA). Licence: MIT (repository).

Native layout (`data_clean` or its parent is given)::

    questions/US/train.jsonl, questions/US/test.jsonl                       five options, as in the paper
    questions/US/4_options/phrases_no_exclude_{train,test}.jsonl            or four options

        {"question": "A junior orthopaedic surgery resident is completing a carpal tunnel repair ... Which of
         the following is the correct next action for the resident to take?",
         "answer": "Tell the attending that he cannot fail to disclose this mistake", "answer_idx": "B",
         "options": {"A": "Disclose the error ...", "B": "Tell ...", ...}, "meta_info": "step1", ...}

Samples: one per line, `test/17` for line 17. Uni-Med publishes no evaluation for this task. Two ways of asking are
two tasks, since their numbers are not comparable:

- `medqa`, the default: the question without its options, the answer is a text, as in the official training, whose
  second prompt is used. The label `answer_idx` has the letter, where letter and answer agree.
- `medqa-options`: the options are shown and the answer is a letter, which is what everybody else reports. Four and
  five options are different exams: the manifest's split method names the files. Rows whose letter names another text
  than the answer are skipped.

Split: the dataset's own files (10178 / 1273).
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from medbench.tasks.datasets.native import collect, find_root, lacking, present_splits, relative
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


_ROW = TypeAdapter(_Row)
_MakeSample = Callable[[_Row, Split, str], Sample | Skipped]


def read_questions(source: Path, _options: Mapping[str, str], *, task: str, layout: str) -> Reading:
    """Read MedQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a line is broken.
    """
    root = find_root(source, ["data_clean"], ["questions/US"], layout) / "questions" / "US"
    forms: list[dict[Split, Path]] = [{split: root / name.format(split) for split in SPLITS} for name in _FORMS]
    richest = max(forms, key=lambda files: sum(path.is_file() for path in files.values()))
    present, missing = present_splits(richest, source, layout)
    make = _optioned_sample if task == "medqa-options" else _free_sample
    parts = (_split_samples(split, path, make) for split, path in present.items())
    method = f"the dataset's own files {' and '.join(relative(source, path) for path in present.values())}"
    return collect(chain(missing, *parts), method)


def _split_samples(split: Split, path: Path, make: _MakeSample) -> Iterator[Sample | Skipped]:
    for number, line in enumerate(read_text_bytes(path).splitlines(), start=1):
        if line.strip():
            sample_id = f"{split}/{number}"
            row = parse_json(_ROW, line, f"{path}, line {number}")
            reason = lacking(question=row.question, answer=row.answer)
            yield Skipped(item=sample_id, reason=reason) if reason else make(row, split, sample_id)


def _free_sample(row: _Row, split: Split, sample_id: str) -> Sample:
    labels = {"answer_idx": row.letter, "meta_info": row.meta_info}
    return Sample(
        sample_id=sample_id,
        task="medqa",
        split=split,
        inputs={"question": row.question},
        reference=row.answer,
        labels={name: label for name, label in labels.items() if label},
        groups={"document": sample_id},
    )


def _optioned_sample(row: _Row, split: Split, sample_id: str) -> Sample | Skipped:
    if not row.letter:
        return Skipped(item=sample_id, reason="letter and answer name different options")
    options = dict(sorted(row.options.items()))
    shown = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    return Sample(
        sample_id=sample_id,
        task="medqa-options",
        split=split,
        inputs={"question": row.question, "options": shown},
        reference=row.letter,
        choices=options,
        labels={"meta_info": row.meta_info} if row.meta_info else {},
        groups={"document": sample_id},
    )
