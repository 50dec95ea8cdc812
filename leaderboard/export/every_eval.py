"""A run in the layout of Every Eval Ever (https://evalevalai.com/every_eval_ever, schema 0.3.0), which harnesses share.

Two files: one document about the run and its numbers, and beside it one line for each sample and metric. One export
has one protocol. The layout wants a score for every sample, so a sample that has none (it failed, or the metric does
not apply to it) has no line; the counts of the failed ones stand beside the number.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

from medbench.harness.results import MetricResult, TaskResult
from medbench.harness.rundir import GenerationRecord, RunDirectory
from medbench.leaderboard.export.public import PublicRun, as_public, replaced_when_whole
from medbench.leaderboard.render import metric_title
from medbench.leaderboard.runs import NOT_OK
from medbench.leaderboard.samples import ScoreRecord, read_score_table
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.download.sources import SOURCES, HubSource
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.prepared import is_prepared, load_prepared
from medbench.tasks.protocols import Protocol
from medbench.tasks.sample import Box, Sample
from medbench.tasks.suite import prepare_mini_suite

SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]
Document = dict[str, Any]
_PART = r"[A-Za-z0-9](?:[\w.-]*[\w-])?"


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryEvalOptions:
    """What the user says of a run."""

    protocol: Protocol = "paper"
    timestamp: int  # when the results were written, in seconds since 1970
    model_id: str = ""  # the model's name on the Hub, OWNER/NAME; empty derives it from the run's
    organization: str = UNKNOWN  # who evaluated
    relationship: Relationship = "other"  # how they stand to those who made the model


class Names(NamedTuple):
    """What ties the two files of a run together: identity of the evaluation, model `OWNER/NAME`, paths of the files."""

    evaluation: str
    model: str
    document: str
    samples: str


def names_of(run: PublicRun, options: EveryEvalOptions) -> Names:
    """Return the names of a run's files; the same run and protocol always have the same."""
    kind, _, variant = run.results.model.name.partition(":")
    slug = re.sub(r"[^a-z0-9]+", "-", run.results.model.name.lower()).strip("-") or "model"
    on_hub = kind == "hf" and re.fullmatch(f"{_PART}/{_PART}", variant)
    model = options.model_id or (variant if on_hub else f"{UNKNOWN}/{slug}")
    if not re.fullmatch(f"{_PART}/{_PART}", model):
        raise UsageError(f"{model!r} is no name of a model.", "Write --model-id OWNER/NAME.")
    collection = f"medbench-{run.results.suite}"
    digest = hashlib.sha256(f"{run.results.run}|{options.protocol}|{model}".encode()).digest()
    stem = f"data/{collection}/{model}/{UUID(bytes=digest[:16], version=4)}"
    evaluation = f"{collection}/{model.replace('/', '_')}/{run.results.run}-{options.protocol}/{options.timestamp}"
    return Names(evaluation, model, document=f"{stem}.json", samples=f"{stem}_samples.jsonl")


def write_every_eval(
    folder: Path, run: PublicRun, options: EveryEvalOptions, *, data_dir: Path | None, with_inputs: bool
) -> tuple[Path, Path]:
    """Write both files of a run below a folder and return them: the document and the samples.

    Questions and right answers are written only if they are wanted, and of the tasks whose terms allow it; `data_dir`
    is where the prepared tasks are now, if not where they were. Raises UsageError if the model's name is not
    `OWNER/NAME`, or the run has no number under the protocol; DataError if the data are not where they were, or not
    those of the run; RunError if the folder cannot be written to.
    """
    names, digest, count = names_of(run, options), hashlib.sha256(), 0
    numbers = _evaluations(run, options.protocol)
    with replaced_when_whole(folder / names.samples) as partial, partial.open("wb") as stream:
        for task in run.results.tasks:
            for row in _task_rows(run, task, options, data_dir, with_inputs=with_inputs):
                line = f"{canonical_json(row)}\n".encode()
                digest.update(line)
                stream.write(line)
                count += 1
    left_out = {f"left_out.{task}": terms.reason for task, terms in run.terms.items() if terms.reason}
    document = {
        "schema_version": SCHEMA_VERSION, "evaluation_id": names.evaluation,
        "evaluation_timestamp": str(options.timestamp), "retrieved_timestamp": str(options.timestamp),
        "source_metadata": {
            "source_name": "medbench", "source_type": "evaluation_run",
            "source_organization_name": options.organization, "evaluator_relationship": options.relationship,
            "additional_details": {
                "run": run.results.run, "suite": run.results.suite, "protocol": options.protocol,
                "seed": str(run.results.seed), "limit": "none" if run.results.limit is None else str(run.results.limit),
                "notices": "\n".join(run.results.notices),
            },
        },
        "model_info": _model(run, names.model),
        "eval_library": {"name": "medbench", "version": version("medbench")}, "evaluation_results": numbers,
        "detailed_evaluation_results": {
            "format": "jsonl", "file_path": names.samples, "hash_algorithm": "sha256", "checksum": digest.hexdigest(),
            "total_rows": count,
            "additional_details": {
                "is_correct": "the score of the sample is 1",
                "input.raw": "the task's instruction; a model's own wording around it is not recorded",
                **left_out,
            },
        },
    }  # fmt: skip
    write_atomically(folder / names.document, canonical_json(document, indent=2) + "\n")
    return folder / names.document, folder / names.samples


