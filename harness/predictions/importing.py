"""Predictions of others as a run: matched with the samples, scored, and published like a run of our own."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from medbench.adapters.catalog import ChosenModel
from medbench.adapters.function import IMPORTED, known_model
from medbench.harness.finish import Answers, RunOutcome, finished
from medbench.harness.models import ModelFacts
from medbench.harness.phases import Phases
from medbench.harness.predictions.formats import FORMATS, format_of, read_predictions
from medbench.harness.predictions.matching import Matched, match
from medbench.harness.predictions.rows import Prediction, Source
from medbench.harness.predictions.scoring import sample_of
from medbench.harness.results import RESULTS_FILE, Imported, ModelInfo, write_results
from medbench.harness.run import publish_run
from medbench.harness.rundir import GenerationRecord, RunDirectory, directory_of, open_run
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, Workload, load_workload
from medbench.tasks.answers.box_space import BOX_SPACES, UNI_MED
from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError, unknown_name
from medbench.tasks.foundation.files import canonical_json, encodable, file_sha256, fingerprint, write_atomically
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import MANIFEST, MANIFEST_NAME, load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, Reading, TaskSpec

Missing = Literal["error", "wrong"]
_PIXELS = "pixels"
_NOT_KNOWN = ("prompts", "decoding", "hardware", "whether all samples were asked in the same way")
_NO_ANSWER = "It has no answer in the file of predictions."
_FAILED = "It failed, as the file of predictions says."
_EXAMPLES = 3
_MODEL = TypeAdapter(ModelInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is said of the model whose predictions they are; see `ModelInfo`."""

    name: str
    trained_on: tuple[str, ...] | None = None
    parameters: int | None = None
    released: str = ""
    open_weights: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The predictions of one task, and where they come from."""

    spec: TaskSpec
    source: Source
    form: str
    sha256: str
    found: Sequence[Prediction]

    @property
    def what(self) -> str:
        """The task, the file and its format, for messages."""
        return f"{self.spec.name} ({self.source.path.name}, {self.form})"

    def identity(self) -> dict[str, object]:
        """Return what the predictions depend on."""
        references = file_sha256(self.source.references) if self.source.references else ""
        columns = dict(self.source.columns)
        return {"file": self.sha256, "references": references, "form": self.form, "columns": columns}


def import_run(
    about: About, sources: Mapping[str, Source], *, data_dir: Path | None = None, output_dir: Path = Path("runs"),
    boxes: str = "", missing: Missing = "error", overwrite: str = "never", lock: bool = True,
) -> RunOutcome:  # fmt: skip
    """Make a run of somebody's predictions by task, and score it; the same again reads what is there.

    They are matched with the prepared samples in `data_dir`. Without it with those of the mini suite, if all of them
    are there; else the run is made of the files alone, which must hold the right answers. `boxes` is how the model
    writes them, samples without a prediction are `missing`: failures, or wrong answers. Raises a MedbenchError that
    says what is wrong with a file, an option, or the output folder; nothing is written then.
    """
    info = _info(about)
    for name in sources:
        get_task(name)
    tasks = [_read(name, sources[name]) for name in task_names() if name in sources]
    space = _space(tasks, boxes)
    settings = Settings(model=about.name, tasks=tuple(sources), data_dir=data_dir, output_dir=output_dir, lock=lock)
    with TemporaryDirectory() as folder:
        try:
            workload, matched = _with_data(tasks, settings)
        except MedbenchError as error:
            if data_dir is not None:
                raise
            workload, matched = _alone(tasks, Path(folder), space, error.problem)
        model = known_model(IMPORTED, space, catalogue=False)
        parts = _parts(about, tasks, workload, model, missing)
        if workload.data_dir == Path(folder):
            # The data stay with the run, whose folder is known by now.
            settings = replace(settings, data_dir=directory_of(settings, workload.suite, parts).path / "data")
        notices = tuple(_told(about.name, tasks, workload, matched, missing))
        with open_run(settings, workload.suite, parts, overwrite=overwrite) as run:
            if (outcome := finished(run, publish_run)) is not None:
                return _said_anew(outcome, info)
            if workload.data_dir == Path(folder):
                _keep(Path(folder), run.path / "data")
            for load, one in zip(workload.loads, matched, strict=True):
                run.of_task(load).rewrite(_records(run, load, one, missing, space))
            facts = ModelFacts(info=info, kinds=frozenset(get_args(Kind)), notices=notices)
            answers = Answers(
                settings=settings, workload=workload, model=model, facts=facts, phases=Phases(), failures=(),
                imported=_imported(tasks),
            )  # fmt: skip
            return answers.finish(run, publish_run)


def _keep(folder: Path, kept: Path) -> None:
    try:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot write {kept}: {error}.", "Free some space, and give the same command again.") from error


def _said_anew(outcome: RunOutcome, info: ModelInfo) -> RunOutcome:
    """Return a run that is complete, with what is said of its model now."""
    if outcome.results.model == info:
        say(f"{outcome.path} is complete; nothing to do. Start afresh with --overwrite always.")
        return outcome
    results = replace(outcome.results, model=info)
    write_results(outcome.path / RESULTS_FILE, results)
    publish_run(outcome.path)
    say(f"{outcome.path} was complete; what is said of the model is new.")
    return replace(outcome, results=results)


def _parts(
    about: About, tasks: Sequence[_Task], workload: Workload, model: ChosenModel, missing: Missing
) -> dict[str, object]:
    """Return what makes another run: files, how they are read and matched, data, and how boxes are written."""
    code = fingerprint({file.name: file_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))})
    data = {
        load.spec.name: {
            "version": load.spec.version, "spec": load.spec.fingerprint(),
            "data": load.prepared.manifest.data_fingerprint, "read": task.identity(),
        }
        for load, task in zip(workload.loads, tasks, strict=True)
    }  # fmt: skip
    return {
        "code": code, "model": about.name, "arguments": model.identity, "own model": IMPORTED, "limit": None, "seed": 0,
        "suite": workload.suite, "missing": missing, "tasks": data,
    }  # fmt: skip


def _read(name: str, source: Source) -> _Task:
    spec, form = get_task(name), format_of(source)
    found = read_predictions(source, spec)
    return _Task(spec=spec, source=source, form=form, sha256=file_sha256(source.path), found=found)


def _space(tasks: Sequence[_Task], boxes: str) -> str:
    """Return how the boxes of all tasks are written; in pixels, where a file's writer has read them."""
    if boxes and boxes not in BOX_SPACES:
        raise unknown_name("way to write boxes", boxes, BOX_SPACES)
    are_read = [FORMATS[task.form].boxes_are_read for task in tasks if task.spec.kind == "rec"]
    if boxes and not are_read:
        raise UsageError("--boxes has no effect: none of the tasks asks for boxes.", "Leave it out.")
    if any(are_read) and (boxes not in {"", _PIXELS} or not (boxes or all(are_read))):
        problem = "A file of boxes that its writer has read stands beside others, or --boxes says another space."
        raise UsageError(problem, f"Import such a file apart, or say --boxes {_PIXELS} if all are in pixels.")
    return boxes or (_PIXELS if any(are_read) else UNI_MED.name)


