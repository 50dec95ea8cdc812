"""A run in the formats that others read; docs/export.md says what of a run stands where in them.

Eval results: https://huggingface.co/docs/hub/eval-results. Every Eval Ever, schema 0.3.0:
https://evalevalai.com/every_eval_ever.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from medbench.harness.results import MetricResult, Results, TaskResult
from medbench.harness.rundir import GenerationRecord, RunDirectory
from medbench.leaderboard.export.public import PublicRun, as_public
from medbench.leaderboard.render import WORDING, beside, box_text, metric_title
from medbench.leaderboard.runs import NOT_OK, picked
from medbench.leaderboard.samples import ScoreRecord, read_score_table
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.download.sources import SOURCES, HubSource
from medbench.tasks.foundation.errors import DataError, RunError, UsageError, unknown_name
from medbench.tasks.foundation.files import JsonObject, canonical_json, replaced_when_whole, write_atomically
from medbench.tasks.prepared import is_prepared, load_prepared
from medbench.tasks.protocols import Protocol
from medbench.tasks.sample import Sample
from medbench.tasks.suite import prepare_mini_suite

ALL_TASKS = "*"  # every task without a dataset of its own
# As https://huggingface.co/docs/huggingface_hub/package_reference/utilities checks names.
_REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")
_LONGEST_REPO = 96
Scale = Literal["percent", "fraction"]
_FACTOR: Mapping[Scale, tuple[float, int]] = {"percent": (100.0, 2), "fraction": (1.0, 4)}
SCHEMA_VERSION = "0.3.0"
UNKNOWN = "unknown"
_MODEL = re.compile(r"[A-Za-z0-9](?:[\w.-]*[\w-])?/[A-Za-z0-9](?:[\w.-]*[\w-])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResultsOptions:
    """What the user says of the numbers."""

    protocol: Protocol = "paper"  # the two are never mixed in one file
    datasets: Mapping[str, str] | None = None  # on the Hub, by task; `*` stands for all others
    scale: Scale = "percent"  # what the benchmark's leaderboard counts in
    source_url: str = ""  # where the evaluation can be seen
    date: str = ""  # ISO 8601; empty leaves it to the commit


def read_datasets(words: Sequence[str]) -> dict[str, str]:
    """Return the Hub datasets in words `[TASK=]OWNER/NAME`, `*` for all tasks; a UsageError if one names none."""
    found = {}
    for word in words:
        task, mark, repo = word.partition("=")
        task, repo = (task, repo) if mark else (ALL_TASKS, word)
        if task != ALL_TASKS and task not in TASKS:
            raise unknown_name("task", task, TASKS)
        found[task] = checked_repo(repo)
    return found


def checked_repo(repo: str) -> str:
    """Return the name of a repository on the Hub; a UsageError if it is none."""
    if not _REPO.fullmatch(repo) or len(repo) > _LONGEST_REPO or "--" in repo or ".." in repo or repo.endswith(".git"):
        raise UsageError(f"{repo!r} is no repository on the Hub.", "Write OWNER/NAME.")
    return repo


def eval_result_files(results: Results, options: EvalResultsOptions) -> dict[str, str]:
    """Return the files of a run by path, one for each Hub dataset; a UsageError if no task has one."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for name in results.tasks:
        if (dataset := _dataset_of(results, name, options)) and (found := _entries(results, name, dataset, options)):
            entries.setdefault(dataset, []).extend(found)
    if not entries:
        way_out = "Name where the data are: --dataset OWNER/NAME, or --dataset TASK=OWNER/NAME for each task."
        raise UsageError(WORDING["no_dataset"][results.suite], way_out)
    return {f".eval_results/{name.replace('/', '--')}.yaml": _as_yaml(found) for name, found in sorted(entries.items())}


def without_dataset(results: Results, options: EvalResultsOptions) -> tuple[str, ...]:
    """Return the tasks of a run that have no dataset on the Hub, so that no file can name them."""
    return tuple(name for name in results.tasks if _dataset_of(results, name, options) is None)