def _model(run: PublicRun, model_id: str) -> Document:
    model = run.results.model
    served = model.name.startswith("openai:")
    details = {
        "deployment_type": UNKNOWN if served else "self_deployed", "model_availability": UNKNOWN,
        "medbench_name": model.name, "weights": model.weights, "device": model.device, "dtype": model.dtype,
        "trained_on": ", ".join(model.trained_on),
    }  # fmt: skip
    engine = {} if served else {"inference_engine": {"name": "medbench", "version": version("medbench")}}
    names = {"name": model.title, "id": model_id, "developer": model_id.partition("/")[0]}
    return {**names, **engine, "additional_details": details}


def _evaluation_names(task: str, metric: str, protocol: Protocol) -> dict[str, str]:
    """Return what joins a number with its samples; with the protocol, so that the two protocols are never one."""
    return {
        "evaluation_result_id": f"{task}/{protocol}/{metric}",
        "evaluation_name": f"medbench {task} {metric} ({protocol} protocol)",
    }


def _evaluations(run: PublicRun, protocol: Protocol) -> list[Document]:
    numbers = [
        _evaluation(run, task, metric_id, metric, protocol)
        for task, found in run.results.tasks.items()
        for metric_id, metric in found.metrics(protocol).items()
        if metric.value is not None
    ]
    if not numbers:
        raise UsageError(f"The run has no number under protocol {protocol}.", "There is nothing to export.")
    return numbers


def _evaluation(run: PublicRun, task: str, metric_id: str, metric: MetricResult, protocol: Protocol) -> Document:
    return {
        **_evaluation_names(task, metric_id, protocol), "source_data": _source_data(run, task, run.results.tasks[task]),
        "metric_config": {
            "evaluation_description": metric.signature, "metric_id": f"medbench.{protocol}.{metric_id}",
            "metric_name": metric_title(metric_id), "metric_kind": metric_id, "metric_unit": "proportion",
            "metric_parameters": {"protocol": protocol, "signature": metric.signature}, "lower_is_better": False,
            "score_type": "continuous", "min_score": 0.0, "max_score": 1.0,
        },
        "score_details": _score(run.results.tasks[task], metric), "generation_config": _generation_config(run, task),
    }  # fmt: skip


def _source_data(run: PublicRun, name: str, task: TaskResult) -> Document:
    details = {"task": name, "kind": task.kind, "version": str(task.version), "data_sha256": task.data}
    licence, source = run.terms[name].licence, SOURCES.get(name)
    title = task.title
    if run.results.suite == "mini":
        title = f"medbench mini suite, stand-in for {title}"
    elif not licence:
        # Nothing says whose data they are but their layout, which says nothing.
        title = f"data in the layout of {title}"
    else:
        details |= {"licence": licence, **({"source": get_task(name).source} if name in TASKS else {})}
        if run.results.suite == "paper" and isinstance(source, HubSource):
            return {
                "dataset_name": title, "source_type": "hf_dataset", "hf_repo": source.repo,
                "samples_number": task.samples, "additional_details": details,
            }  # fmt: skip
    return {"dataset_name": title, "source_type": "other", "additional_details": details}


def _score(task: TaskResult, metric: MetricResult) -> Document:
    details: dict[str, float | None] = {
        "n": metric.n, "samples": task.samples, **{why: getattr(metric, why) for why in NOT_OK},
        "answered": metric.answered, "among_answered": metric.among_answered, "ceiling": metric.ceiling,
    }  # fmt: skip
    if metric.bounds is not None:
        details |= {"if_failed_wrong": metric.bounds[0], "if_failed_right": metric.bounds[1]}
    if metric.interval is not None:
        details |= {"clusters": metric.interval.clusters, "design_effect": metric.interval.design_effect}
    uncertainty: Document = {"num_samples": metric.n}
    if metric.ci is not None:
        method = "clustered" if metric.interval is None else f"{metric.interval.method}, clustered"
        uncertainty["confidence_interval"] = {
            "lower": metric.ci[0], "upper": metric.ci[1], "confidence_level": 0.95, "method": method,
        }  # fmt: skip
    return {
        "score": metric.value,
        "details": {name: str(value) for name, value in details.items() if value is not None},
        "uncertainty": uncertainty,
    }


