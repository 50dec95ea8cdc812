"""What a report is made of: the folders of its runs, and the prepared data where they are still to be found."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from medbench.harness.results import Results, read_results
from medbench.harness.rundir import RunDirectory, read_run
from medbench.harness.settings import CHOOSING, Settings
from medbench.leaderboard.audit.document import VERDICTS, headline_of, strongest
from medbench.leaderboard.compare import Side
from medbench.leaderboard.runs import AUDIT_FILE, in_catalogue_order, is_credentialed
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import JsonObject, read_json, read_numbered_json_lines
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.suite import prepare_mini_suite

_PHASES = ("seconds", "background_seconds", "efficiency", "counts", "tasks")
_LONGEST = 2000
_ABOUT: Mapping[Kind, str] = {"qa": "{question}", "vqa": "{question}", "rec": "{object}", "reg": "{box}"}


class RawAnswer(NamedTuple):
    """What is shown of a line of generations."""

    text: str
    stop: str
    tokens: int  # that were written
    error: str


NO_ANSWER = RawAnswer(text="", stop="", tokens=0, error="")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource(Side):
    """One run; only its results must be there, `missing` tells people what else is not."""

    generations: Mapping[str, Mapping[str, RawAnswer]] = field(default_factory=dict)  # by task and sample
    document: Mapping[str, Any] = field(default_factory=dict)  # run.yaml
    environment: Mapping[str, Any] | None = None  # env.json
    audit: Any = None  # audit/audit.json
    missing: Sequence[str] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the user asked for."""
        return _mapping(self.document.get("settings"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSource:
    """The prepared data of one task, as far as they are there; `missing` says why they are not."""

    spec: TaskSpec | None  # None for a task that this installation does not know
    samples: Mapping[str, Sample]
    folder: Path | None  # what its images are relative to
    withheld: bool  # texts and images are left out, since access to them needs a signed agreement
    missing: str = ""


def tasks_of(runs: Sequence[RunSource]) -> list[str]:
    """Return the tasks that any of the runs has, in catalogue order."""
    return in_catalogue_order(name for run in runs for name in run.results.tasks)


def read_run_source(path: Path) -> RunSource:
    """Read the folder of a run; raises like `read_results`."""
    results = read_results(path)
    directory = RunDirectory(path=path, identity=results.run)
    missing: list[str] = []
    tables: dict[str, ScoreTable] = {}
    generations: dict[str, dict[str, RawAnswer]] = {}
    for task in results.tasks:
        what = f"Samples of {task}"
        try:
            tables[task] = read_score_table(path, results, task)
            what, file = f"Raw answers to {task}", directory.generations(task, ()).path
            if not file.is_file():
                missing.append(f"{what}: {file.relative_to(path)} is missing.")
                continue
            lines = read_numbered_json_lines(file, torn_tail="drop")
            generations[task] = {str(line.get("sample_id")): _raw_answer(line, results) for _, line in lines}
        except MedbenchError as error:
            missing.append(f"{what}: {_without(path, error)}")
    document, environment = _optional(path, "run.yaml", missing), _optional(path, "env.json", missing)
    audit = _optional(path, str(AUDIT_FILE), missing) if (path / AUDIT_FILE).is_file() else None
    return RunSource(
        results=results, tables=tables, generations=generations, audit=audit, missing=missing,
        document=_mapping(document), environment=environment if isinstance(environment, dict) else None,
    )  # fmt: skip


def _raw_answer(line: JsonObject, results: Results) -> RawAnswer:
    text, stop, error = (str(line.get(name, "")) for name in ("text", "stop", "error"))
    # Why somebody else's answer ended is known only where it was cut off.
    stop = "" if results.imported and stop == "eos" else stop
    tokens = line.get("output_tokens")
    return RawAnswer(text=text, stop=sys.intern(stop), tokens=tokens if isinstance(tokens, int) else 0, error=error)


def _optional(path: Path, name: str, missing: list[str]) -> Any:  # noqa: ANN401 - a document may hold anything
    try:
        return read_run(path) if name == "run.yaml" else read_json(path / name)
    except (MedbenchError, ValueError, RecursionError) as error:
        missing.append(f"{name}: {_without(path, error)}")
        return None


def _without(path: Path, error: Exception) -> str:
    # The way to a folder is nobody's business who reads a report.
    problem = error.problem if isinstance(error, MedbenchError) else str(error)
    return problem.replace(f"{path}/", "").replace(str(path), "the folder")


def read_task_source(task: str, runs: Sequence[RunSource], data_dir: Path | None, *, reveal: bool) -> TaskSource:
    """Find the prepared data that runs answered; credentialed texts and images are withheld unless `reveal`."""
    run = next(run for run in runs if task in run.results.tasks)
    spec, samples, missing, folder = None, dict[str, Sample](), "", data_dir
    with suppress(UsageError):
        spec = get_task(task)
    try:
        folder = data_dir or _data_dir(run)
        prepared = load_prepared(folder, task)
        if prepared.manifest.data_fingerprint != run.results.tasks[task].data:
            raise DataError("The prepared data are not those that the run answered.")
        samples = {sample.sample_id: sample for sample in prepared.samples("test")}
        folder = prepared.source
    except MedbenchError as error:
        missing = error.problem if folder is None else _without(folder, error)
        folder, samples = None, {}
    if spec is not None and all(one.results.imported for one in runs if task in one.results.tasks):
        # How somebody else asked is not known, only what about.
        spec = replace(spec, prompt=_ABOUT.get(spec.kind, ""))
    withheld = not reveal and is_credentialed(run.results, task)
    return TaskSource(spec=spec, samples=samples, folder=folder, withheld=withheld, missing=missing)


def _data_dir(run: RunSource) -> Path:
    named = run.settings.get("data_dir")
    if isinstance(named, str):
        if not Path(named).is_dir():
            raise DataError("The prepared data are no longer where the run found them.")
        return Path(named)
    if run.results.suite == "mini":
        return prepare_mini_suite()
    raise DataError("The run does not say where its prepared data are.")


def provenance(run: RunSource) -> list[dict[str, Any]]:
    """Return tables of name and value that identify a run; nothing in them names a folder of this machine."""
    results, environment, model = run.results, run.environment or {}, run.results.model
    source = results.imported
    parts = _mapping(run.document.get("identity_of"))
    trained_on = ", ".join(model.trained_on) or "none of these tasks, as far as is known"
    tables = {
        "Run": {
            "identity": results.run, "suite": results.suite,
            "samples per task": "all" if results.limit is None else f"the first {results.limit}", "seed": results.seed,
        },
        "Model": {
            "name": model.name, "weights": model.weights, "device": model.device, "type": model.dtype,
            "trained on the train split of": trained_on, "choices": parts.get("arguments", {}),
        },
        "Imported": {} if source is None else asdict(source),
        "Decoding": _decoding(run.settings) if source is None else {},
        "Code": {
            "medbench, all": environment.get("code"), "medbench, what answers depend on": parts.get("code"),
            "python": environment.get("python"), **_mapping(environment.get("packages")),
        },
        "Machine" if source is None else "Machine of the scoring": _mapping(environment.get("machine")),
        "Data": {
            name: f"{task.data} (version {task.version}, {task.samples:,} samples)"
            for name, task in results.tasks.items()
        },
    }  # fmt: skip
    return [{"title": title, "rows": rows} for title, table in tables.items() if (rows := lines(table))]


def _decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    if not settings:
        return {}
    default = Settings(model="")
    chosen = {name: settings.get(name, getattr(default, name)) for name in CHOOSING}
    greedy = all(chosen[name] == getattr(default, name) for name in CHOOSING)
    names = {"batch_size": "most rows at a time", "compile": "torch.compile"}
    return {
        "way": "greedy, the likeliest token" if greedy else "as chosen below",
        **{name.replace("_", " "): value for name, value in chosen.items()},
        **{label: settings.get(name) for name, label in names.items() if settings.get(name)},
    }


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def lines(value: object) -> list[list[str]]:
    """Return nested plain values as rows of name and text, names joined by points; empty values are left out."""
    return [[name, text] for name, text in _flat("", value) if text]


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), one)
    elif isinstance(value, list | tuple):
        yield name, ", ".join(_plain(one) for one in value)
    else:
        yield name, _plain(value)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)[:_LONGEST]


