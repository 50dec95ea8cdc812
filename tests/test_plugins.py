"""Third parties: the example of the docs, installed as a distribution of its own."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from command_line import medbench_process as medbench
from safetensors.torch import save_file
from tiny_vlms import tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
EXAMPLE = EXAMPLES / "echo_plugin.py"
PACKAGE = EXAMPLES / "patch_vlm"


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
    rooms = {"adapters": "echo = echo_plugin:ENTRY", "tasks": "spelling = echo_plugin:TASK",
             "metrics": "brevity = echo_plugin:METRIC"}  # fmt: skip
    return install(tmp_path, "".join(f"[medbench.{room}]\n{entry}\n" for room, entry in rooms.items()))


def test_a_model_a_task_and_a_metric_of_a_third_party_run_like_our_own(plugin: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("aorta\nspleen\nfemur\nliver\n")
    prepared = medbench(
        "data", "prepare", "spelling", "--source", tmp_path, "--data-dir", tmp_path / "data", env=plugin
    )
    assert prepared.returncode == 0, prepared.stderr
    result = medbench(
        "run", "--model", "echo", "--tasks", "spelling", "--data-dir", tmp_path / "data",
        "--metric", "brevity", "--output-dir", tmp_path / "runs", env=plugin,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [results] = (tmp_path / "runs").glob("*/results.json")
    numbers = json.loads(results.read_text())["tasks"]["spelling"]["strict"]
    assert (numbers["accuracy"]["value"], numbers["words"]["value"]) == (1.0, 1 / 50)


def test_a_plugin_is_listed_and_guessed(plugin: dict[str, str]) -> None:
    assert "echo" in medbench("models", env=plugin).stdout
    mistyped = medbench("run", "--model", "echoo", env=plugin)
    assert (mistyped.returncode, "Did you mean echo?" in mistyped.stderr) == (EXIT_USAGE, True)


def test_a_plugin_with_a_taken_name_is_named(tmp_path: Path) -> None:
    env = install(tmp_path, "[medbench.adapters]\nblind = echo_plugin:ENTRY\n")
    result = medbench("models", env=env)
    assert result.returncode == EXIT_USAGE
    assert "'blind' of echo-plugin has a name that is already taken" in result.stderr


def test_a_broken_metric_hides_no_other(tmp_path: Path) -> None:
    env = install(tmp_path, "[medbench.metrics]\nbroken = nowhere_to_be_found:ENTRY\nbrevity = echo_plugin:METRIC\n")
    listed = medbench("metrics", env=env)
    assert listed.returncode == 0, listed.stderr
    assert "brevity" in listed.stdout
    assert "nowhere_to_be_found:ENTRY) cannot be imported" in listed.stderr
    assert medbench("metrics", "broken", env=env).returncode == EXIT_FAILED


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


def install_package(folder: Path) -> dict[str, str]:
    """Install the example package by what its pyproject.toml says; return the environment that finds it."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    [module] = project["tool"]["setuptools"]["py-modules"]
    shutil.copy(PACKAGE / f"{module}.py", folder)
    info = folder / "patch_vlm-1.0.dist-info"
    info.mkdir()
    described = project["project"]
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in entries.items())
        for group, entries in described["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(groups))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
def test_a_local_model_of_a_third_party_goes_through_the_engine(tmp_path: Path) -> None:
    env = install_package(tmp_path)
    weights = tmp_path / "weights"
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=3, max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(weights)
    tokenizer().save_pretrained(weights)
    save_file({"eyes": torch.randn(768, 32)}, weights / "eyes.safetensors")
    run = ("run", "--model", "patch-vlm", "--tasks", "slake-vqa,medqa,cls", "--output-dir", tmp_path / "runs")
    done = medbench(*run, "--checkpoint", weights, "--limit", "4", env=env)
    assert done.returncode == 0, done.stderr
    [results] = (tmp_path / "runs").glob("*/results.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert {name: task["states"].get("error", 0) for name, task in found["tasks"].items()} == {
        "slake-vqa": 0, "medqa": 0,
    }  # fmt: skip
    assert sorted(found["unsupported"]) == ["dermamnist", "organsmnist"]
    engine = json.loads((results.parent / "env.json").read_text(encoding="utf-8"))["engine"]
    assert engine["batching"] == "continuous"
    assert engine["self-test"] == {"equal": 2, "of": 2}
    refused = medbench(*run, env=env)
    assert (refused.returncode, "Give --checkpoint DIR." in refused.stderr) == (EXIT_USAGE, True)
