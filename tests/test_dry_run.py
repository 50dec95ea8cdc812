"""`medbench run --dry-run`: all of a run but its answers."""

import json
from pathlib import Path

import pytest
from command_line import medbench

from medbench.adapters.base import LoadOptions, Prompt, SizeOf
from medbench.adapters.mock import RandomMock
from medbench.harness.dry_run import duration, preview_local
from medbench.harness.engine.requests import GREEDY
from medbench.harness.settings import Settings
from medbench.harness.trials import estimate
from medbench.harness.workload import load_workload
from medbench.tasks.foundation.errors import EXIT_USAGE, SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


def test_prompts_and_counts_are_those_of_the_run(tmp_path: Path) -> None:
    words = ["run", "--model", "uni-med", "--tasks", "slake-vqa,slake-rec", "--limit", "3", "--output-dir", tmp_path]
    dry = medbench(*words, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert list(tmp_path.iterdir()) == []
    assert "<s> [INST] <Img>⟨imgs/xmlab15/source.jpg: 16 tokens⟩ </Img> [vqa] Based on the image" in dry.stdout
    assert "images 128 x 160" in dry.stdout
    assert medbench(*words).returncode == 0
    for task in ("slake-vqa", "slake-rec"):
        [file] = tmp_path.glob(f"*/generations/{task}.jsonl")
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        [row] = [line.split() for line in dry.stdout.splitlines() if line.startswith(f"{task} ")]
        counts = sorted(record["prompt_tokens"] for record in records)
        assert (row[1], row[3], row[4]) == ("3", str(counts[1]), str(counts[2]))
        assert f"--- {task}, sample {records[0]['sample_id']} ({records[0]['prompt_tokens']} tokens" in dry.stdout
    assert "Time: about" in dry.stderr
    assert "Memory: " in dry.stderr


def test_a_served_model_is_sent_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-seen")
    dry = medbench(
        "run", "--model", "openai:some-model@http://127.0.0.1:9/v1", "--tasks", "slake-vqa", "--dry-run",
        "--output-dir", tmp_path,
    )  # fmt: skip
    assert dry.returncode == 0, dry.stderr
    assert '"model": "some-model"' in dry.stdout
    assert "data:image/png;base64,⟨" in dry.stdout
    assert "sk-not-to-be-seen" not in dry.stdout + dry.stderr
    assert "No estimate" in dry.stderr


def test_a_model_without_prompts_shows_its_instructions(tmp_path: Path) -> None:
    dry = medbench("run", "--model", "mock:oracle", "--tasks", "medqa", "--dry-run", "--output-dir", tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "If you are a doctor" in dry.stdout
    refused = medbench("run", "--model", "mock:oracle", "--tasks", "medqa", "--dry-run", "--beams", "2")
    assert refused.returncode == EXIT_USAGE


class Fussy(RandomMock):
    """Refuses one sample."""

    refused = ""

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        if sample.sample_id == self.refused:
            raise SampleError("The picture is missing.")
        return super().render(sample, spec, size_of)


def test_what_would_fail_is_told_before_the_night() -> None:
    [load] = load_workload(Settings(model="mock", tasks=("slake-vqa",), limit=3)).loads
    adapter = Fussy(LoadOptions())
    adapter.refused = load.samples[0].sample_id
    preview = preview_local(adapter, load, GREEDY)
    assert (len(preview.failures), len(preview.requests)) == (1, len(load.samples) - 1)
    assert preview.failures[0] == f"{adapter.refused}: The picture is missing."
    assert preview.first == load.samples[1]


def test_the_estimate_grows_with_the_work(small_data: Path) -> None:
    [load] = load_workload(Settings(model="mock", tasks=("slake-vqa",), data_dir=small_data)).loads
    adapter = RandomMock(LoadOptions())
    requests = preview_local(adapter, load, GREEDY).requests
    few = estimate(adapter, requests, images=1, as_references=10, rows=4)
    many = estimate(adapter, requests * 200, images=200, as_references=2000, rows=4)
    assert few is not None
    assert many is not None
    assert many.seconds_as_references > 10 * few.seconds_as_references
    assert few.seconds_at_most > few.seconds_as_references
    assert few.rows == 4
    assert estimate(adapter, [], images=0, as_references=0, rows=None) is None


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (90, "2 min"), (5400, "1.5 h")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
