"""The lines of an Every Eval Ever export: one for each sample and metric, with texts only where they may be shown."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medbench.harness.records import GenerationRecord
from medbench.harness.rundir import RunDirectory
from medbench.leaderboard.export.every_eval_ever import (
    SCHEMA_VERSION,
    Document,
    EveryEvalOptions,
    SampleFile,
    evaluation_name,
    names_of,
    result_id,
    run_document,
)
from medbench.leaderboard.export.files import LineFile, line_file
from medbench.leaderboard.export.public import PublicRun, PublicScore, public_scores
from medbench.leaderboard.score_table import read_score_table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.prepared import is_prepared, load_prepared
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import prepare_mini_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A sample beside what a model made of it, as far as they may be shown.

    Attributes:
        score: Its scores.
        sample: The sample; None where texts stay here, or were not wanted.
        generation: What the model wrote; None likewise, or if the run's folder no longer has it.
    """

    score: PublicScore
    sample: Sample | None
    generation: GenerationRecord | None


def write_every_eval(
    folder: Path, run: PublicRun, options: EveryEvalOptions, *, data_dir: Path | None, with_inputs: bool
) -> tuple[Path, Path]:
    """Write both files of a run below a folder and return them: the document and the samples.

    Args:
        folder: Where a collection of such files lies.
        run: The run, as it may be shown.
        options: What the user says of it.
        data_dir: Where the prepared tasks are now, if not where they were.
        with_inputs: Whether questions and right answers are written, of the tasks whose terms allow it.

    Raises:
        UsageError: If the model's name is not `OWNER/NAME`, or the run has no number under the protocol.
        DataError: If the data are not where they were, or not those of the run.
        RunError: If the folder cannot be written to.
    """
    names = names_of(run, options)
    run_document(run, options, SampleFile(sha256="", rows=0))
    with line_file(folder / names.samples) as lines:
        for task in run.results.tasks:
            _write_task(
                lines, asked(run, task, data_dir if with_inputs else None, with_inputs=with_inputs), run, task, options
            )
    document = run_document(run, options, SampleFile(sha256=lines.sha256, rows=lines.count))
    write_atomically(folder / names.document, canonical_json(document, indent=2) + "\n")
    return folder / names.document, folder / names.samples


def _write_task(lines: LineFile, found: Iterable[Asked], run: PublicRun, task: str, options: EveryEvalOptions) -> None:
    for one in found:
        for row in sample_rows(one, run, task, options):
            lines.write(canonical_json(row))


def asked(run: PublicRun, task: str, data_dir: Path | None, *, with_inputs: bool) -> Iterator[Asked]:
    """Yield the samples of a task in order; raises like `write_every_eval`."""
    records = read_score_table(run.path, run.results, task).records
    scores = public_scores(records, task, run.terms[task], run.scrubber)
    if run.terms[task].openness != "open":
        yield from (Asked(score=score, sample=None, generation=None) for score in scores)
        return
    ids = [record.sample_id for record in records]
    written = RunDirectory(path=run.path, identity=run.results.run).generations(task, ids).read()
    samples = _samples(run, task, data_dir) if with_inputs else {}
    for sample_id, score in zip(ids, scores, strict=True):
        yield Asked(score=score, sample=samples.get(sample_id), generation=written.get(sample_id))


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


def sample_rows(one: Asked, run: PublicRun, task: str, options: EveryEvalOptions) -> Iterator[Document]:
    """Yield the lines of a sample, one for each metric that has a score for it."""
    names = names_of(run, options)
    for metric_id, item in one.score.scores(options.protocol).items():
        if item.value is None:
            continue
        shown = _input(one, task)
        yield {
            "schema_version": SCHEMA_VERSION,
            "evaluation_id": names.evaluation,
            "model_id": names.model,
            "evaluation_name": evaluation_name(task, metric_id, options.protocol),
            "evaluation_result_id": result_id(task, metric_id, options.protocol),
            "sample_id": one.score.sample_id,
            "sample_hash": _hash(shown) if one.sample is not None else None,
            "interaction_type": "single_turn",
            "input": shown,
            "output": {"raw": _raw(one, run)},
            "messages": None,
            "answer_attribution": _attribution(one.score),
            "evaluation": {"score": item.value, "is_correct": item.value >= 1.0},
            **_tokens(one.generation),
            "metadata": _metadata(one.score, options),
        }


def _input(one: Asked, task: str) -> Document:
    if one.sample is None:
        return {"raw": "", "reference": []}
    spec, sample = get_task(task), one.sample
    choices = [key if text in {"", key} else f"{key}: {text}" for key, text in sample.choices.items()]
    return {
        "raw": _instruction(spec, sample),
        "reference": [_box(sample.box) if spec.kind == "rec" and sample.box else sample.reference],
        "choices": choices or None,
    }


def _instruction(spec: TaskSpec, sample: Sample) -> str:
    return spec.instruction(sample, box=_box(sample.box) if sample.box else "")


def _box(box: Box | tuple[float, float, float, float]) -> str:
    return f"[{', '.join(f'{edge:.6g}' for edge in box)}]"


def _hash(shown: Mapping[str, Any]) -> str:
    return hashlib.sha256((shown["raw"] + "".join(shown["reference"])).encode()).hexdigest()


def _raw(one: Asked, run: PublicRun) -> list[str]:
    if one.generation is not None:
        return [run.scrubber.known(one.generation.text)]
    return [] if one.score.prediction is None else [one.score.prediction]


def _attribution(score: PublicScore) -> list[Document]:
    if score.prediction is None:
        return []
    value = _box(score.box) if score.box is not None else score.prediction
    return [
        {
            "turn_idx": 0, "source": "output.raw", "extracted_value": value, "extraction_method": "custom",
            "is_terminal": True,
        }
    ]  # fmt: skip


def _tokens(record: GenerationRecord | None) -> Document:
    if record is None or record.error:
        return {}
    usage = {"input_tokens": record.prompt_tokens, "output_tokens": record.output_tokens}
    return {"token_usage": {**usage, "total_tokens": record.prompt_tokens + record.output_tokens}}


def _metadata(score: PublicScore, options: EveryEvalOptions) -> dict[str, str]:
    labels = {f"label.{name}": label for name, label in (score.labels or {}).items()}
    return {"state": score.state, "cluster": score.cluster, "protocol": options.protocol, **labels}
