"""Third parties: the example of the docs, installed as a distribution of its own."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import medbench

from tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE

EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "echo_plugin.py"


def install(folder: Path, entry_points: str) -> dict[str, str]:
    """Make a distribution in `folder`; return the environment that finds it."""
    shutil.copy(EXAMPLE, folder / "echo_plugin.py")
    info = folder / "echo_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    return install(
        tmp_path, "[medbench.adapters]\necho = echo_plugin:ENTRY\n[medbench.tasks]\nspelling = echo_plugin:TASK\n"
    )


def test_a_model_and_a_task_of_a_third_party_run_like_our_own(plugin: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("aorta\nspleen\nfemur\nliver\n")
    prepared = medbench(
        "data", "prepare", "spelling", "--source", tmp_path, "--data-dir", tmp_path / "data", env=plugin
    )
    assert prepared.returncode == 0, prepared.stderr
    result = medbench(
        "run", "--model", "echo", "--tasks", "spelling", "--data-dir", tmp_path / "data",
        "--output-dir", tmp_path / "runs", env=plugin,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [results] = (tmp_path / "runs").glob("*/results.json")
    assert json.loads(results.read_text())["tasks"]["spelling"]["strict"]["accuracy"]["value"] == 1.0


def test_a_plugin_is_listed_and_guessed(plugin: dict[str, str]) -> None:
    assert "echo" in medbench("models", env=plugin).stdout
    mistyped = medbench("run", "--model", "echoo", env=plugin)
    assert (mistyped.returncode, "Did you mean echo?" in mistyped.stderr) == (EXIT_USAGE, True)


def test_a_plugin_with_a_taken_name_is_named(tmp_path: Path) -> None:
    env = install(tmp_path, "[medbench.adapters]\nblind = echo_plugin:ENTRY\n")
    result = medbench("models", env=env)
    assert result.returncode == EXIT_USAGE
    assert "'blind' of echo-plugin has a name that is already taken" in result.stderr


def test_a_broken_plugin_is_one_message(tmp_path: Path) -> None:
    env = install(tmp_path, "[medbench.adapters]\nbroken = nowhere_to_be_found:ENTRY\n")
    result = medbench("run", "--model", "broken", env=env)
    assert result.returncode == EXIT_FAILED
    assert "nowhere_to_be_found:ENTRY) cannot be imported" in result.stderr
    assert "Traceback" not in result.stderr
    listed = medbench("models", env=env)
    assert listed.returncode == 0
    assert "uni-med" in listed.stdout
    assert "cannot be imported" in " ".join(listed.stdout.split())
