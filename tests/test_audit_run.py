"""Audits of real runs on the mini suite, from the command line and at the end of a run."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_terminal import medbench

from medbench.harness.results import read_results, write_results
from medbench.leaderboard.audit.document import Audit
from medbench.leaderboard.audit.outputs.answers import read_run_answers, read_task_data
from medbench.leaderboard.audit.outputs.audit import audit_after_run, audit_answers, audit_run
from medbench.leaderboard.pages import publish_run
from medbench.leaderboard.runs import leaks_of
from medbench.tasks.foundation.errors import RunError

# What the first test makes is shared by all.
pytestmark = [pytest.mark.xdist_group("test_audit_run"), pytest.mark.slow]

TASKS = "report,pubmedqa,dermamnist,slake-rec"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of runs: one that repeats the references, one that knows the train split, one that says yes."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for model in ("mock:oracle", "blind", "mock:constant"):
        done = medbench("run", "--model", model, "--tasks", TASKS, "--output-dir", folder / model.replace(":", "-"))
        assert done.returncode == 0, done.stderr
        found[model] = next((folder / model.replace(":", "-")).glob("[!.]*-mini-*"))
    return found


@pytest.fixture
def oracle(runs: dict[str, Path], tmp_path: Path) -> Path:
    """Return a copy of the oracle's run to write into."""
    shutil.copytree(runs["mock:oracle"], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "audit", ignore_errors=True)
    return tmp_path / "run"


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    return found


def test_an_oracle_is_flagged_where_reports_tell_and_only_there(oracle: Path) -> None:
    done = medbench("audit", "model", oracle)
    assert done.returncode == 4, done.stderr
    found = document(oracle / "audit")
    assert found["run"] == read_results(oracle).run
    assert found == audit_answers(oracle).to_dict()
    assert found["verdicts"] == {
        "mimic-cxr": "strong",
        "mpx-single": "not_testable",
        "pubmedqa": "not_testable",
        "dermamnist": "not_testable",
        "slake-rec": "not_testable",
    }
    reports = found["tasks"]["mimic-cxr"]
    assert reports["k"] == reports["K"] >= 20
    assert reports["exact"] == reports["n"] == sum(reports["exact_by_reason"].values())
    assert reports["in_train"]["rate"] == reports["not_in_train"]["rate"] == 1.0
    assert found["tasks"]["dermamnist"]["exact"] == found["tasks"]["dermamnist"]["n"]
    page = (oracle / "audit" / "audit.md").read_text(encoding="utf-8")
    assert "consist of sentences that stand in known training references" in page
    assert "MINI SUITE" in page