def timing(run: RunSource) -> dict[str, Any] | None:
    """Return seconds by phase and what the engine says of itself, or None if the run recorded nothing."""
    if run.environment is None:
        return None
    phases = _mapping(run.environment.get("phases"))
    engine = {name: value for name, value in _mapping(run.environment.get("engine")).items() if name != "routing"}
    found = {name: _finite(phases.get(name)) for name in _PHASES}
    return {**found, "engine": lines(engine)} if any(found.values()) or engine else None


def _finite(value: object) -> dict[str, Any]:
    there = [(str(name), one) for name, one in _mapping(value).items() if isinstance(one, dict) or _is_number(one)]
    return {name: _finite(one) if isinstance(one, dict) else one for name, one in there}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def routing(environment: Mapping[str, Any] | None) -> dict[str, list[float]] | None:
    """Return the weights of Uni-Med's experts by kind of task in a run's `env.json`, or None if there are none."""
    recorded = _mapping(_mapping((environment or {}).get("engine")).get("routing"))
    rows = [(str(kind), row) for kind, row in recorded.items() if isinstance(row, list) and row]
    return {kind: row for kind, row in rows if all(map(_is_number, row))} or None


def audit_verdict(run: RunSource) -> dict[str, Any] | None:
    """Return an audit's strongest verdict, the sentence over it, and what to do next; None without an audit."""
    if run.audit is None:
        return None
    document = _mapping(run.audit)
    titles = {name: task.title for name, task in run.results.tasks.items()}
    told = _mapping(document.get("verdicts")).values()
    verdict = strongest((one for one in told if one in VERDICTS), incomplete=False)
    steps = document.get("next")
    return {
        "verdict": verdict, "headline": headline_of(document, titles)[:_LONGEST],
        "next": [_plain(one) for one in steps] if isinstance(steps, list) else [],
    }  # fmt: skip


def routing_of(path: Path) -> dict[str, list[float]] | None:
    """Return the same of the folder of a run."""
    environment = _optional(path, "env.json", [])
    return routing(environment if isinstance(environment, dict) else None)


def audit_findings(run: RunSource, withheld: Sequence[str]) -> list[dict[str, Any]]:
    """Return what an audit found, as a list of task, verdict, text and further lines.

    `audit.json` holds a list of findings, or a mapping with them under `findings`; each is a mapping with `task`,
    `verdict`, `text` and whatever else, or stands under its task's name. Of tasks that are withheld only the verdict
    remains, since the evidence of a leak is text of patients.
    """
    document = run.audit
    found = document.get("findings", document) if isinstance(document, dict) else document
    if isinstance(found, dict):
        found = [{"task": name, **one} for name, one in found.items() if isinstance(one, dict)]
    shown = []
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            said = {name: _plain(one.get(name)) for name in ("task", "verdict", "text")}
            rest: list[list[str]] = lines({name: value for name, value in one.items() if name not in said})
            hidden = said["task"] in withheld
            shown.append(
                {**said, **({"text": ""} if hidden else {}), "rows": [] if hidden else rest, "withheld": hidden}
            )
    return shown
