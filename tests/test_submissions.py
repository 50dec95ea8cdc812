"""Submissions to a leaderboard: what people hand in becomes a run, or what is wrong with it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
from command_line import medbench

from medbench.harness.predictions.submission import count_of, read_submission, schema
from medbench.tasks.foundation.errors import UsageError

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "leaderboard-repository"
OWN = EXAMPLE / "submissions" / "most-frequent"


def handed_in(folder: Path, text: str) -> Path:
    copytree(OWN, folder)
    (folder / "submission.yaml").write_text(text, encoding="utf-8")
    return folder


def test_what_is_said_is_read_as_people_write_it(tmp_path: Path) -> None:
    text = "name: M\ntasks: {pubmedqa: a.csv}\nparameters: 7.5B\nreleased: 2024-05-13\nsubmitted: 2026-01-02\n"
    said = read_submission(handed_in(tmp_path / "m", text) / "submission.yaml")
    assert (said.parameters, said.released, said.submitted) == (7_500_000_000, "2024-05-13", "2026-01-02")
    assert (said.trained_on, said.missing, said.open_weights) == (None, "wrong", None)
    assert [count_of(one) for one in ("350M", 7_000_000_000, "1k")] == [350_000_000, 7_000_000_000, 1000]


@pytest.mark.parametrize(("text", "told"), [
    ("name: M\n", "tasks"),
    ("name: M\ntasks: {}\n", "tasks"),
    ("name: M\ntasks: {medqa: a.csv}\nauthor: me\n", "author"),
    ("name: M\ntasks: {medqa: a.csv}\nparameters: many\n", "parameters"),
    ("name: M\ntasks: {medqa: a.csv}\nurl: javascript:alert(1)\n", "url"),
    ("name: M\ntasks: {medqa: a.csv}\nreleased: soon\n", "released"),
])  # fmt: skip
def test_a_wrong_field_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"submission.yaml: {told}"):
        read_submission(handed_in(tmp_path / "m", text) / "submission.yaml")


def test_the_schema_is_that_of_the_example() -> None:
    assert json.loads((EXAMPLE / "submission.schema.json").read_text(encoding="utf-8")) == schema()
    assert (set(schema()["required"]), schema()["additionalProperties"]) == ({"name", "tasks"}, False)


@pytest.mark.slow
def test_the_commands_of_the_workflows_make_a_site_of_the_examples(tmp_path: Path) -> None:
    work = copytree(EXAMPLE, tmp_path / "board")
    (work / "bin").mkdir()
    script = work / "bin" / "medbench"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medbench "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    for _ in range(2):
        done = subprocess.run(
            ["sh", "build.sh"], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "Most frequent answer" in done.stdout
    page = (work / "build" / "site" / "index.html").read_text(encoding="utf-8")
    history = json.loads((work / "build" / "site" / "data" / "history.json").read_text(encoding="utf-8"))
    assert [line["date"] for line in history] == ["2026-05-02", "2026-05-31"]
    assert "The example's authors" in page
    workflows = "".join(file.read_text(encoding="utf-8") for file in work.glob(".github/workflows/*.yml"))
    assert workflows.count("sh build.sh") == 2
    assert "path: build/site" in workflows


@pytest.mark.slow
def test_what_is_wrong_with_one_is_told_and_the_others_become_runs(tmp_path: Path) -> None:
    copytree(OWN, tmp_path / "in" / "good")
    outside = tmp_path / "secret.csv"
    outside.write_text("sample_id,prediction\n", encoding="utf-8")
    for name, file in (("leads-out", "../../secret.csv"), ("link", "link.csv")):
        folder = handed_in(tmp_path / "in" / name, f"name: {name}\ntasks: {{pubmedqa: {file}}}\n")
        if name == "link":
            (folder / "link.csv").symlink_to(outside)
    done = medbench("submissions", tmp_path / "in", "--output-dir", tmp_path / "runs")
    assert done.returncode == 1
    assert done.stderr.count("leads out") == 2
    assert len(list((tmp_path / "runs").glob("most-frequent-answer-*/results.json"))) == 1
    (tmp_path / "empty").mkdir()
    done = medbench("submissions", tmp_path / "empty")
    assert (done.returncode, "No submission.yaml was found" in done.stderr) == (2, True)
