"""`medbench audit model --predictions`: anybody's file, from the command line."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audit_cells import reports
from audit_terminal import medbench
from scipy import stats

from medbench.leaderboard.audit.outputs.answers import read_predictions, read_train_references
from medbench.leaderboard.audit.outputs.audit import audit_answers, audit_predictions
from medbench.tasks.foundation.errors import DataError, UsageError

GOLDEN = Path(__file__).parent / "golden" / "audit_predictions.json"
Row = dict[str, Any]


def write(path: Path, rows: list[Row] | list[str]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def rows_of(references: list[str], answers: list[str | None]) -> list[Row]:
    return [
        {"sample_id": f"s{place:03d}", "group": f"p{place:03d}", "prediction": answer, "reference": reference}
        for place, (reference, answer) in enumerate(zip(references, answers, strict=True))
    ]


def invented() -> tuple[list[Row], list[str]]:
    """Return answers with something for every rule, and training references."""
    references = reports(60)
    answers: list[str | None] = [*(one.upper() for one in references[:6]), *reports(54, seed=1)]
    answers[20] = None
    answers[21] = references[21].rsplit(" ", 1)[0] + " otherwise."
    references[30] = references[31] = "One long report that two patients share, word for word."
    answers[30] = references[30]
    answers[40] = references[40]
    references += ["No.", "None"]
    answers += ["no", None]
    return rows_of(references, answers), [references[40], *reports(20, seed=7)]


def leaking(path: Path, share: float, cases: int = 200) -> Path:
    references = reports(cases)
    seen = set(random.Random(0).sample(range(cases), round(share * cases)))
    answers: list[str | None] = [
        one if place in seen else other
        for place, (one, other) in enumerate(zip(references, reports(cases, seed=1), strict=True))
    ]
    return write(path, rows_of(references, answers))


def test_the_json_of_an_invented_file_is_the_golden_one(tmp_path: Path) -> None:
    rows, train = invented()
    answers = write(tmp_path / "answers.jsonl", rows)
    known = write(tmp_path / "train.jsonl", [{"reference": one} for one in train])
    done = medbench("audit", "model", "--predictions", answers, "--train-references", known, "--kind", "report",
                    "--format", "json")  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert done.stdout == GOLDEN.read_text(encoding="utf-8")
    found = json.loads(done.stdout)["tasks"]["report"]
    assert (found["verdict"], found["k"], found["K"], found["n"]) == ("strong", 6, 56, 62)
    assert found["exact_by_reason"] == {"eligible": 6, "in_train_refs": 1, "shared_across_clusters": 1, "short": 1}
    assert found["items_by_reason"]["missing"] == 1
    tested = stats.binomtest(6, 56, 0.005, alternative="greater")
    exact = stats.binomtest(6, 56).proportion_ci(method="exact")
    assert found["p"] == pytest.approx(tested.pvalue, rel=1e-5)
    assert found["rate"] == pytest.approx(6 / 56, rel=1e-5)
    assert found["ci"] == pytest.approx([exact.low, exact.high], rel=1e-5)
    assert stats.binom.sf(4, 56, found["detectable_rate"]) == pytest.approx(0.8, rel=1e-4)
    assert found["near_matches"] == 1


def test_lines_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    rows, _ = invented()
    path = tmp_path / "answers.jsonl"
    texts = []
    for seed in (None, 3):
        write(path, rows if seed is None else random.Random(seed).sample(rows, len(rows)))
        document = audit_predictions(path, "report").to_dict()
        del document["settings"]["file sha256"]
        texts.append(document)
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("share", "code", "verdict"), [(0.0, 0, "no_evidence"), (0.02, 3, "suspicious"), (0.1, 4, "strong")]
)
def test_the_exit_code_is_the_verdict(tmp_path: Path, share: float, code: int, verdict: str) -> None:
    done = medbench("audit", "model", "--predictions", leaking(tmp_path / "answers.jsonl", share))
    assert done.returncode == code, done.stderr
    assert verdict.replace("_", " ") in done.stdout


def test_yes_and_no_are_not_testable_and_never_exit_0(tmp_path: Path) -> None:
    rows = [{"sample_id": str(place), "prediction": "Yes.", "reference": "yes"} for place in range(300)]
    done = medbench("audit", "model", "--predictions", write(tmp_path / "a.jsonl", rows), "--kind", "vqa",
                    "--format", "json")  # fmt: skip
    assert done.returncode == 5
    document = json.loads(done.stdout)
    found = document["tasks"]["vqa"]
    assert (found["verdict"], found["exact"], found["K"]) == ("not_testable", 300, 0)
    assert found["detectable_rate"] is None
    assert document["notes"] == ["300 of 300 items have no group and count as a case each."]


@pytest.mark.parametrize("kind", ["cls", "rec"])
def test_closed_kinds_are_not_testable_whatever_their_words(tmp_path: Path, kind: str) -> None:
    path = leaking(tmp_path / "a.jsonl", 1.0)
    assert medbench("audit", "model", "--predictions", path, "--kind", kind).returncode == 5


def test_missing_answers_are_missing_and_numbers_are_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"sample_id": 1, "prediction": NaN, "reference": "None"}\n\n'
        '{"sample_id": "2", "prediction": null, "reference": "None"}\n'
        '{"sample_id": "3", "reference": "None"}\n'
        '{"sample_id": "4", "prediction": 7.5, "reference": "7.5"}\n'
        '{"sample_id": "5", "prediction": "nan", "reference": "nan"}\n',
        encoding="utf-8",
    )
    found = audit_predictions(path, "report").tasks["report"].details
    assert (found["n"], found["exact"], found["items_by_reason"]) == (5, 1, {"no_reference": 1, "short": 4})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sample_id": "a", "prediction": "x", "reference": "y"}\n' * 2, "line 2 has the sample_id of"),
        ('{"sample_id": "a", "prediction": ["secret"], "reference": "y"}\n', "line 1, field prediction"),
        ('{"sample_id": "a", "prediction": true, "reference": "y"}\n', "line 1, field prediction"),
        ('{"sample_id": "a", "reference": "y"}\n', "No column of .* common for a prediction"),
        ('{"sample_id": "a", "prediction": "y"}\n', "No line of .* has the field reference"),
        ("", "No line of"),
        ("[1]\n", "line 1"),
        ("not json\n", "line 1"),
    ],
)
def test_a_broken_file_is_an_error_that_quotes_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path, "report", name=path.name, train=None)
    assert "secret" not in str(caught.value)


def test_training_references_may_be_plain_texts(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('"one"\n{"reference": "two", "more": 1}\n{"reference": null}\n', encoding="utf-8")
    assert read_train_references(path) == ["one", "two"]
    path.write_text('{"text": "one"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        read_train_references(path)


def test_known_training_references_take_the_evidence_away(tmp_path: Path) -> None:
    path = leaking(tmp_path / "a.jsonl", 0.1)
    train = write(tmp_path / "train.jsonl", [one.upper() for one in reports(200)[:190]])
    done = medbench("audit", "model", "--predictions", path, "--train-references", train, "--format", "json")
    assert done.returncode == 5
    found = json.loads(done.stdout)["tasks"]["report"]
    assert (found["K"], found["verdict"], found["ref_in_train"]) == (10, "not_testable", 0.95)


def test_peers_stand_beside_and_must_have_the_same_items(tmp_path: Path) -> None:
    ours = leaking(tmp_path / "ours.jsonl", 0.05)
    peers = [leaking(tmp_path / f"peer{place}.jsonl", 0.0) for place in range(3)]
    done = medbench("audit", "model", "--predictions", ours, "--peers", *peers, "--format", "json")
    document = json.loads(done.stdout)
    found = document["tasks"]["report"]
    assert [peer["name"] for peer in found["peers"]] == ["peer0.jsonl", "peer1.jsonl", "peer2.jsonl"]
    assert found["p0"] == 0.005
    assert {f"peer {path.name}" for path in peers} < document["examples"][0]["texts"].keys()
    peers[1].write_text("".join(peers[1].read_text(encoding="utf-8").splitlines(keepends=True)[3:]), encoding="utf-8")
    done = medbench("audit", "model", "--predictions", ours, "--peers", *peers)
    assert done.returncode == 2
    assert "3 are missing" in done.stderr


def test_a_report_is_written_where_asked(tmp_path: Path) -> None:
    done = medbench("audit", "model", "--predictions", leaking(tmp_path / "a.jsonl", 0.1), "--output", tmp_path / "out")
    assert done.returncode == 4
    page = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert "strong" in page
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))["tasks"]["report"]["k"] == 20
    assert "<h1>" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | **bold** [link](http://x) `code` \u202e # one two three four five six seven"
    references = [f"{hostile} {place}" for place in range(30)]
    rows = rows_of(references, list(references))
    rows[0] |= {"sample_id": "<img src=x>|", "group": "[a](b)"}
    rows[1] |= {"prediction": "x " * 100_000}
    page = audit_predictions(write(tmp_path / "a.jsonl", rows), "report").to_markdown()
    assert not re.search(r"(?<!\\)<(?!/?(?:details|summary)>)", page)
    assert not re.search(r"(?<!\\)\](?=\()", page)
    assert len(page) < 200_000
    rows_in_tables = [line for line in page.splitlines() if line.startswith(("| reference |", "| prediction |"))]
    assert rows_in_tables
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows_in_tables)


def test_words_that_make_no_sense_together_are_refused(tmp_path: Path) -> None:
    assert medbench("audit", "model").returncode == 2
    assert medbench("audit", "model", tmp_path / "a", tmp_path / "b").returncode == 2
    assert medbench("audit", "model", tmp_path, "--kind", "report").returncode == 2
    assert medbench("audit", "model", "--predictions", tmp_path / "missing.jsonl").returncode == 1
    assert medbench("audit", "model", tmp_path / "missing").returncode == 1


def test_a_peer_of_other_items_is_a_usage_error(tmp_path: Path) -> None:
    ours, theirs = (leaking(tmp_path / f"{cases}.jsonl", 0.0, cases) for cases in (40, 43))
    with pytest.raises(UsageError, match=r"0 are missing, 3 are too many; the first is 's040'"):
        audit_predictions(ours, "report", peers=[theirs])


def test_rows_frames_and_files_give_the_same_verdicts(tmp_path: Path) -> None:
    rows, train = invented()
    path = write(tmp_path / "answers.jsonl", rows)
    frame = pd.DataFrame(rows)
    found = [audit_answers(given, train_references=train) for given in (path, str(path), rows, frame)]
    assert [audit.verdicts for audit in found] == [{"report": "strong"}] * 4
    assert [audit.tasks["report"].details["items_by_reason"] for audit in found[1:]] == [
        found[0].tasks["report"].details["items_by_reason"]
    ] * 3
    peers = {"another": [{**row, "prediction": None} for row in rows]}
    beside = audit_answers(rows, "report", train_references=train, peers=peers)
    assert [peer["name"] for peer in beside.tasks["report"].details["peers"]] == ["another"]
    with pytest.raises(DataError, match="predictions, line 2, field prediction"):
        audit_answers([rows[0], {**rows[1], "prediction": ["secret"]}])


@pytest.mark.parametrize("form", ["table", "markdown", "json", "html"])
def test_every_form_is_printed_and_a_file_name_says_its_own(tmp_path: Path, form: str) -> None:
    path = leaking(tmp_path / "a.jsonl", 0.1)
    page = tmp_path / "page.md"
    done = medbench("audit", "model", "--predictions", path, "--format", form, "--output", page)
    assert done.returncode == 4, done.stderr
    starts = {
        "table": "Strong evidence of a leak: 20 of 200 testable cases repeat their reference.",
        "markdown": "# Leakage audit",
        "json": "{",
        "html": "<!doctype html>",
    }
    assert done.stdout.startswith(starts[form])
    assert page.read_text(encoding="utf-8") == audit_predictions(path, "report").to_markdown()
    assert sorted(tmp_path.iterdir()) == [path, page]


def test_a_thought_hides_no_copy(tmp_path: Path) -> None:
    rows, train = invented()
    thinking = [
        {**row, "prediction": None if row["prediction"] is None else f"<think>Let me look.</think>{row['prediction']}"}
        for row in rows
    ]
    known = write(tmp_path / "train.jsonl", [{"reference": one} for one in train])
    plain, behind = (
        medbench("audit", "model", "--predictions", write(tmp_path / f"{name}.jsonl", given), "--kind", "report",
                 "--train-references", known, "--format", "json")
        for name, given in (("plain", rows), ("behind", thinking))
    )  # fmt: skip
    found, hidden = (json.loads(done.stdout)["tasks"]["report"] for done in (plain, behind))
    assert (hidden["k"], hidden["verdict"]) == (found["k"], found["verdict"]) == (6, "strong")
