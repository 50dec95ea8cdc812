"""What real models wrote where it is beyond doubt what they chose; nothing where the open data are missing."""

import csv
import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.reading_choices import Output
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Sample

ROOT = Path(os.environ.get("MEDBENCH_REALDATA") or Path(__file__).resolve().parents[2] / "shared" / "realdata")
_MIRAGE = "mirage_predictions/mirage_medqa_pubmedqa_predictions.jsonl.gz"
_MEDQA = "medqa_us_4opt/data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"
_KEY = re.compile(r"([A-D])(?:[.):]?\s*(.*))?", re.DOTALL)
_PMC_LLAMA = re.compile(r"OPTION ([A-E]) IS CORRECT\.")
_DECISIONS = {"A": "yes", "B": "no", "C": "maybe"}


def real() -> Iterator[Output]:
    """Yield the outputs of GPT-4 and GPT-3.5 that MIRAGE published, and those of PMC-LLaMA by MultiMedEval."""
    if (ROOT / _MIRAGE).is_file() and (ROOT / _MEDQA).is_file():
        yield from _mirage()
    file = ROOT / "multimedeval_pmc_llama" / "MedQA.csv"
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.reader(lines):
                said = _PMC_LLAMA.fullmatch(row[1].strip()) if len(row) > 1 else None
                if said:
                    options = dict.fromkeys("ABCDE", "")
                    yield _output("real: PMC-LLaMA on MedQA", row[1], said[1], options)


def _mirage() -> Iterator[Output]:
    questions = [json.loads(line)["options"] for line in (ROOT / _MEDQA).read_text("utf-8").splitlines()]
    with gzip.open(ROOT / _MIRAGE, "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            text = record["raw"] or ""
            of_medqa = record["dataset"] == "medqa"
            options: Mapping[str, str] = questions[int(record["qid"])] if of_medqa else _DECISIONS
            key = _sure_key(text, options)
            if key:
                name = "MedQA" if of_medqa else "PubMedQA with letters"
                yield _output(f"real: GPT on {name}", text, key, options)


def _field(text: str) -> object:
    try:
        document = json.loads(text)
    except ValueError:
        return ""
    return document.get("answer_choice", "") if isinstance(document, dict) else ""


def _sure_key(text: str, options: Mapping[str, str]) -> str:
    """Return the letter of an answer that is one letter, or a letter with the text of its own option; else nothing."""
    said = _KEY.fullmatch(str(_field(text)).strip())
    if said is None or said[1] not in options:
        return ""
    own = " ".join((said[2] or "").split()).rstrip(".").lower()
    return said[1] if own in {"", " ".join(options[said[1]].split()).rstrip(".").lower()} else ""


def _output(form: str, text: str, truth: str, choices: Mapping[str, str]) -> Output:
    spec = get_task("medqa-options")
    sample = Sample(sample_id="1", task=spec.name, split="test", reference=truth, choices=choices)
    return Output(form=form, text=text, truth=truth, sample=sample, task=spec)
