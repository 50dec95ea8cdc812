"""The verdict of an audit in one sentence and one colour, with everything else folded below it."""

import re
from pathlib import Path

import pytest
from audit_cells import reports
from audit_terminal import medbench

from medbench.leaderboard.audit.document import Audit, TaskVerdict, Verdict, headline_of, sentence
from medbench.leaderboard.audit.outputs.audit import audit_predictions
from medbench.leaderboard.render import html_document
from medbench.tasks.foundation.files import json_lines


def answers(repeated: int, cases: int = 60) -> list[dict[str, str]]:
    """Return reports of so many cases, of which the model repeats some."""
    return [
        {
            "sample_id": f"s{place}",
            "group": f"p{place}",
            "reference": one,
            "prediction": one if place < repeated else "no",
        }
        for place, one in enumerate(reports(cases))
    ]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([("MIMIC-CXR", "strong", "18 of 52 repeat")], "Strong evidence of a leak on MIMIC-CXR: 18 of 52 repeat."),
        ([("report", "suspicious", "3 of 52 repeat")], "Some evidence of a leak: 3 of 52 repeat."),
        (
            [("A", "no_evidence", "none of 52 repeats"), ("B", "not_testable", "x"), ("C", "not_testable", "x")],
            "No evidence of a leak on A: none of 52 repeats. 2 other tasks could not be tested.",
        ),
        ([("A", "strong", "x"), ("B", "strong", "y")], "Strong evidence of a leak on A (x) and B (y)."),
        ([(one, "not_testable", "") for one in "ABCDEFG"], "No leak could have been found on A, B, C, D and 3 more."),
    ],
)  # fmt: skip
def test_a_verdict_is_one_sentence(found: list[tuple[str, Verdict, str]], told: str) -> None:
    assert sentence("model", found[0][1], found) == told


def test_an_older_audit_has_its_sentence_too() -> None:
    verdicts: dict[str, object] = {"medqa": "not_testable", "mimic-cxr": "strong", "odd": "made up"}
    told = headline_of({"verdicts": verdicts}, {"mimic-cxr": "MIMIC-CXR"})
    assert told == "Strong evidence of a leak on MIMIC-CXR. 1 other task could not be tested."
    assert headline_of({"headline": "Told.", "verdicts": verdicts}, {}) == "Told."
    assert headline_of(["nothing"], {}) == "No leak could have been found."


def test_the_control_of_an_honest_file_is_no_verdict_on_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json_lines(answers(0))), encoding="utf-8")
    done = medbench("audit", "model", "--predictions", tmp_path / "a.jsonl")
    assert done.returncode == 0
    assert done.stdout.startswith("No evidence of a leak: none of 60 testable cases repeats its reference; a leak of ")
    assert "strong" not in done.stdout
    assert "planted in a copy of the answers was found on report. That says nothing about the model." in done.stderr


def test_what_to_do_next_is_printed_where_short_answers_prove_nothing(tmp_path: Path) -> None:
    rows = [{"sample_id": str(place), "prediction": "Yes.", "reference": "yes"} for place in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json_lines(rows)), encoding="utf-8")
    done = medbench("audit", "model", "--predictions", tmp_path / "a.jsonl", "--kind", "vqa")
    assert done.returncode == 5
    assert done.stdout.startswith("No leak could have been found: the reference has too few words.")
    assert "What to do next: vqa: short answers" in done.stderr
    assert all(f"medbench audit {way}" in done.stderr for way in ("provenance", "data", "probe"))


@pytest.mark.parametrize(("repeated", "tone"), [(20, "strong"), (0, "no_evidence")])
def test_the_page_begins_with_the_sentence_in_its_colour_and_folds_the_rest(repeated: int, tone: str) -> None:
    audit = audit_predictions(answers(repeated))
    page = audit.to_html()
    assert f'<main class="{tone}">' in page
    body = page.partition("</h1>")[2]
    assert body.strip().startswith(f"<blockquote>\n<p><strong>{audit.headline}</strong></p>\n</blockquote>")
    open_part = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "sha256" not in re.sub(r"<meta.*?>", "", open_part)
    assert "planted" in open_part
    for told in ("Testable case (K)", "Skill", "Detectable", "k of K", "a planted leak was", "normaliser"):
        assert told in page
        assert told not in open_part


def test_a_selftest_is_in_order_where_its_leak_is_found() -> None:
    def selftest(verdict: Verdict) -> Audit:
        found = TaskVerdict(title="A", verdict=verdict)
        return Audit(kind="selftest", title="t", question="q", tasks={"a": found}, columns=())

    assert (selftest("strong").tone, selftest("no_evidence").tone) == ("no_evidence", "strong")
    assert selftest("not_testable").tone == "not_testable"
    assert "does not work" in selftest("no_evidence").headline


def test_only_our_own_lines_fold() -> None:
    page = html_document(
        "t", "<details><summary>A \\<b\\> *c*</summary>\n\ntext\n\n</details>\n\nx <details> y\n\n</details>\n"
    )
    assert page.count("<details>") == page.count("</details>") == 1
    assert "<summary>A &lt;b&gt; <em>c</em></summary>" in page
    assert "x &lt;details&gt; y" in page
