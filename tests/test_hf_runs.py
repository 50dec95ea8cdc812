"""Whole runs of current families over all tasks of the mini suite, through the command line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from tiny_vlms import FAMILIES, WHOLE

from medbench.adapters.hf.entry import ENTRY
from medbench.harness.cli import cli
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.catalog import benchmark_names, get_task

LIMIT = 2
MODELS: Mapping[str, tuple[Callable[[Path], Path], str]] = {
    "Qwen2.5-VL-tiny": (FAMILIES["qwen2_5_vl"], "pixels-28"),
    "gemma-3-tiny-it": (FAMILIES["gemma3"], "permille-yxyx"),
    "InternVL3-tiny": (FAMILIES["internvl"], "permille"),
    "paligemma-tiny-mix": (FAMILIES["paligemma"], "loc1024"),
    "Qwen2-VL-tiny": (FAMILIES["qwen2_vl"], "permille"),
    "llava-v1.6-tiny-hf": (FAMILIES["llava_next"], "fraction"),
    "Idefics3-tiny": (FAMILIES["idefics3"], "fraction"),
    "Qwen3-VL-tiny": (WHOLE["qwen3_vl"], "permille"),
    "Llama-3.2-Vision-tiny": (WHOLE["mllama"], "fraction"),
}
"""By a name like that of the published model, which its boxes follow from."""
# The published limits of Qwen2.5-VL; the library's own default has fewer pixels.
PUBLISHED = '{"size": {"shortest_edge": 3136, "longest_edge": 12845056}}'

pytestmark = pytest.mark.xdist_group("java")


def here(*words: object) -> int:
    """Run a command in this process: to start one for every model would take most of the time."""
    code: int = cli.main([str(word) for word in words], prog_name="medbench", standalone_mode=False)
    return code


def run_in(output: Path) -> Path:
    """Return the folder of the one run."""
    [file] = output.glob("*/run.yaml")
    return file.parent


def read(path: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_text(encoding="utf-8"))


def check(folder: Path, said: str, name: str) -> None:
    """Check a finished run of a model that `WHOLE` or `FAMILIES` made."""
    results, engine = read(folder / "results.json"), read(folder / "env.json")["engine"]
    unsupported = ["medqa", "pubmedqa"] if name.startswith("paligemma") else []
    assert sorted(results["unsupported"]) == unsupported
    assert sorted(results["tasks"]) == sorted(set(benchmark_names()) - set(unsupported))
    for task, found in results["tasks"].items():
        lines = (folder / "generations" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert len(records) == found["samples"] == LIMIT
        assert all(record["error"] == "" and record["output_tokens"] > 0 for record in records)
        assert found["states"]["error"] == 0
    assert engine["self-test"] == {"equal": 2, "of": 2}
    assert "Self-test: 2 of 2 answers are those of one-by-one generation in float32." in said
    whole = MODELS[name][0] in WHOLE.values()
    assert engine["batching"].startswith("whole: its decoder reads") if whole else engine["batching"] == "continuous"
    assert ("The model's own library answers, batch by batch: its decoder reads" in said) == whole
    assert name in (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert (folder / "done").exists()


def draw_right_boxes(folder: Path, name: str) -> None:
    """Let the answers to REC be right boxes, written as the model is known to write them."""
    space = BOX_SPACES[MODELS[name][1]]
    for load in load_workload(Settings(model="hf", tasks=("rec",), limit=LIMIT)).loads:
        boxes = {sample.sample_id: (sample.box, sample.image_size) for sample in load.samples}
        path = folder / "generations" / f"{load.spec.name}.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records:
            box, size = boxes[record["sample_id"]]
            assert box is not None
            assert size is not None
            record |= {"text": f" {space.write(box, size)}", "stop": "eos"}
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_answers_all_tasks(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, space = MODELS[name]
    model = make(tmp_path / name)
    words = ["--tasks", "all", "--limit", LIMIT, "--output-dir", tmp_path / "runs"]
    if space == "pixels-28":
        words += ["--model-arg", f"images={PUBLISHED}"]
    assert here("run", "--model", f"hf:{model}", *words) == 0
    folder = run_in(tmp_path / "runs")
    check(folder, " ".join(capsys.readouterr().err.split()), name)
    assert ENTRY.settled(str(model), {})["boxes"] == space
    draw_right_boxes(folder, name)
    assert here("score", folder) == 0
    for task, found in read(folder / "results.json")["tasks"].items():
        if get_task(task).kind == "rec":
            assert found["states"]["ok"] == LIMIT
            assert found["strict"]["iou"]["value"] == pytest.approx(found["strict"]["iou"]["ceiling"])
            assert found["strict"]["iou"]["value"] > 0.9


@pytest.mark.slow
def test_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    name = "Qwen2.5-VL-tiny"
    model = MODELS[name][0](tmp_path / name)
    result = medbench(
        "run", "--model", f"hf:{model}", "--model-arg", f"images={PUBLISHED}", "--tasks", "all", "--limit", LIMIT,
        "--output-dir", tmp_path / "runs",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "Qwen2.5-VL-tiny, paper protocol" in result.stdout
    folder = run_in(tmp_path / "runs")
    check(folder, " ".join(result.stderr.split()), name)
