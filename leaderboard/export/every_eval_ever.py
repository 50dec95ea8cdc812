"""A run in the layout of Every Eval Ever (https://evalevalai.com/every_eval_ever, schema 0.3.0), which harnesses share.

Two files: one document about the run and its numbers, and beside it one line for each sample and metric. One export
has one protocol. The layout wants a score for every sample, so a sample that has none (it failed, or the metric does
not apply to it) has no line; the counts of the failed ones stand beside the number.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args
from uuid import UUID

from medbench.harness.results import MetricResult, TaskResult
from medbench.leaderboard.counts import not_ok
from medbench.leaderboard.export.public import PublicRun
from medbench.leaderboard.markdown import METRIC_TITLES
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.download.sources import SOURCES, HubSource
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import Protocol

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]
RELATIONSHIPS: tuple[Relationship, ...] = get_args(Relationship)
Document = dict[str, Any]
_PART = r"[A-Za-z0-9](?:[\w.-]*[\w-])?"


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryEvalOptions:
    """What the user says of a run.

    Attributes:
        protocol: Whose definitions.
        timestamp: When the results were written, in seconds since 1970.
        model_id: The model's name on the Hub, `OWNER/NAME`; empty derives it from the run's.
        organization: Who evaluated.
        relationship: How they stand to those who made the model.
    """

    protocol: Protocol = "paper"
    timestamp: int
    model_id: str = ""
    organization: str = UNKNOWN
    relationship: Relationship = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What ties the two files of a run together.

    Attributes:
        evaluation: Identity of the evaluation.
        model: The model's name, `OWNER/NAME`.
        document: Path of the document in a folder of such files.
        samples: Path of the lines.
    """

    evaluation: str
    model: str
    document: str
    samples: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """The file of samples, as the document refers to it.

    Attributes:
        sha256: Its digest.
        rows: Its lines.
    """

    sha256: str
    rows: int


def names_of(run: PublicRun, options: EveryEvalOptions) -> Names:
    """Return the names of a run's files; the same run and protocol always have the same.

    Raises:
        UsageError: If the model's name is not `OWNER/NAME`.
    """
    model = options.model_id or _derived_model_id(run.results.model.name)
    if not re.fullmatch(f"{_PART}/{_PART}", model):
        raise UsageError(f"{model!r} is no name of a model.", "Write --model-id OWNER/NAME.")
    collection = f"medbench-{run.results.suite}"
    digest = hashlib.sha256(f"{run.results.run}|{options.protocol}|{model}".encode()).digest()
    stem = f"data/{collection}/{model}/{UUID(bytes=digest[:16], version=4)}"
    return Names(
        evaluation=f"{collection}/{model.replace('/', '_')}/{run.results.run}-{options.protocol}/{options.timestamp}",
        model=model,
        document=f"{stem}.json",
        samples=f"{stem}_samples.jsonl",
    )


def _derived_model_id(name: str) -> str:
    kind, _, variant = name.partition(":")
    if kind == "hf" and re.fullmatch(f"{_PART}/{_PART}", variant):
        return variant
    return f"{UNKNOWN}/{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-') or 'model'}"


def run_document(run: PublicRun, options: EveryEvalOptions, samples: SampleFile) -> Document:
    """Return the document about a run and its numbers.

    Args:
        run: The run, as it may be shown.
        options: What the user says of it.
        samples: The file of samples beside it.

    Raises:
        UsageError: If the model's name is not `OWNER/NAME`, or the run has no number under the protocol.
    """
    names = names_of(run, options)
    numbers = [
        _evaluation(run, name, metric_id, metric, options.protocol)
        for name, task in run.results.tasks.items()
        for metric_id, metric in task.metrics(options.protocol).items()
        if metric.value is not None
    ]
    if not numbers:
        raise UsageError(f"The run has no number under protocol {options.protocol}.", "There is nothing to export.")
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": names.evaluation,
        "evaluation_timestamp": str(options.timestamp),
        "retrieved_timestamp": str(options.timestamp),
        "source_metadata": _source(run, options),
        "eval_library": {"name": "medbench", "version": version("medbench")},
        "model_info": _model(run, names.model),
        "evaluation_results": numbers,
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": names.samples,
            "hash_algorithm": "sha256",
            "checksum": samples.sha256,
            "total_rows": samples.rows,
            "additional_details": {
                "is_correct": "the score of the sample is 1",
                "input.raw": "the task's instruction; a model's own wording around it is not recorded",
                **{f"left_out.{task}": terms.reason for task, terms in run.terms.items() if terms.reason},
            },
        },
    }


