"""PubMedQA (expert-labelled part): is the claim in the title of a paper true, by its abstract?

Source: Jin et al., PubMedQA, 2019 (https://github.com/pubmedqa/pubmedqa). Licence: MIT.

Native layout, one of::

    ori_pqal.json, test_ground_truth.json   all 1000 questions, and the 500 test ids with their answers
    train_set.json, test_set.json           what the dataset's own split script writes

        {"21645374": {"QUESTION": "Do mitochondria play a role in remodelling lace plant leaves during
         programmed cell death?", "CONTEXTS": ["Programmed cell death (PCD) is ...", ...],
         "final_decision": "yes", ...}}

Samples: one per PubMed id, `21645374`; the answer is `yes`, `no` or `maybe`. Uni-Med publishes no evaluation for
this task. Two ways of asking are two tasks, since their numbers are not comparable (GPT-4: 39.6 % against 70.6 % with
retrieved abstracts):

- `pubmedqa`, the default: without the abstract, as in the official training, whose second prompt is used.
- `pubmedqa-context`: with the abstract, its sections one per line, as in the dataset's own setting.

Split: the dataset's fixed test ids (500 / 500).
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, TypeAdapter

from medbench.tasks.datasets.native import collect, find_root, lacking, present_splits
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
_ROWS: TypeAdapter[dict[str, _Row]] = TypeAdapter(dict[str, _Row])
_TRUTH: TypeAdapter[dict[str, _Decision]] = TypeAdapter(dict[str, _Decision])


def read_questions(source: Path, _options: Mapping[str, str], *, task: str, layout: str) -> Reading:
    """Read PubMedQA; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a file is broken.
    """
    root = find_root(source, ["data"], ("test_set.json", "train_set.json", "ori_pqal.json"), layout)
    if not (root / "ori_pqal.json").is_file():
        present, missing = present_splits({split: root / f"{split}_set.json" for split in SPLITS}, source, layout)
        rows_of = {split: parse_json_file(_ROWS, path) for split, path in present.items()}
        parts = (_samples(rows, split, task) for split, rows in rows_of.items())
        return collect(chain(missing, *parts), "train_set.json and test_set.json")
    rows = parse_json_file(_ROWS, root / "ori_pqal.json")
    truth = parse_json_file(_TRUTH, root / "test_ground_truth.json")
    return collect(_split_by_truth(rows, truth, task), "test ids of test_ground_truth.json, all others train")


def _split_by_truth(rows: Mapping[str, _Row], truth: Mapping[str, _Decision], task: str) -> Iterator[Sample | Skipped]:
    untested = {pmid: row for pmid, row in rows.items() if pmid not in truth}
    agreeing = {pmid: row for pmid, row in rows.items() if truth.get(pmid) == row.final_decision}
    yield from _samples(untested, "train", task)
    yield from _samples(agreeing, "test", task)
    for pmid, decision in truth.items():
        if pmid not in rows:
            yield Skipped(item=pmid, reason="test id is not in ori_pqal.json")
        elif rows[pmid].final_decision != decision:
            yield Skipped(item=pmid, reason="final_decision differs from test_ground_truth.json")


def _samples(rows: Mapping[str, _Row], split: Split, task: str) -> Iterator[Sample | Skipped]:
    for pmid, row in rows.items():
        reason = lacking(QUESTION=row.QUESTION, final_decision=row.final_decision)
        if reason:
            yield Skipped(item=pmid, reason=reason)
            continue
        yield Sample(
            sample_id=pmid,
            task=task,
            split=split,
            inputs={"question": row.QUESTION, "context": "\n".join(row.CONTEXTS)},
            reference=row.final_decision,
            choices=_CHOICES,
            groups={"document": pmid},
        )