def _with_data(tasks: Sequence[_Task], settings: Settings) -> tuple[Workload, list[Matched]]:
    """Match predictions with prepared samples; DataError if they are the mini suite's, which has not all of them."""
    workload = load_workload(settings)
    matched = []
    for task, load in zip(tasks, workload.loads, strict=True):
        one = match(task.found, load.samples, task.what, worded=task.spec.kind == "report")
        if settings.data_dir is None and one.nowhere:
            raise DataError(f"Not all predictions of {task.what} are of the mini suite.")
        matched.append(one)
    return workload, matched


def _alone(tasks: Sequence[_Task], folder: Path, space: str, why: str) -> tuple[Workload, list[Matched]]:
    """Make tasks of files that have their right answers; DataError that says `why` if one has not."""
    for task in tasks:
        if lacking := [one for one in task.found if one.reference is None]:
            raise DataError(
                f"{why} Without prepared data the right answers must be in the file; {lacking[0].where} has none.",
                "Give the data (--data-dir), or the right answers (--column reference=NAME, or --references FILE).",
            )
    say(f"No --data-dir was given. {why} The run is made of the files alone.")
    loads, matched = [], []
    for task in tasks:
        names = [one.sample_id or f"row {place}" for place, one in enumerate(task.found, start=1)]
        load = _of_file(task, names, folder, space)
        # What has no reference is no sample.
        rest = dict(zip(names, task.found, strict=True))
        answers = {place: rest.pop(sample.sample_id) for place, sample in enumerate(load.samples)}
        loads.append(load)
        matched.append(Matched(way="being in one file", answers=answers, nowhere=tuple(rest.values())))
    notice = "The data are those of files of predictions: comparable only with runs of the same ids and references."
    return Workload(suite="custom", data_dir=folder, loads=tuple(loads), notices=(notice,)), matched