def _source(run: PublicRun, options: EveryEvalOptions) -> Document:
    results = run.results
    details = {
        "run": results.run,
        "suite": results.suite,
        "protocol": options.protocol,
        "seed": str(results.seed),
        "limit": "none" if results.limit is None else str(results.limit),
        "notices": "\n".join(results.notices),
    }
    return {
        "source_name": "medbench",
        "source_type": "evaluation_run",
        "source_organization_name": options.organization,
        "evaluator_relationship": options.relationship,
        "additional_details": details,
    }


def _model(run: PublicRun, model_id: str) -> Document:
    model = run.results.model
    served = model.name.startswith("openai:")
    return {
        "name": model.title,
        "id": model_id,
        "developer": model_id.partition("/")[0],
        **({} if served else {"inference_engine": {"name": "medbench", "version": version("medbench")}}),
        "additional_details": {
            "deployment_type": UNKNOWN if served else "self_deployed",
            "model_availability": UNKNOWN,
            "medbench_name": model.name,
            "weights": model.weights,
            "device": model.device,
            "dtype": model.dtype,
            "trained_on": ", ".join(model.trained_on),
        },
    }


def result_id(task: str, metric: str, protocol: Protocol) -> str:
    """Return what joins a number with its samples."""
    return f"{task}/{protocol}/{metric}"


def evaluation_name(task: str, metric: str, protocol: Protocol) -> str:
    """Return the name of an evaluation: both its task and its protocol, so that the two protocols are never one."""
    return f"medbench {task} {metric} ({protocol} protocol)"


def _evaluation(run: PublicRun, name: str, metric_id: str, metric: MetricResult, protocol: Protocol) -> Document:
    return {
        "evaluation_result_id": result_id(name, metric_id, protocol),
        "evaluation_name": evaluation_name(name, metric_id, protocol),
        "source_data": _source_data(run, name, run.results.tasks[name]),
        "metric_config": {
            "evaluation_description": metric.signature,
            "metric_id": f"medbench.{protocol}.{metric_id}",
            "metric_name": METRIC_TITLES.get(metric_id, metric_id),
            "metric_kind": metric_id,
            "metric_unit": "proportion",
            "metric_parameters": {"protocol": protocol, "signature": metric.signature},
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": _score(run.results.tasks[name], metric),
        "generation_config": _generation(run, name),
    }


def _source_data(run: PublicRun, name: str, task: TaskResult) -> Document:
    details = {"task": name, "kind": task.kind, "version": str(task.version), "data_sha256": task.data}
    if run.results.suite == "mini":
        return {
            "dataset_name": f"medbench mini suite, stand-in for {task.title}",
            "source_type": "other",
            "additional_details": details,
        }
    licence = run.terms[name].licence
    if not licence:
        # Nothing says whose data they are but their layout, which says nothing.
        title = f"data in the layout of {task.title}"
        return {"dataset_name": title, "source_type": "other", "additional_details": details}
    details |= {"licence": licence, **({"source": get_task(name).source} if name in TASKS else {})}
    source = SOURCES.get(name)
    if run.results.suite != "paper" or not isinstance(source, HubSource):
        return {"dataset_name": task.title, "source_type": "other", "additional_details": details}
    return {
        "dataset_name": task.title,
        "source_type": "hf_dataset",
        "hf_repo": source.repo,
        "samples_number": task.samples,
        "additional_details": details,
    }


def _score(task: TaskResult, metric: MetricResult) -> Document:
    details: dict[str, float | None] = {
        "n": metric.n, "samples": task.samples, **not_ok(metric), "answered": metric.answered,
        "among_answered": metric.among_answered, "ceiling": metric.ceiling,
    }  # fmt: skip
    if metric.bounds is not None:
        details |= {"if_failed_wrong": metric.bounds[0], "if_failed_right": metric.bounds[1]}
    if metric.interval is not None:
        details |= {"clusters": metric.interval.clusters, "design_effect": metric.interval.design_effect}
    found: Document = {
        "score": metric.value,
        "details": {name: str(value) for name, value in details.items() if value is not None},
        "uncertainty": {"num_samples": metric.n},
    }
    if metric.ci is not None:
        method = "clustered" if metric.interval is None else f"{metric.interval.method}, clustered"
        found["uncertainty"]["confidence_interval"] = {
            "lower": metric.ci[0], "upper": metric.ci[1], "confidence_level": 0.95, "method": method,
        }  # fmt: skip
    return found


def _generation(run: PublicRun, task: str) -> Document:
    settings: Mapping[str, Any] = run.settings.get("settings", {})
    chosen = {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings}
    if task in TASKS:
        chosen |= {"max_tokens": get_task(task).max_new_tokens, "prompt_template": get_task(task).prompt}
    others = ("beams", "repetition_penalty", "seed")
    return {
        "generation_args": chosen,
        "additional_details": {name: str(settings[name]) for name in others if name in settings},
    }
