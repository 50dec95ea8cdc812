"""Small invented runs on disk, with things in them that must never leave the machine."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from medbench.harness.results import IntervalInfo, MetricResult, ModelInfo, Results, TaskResult, write_results
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.files import canonical_json, fingerprint, json_lines
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.spec import Kind
from medbench.tasks.suite import SuiteName

GATED = "Gated report of a patient"
TITLES = {"slake-vqa": "Slake-VQA", "mimic-cxr": "MIMIC-CXR", "mpx-single": "MPx-Single", "dermamnist": "DermaMNIST"}
KINDS: dict[str, Kind] = {"slake-vqa": "vqa", "mimic-cxr": "report", "mpx-single": "report", "dermamnist": "cls"}
METRICS: dict[Kind, tuple[str, ...]] = {"vqa": ("bleu1", "f1"), "report": ("bleu1",), "cls": ("accuracy",)}
TOKEN = "hf_" + "a1B2" * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """What a run on disk holds of its machine and of gated data."""

    model: str = "hf:/home/somebody/models/My-VLM"
    data_dir: str = "/home/somebody/gated data"
    output_dir: str = "/scratch/somebody/runs"
    notice: str = ""
    server: str = "node17.cluster.example"
    token: str = TOKEN
    text: str = GATED
    sample: str = "s50414267/image"
    patient: str = "p10000032"


def metric(value: float | None, n: int, *, name: str = "bleu1", protocol: str = "paper") -> MetricResult:
    return MetricResult(
        value=value,
        ci=None if value is None else (round(max(0.0, value - 0.1), 4), round(min(1.0, value + 0.1), 4)),
        n=n,
        errors=1,
        unparsed=0,
        truncated=0,
        empty=0,
        signature=f"{name}|{protocol}|ci=clustered:image|n={n}",
        interval=None if value is None else IntervalInfo(method="cluster-t", clusters=n, design_effect=1.25),
    )


def task_result(task: str, value: float | None, data: str, *, owned: bool) -> TaskResult:
    kind = KINDS[task]
    by_protocol = {
        protocol: {name: metric(value, 2, name=name, protocol=protocol) for name in METRICS[kind]}
        for protocol in PROTOCOLS
    }
    return TaskResult(
        title=TITLES[task], kind=kind, version=1, data=fingerprint(data), samples=3,
        states={"ok": 2, "error": 1, "empty": 0, "truncated": 0, "unparsed": 0},
        paper=by_protocol["paper"], strict=by_protocol["strict"], licence=get_task(task).licence if owned else "",
    )  # fmt: skip


def invented(
    values: Mapping[str, float | None], *, title: str, suite: SuiteName = "paper", data: str = "paper",
    notices: Sequence[str] = (), model: str = "uni-med", limit: int | None = None, owned: bool = True,
) -> Results:  # fmt: skip
    """Return results with a run's identity to be set by `write_run`; `owned`: their owner said the licence."""
    return Results(
        run="0" * 12,
        model=ModelInfo(name=model, title=title, weights="w" * 64, device="cpu", dtype="float32", trained_on=()),
        suite=suite,
        limit=limit,
        seed=0,
        notices=tuple(notices),
        tasks={task: task_result(task, value, data, owned=owned) for task, value in values.items()},
        unsupported=("medqa",),
    )


def write_run(folder: Path, results: Results, planted: Planted | None = None) -> Path:
    """Write a run's folder as `medbench run` leaves it and return it."""
    planted = planted or Planted(data_dir="", output_dir="", model=results.model.name)
    parts = {"model": planted.model, "title": results.model.title, "tasks": sorted(results.tasks)}
    identity = fingerprint(parts)[:12]
    settings = {
        "model": planted.model,
        "tasks": ["all"],
        "checkpoint": None,
        "data_dir": planted.data_dir or None,
        "output_dir": planted.output_dir or None,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 0,
        "model_args": {"config": f"{planted.data_dir or 'plain'}/more.json", "api_key": planted.token},
    }
    slug = re.sub(r"[^a-z0-9]+", "-", results.model.title.lower())[:20].strip("-")
    path = folder / f"{slug}-{results.suite}-{identity}"
    (path / "scores").mkdir(parents=True)
    (path / "generations").mkdir()
    document = {"identity": identity, "settings": settings, "identity_of": parts}
    (path / "run.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    write_results(path / "results.json", replace(results, run=identity))
    (path / "env.json").write_text(canonical_json(_environment(planted), indent=2), encoding="utf-8")
    (path / "leaderboard.md").write_text("as it was", encoding="utf-8")
    (path / "done").write_text(f"{identity}\n", encoding="utf-8")
    for task, found in results.tasks.items():
        (path / "scores" / f"{task}.jsonl").write_text("".join(json_lines(_scores(found, planted))), encoding="utf-8")
        lines = "".join(json_lines(_generations(identity, planted)))
        (path / "generations" / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    return path


def _environment(planted: Planted) -> dict[str, Any]:
    return {
        "code": "c" * 64,
        "python": "3.11.7",
        "packages": {"medbench": "0.1.0"},
        "machine": {"system": "Linux", "processors": 2},
        "engine": {"server": {"host": planted.server, "models": [f"{planted.data_dir}/served"], "requests": 3}},
        "phases": {"counts": {"output tokens": 12}, "notes": f"read from {planted.output_dir}/x"},
    }


def _scores(found: TaskResult, planted: Planted) -> list[dict[str, Any]]:
    ids = [planted.sample, "b/2", "c/3"]
    items = {name: {"statistics": [2 * (number.value or 0), 2.0], "value": 0.5} for name, number in found.paper.items()}
    return [
        {
            "sample_id": sample_id,
            "group": planted.patient if place < 2 else "other",
            "state": "error" if place == 2 else "ok",
            "prediction": "" if place == 2 else f"{planted.text} {place}",
            "box": None,
            "labels": {"organ": planted.text},
            "paper": {} if place == 2 else items,
            "strict": {} if place == 2 else items,
        }
        for place, sample_id in enumerate(ids)
    ]


def _generations(run: str, planted: Planted) -> list[dict[str, Any]]:
    return [
        {
            "run": run, "sample_id": sample_id, "text": "" if place == 2 else f" {planted.text} {place}", "stop": "eos",
            "prompt_tokens": 7, "output_tokens": 3, "error": "broken image" if place == 2 else "",
        }
        for place, sample_id in enumerate([planted.sample, "b/2", "c/3"])
    ]  # fmt: skip


def strings(value: object) -> list[str]:
    """Return every text in plain values, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for name, one in value.items() for text in (str(name), *strings(one))]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return []


def as_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]