def _of_file(task: _Task, names: Sequence[str], folder: Path, space: str) -> TaskLoad:
    spec = task.spec
    samples = tuple(_sample(name, one, spec, space) for name, one in zip(names, task.found, strict=True))
    reading = Reading(samples=samples, skipped=(), split_method="all rows of a file of predictions")
    declared = replace(spec, reader=lambda *_: reading)
    made = prepare_task(declared, task.source.path.absolute().parent, folder, {}, image_hashes="none")
    # Whether a file has the questions, too, makes no other data.
    known = [[one.sample_id, one.reference, one.box, dict(one.choices)] for one in made.samples("test")]
    manifest = replace(made.manifest, data_fingerprint=fingerprint(sorted(known, key=lambda one: str(one[0]))))
    write_atomically(made.folder / MANIFEST_NAME, canonical_json(MANIFEST.dump_python(manifest, mode="json")) + "\n")
    prepared = load_prepared(folder, spec.name)
    return TaskLoad(spec=spec, prepared=prepared, samples=prepared.samples("test"))


def _sample(name: str, one: Prediction, spec: TaskSpec, space: str) -> Sample:
    sample = sample_of(one, spec, BOX_SPACES[space])
    asked = {"object": one.reference or ""} if spec.kind == "rec" else {"question": one.question}
    return replace(
        sample, sample_id=name, reference=sample.reference or ("object" if spec.kind == "rec" else ""),
        inputs={what: text for what, text in asked.items() if text},
        groups={spec.group_key: one.group or one.image or name, **({"image": one.image} if one.image else {})},
    )  # fmt: skip


def _records(
    run: RunDirectory, load: TaskLoad, matched: Matched, missing: Missing, space: str
) -> Iterator[GenerationRecord]:
    for place, sample in enumerate(load.samples):
        one, name = matched.answers.get(place), sample.sample_id
        if one is None:
            yield GenerationRecord(run=run.identity, sample_id=name, error=_NO_ANSWER if missing == "error" else "")
        elif one.prediction is None:
            yield GenerationRecord(run=run.identity, sample_id=name, error=_FAILED)
        else:
            yield GenerationRecord(
                run=run.identity, sample_id=name, text=encodable(_text(one, sample, space)), stop=one.stop
            )


def _text(one: Prediction, sample: Sample, space: str) -> str:
    """Return what was said; not where its writer found no box in it and we would."""
    text, size = one.prediction or "", sample.image_size
    if not one.boxes_are_read or one.predicted_box is not None or size is None:
        return text
    return "" if BOX_SPACES[space].read(text, size) else text


def _told(
    name: str, tasks: Sequence[_Task], workload: Workload, matched: Sequence[Matched], missing: Missing
) -> Iterator[str]:
    """Yield what must be said of the run, and say of each task what was found where, with examples."""
    files = "; ".join(task.what for task in tasks)
    unknown = ", ".join(_NOT_KNOWN)
    told = f"the answers of {name} come from files, medbench did not ask for them: {files}. Not known: {unknown}."
    yield f"IMPORTED: {told}"
    for task, load, one in zip(tasks, workload.loads, matched, strict=True):
        say(f"{task.what}: {len(one.answers)} of {len(task.found)} predictions matched by {one.way}.")
        left = [sample.sample_id for place, sample in enumerate(load.samples) if place not in one.answers]
        counted = "failures" if missing == "error" else "wrong answers"
        for many, of, what, first in (
            (len(left), len(load.samples), f"samples have no prediction and count as {counted}", left),
            (len(one.nowhere), len(task.found), "predictions answer no sample and are left out", one.nowhere),
            (len(one.others), len(one.answers), "predictions have another reference than their sample", one.others),
        ):
            if many:
                line = f"{task.what}: {many} of {of} {what}."
                shown = [place.where if isinstance(place, Prediction) else place for place in first[:_EXAMPLES]]
                warn(f"{line} The first: {', '.join(shown)}.")
                yield f"{name}, {line}"


def _info(about: About) -> ModelInfo:
    for name in about.trained_on or ():
        get_task(name)
    said = {
        "name": about.name, "title": about.name, **dict.fromkeys(("weights", "device", "dtype"), "unknown"),
        "trained_on": sorted(about.trained_on or ()), "declared": about.trained_on is not None,
        "parameters": about.parameters, "released": about.released, "open_weights": about.open_weights,
    }  # fmt: skip
    if not about.name.strip():
        raise UsageError("The model's name is empty.", "Give the name that tables are to show.")
    try:
        return _MODEL.validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        way_out = "A date is 2024, 2024-05 or 2024-05-13, a number of parameters is above 0."
        raise UsageError(f"{first['loc'][0]} of the model: {first['msg']}.", way_out) from error


def _imported(tasks: Sequence[_Task]) -> Imported:
    return Imported(
        files={task.spec.name: f"{task.source.path.name} sha256:{task.sha256}" for task in tasks},
        formats={task.spec.name: task.form for task in tasks}, unknown=_NOT_KNOWN,
    )  # fmt: skip