def _generation_config(run: PublicRun, task: str) -> Document:
    settings: Mapping[str, Any] = run.settings.get("settings", {})
    chosen = {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings}
    if task in TASKS:
        chosen |= {"max_tokens": get_task(task).max_new_tokens, "prompt_template": get_task(task).prompt}
    others = {name: str(settings[name]) for name in ("beams", "repetition_penalty", "seed") if name in settings}
    return {"generation_args": chosen, "additional_details": others}


def _task_rows(
    run: PublicRun, task: str, options: EveryEvalOptions, data_dir: Path | None, *, with_inputs: bool
) -> Iterator[Document]:
    """Yield the lines of a task, one for each sample and metric that has a score for it.

    Questions, references and generations are read only where texts may be shown.
    """
    records = read_score_table(run.path, run.results, task).records
    ids = [record.sample_id for record in records]
    samples: Mapping[str, Sample] = {}
    generations: Mapping[str, GenerationRecord] = {}
    if run.shows_texts(task):
        generations = RunDirectory(path=run.path, identity=run.results.run).generations(task, ids).read()
        samples = _samples(run, task, data_dir) if with_inputs else {}
    names = names_of(run, options)
    for sample_id, record in zip(ids, as_public(run, task, records), strict=True):
        sample, generation = samples.get(sample_id), generations.get(sample_id)
        shown = _input(task, sample)
        digest = hashlib.sha256((shown["raw"] + "".join(shown["reference"])).encode()).hexdigest()
        labels = {f"label.{name}": label for name, label in record.labels.items()}
        told: Document = {
            "schema_version": SCHEMA_VERSION, "evaluation_id": names.evaluation, "model_id": names.model,
            "sample_id": record.sample_id, "sample_hash": None if sample is None else digest,
            "interaction_type": "single_turn", "input": shown, "messages": None,
            "metadata": {"state": record.state, "cluster": record.group, "protocol": options.protocol, **labels},
            **_output(run, task, record, generation),
        }  # fmt: skip
        for metric, item in record.scores(options.protocol).items():
            if item.value is not None:
                score = {"score": item.value, "is_correct": item.value >= 1.0}
                yield told | _evaluation_names(task, metric, options.protocol) | {"evaluation": score}


def _samples(run: PublicRun, task: str, data_dir: Path | None) -> Mapping[str, Sample]:
    recorded = run.settings.get("settings", {}).get("data_dir")
    place = data_dir or (Path(recorded) if recorded else prepare_mini_suite())
    way_out = "Give the folder of the prepared tasks with --data-dir, or leave questions out with --no-inputs."
    if not is_prepared(place, task):
        raise DataError(f"The data that {task} was asked from are not in {place}.", way_out)
    prepared = load_prepared(place, task)
    if prepared.manifest.data_fingerprint != run.results.tasks[task].data:
        raise DataError(f"The prepared {task} in {place} is not the data that the run answered.", way_out)
    return {sample.sample_id: sample for sample in prepared.samples("test")}


def _input(task: str, sample: Sample | None) -> Document:
    if sample is None:
        return {"raw": "", "reference": []}
    spec = get_task(task)
    choices = [key if text in {"", key} else f"{key}: {text}" for key, text in sample.choices.items()]
    return {
        "raw": spec.instruction(sample, box=_box(sample.box) if sample.box else ""),
        "reference": [_box(sample.box) if spec.kind == "rec" and sample.box else sample.reference],
        "choices": choices or None,
    }


def _box(box: Box | tuple[float, float, float, float]) -> str:
    return f"[{', '.join(f'{edge:.6g}' for edge in box)}]"


def _output(run: PublicRun, task: str, record: ScoreRecord, generation: GenerationRecord | None) -> Document:
    """Return what the model wrote, the answer that was read from it, and its tokens, as far as they may be shown."""
    if not run.shows_texts(task):
        return {"output": {"raw": []}, "answer_attribution": []}
    raw = record.prediction if generation is None else run.scrubber.known(generation.text)
    value = _box(record.box) if record.box is not None else record.prediction
    attribution = {
        "turn_idx": 0, "source": "output.raw", "extracted_value": value, "extraction_method": "custom",
        "is_terminal": True,
    }  # fmt: skip
    found: Document = {"output": {"raw": [raw]}, "answer_attribution": [attribution]}
    if generation is not None and not generation.error:
        read, written = generation.prompt_tokens, generation.output_tokens
        found["token_usage"] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return found