def test_an_honest_model_is_not_flagged_and_the_page_says_what_could_have_been_found(runs: dict[str, Path]) -> None:
    for model in ("blind", "mock:constant"):
        done = medbench("audit", "model", runs[model], "--format", "json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["verdicts"]["mimic-cxr"] == "no_evidence"
        assert 0.1 < found["tasks"]["mimic-cxr"]["detectable_rate"] < 0.2
        assert found["tasks"]["mimic-cxr"]["controls"]["planted"]["verdict"] == "strong"
        assert "does not show that there is none" in found["tasks"]["mimic-cxr"]["text"]


def test_the_same_run_gives_the_same_bytes_and_no_folder_is_named(oracle: Path) -> None:
    texts = []
    for name in ("one", "two"):
        medbench("audit", "model", oracle, "--output", oracle.parent / name)
        texts.append([(oracle.parent / name / file).read_text(encoding="utf-8") for file in ("audit.json", "audit.md")])
    assert texts[0] == texts[1]
    assert not any(str(oracle.parent) in text for text in texts[0])


def test_leaderboard_and_report_read_what_an_audit_wrote(oracle: Path, runs: dict[str, Path]) -> None:
    audit_after_run(oracle)
    results = read_results(oracle)
    assert leaks_of([oracle], [results]) == {results.run: frozenset({"mimic-cxr"})}
    board = medbench("leaderboard", oracle, runs["blind"]).stdout
    assert "100.00\\*" in next(line for line in board.splitlines() if "MIMIC-CXR" in line)
    page = oracle.parent / "report.html"
    assert medbench("report", oracle, "--images", "0", "--output", page).returncode == 0
    assert "The outputs equal the reference in" in page.read_text(encoding="utf-8")


def test_peers_stand_beside_and_the_run_itself_is_none(oracle: Path, runs: dict[str, Path]) -> None:
    done = medbench("audit", "model", oracle, "--peers", runs["blind"], runs["mock:constant"], runs["mock:oracle"])
    assert done.returncode == 4, done.stderr
    found = document(oracle / "audit")["tasks"]["mimic-cxr"]
    assert len(found["peers"]) == 2
    assert {peer["matches"] for peer in found["peers"]} == {0}
    effect = {row["metric"]: row for row in found["effect"] if row["protocol"] == "strict"}["bleu1"]
    assert effect["matches_only"]["value"] == pytest.approx(1.0)
    assert effect["matches_only"]["n"] + effect["without_matches"]["n"] == effect["all"]["n"] == 100
    assert set(effect["peers"]) == {peer["name"] for peer in found["peers"]}


def test_a_peer_that_answered_fewer_items_is_a_clear_error(oracle: Path, tmp_path: Path) -> None:
    done = medbench("run", "--model", "blind", "--tasks", "report", "--limit", "70", "--output-dir", tmp_path / "few")
    assert done.returncode == 0
    refused = medbench("audit", "model", oracle, "--peers", next((tmp_path / "few").glob("[!.]*-mini-*")))
    assert refused.returncode == 2
    assert "30 are missing" in refused.stderr
    assert not (oracle / "audit").exists()


def test_a_peer_of_other_data_is_refused(oracle: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs["blind"], other)
    results = read_results(other)
    changed = replace(results.tasks["mimic-cxr"], data="0" * 64)
    write_results(other / "results.json", replace(results, tasks={**results.tasks, "mimic-cxr": changed}))
    refused = medbench("audit", "model", oracle, "--peers", other)
    assert refused.returncode == 2
    assert "other data of mimic-cxr" in refused.stderr


def test_data_that_are_gone_are_not_checked_and_never_exit_0(oracle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = medbench("audit", "model", oracle, "--data-dir", tmp_path / "empty")
    assert done.returncode == 5
    found = document(oracle / "audit")
    assert set(found["verdicts"].values()) == {"not_testable"}
    assert "Not prepared" in found["tasks"]["mimic-cxr"]["text"]
    assert "not checked" in (oracle / "audit" / "audit.md").read_text(encoding="utf-8")


def test_scores_of_unknown_samples_are_not_checked(oracle: Path) -> None:
    file = oracle / "scores" / "mimic-cxr.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines, lines[0]]), encoding="utf-8")
    audit = audit_run(oracle)
    assert "scored twice" in audit.tasks["mimic-cxr"].text
    assert (audit.verdicts["mimic-cxr"], audit.incomplete) == ("not_testable", True)
    file.write_text("".join(lines).replace("s9002", "z9002"), encoding="utf-8")
    assert "no sample of the prepared data" in audit_run(oracle).tasks["mimic-cxr"].text


def test_the_audit_at_the_end_of_a_run_is_quick_and_warns(oracle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    audit = audit_after_run(oracle)
    assert time.perf_counter() - started < 5
    assert audit is not None
    assert document(oracle / "audit")["verdicts"] == audit.verdicts
    assert "Strong evidence of a leak on MIMIC-CXR" in capsys.readouterr().err


def test_an_audit_that_cannot_be_written_is_told_and_keeps_no_page_from_being_made(oracle: Path) -> None:
    (oracle / "audit").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunError, match="Outputs were not audited") as told:
        publish_run(oracle)
    assert "the same command makes the rest" in told.value.hint
    assert (oracle / "leaderboard.md").exists()
    assert (oracle / "report.html").exists()


def test_a_task_of_a_plugin_that_is_gone_is_not_checked(oracle: Path) -> None:
    results = read_results(oracle)
    write_results(
        oracle / "results.json", replace(results, tasks={**results.tasks, "gone": results.tasks["mimic-cxr"]})
    )
    audit = audit_after_run(oracle)
    assert audit is not None
    assert "no task named" in audit.tasks["gone"].text
    assert audit.verdicts["mimic-cxr"] == "strong"


def test_texts_of_credentialed_tasks_are_withheld_unless_asked(oracle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(audit: Audit) -> str:
        return audit.to_json() + audit.to_markdown() + audit.to_html()

    long = [text for text in references_of(oracle, "mimic-cxr") if len(text.split()) > 8]
    monkeypatch.setattr("medbench.leaderboard.audit.outputs.audit.is_credentialed", lambda _, task: task == "mimic-cxr")
    hidden, asked = audit_run(oracle), audit_run(oracle, reveal=True)
    assert not hidden.revealed
    assert asked.revealed
    assert not any(text in everything(hidden) for text in long)
    assert any(text in everything(asked) for text in long)
    assert hidden.tasks["mimic-cxr"].details["withheld"]
    assert "--reveal" in hidden.to_markdown()
    assert all(not one.texts for one in hidden.examples if one.task == "mimic-cxr")
    assert any(one.texts for one in hidden.examples if one.task != "mimic-cxr")


def references_of(run: Path, task: str) -> list[str]:
    found = read_run_answers(run, read_task_data(run, read_results(run), None)).cells[task]
    return [item.reference for item in found.items if item.reference]


def test_answers_and_references_are_joined_by_id(oracle: Path) -> None:
    results = read_results(oracle)
    data = read_task_data(oracle, results, None)
    file = oracle / "scores" / "mimic-cxr.jsonl"
    before = read_run_answers(oracle, data).cells["mimic-cxr"]
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[::-1]), encoding="utf-8")
    after = read_run_answers(oracle, data).cells["mimic-cxr"]
    assert before.fingerprint() == after.fingerprint()
    assert all(item.said == item.right for item in before.items)


def test_the_selftest_finds_the_planted_leak(runs: dict[str, Path]) -> None:
    done = medbench("audit", "selftest", runs["blind"])
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("MIMIC-CXR"))
    assert row.split()[-6:] == ["nothing,", "as", "it", "must", "be", "found"]
    assert "strong" in row


def test_the_selftest_says_when_nothing_can_be_tested(tmp_path: Path) -> None:
    done = medbench("run", "--model", "mock:oracle", "--tasks", "pubmedqa", "--output-dir", tmp_path)
    assert done.returncode == 0
    done = medbench("audit", "selftest", next(tmp_path.glob("[!.]*-mini-*")))
    assert done.returncode == 5
    assert "Not testable" in done.stderr
