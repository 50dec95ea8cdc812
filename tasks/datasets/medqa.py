"""MedQA: questions of the United States medical licensing examination.

Source: Jin et al., MedQA, 2021 (https://github.com/jind11/MedQA). Licence: MIT (repository).

Native layout (`data_clean` or its parent is given)::

    questions/US/train.jsonl, questions/US/test.jsonl                       five options, as in the paper
    questions/US/4_options/phrases_no_exclude_{train,test}.jsonl            or four options

        {"question": "A junior orthopaedic surgery resident is completing a carpal tunnel repair ... Which of
         the following is the correct next action for the resident to take?",
         "answer": "Tell the attending that he cannot fail to disclose this mistake", "answer_idx": "B",
         "options": {"A": "Disclose the error ...", "B": "Tell ...", ...}, "meta_info": "step1", ...}

Samples: one per line, `test/17` for line 17. The question is asked without its options and the answer is its
text, as in the official training; the options are kept as the input `options` and the letter as the label
`answer_idx` (where letter and answer agree), for prompts that show them. Uni-Med publishes no evaluation
for this task: the prompt is the second of its training pool.

Split: the dataset's own files (10178 / 1273).
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from tasks.datasets import instructions
from tasks.datasets.native import collect, find_root, present_splits, relative
from tasks.sample import Sample, Split
from tasks.spec import Reading, TaskSpec
from tasks.validation import NativeRow, parse_json, read_bytes

LAYOUT = (
    "[data_clean/]questions/US/{train,test}.jsonl "
    "or [data_clean/]questions/US/4_options/phrases_no_exclude_{train,test}.jsonl"
)
_SPLITS: tuple[Split, ...] = ("train", "test")
_FORMS = ("{}.jsonl", "4_options/phrases_no_exclude_{}.jsonl")


class _Row(NativeRow):
    question: str
    answer: str
    options: dict[str, str]
    answer_idx: str
    meta_info: str = ""


_ROW = TypeAdapter(_Row)


def read_questions(source: Path, _options: Mapping[str, str]) -> Reading:
    """Read MedQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a line is broken.
    """
    root = find_root(source, ["data_clean"], ["questions/US"], LAYOUT) / "questions" / "US"
    files = _richest_form(root)
    present, missing = present_splits(files, source, LAYOUT)
    parts = (_split_samples(split, path) for split, path in present.items())
    method = f"the dataset's own files {' and '.join(relative(source, path) for path in present.values())}"
    return collect(chain(missing, *parts), method)


def _richest_form(root: Path) -> dict[Split, Path]:
    candidates = [{split: root / name.format(split) for split in _SPLITS} for name in _FORMS]
    return max(candidates, key=lambda files: sum(path.is_file() for path in files.values()))


def _split_samples(split: Split, path: Path) -> Iterator[Sample]:
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        row = parse_json(_ROW, line, f"{path}, line {number}")
        sample_id = f"{split}/{number}"
        # A letter that names another text than the answer would score a right answer as wrong.
        letter = row.answer_idx if row.options.get(row.answer_idx) == row.answer else ""
        labels = {"answer_idx": letter, "meta_info": row.meta_info}
        yield Sample(
            sample_id=sample_id,
            task=MEDQA.name,
            split=split,
            inputs={
                "question": row.question,
                "options": "\n".join(f"({name}) {text}" for name, text in sorted(row.options.items())),
            },
            reference=row.answer,
            labels={name: label for name, label in labels.items() if label},
            groups={"document": sample_id},
        )


MEDQA = TaskSpec(
    name="medqa",
    kind="qa",
    title="MedQA",
    version=1,
    prompt=instructions.MEDQA[1],
    train_prompts=instructions.MEDQA,
    group_key="document",
    counts={"train": 10178, "test": 1273},
    source="MedQA, https://github.com/jind11/MedQA",
    licence="MIT",
    layout=LAYOUT,
    reader=read_questions,
)
