"""`medbench models` and `medbench convert` through the real command line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import llava_med_fixtures
import pytest
import radfm_fixtures
import tiny_vlms
import torch
import xraygpt_fixtures
from command_line import medbench
from safetensors.torch import load_file, save_file

from medbench.adapters.base import DirectAdapter, Generation, LoadOptions
from medbench.adapters.catalog import ADAPTERS, choose_model, find_adapter
from medbench.harness.models import ModelFacts
from medbench.tasks.foundation.errors import EXIT_USAGE, MedbenchError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


def test_every_model_says_what_it_needs() -> None:
    listed = medbench("models")
    assert listed.returncode == 0, listed.stderr
    blocks = listed.stdout.strip().split("\n\n")
    assert [block.split()[0] for block in blocks] == list(ADAPTERS)
    for block in blocks:
        words = [line.split()[0] for line in block.splitlines()[1:] if line.startswith("  ") and line[2] != " "]
        assert {"answers", "weights", "licence", "trained", "boxes"} <= set(words), block
    for name in ("uni-med", "med-flamingo", "radfm", "llava-med", "xraygpt"):
        [block] = [block for block in blocks if block.startswith(f"{name} ")]
        assert " GB" in block.partition("in bfloat16")[2]


def test_one_model_is_shown_with_its_arguments() -> None:
    shown = medbench("models", "llava-med:v1.0")
    assert shown.returncode == 0, shown.stderr
    rows = {line.split()[0]: line.split()[1] for line in shown.stdout.splitlines() if line and line[0] != " "}
    assert (rows["template"], rows["vision_source"]) == ("simple", "base")
    assert "greedy author" in shown.stdout
    mistyped = medbench("models", "llava")
    assert (mistyped.returncode, "Did you mean llava-med?" in mistyped.stderr) == (EXIT_USAGE, True)


def test_a_folder_is_measured_without_loading_it(tmp_path: Path) -> None:
    folder = tiny_vlms.llava(tmp_path / "medgemma-tiny")
    parameters = sum(one.numel() for one in load_file(folder / "model.safetensors").values())
    shown = medbench("models", f"hf:{folder}")
    assert shown.returncode == 0, shown.stderr
    assert f"{2 * parameters / 1e9:.2g} GB" in shown.stdout
    assert "mimic-cxr, slake-vqa" in shown.stdout


def run_on_the_mini_suite(model: str, checkpoint: Path, output: Path, *words: str, tasks: str) -> dict[str, Any]:
    """Run two samples of each task with tiny weights; return the results."""
    done = medbench(
        "run", "--model", model, "--checkpoint", checkpoint, "--tasks", tasks, "--limit", "2", "--output-dir", output,
        *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [results] = output.glob("*/results.json")
    document: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    assert all(not task["states"].get("error") for task in document["tasks"].values())
    return document


@pytest.mark.slow
def test_radfm_runs_as_published_and_converted(tmp_path: Path) -> None:
    source = radfm_fixtures.write_checkpoint(tmp_path / "published")
    converted = tmp_path / "converted"
    done = medbench("convert", "radfm", source, "--output", converted, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    found = [run_on_the_mini_suite("radfm", folder, tmp_path / name, tasks="vqa,cls") for name, folder in
             (("one", source), ("two", converted))]  # fmt: skip
    assert found[0]["tasks"] == found[1]["tasks"]
    assert "slake-vqa" in found[0]["model"]["trained_on"]
    again = medbench("convert", "radfm", source, "--output", converted)
    assert (again.returncode, "is there already" in again.stderr) == (EXIT_USAGE, True)


def test_a_delta_of_llava_med_is_made_whole_and_runs(tmp_path: Path) -> None:
    base, delta = llava_med_fixtures.make_v10_parts(tmp_path)
    tower = llava_med_fixtures.make_tower(tmp_path / "clip", "v10_clip.safetensors")
    done = medbench("convert", "llava-med", delta, "--base", base, "--output", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    results = run_on_the_mini_suite(
        "llava-med:v1.0", tmp_path / "whole", tmp_path / "runs", "--model-arg", f"vision_tower={tower}",
        "--model-arg", "trained_on=slake-vqa", tasks="vqa",
    )  # fmt: skip
    assert results["model"]["trained_on"] == ["slake-vqa"]
    both = medbench("convert", "llava-med", delta, "--base", base, "--dtype", "float32", "--output", tmp_path / "other")
    assert (both.returncode, "--dtype was given" in both.stderr) == (EXIT_USAGE, True)


@pytest.mark.slow
def test_llava_med_and_its_folder_of_transformers_run(tmp_path: Path) -> None:
    source = llava_med_fixtures.make_v15(tmp_path / "v15")
    done = medbench("convert", "llava-med", source, "--output", tmp_path / "plain", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    run_on_the_mini_suite("llava-med", source, tmp_path / "runs", tasks="vqa,report")
    plain = medbench(
        "run", "--model", f"hf:{tmp_path / 'plain'}", "--tasks", "slake-vqa", "--limit", "2",
        "--output-dir", tmp_path / "others",
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr


@pytest.mark.slow
def test_xraygpt_runs_as_published_and_converted(tmp_path: Path) -> None:
    source = xraygpt_fixtures.make_four_files(tmp_path / "four")
    converted = tmp_path / "converted"
    done = medbench("convert", "xraygpt", source, "--output", converted, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    found = [run_on_the_mini_suite("xraygpt", folder, tmp_path / name, tasks="report") for name, folder in
             (("one", source), ("two", converted))]  # fmt: skip
    assert found[0]["tasks"] == found[1]["tasks"]


@pytest.mark.parametrize("model", ["radfm", "llava-med", "llava-med:v1.0", "xraygpt", "med-flamingo"])
def test_weights_that_are_not_there_are_named(model: str, tmp_path: Path) -> None:
    chosen = choose_model(model, {})
    for checkpoint in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(MedbenchError) as failure:
            chosen.entry.load(LoadOptions(checkpoint=checkpoint, variant=chosen.variant, arguments=chosen.arguments))
        assert failure.value.hint


def test_what_needs_no_conversion_is_told() -> None:
    told = medbench("convert", "med-flamingo", "DIR", "--output", "OUT")
    assert (told.returncode, "needs no conversion" in told.stderr) == (EXIT_USAGE, True)
    assert "uni-med, radfm, llava-med, xraygpt" in told.stderr


@pytest.mark.slow
def test_each_task_may_have_weights_of_its_own(tmp_path: Path) -> None:
    """LLaVA-Med was fine-tuned on each data set apart; one run takes all these checkpoints."""
    plain, tuned = llava_med_fixtures.make_v15(tmp_path / "plain"), llava_med_fixtures.make_v15(tmp_path / "tuned")
    weights = min(tuned.glob("*.safetensors"))
    state = load_file(weights)
    save_file({name: -one for name, one in state.items()}, weights, metadata={"format": "pt"})
    words = ["run", "--model", "llava-med", "--limit", "3", "--model-arg", "trained_on=slake-vqa", "--tasks", "vqa"]
    own = ["--checkpoint-for", f"slake-vqa={tuned}"]
    done = medbench(*words, *own, "--checkpoint", plain, "--output-dir", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert medbench(*words, "--checkpoint", plain, "--output-dir", tmp_path / "plain_runs").returncode == 0
    assert medbench(*words, "--checkpoint", tuned, "--output-dir", tmp_path / "tuned_runs").returncode == 0
    both, one, other = (written(tmp_path / name) for name in ("both", "plain_runs", "tuned_runs"))
    assert both["slake-vqa"] == other["slake-vqa"] != one["slake-vqa"]
    assert both["path-vqa"] == one["path-vqa"] != other["path-vqa"]
    again = medbench(*words, *own, "--checkpoint", plain, "--output-dir", tmp_path / "both")
    assert "is complete; nothing to do" in again.stderr


def written(runs: Path) -> dict[str, list[str]]:
    return {
        file.stem: [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
        for file in runs.glob("*/generations/*.jsonl")
    }


def test_a_task_without_weights_is_told(tmp_path: Path) -> None:
    words = ["run", "--model", "llava-med", "--tasks", "vqa", "--output-dir", tmp_path]
    left = medbench(*words, "--checkpoint-for", f"slake-vqa={tmp_path}")
    assert (left.returncode, "names no weights for path-vqa" in left.stderr) == (EXIT_USAGE, True)
    nowhere = medbench(*words, "--checkpoint-for", f"slake-vqa={tmp_path / 'nowhere'}")
    assert (nowhere.returncode, "there is no folder" in nowhere.stderr) == (EXIT_USAGE, True)
    other = medbench(*words, "--checkpoint", tmp_path, "--checkpoint-for", f"medqa={tmp_path}")
    assert (other.returncode, "no task of this run" in other.stderr) == (EXIT_USAGE, True)


def test_what_a_board_is_filtered_by_is_said_of_the_published_models() -> None:
    cards = {name: find_adapter(name)[0].card for name in ("med-flamingo", "radfm", "llava-med", "xraygpt")}
    for name, card in cards.items():
        assert (card.parameters or 0) > 7 * 10**9, name
        assert re.fullmatch(r"\d{4}-\d\d", card.released), name
        assert card.open_weights, name
    entry, variant = find_adapter("llava-med:v1.0")
    assert entry.card_for(variant).released < cards["llava-med"].released


def test_loaded_weights_are_counted_each_once_and_not_where_they_are_packed() -> None:
    class Loaded(DirectAdapter):
        card = replace(find_adapter("mock")[0].card, parameters=5, released="2024")
        weights_fingerprint = "w"

        def __init__(self) -> None:
            self.whole = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
            self.part = self.whole[0]

        def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
            raise NotImplementedError

    adapter = Loaded()
    info = ModelFacts.of(adapter).info
    assert (info.parameters, info.released, info.open_weights) == (16 + 10, "2024", None)
    adapter.quantised = "nf4"
    assert ModelFacts.of(adapter).info.parameters == 5