def _dataset_of(results: Results, task: str, options: EvalResultsOptions) -> str | None:
    given = options.datasets or {}
    if task in given or ALL_TASKS in given:
        return given.get(task, given.get(ALL_TASKS))
    # Numbers of the mini suite, of a part of the samples or of other data belong on no dataset's leaderboard.
    if results.suite != "paper" or results.limit is not None or task not in TASKS:
        return None
    source = SOURCES.get(get_task(task).variant_of or task)
    return source.repo if isinstance(source, HubSource) else None


def _entries(results: Results, task: str, dataset: str, options: EvalResultsOptions) -> list[EvalResultEntry]:
    factor, digits = _FACTOR[options.scale]
    return [
        EvalResultEntry(
            # The Hub's names are in snake case.
            dataset_id=dataset, task_id=re.sub(r"[-.@]", "_", f"{task}_{metric_id}").lower(),
            value=round(factor * metric.value, digits), date=options.date or None,
            source_url=options.source_url or None, source_name="medbench" if options.source_url else None,
            notes=_notes(results, metric, options),
        )
        for metric_id, metric in results.tasks[task].metrics(options.protocol).items()
        if metric.value is not None
    ]  # fmt: skip


def _notes(results: Results, metric: MetricResult, options: EvalResultsOptions) -> str:
    factor, digits = _FACTOR[options.scale]
    low, high = (f"{factor * edge:.{digits}f}" for edge in metric.ci or (0, 0))
    parts = [
        f"medbench protocol {options.protocol}", f"95% interval {low} to {high}" if metric.ci else "", f"n={metric.n}",
        *(f"{why}={count}" for why, count in picked(metric, NOT_OK).items() if count),
        *beside(metric.answered, metric.bounds),
        f"the first {results.limit} samples only" if results.limit is not None else "", metric.signature,
        *results.notices,
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)


