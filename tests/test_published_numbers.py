"""Published scores, made again from the very outputs they were computed on, through the real command."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from fixture_root import realdata

from medbench.tasks.answers.choice import read_choice

LETTERS: Mapping[str, Mapping[str, str]] = {
    "medqa": dict.fromkeys("ABCD", ""),
    "pubmedqa": {"A": "yes", "B": "no", "C": "maybe"},
}
# GPT-3.5 with chain of thought on MedQA is published as 65.04, which the archived outputs do not give: six are empty.
PUBLISHED = {
    ("medqa", "cot", "gpt-4-32k"): 83.97,
    ("medqa", "rag_32", "gpt-4-32k"): 82.80,
    ("pubmedqa", "cot", "gpt-4-32k"): 39.60,
    ("pubmedqa", "rag_32", "gpt-4-32k"): 70.60,
    ("pubmedqa", "cot", "gpt-35-turbo-16k"): 36.00,
    ("medqa", "rag_32", "gpt-35-turbo-16k"): 66.61,
    ("pubmedqa", "rag_32", "gpt-35-turbo-16k"): 67.40,
}


def scored(task: str, path: Path, *options: str) -> dict[str, Any]:
    result = medbench("score", "--task", task, "--predictions", path, "--format", "json", *options)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def scored_rows(task: str, path: Path, rows: Iterable[Mapping[str, object]]) -> dict[str, Any]:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return scored(task, path)


def value(document: dict[str, Any], metric: str, protocol: str = "strict") -> float:
    found: float = document["protocols"][protocol][metric]["value"]
    return found


@pytest.mark.parametrize(
    ("field", "accuracy", "macro_f1"),
    [("reasoning_required_pred", 0.780, 0.7219), ("reasoning_free_pred", 0.904, 0.8418)],
)
def test_the_human_scores_of_pubmedqa(tmp_path: Path, field: str, accuracy: float, macro_f1: float) -> None:
    folder = realdata("pubmedqa")
    rows = json.loads((folder / "ori_pqal.json").read_text(encoding="utf-8"))
    truth = json.loads((folder / "test_ground_truth.json").read_text(encoding="utf-8"))
    pairs = ({"prediction": rows[pmid][field], "reference": decision} for pmid, decision in truth.items())
    document = scored_rows("pubmedqa-context", tmp_path / "humans.jsonl", pairs)
    assert document["n"] == 500
    for protocol in ("paper", "strict"):
        assert value(document, "accuracy", protocol) == pytest.approx(accuracy, abs=1e-9)
        assert value(document, "macro_f1", protocol) == pytest.approx(macro_f1, abs=5e-5)


def mirage() -> Iterator[dict[str, Any]]:
    path = realdata("mirage_predictions") / "mirage_medqa_pubmedqa_predictions.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def test_the_seven_scores_of_mirage(tmp_path: Path) -> None:
    rows: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for line in mirage():
        key = (line["dataset"], line["mode"], line["model"])
        rows.setdefault(key, []).append({"prediction": line["parsed_upstream"], "reference": line["gold"]})
    for key, published in PUBLISHED.items():
        choices = LETTERS[key[0]]
        task = "medqa-options" if key[0] == "medqa" else "pubmedqa-context"
        document = scored_rows(task, tmp_path / "mirage.jsonl", ({**row, "choices": choices} for row in rows[key]))
        assert round(100 * value(document, "accuracy"), 2) == published


def test_we_read_mirages_raw_outputs_as_its_authors_did_but_invent_no_answer() -> None:
    """Upstream takes `A` for refusals, error messages and `None of the above`; with us they are unread."""
    unread = []
    differently = []
    for line in mirage():
        raw = line["raw"] if isinstance(line["raw"], str) else ""
        found = read_choice(raw, LETTERS[line["dataset"]])
        if found is None:
            unread.append((line["parsed_upstream"], raw))
        elif found != line["parsed_upstream"]:
            differently.append((line["gold"], found, line["parsed_upstream"]))
    # Six outputs are no text at all, four name two options (`B/C`, `B. Clindamycin or C. Penicillin`), one is `C. pol
    # gene mutation`, which only a reader that knows the options can tell from `C. difficile`.
    assert Counter(letter for letter, _ in unread) == {"A": 124, None: 6, "B": 3, "C": 2}
    assert all(letter == "A" for letter, raw in unread if "content management policy" in raw)
    # The one answer that upstream misread.
    assert differently == [("B", "B", "A")]


def test_pmc_llama_on_pubmedqa() -> None:
    path = realdata("multimedeval_pmc_llama") / "PubMedQA.csv"
    document = scored("pubmedqa-context", path, "--from", "multimedeval")
    assert value(document, "accuracy") == pytest.approx(0.684, abs=1e-9)


def test_pmc_llama_on_medqa(tmp_path: Path) -> None:
    path = realdata("multimedeval_pmc_llama") / "MedQA.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    choices = dict.fromkeys("abcde", "")
    pairs = ({"prediction": row[2], "reference": row[3], "choices": choices} for row in rows)
    document = scored_rows("medqa-options", tmp_path / "parsed.jsonl", pairs)
    assert value(document, "accuracy") == pytest.approx(0.4721131186174391, abs=1e-9)
    # What the model wrote is three answers better than what MultiMedEval read (its bug M1).
    assert value(scored("medqa-options", path, "--from", "multimedeval"), "accuracy") == pytest.approx(604 / 1273)
