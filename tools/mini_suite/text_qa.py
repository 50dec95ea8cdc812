"""MedQA and PubMedQA: real rows of the official files, fewer of them.

Sources: jind11/MedQA (Jin et al., 2020) and pubmedqa/pubmedqa (Jin et al., 2019).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_json, read_json_lines
from tools.mini_suite.encoding import compact_json, json_rows
from tools.mini_suite.part import Part, Source, TaskRecord
from tools.mini_suite.seeds import shuffled

MEDQA_TRAIN, MEDQA_TEST = 120, 100
PUBMEDQA_TRAIN, PUBMEDQA_TEST = 100, 100

_MEDQA_FILE = "medqa_us_4opt/data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"

MEDQA = Source(
    name="medqa",
    title="MedQA (USMLE), US 4-option test questions",
    origin="real",
    licence="MIT",
    attribution="(c) Di Jin. Jin et al., What Disease does this Patient Have?, arXiv 2009.13081",
    retrieved_from=(
        "github.com/jind11/MedQA@27b02f66, through github.com/Teddy-XiongGZ/MIRAGE@392943af, "
        "rawdata/medqa/data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"
    ),
    changes="a seeded sample of the official test rows, split anew; the field metamap_phrases is left out",
)

PUBMEDQA = Source(
    name="pubmedqa",
    title="PubMedQA, labelled subset PQA-L",
    origin="real",
    licence="MIT",
    attribution="(c) 2019 pubmedqa. Jin et al., PubMedQA, EMNLP 2019",
    retrieved_from="github.com/pubmedqa/pubmedqa@1cbae8e92f72f20c8d3747cbb3bf5bc53554d997, data/ori_pqal.json",
    changes="a seeded sample of the rows, each row whole; test ids are official test ids",
)


def build_medqa(realdata: Path) -> Part:
    """Return `MedQA/questions/US/{train,test}.jsonl` and the 4-option files with the same rows.

    Args:
        realdata: Folder that holds `medqa_us_4opt`.

    Raises:
        DataError: If the official file is missing or has a repeated question.
    """
    rows = [_without_phrases(row) for row in read_json_lines(realdata / _MEDQA_FILE)]
    if len({row["question"] for row in rows}) != len(rows):
        raise DataError(f"{realdata / _MEDQA_FILE} has repeated questions.", "Use the official file.")
    drawn = shuffled(rows, "medqa")
    test, train = drawn[:MEDQA_TEST], drawn[MEDQA_TEST : MEDQA_TEST + MEDQA_TRAIN]
    files = {
        "MedQA/questions/US/test.jsonl": json_rows(test),
        "MedQA/questions/US/train.jsonl": json_rows(train),
    }
    record = TaskRecord(
        task="medqa",
        folder="MedQA",
        split="seeded sample of the official test rows, split by question",
        counts={"train": len(train), "test": len(test)},
        items={"questions/US/*": "medqa"},
    )
    note = (
        "MedQA: all rows come from the official 4-option test file; the train rows of this suite are official "
        "test rows, so its models must not be scored on the official MedQA test."
    )
    return Part(files=files, tasks=(record, replace(record, task="medqa-options")), sources=(MEDQA,), notes=(note,))


def _without_phrases(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "metamap_phrases"}


def build_pubmedqa(realdata: Path) -> Part:
    """Return `PubMedQA/{ori_pqal,test_ground_truth}.json`.

    Args:
        realdata: Folder that holds `pubmedqa`.

    Raises:
        DataError: If a file is missing.
    """
    rows: dict[str, Any] = read_json(realdata / "pubmedqa/ori_pqal.json")
    truth: dict[str, str] = read_json(realdata / "pubmedqa/test_ground_truth.json")
    test = shuffled(sorted(truth), "pubmedqa", "test")[:PUBMEDQA_TEST]
    train = shuffled(sorted(set(rows) - set(truth)), "pubmedqa", "train")[:PUBMEDQA_TRAIN]
    files = {
        "PubMedQA/ori_pqal.json": compact_json({key: rows[key] for key in sorted(test + train)}),
        "PubMedQA/test_ground_truth.json": compact_json({key: truth[key] for key in sorted(test)}),
    }
    record = TaskRecord(
        task="pubmedqa",
        folder="PubMedQA",
        split="official: test ids are in test_ground_truth.json",
        counts={"train": len(train), "test": len(test)},
        items={"ori_pqal.json": "pubmedqa", "test_ground_truth.json": "pubmedqa"},
    )
    return Part(files=files, tasks=(record, replace(record, task="pubmedqa-context")), sources=(PUBMEDQA,))