def _as_yaml(entries: list[EvalResultEntry]) -> str:
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=10_000)
    if parse_eval_result_entries(yaml.safe_load(text)) != entries:
        way_out = "Report this with `medbench --version` and the run."
        raise RunError("huggingface_hub reads other results than it wrote.", way_out)
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryEvalOptions:
    """What the user says of a run."""

    timestamp: int  # when the results were written, in seconds since 1970
    protocol: Protocol = "paper"
    model_id: str = ""  # the model's name on the Hub, OWNER/NAME; empty derives it from the run's
    organization: str = UNKNOWN  # who evaluated
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "other"  # to the model's makers


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
    on_hub = kind == "hf" and _MODEL.fullmatch(variant)
    model = options.model_id or (variant if on_hub else f"{UNKNOWN}/{slug}")
    if not _MODEL.fullmatch(model):
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

    Questions and right answers are written if they are wanted, of the tasks whose terms allow it; `data_dir` is where
    the prepared tasks are now. Raises UsageError if the model's name is not `OWNER/NAME`, or there is no number;
    DataError if the data are not where they were, or not those of the run; RunError if the folder cannot be written to.
    """
    names, digest, count = names_of(run, options), hashlib.sha256(), 0
    document = _document(run, names, options)
    with replaced_when_whole(folder / names.samples) as partial, partial.open("wb") as stream:
        for task in run.results.tasks:
            for row in _task_rows(run, task, options, data_dir, with_inputs=with_inputs):
                line = f"{canonical_json(row)}\n".encode()
                digest.update(line)
                stream.write(line)
                count += 1
    document["detailed_evaluation_results"] |= {"checksum": digest.hexdigest(), "total_rows": count}
    write_atomically(folder / names.document, canonical_json(document, indent=2) + "\n")
    return folder / names.document, folder / names.samples


def _document(run: PublicRun, names: Names, options: EveryEvalOptions) -> JsonObject:
    results, model = run.results, run.results.model
    numbers = [
        _evaluation(run, task, metric_id, metric, options.protocol)
        for task, found in results.tasks.items()
        for metric_id, metric in found.metrics(options.protocol).items()
        if metric.value is not None
    ]
    if not numbers:
        raise UsageError(f"The run has no number under protocol {options.protocol}.", "There is nothing to export.")
    library = {"name": "medbench", "version": version("medbench")}
    elsewhere = model.name.startswith("openai:") or results.imported is not None
    return {
        "schema_version": SCHEMA_VERSION, "evaluation_id": names.evaluation,
        "evaluation_timestamp": str(options.timestamp), "retrieved_timestamp": str(options.timestamp),
        "source_metadata": {
            "source_name": "medbench", "source_type": "evaluation_run",
            "source_organization_name": options.organization, "evaluator_relationship": options.relationship,
            "additional_details": {
                "run": results.run, "suite": results.suite, "protocol": options.protocol, "seed": str(results.seed),
                "limit": "none" if results.limit is None else str(results.limit),
                "notices": "\n".join(results.notices),
            },
        },
        "model_info": {
            "name": model.title, "id": names.model, "developer": names.model.partition("/")[0],
            **({} if elsewhere else {"inference_engine": library}),
            "additional_details": {
                "deployment_type": UNKNOWN if elsewhere else "self_deployed", "model_availability": UNKNOWN,
                "medbench_name": model.name, **picked(model, ("weights", "device", "dtype")),
                "trained_on": ", ".join(model.trained_on),
            },
        },
        "eval_library": library, "evaluation_results": numbers,
        "detailed_evaluation_results": {
            "format": "jsonl", "file_path": names.samples, "hash_algorithm": "sha256",
            "additional_details": {
                "is_correct": "the score of the sample is 1",
                "input.raw": "the task's instruction; a model's own wording around it is not recorded",
                **{f"left_out.{task}": terms.reason for task, terms in run.terms.items() if terms.reason},
            },
        },
    }  # fmt: skip


def _evaluation_names(task: str, metric: str, protocol: Protocol) -> dict[str, str]:
    # What joins a number with its samples; with the protocol, so that the two protocols are never one.
    name = f"medbench {task} {metric} ({protocol} protocol)"
    return {"evaluation_result_id": f"{task}/{protocol}/{metric}", "evaluation_name": name}


def _evaluation(run: PublicRun, task: str, metric_id: str, metric: MetricResult, protocol: Protocol) -> JsonObject:
    # Of somebody else's answers nobody knows how they were asked for.
    settings: Mapping[str, Any] = {} if run.results.imported else run.settings.get("settings", {})
    chosen = {name: settings[name] for name in ("temperature", "top_p", "top_k") if name in settings}
    if task in TASKS and not run.results.imported:
        chosen |= {"max_tokens": get_task(task).max_new_tokens, "prompt_template": get_task(task).prompt}
    others = {name: str(settings[name]) for name in ("beams", "repetition_penalty", "seed") if name in settings}
    return {
        **_evaluation_names(task, metric_id, protocol), "source_data": _source_data(run, task, run.results.tasks[task]),
        "metric_config": {
            "evaluation_description": metric.signature, "metric_id": f"medbench.{protocol}.{metric_id}",
            "metric_name": metric_title(metric_id), "metric_kind": metric_id, "metric_unit": "proportion",
            "metric_parameters": {"protocol": protocol, "signature": metric.signature},
            "lower_is_better": metric.traits is not None and not metric.traits.higher_is_better,
            "score_type": "continuous", "min_score": 0.0, "max_score": 1.0,
        },
        "score_details": _score(run.results.tasks[task], metric),
        "generation_config": {"generation_args": chosen, "additional_details": others},
    }  # fmt: skip


def _source_data(run: PublicRun, name: str, task: TaskResult) -> JsonObject:
    details = {"task": name, "kind": task.kind, "version": str(task.version), "data_sha256": task.data}
    licence, source, title = run.terms[name].licence, SOURCES.get(name), task.title
    found: JsonObject = {"source_type": "other"}
    if run.results.suite == "mini":
        title = f"medbench mini suite, stand-in for {title}"
    elif not licence:
        # Nothing says whose data they are but their layout, which says nothing.
        title = f"data in the layout of {title}"
    else:
        details |= {"licence": licence, **({"source": get_task(name).source} if name in TASKS else {})}
        if run.results.suite == "paper" and isinstance(source, HubSource):
            found = {"source_type": "hf_dataset", "hf_repo": source.repo, "samples_number": task.samples}
    return {"dataset_name": title, **found, "additional_details": details}


def _score(task: TaskResult, metric: MetricResult) -> JsonObject:
    wrong, right = metric.bounds or (None, None)
    how = metric.interval
    details = {
        **picked(metric, ("n", *NOT_OK, "answered", "among_answered", "ceiling")), "samples": task.samples,
        "if_failed_wrong": wrong, "if_failed_right": right, "clusters": how and how.clusters,
        "design_effect": how and how.design_effect,
    }  # fmt: skip
    uncertainty: JsonObject = {"num_samples": metric.n}
    if metric.ci is not None:
        method = "clustered" if how is None else f"{how.method}, clustered"
        edges = dict(zip(("lower", "upper"), metric.ci, strict=True))
        uncertainty["confidence_interval"] = {**edges, "confidence_level": 0.95, "method": method}
    told = {name: str(value) for name, value in details.items() if value is not None}
    return {"score": metric.value, "details": told, "uncertainty": uncertainty}


def _task_rows(
    run: PublicRun, task: str, options: EveryEvalOptions, data_dir: Path | None, *, with_inputs: bool
) -> Iterator[JsonObject]:
    """Yield a line for each sample and metric that has a score; texts are read only where they may be shown."""
    records = read_score_table(run.path, run.results, task).records
    ids = [record.sample_id for record in records]
    samples: Mapping[str, Sample] = {}
    generations: Mapping[str, GenerationRecord] = {}
    if run.shows_texts(task):
        generations = RunDirectory(path=run.path, identity=run.results.run).generations(task, ids).read()
        samples = _samples(run, task, data_dir) if with_inputs else {}
    names = names_of(run, options)
    for sample_id, record in zip(ids, as_public(run, task, records), strict=True):
        sample = samples.get(sample_id)
        shown = _input(task, sample)
        digest = hashlib.sha256((shown["raw"] + "".join(shown["reference"])).encode()).hexdigest()
        labels = {f"label.{name}": label for name, label in record.labels.items()}
        told: JsonObject = {
            "schema_version": SCHEMA_VERSION, "evaluation_id": names.evaluation, "model_id": names.model,
            "sample_id": record.sample_id, "sample_hash": None if sample is None else digest,
            "interaction_type": "single_turn", "input": shown, "messages": None,
            "metadata": {"state": record.state, "cluster": record.group, "protocol": options.protocol, **labels},
            **_output(run, task, record, generations.get(sample_id)),
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


def _input(task: str, sample: Sample | None) -> JsonObject:
    if sample is None:
        return {"raw": "", "reference": []}
    spec, box = get_task(task), box_text(sample.box) if sample.box else ""
    choices = [key if text in {"", key} else f"{key}: {text}" for key, text in sample.choices.items()]
    reference = box if spec.kind == "rec" and box else sample.reference
    return {"raw": spec.instruction(sample, box=box), "reference": [reference], "choices": choices or None}


def _output(run: PublicRun, task: str, record: ScoreRecord, generation: GenerationRecord | None) -> JsonObject:
    """Return what the model wrote, the answer that was read from it, and its tokens, as far as they may be shown."""
    if not run.shows_texts(task):
        return {"output": {"raw": []}, "answer_attribution": []}
    raw = record.prediction if generation is None else run.scrubber.known(generation.text)
    attribution = {
        "turn_idx": 0, "source": "output.raw", "extraction_method": "custom", "is_terminal": True,
        "extracted_value": record.prediction if record.box is None else box_text(record.box),
    }  # fmt: skip
    found: JsonObject = {"output": {"raw": [raw]}, "answer_attribution": [attribution]}
    if generation is not None and not generation.error:
        read, written = generation.prompt_tokens, generation.output_tokens
        found["token_usage"] = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return found
