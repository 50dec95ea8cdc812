"""The command line before any work: help, names, options, exit codes."""

import re
import subprocess
import sys

import pytest
from command_line import medbench

from medbench.harness.cli import COMMANDS
from medbench.tasks.foundation.errors import EXIT_USAGE


def test_help_lists_every_command() -> None:
    result = medbench("--help")
    assert result.returncode == 0
    assert [name for name in COMMANDS if re.search(rf"^  {name}\b", result.stdout, re.MULTILINE)] == list(COMMANDS)


def test_help_imports_no_heavy_library() -> None:
    probe = (
        "import sys\nfrom medbench.harness import cli\ntry:\n    cli.cli.main(['--help'], standalone_mode=False)\n"
        "finally:\n    print(sorted(set(sys.modules) & {'torch', 'transformers', 'numpy', 'pandas', 'pydantic'}))"
    )
    printed = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = medbench(command, "--help")
    assert result.returncode == 0
    assert f"Usage: medbench {command}" in result.stdout
    assert "medbench" in result.stdout.partition("Example:")[2]


def test_a_mistyped_command_is_guessed() -> None:
    result = medbench("leaderbord")
    assert result.returncode == EXIT_USAGE
    assert "There is no command named 'leaderbord'" in result.stderr
    assert "Did you mean leaderboard?" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--model", "uni-mad", "--tasks", "all"], ["uni-mad", "Did you mean uni-med?"]),
        (["run", "--model", "mock:oracel"], ["no variant 'oracel'", "mock:oracle"]),
        (["run", "--model", "mock", "--tasks", "slake-vqq"], ["slake-vqq", "Did you mean slake-vqa"]),
        (["run", "--model", "mock", "--batchsize", "3"], ["--batchsize", "--batch-size"]),
        (["run", "--model", "mock", "--limit", "0"], ["0", "x>=1"]),
        (["run", "--model", "mock", "--device", "gpu"], ["'gpu'", "cuda"]),
        (["run", "--tasks", "all"], ["No model was given", "medbench models"]),
        (["run", "--config", "nowhere.yaml"], ["nowhere.yaml cannot be read"]),
        (["train", "--config", "nowhere", "--output", "x"], ["There is no recipe 'nowhere'", "mini"]),
    ],
)
def test_a_user_mistake_is_a_short_error_with_a_way_out(words: list[str], says: list[str]) -> None:
    result = medbench(*words)
    assert result.returncode == EXIT_USAGE
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr


def test_models_and_tasks_are_listed() -> None:
    assert "uni-med" in medbench("models").stdout
    assert "organsmnist" in medbench("tasks").stdout
