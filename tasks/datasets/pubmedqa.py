"""PubMedQA (expert-labelled part): is the claim in the title of a paper true, by its abstract?

Source: Jin et al., PubMedQA, 2019 (https://github.com/pubmedqa/pubmedqa). Licence: MIT.

Native layout, one of::

    ori_pqal.json, test_ground_truth.json   all 1000 questions, and the 500 test ids with their answers
    train_set.json, test_set.json           what the dataset's own split script writes

        {"21645374": {"QUESTION": "Do mitochondria play a role in remodelling lace plant leaves during
         programmed cell death?", "CONTEXTS": ["Programmed cell death (PCD) is ...", ...],
         "final_decision": "yes", ...}}

Samples (`21645374`, the PubMed id), the two tasks and the split: docs/data.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator

from medbench.tasks.datasets.native import Found, Native, collect, lacking
from medbench.tasks.sample import SPLITS, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import MaybeText, NativeRow, empty_for_missing, parse_json_file

_Decision = Literal["yes", "no", "maybe"]


def _bare_word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class _Row(NativeRow):
    QUESTION: MaybeText
    CONTEXTS: list[MaybeText]
    final_decision: Annotated[_Decision | Literal[""], BeforeValidator(_bare_word), BeforeValidator(empty_for_missing)]


_CHOICES = {decision: decision for decision in get_args(_Decision)}


def read_questions(native: Native) -> Reading:
    """Read PubMedQA; a DataError if the layout is another one or a file is broken."""
    root = native.root("data", "test_set.json", "train_set.json", "ori_pqal.json")
    if (root / "ori_pqal.json").is_file():
        rows = parse_json_file(dict[str, _Row], root / "ori_pqal.json")
        truth = parse_json_file(dict[str, _Decision], root / "test_ground_truth.json")
        found = _split_by_truth(rows, truth, native.task)
        return collect(found, "test ids of test_ground_truth.json, all others train")

    def samples(split: Split, path: Path) -> Found:
        rows = parse_json_file(dict[str, _Row], path)
        return _samples(rows, split, native.task)

    files = {split: root / f"{split}_set.json" for split in SPLITS}
    return collect(native.by_split(files, samples), "train_set.json and test_set.json")


def _split_by_truth(rows: Mapping[str, _Row], truth: Mapping[str, _Decision], task: str) -> Found:
    untested = {pmid: row for pmid, row in rows.items() if pmid not in truth}
    agreeing = {pmid: row for pmid, row in rows.items() if truth.get(pmid) == row.final_decision}
    yield from _samples(untested, "train", task)
    yield from _samples(agreeing, "test", task)
    for pmid, decision in truth.items():
        if pmid not in rows:
            yield Skipped(item=pmid, reason="test id is not in ori_pqal.json")
        elif rows[pmid].final_decision != decision:
            yield Skipped(item=pmid, reason="final_decision differs from test_ground_truth.json")


def _samples(rows: Mapping[str, _Row], split: Split, task: str) -> Found:
    for pmid, row in rows.items():
        yield lacking(pmid, QUESTION=row.QUESTION, final_decision=row.final_decision) or Sample(
            sample_id=pmid, task=task, split=split, reference=row.final_decision, choices=_CHOICES,
            inputs={"question": row.QUESTION, "context": "\n".join(row.CONTEXTS)}, groups={"document": pmid},
        )  # fmt: skip
