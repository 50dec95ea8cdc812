"""Folders of runs that were never run, for reports: as many samples as wanted, with any text in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medbench.harness.results import MetricResult, ModelInfo, Results, TaskResult, write_results
from medbench.leaderboard.report.sources import TaskSource
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.files import canonical_json, fingerprint, json_lines, write_atomically
from medbench.tasks.protocols import STATES, State, metric_ids
from medbench.tasks.sample import Box, ImageRef, Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import SuiteName

HOSTILE = (
    "</script><script>alert('script')</script><img src=x onerror=\"alert('img')\"><svg onload=alert('svg')>"
    "<!--<script>{{script}} ${alert('template')} \u2028\u2029 \x00 &lt;b&gt; javascript:alert('link') 'quoted\""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a made-up run; a score of None is a sample that no metric counts."""

    sample_id: str
    text: str
    score: float | None = 1.0
    state: State = "ok"
    box: Sequence[float] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    raw: str = ""
    error: str = ""


def write_run(
    folder: Path,
    answers: Mapping[str, Sequence[Answer]],
    *,
    title: str = "Model A",
    suite: SuiteName = "custom",
    environment: object = None,
) -> Path:
    """Write the folder of a run with `results.json`, scores and generations; answers by task."""
    tasks = {name: _task_result(get_task(name), given) for name, given in answers.items()}
    results = Results(
        run=fingerprint(title)[:12],
        model=ModelInfo(name="m", title=title, weights="w" * 64, device="cpu", dtype="float32", trained_on=()),
        suite=suite,
        limit=None,
        seed=0,
        notices=(),
        tasks=tasks,
        unsupported=(),
    )
    folder.mkdir(parents=True)
    write_results(folder / "results.json", results)
    for name, given in answers.items():
        # METEOR's statistics cannot be made up.
        metrics = [one for one in metric_ids(name, get_task(name).kind, "paper") if one != "meteor"]
        for room, lines in (
            ("scores", _scores(given, metrics, get_task(name).kind)),
            ("generations", _generations(given)),
        ):
            write_atomically(folder / room / f"{name}.jsonl", json_lines(lines))
    if environment is not None:
        write_atomically(folder / "env.json", canonical_json(environment))
    return folder


def _task_result(spec: TaskSpec, answers: Sequence[Answer]) -> TaskResult:
    scores = [answer.score for answer in answers if answer.score is not None]
    metric = MetricResult(
        value=sum(scores) / len(scores) if scores else None, ci=(0.2, 0.9) if scores else None, n=len(scores),
        errors=0, unparsed=0, truncated=0, empty=0, signature=f"exact|n={len(scores)}",
    )  # fmt: skip
    return TaskResult(
        title=spec.title,
        kind=spec.kind,
        version=spec.version,
        data="d" * 64,
        samples=len(answers),
        states={state: sum(answer.state == state for answer in answers) for state in STATES},
        paper=dict.fromkeys(metric_ids(spec.name, spec.kind, "paper"), metric),
        strict=dict.fromkeys(metric_ids(spec.name, spec.kind, "strict"), metric),
    )


def _scores(answers: Sequence[Answer], metrics: Sequence[str], kind: str) -> list[dict[str, Any]]:
    rows = []
    for number, answer in enumerate(answers):
        value = answer.score
        made = {
            name: {"statistics": _statistics(name, kind, value), "value": value}
            for name in metrics
            if value is not None
        }
        rows.append(
            {
                "sample_id": answer.sample_id,
                "group": f"g{number // 2}",
                "state": answer.state,
                "prediction": answer.text,
                "box": answer.box,
                "labels": dict(answer.labels),
                "paper": made,
                "strict": made,
            }
        )
    return rows


def _statistics(metric: str, kind: str, value: float | None) -> list[float]:
    """Sums that give a score: for BLEU of a corpus matches and guesses of four orders, two lengths and a count."""
    own = value or 0.0
    return [*[own] * 4, *[1.0] * 7] if metric.startswith("bleu") and kind == "report" else [own, 1.0]


def _generations(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": answer.sample_id,
            "text": answer.raw or answer.text,
            "stop": "eos",
            "output_tokens": 3,
            "error": answer.error,
        }
        for answer in answers
    ]


def task_source(
    task: str, answers: Sequence[Answer], folder: Path | None, *, question: str = "What is it?", withheld: bool = False
) -> TaskSource:
    """Return prepared data whose reference of every sample is `reference of <id>`; `folder` holds `<number>.png`."""
    pictures = sorted(folder.glob("*.png")) if folder else []
    samples = {
        answer.sample_id: Sample(
            sample_id=answer.sample_id,
            task=task,
            split="test",
            images=(ImageRef(path=pictures[number % len(pictures)].name),) if pictures else (),
            inputs={"question": question, "object": "liver"},
            reference=f"reference of {answer.sample_id}",
            box=Box(2.0, 3.0, 20.0, 30.0) if answer.box else None,
            image_size=(64, 64) if answer.box else None,
            labels=answer.labels,
        )
        for number, answer in enumerate(answers)
    }
    return TaskSource(spec=get_task(task), samples=samples, folder=folder or Path(), withheld=withheld)
