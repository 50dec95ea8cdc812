"""What a tab completes, how soon, and that the scripts work in the shells that are there."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench

from medbench.harness.completion.answers import LINE, answers, index, index_file, split_line
from medbench.harness.completion.index import made

AMONG = ["torch", "transformers", "numpy", "pydantic", "click", "rich"]
MOCKS = ["oracle", "empty", "constant", "rambling", "failing", "refusal", "thinking", "pondering"]


@pytest.fixture(scope="module")
def known() -> Mapping[str, Any]:
    return made()


def after(line: str, known: Mapping[str, Any]) -> list[str]:
    words, last = split_line(line)
    return [word for word, _ in answers(known, words[1:], last)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("medbench comp", ["compare", "completion"]),
        ("medbench audit s", ["selftest"]),
        ("medbench run --repe", ["--repetition-penalty"]),
        ("medbench run --model llava-med:", ["llava-med:v1.5", "llava-med:v1.0"]),
        ("medbench run -m moc", ["mock", *(f"mock:{word}" for word in MOCKS)]),
        ("medbench run --model hf", ["hf:"]),
        ("medbench run --tasks slake-vqa,slake-r", ["slake-vqa,slake-rec", "slake-vqa,slake-reg"]),
        ("medbench run --tasks slake-vqa,slake-v", []),
        ("medbench run -t pre", ["prepared"]),
        ("medbench run --model hf:a/b --model-arg box", ["boxes="]),
        ("medbench run --model=hf:a/b --model-arg boxes=permille", ["boxes=permille", "boxes=permille-yxyx"]),
        ("medbench run --dtype=bf", ["--dtype=bfloat16"]),
        ("medbench run --retry-errors --dry", ["--dry-run"]),
        ("medbench run --dry-run --dry", []),
        ("medbench run --limit ", []),
        ("medbench run --config ", [":files"]),
        ("medbench run --device c", ["cpu", "cuda"]),
        ("medbench data verify --data-dir ", [":dirs"]),
        ("medbench export RUN --format p", ["parquet"]),
        ("medbench models bl", ["blind"]),
        ("medbench data list organ", ["organsmnist"]),
        ("medbench completion ", ["bash", "zsh", "fish"]),
        ("medbench nonsense --", []),
    ],
)
def test_what_may_come_next(line: str, expected: list[str], known: Mapping[str, Any]) -> None:
    found = after(line, known)
    assert [word for word in found if word in expected or not line.endswith("nonsense --")] == expected


def test_folders_of_runs(known: Mapping[str, Any], tmp_path: Path) -> None:
    for name in ("runs/one", "runs/other", "alone"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.yaml").write_text("")
    (tmp_path / "empty").mkdir()
    assert after(f"medbench leaderboard {tmp_path}/", known) == [
        f"{tmp_path}/{name}" for name in ("alone", "runs", "runs/one", "runs/other")
    ]
    assert after(f"medbench compare {tmp_path}/runs/one {tmp_path}/runs/ot", known) == [f"{tmp_path}/runs/other"]
    assert after(f"medbench report {tmp_path}/em", known) == [":dirs"]


def test_a_tab_imports_next_to_nothing_and_is_fast(medbench_home: Path) -> None:
    index()
    assert index_file().parent == medbench_home
    probe = (
        "import sys\nfrom medbench.__main__ import main\n"
        f"try:\n    main()\nfinally:\n    print(sorted(set(sys.modules) & set({AMONG})))"
    )
    environment = {**os.environ, LINE: "medbench run --model uni"}
    started = time.process_time(), time.monotonic()
    printed = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment)
    assert printed.stdout.splitlines() == ["uni-med\tUni-Med", "[]"]
    # 0.1 s where nothing else runs.
    assert time.monotonic() - started[1] < 3


@pytest.mark.usefixtures("medbench_home")
def test_an_index_of_other_files_is_made_again() -> None:
    index_file().write_text('{"key": "of another version"}')
    assert "run" in index()["groups"][""]
    index_file().write_text("broken")
    assert "run" in index()["groups"][""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed(shell: str) -> None:
    printed = medbench("completion", shell)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"{LINE}=" in printed.stdout
    if found := shutil.which(shell):
        subprocess.run([found, "-n", "/dev/stdin"], check=True, input=printed.stdout, text=True)


@pytest.mark.slow
def test_bash_completes(tmp_path: Path) -> None:
    """A colon breaks a word in bash, and what is before it must not be written twice."""
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "medbench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m medbench "$@"\n')
    (tmp_path / "medbench").chmod(0o755)
    script = tmp_path / "script"
    script.write_text(medbench("completion", "bash").stdout)
    for line, expected in (
        ("medbench run --model llava-med:", "v1.5 v1.0"), ("medbench run --tasks slake-re", "slake-rec slake-reg"),
        ("medbench run --dtype=bf", "bfloat16"), ("medbench com", "compare completion"),
    ):  # fmt: skip
        commands = (
            f"compopt() {{ :; }}; source {script}; COMP_LINE='{line}'; COMP_POINT={len(line)}; "
            f'_medbench {tmp_path / "medbench"}; echo "${{COMPREPLY[*]}}"'
        )
        printed = subprocess.run([bash, "-c", commands], capture_output=True, text=True, check=True)
        assert printed.stdout.strip() == expected, printed.stderr
