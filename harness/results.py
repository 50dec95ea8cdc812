"""`results.json`: the numbers of a run, small, sorted and diffable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, with_config

from medbench.harness.rundir import read_run
from medbench.tasks.catalog import benchmark_of
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.metrics.metric import Traits
from medbench.tasks.protocols import Protocol, State
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.intervals import Method
from medbench.tasks.suite import SuiteName
from medbench.tasks.validation import parse_json_file

RESULTS_FILE = "results.json"
SCHEMA: Literal[1] = 1
# A name of a task becomes a name of files.
TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
# A year, a month or a day; empty where nobody has said it.
PartOfADate = Annotated[str, StringConstraints(pattern=r"^(\d{4}(-\d\d(-\d\d)?)?)?$")]
_NO_LIMIT = 0.99995
_FEW_AT_LIMIT = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model the numbers belong to: its name on the command line, its title in tables, its weights' identity."""

    name: str
    title: str
    weights: str
    device: str
    dtype: str
    trained_on: tuple[str, ...]  # Tasks whose train splits these weights have seen.
    declared: bool = False  # Whether that was said at all; an empty list says nothing otherwise.
    # What a board is filtered by, where somebody has said it: how many, `2024`, `2024-05` or a day, whether everybody
    # can get the weights.
    parameters: Annotated[int, Field(gt=0)] | None = None
    released: PartOfADate = ""
    open_weights: bool | None = None

    def is_zero_shot_on(self, task: str) -> bool:
        """Return whether the model is known not to have seen a task's train split, in whatever way it was asked."""
        seen = {benchmark_of(name) for name in self.trained_on}
        return self.declared and benchmark_of(task) not in seen


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalInfo:
    """How an interval was made, see `medbench.tasks.statistics.intervals`; no design effect where none is defined."""

    method: Method
    clusters: Count
    design_effect: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One number with everything that is needed to read it."""

    value: Fraction | None  # Fraction from 0 to 1; None where nothing could be scored.
    ci: tuple[Fraction, Fraction] | None  # 95 % interval, or None.
    n: Count  # Samples that were scored; under `strict` all that did not fail.
    errors: Count  # Samples of this metric that failed: a server, memory or a file, not the model.
    unparsed: Count  # Samples whose answer could not be read.
    truncated: Count  # Samples whose answer or thought was cut off by the limit of tokens.
    empty: Count  # Samples without an answer.
    signature: str  # The exact definition behind the number.
    ceiling: Fraction | None = None  # What a perfect model scores that writes boxes like this one; None without boxes.
    interval: IntervalInfo | None = None  # How the interval was made; None if there is none.
    refused: Count = 0  # Samples that the model declined to answer.
    bounds: tuple[Fraction, Fraction] | None = None  # Had all failures been wrong, or right; None where nothing failed.
    answered: Fraction | None = None  # Share of the samples that did not fail whose answer could be read.
    among_answered: Fraction | None = None  # The value among those. Not to be compared: silence makes it rise.
    traits: Traits | None = None  # How it is read, of a metric that was asked for; None of those of the task.

    @property
    def limiting_ceiling(self) -> float | None:
        """The ceiling, if it lies so low that two decimals of a percentage show it."""
        return self.ceiling if self.ceiling is not None and self.ceiling < _NO_LIMIT else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How much a model wrote on a task, and how much of it it thought."""

    answers: int  # Samples that did not fail.
    at_limit: int  # Those that were ended by the limit of tokens.
    thinking: int = 0  # Those that begin with a thought.
    cut_thoughts: int = 0  # Those whose thought never ended.
    # Share of the written tokens that are thoughts, by characters where nobody counted those tokens; None where nobody
    # thought.
    thought_share: Fraction | None = None

    @property
    def limit_is_felt(self) -> bool:
        """Whether so many answers were cut off that the limit, not the model, decides the numbers."""
        return self.at_limit > _FEW_AT_LIMIT * self.answers


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The numbers of one task under both protocols."""

    title: str
    kind: Kind
    version: int  # Version of its declaration.
    data: str  # Fingerprint of the prepared data.
    samples: int  # Samples of the run, failed ones included.
    states: Mapping[State, int]  # Samples by state.
    paper: Mapping[str, MetricResult]
    strict: Mapping[str, MetricResult]
    written: Written | None = None  # How much the model wrote; None in files of earlier versions.
    licence: str = ""  # Under which the owner of the data says that they may be passed on; empty if nobody has said.

    def metrics(self, protocol: Protocol) -> Mapping[str, MetricResult]:
        """Return the metrics of a protocol."""
        return self.paper if protocol == "paper" else self.strict


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Where the answers of a run come from that somebody else made."""

    files: Mapping[TaskName, str]  # The name of each task's file and the SHA-256 of its bytes, as `name sha256:...`.
    formats: Mapping[TaskName, str]  # What each file was read as.
    unknown: tuple[str, ...]  # What is not known of it: prompts, decoding, hardware.


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The numbers of one run."""

    run: str  # Identity of the run.
    model: ModelInfo
    suite: SuiteName  # `mini`, `paper` (all counts are the paper's) or `custom`.
    limit: int | None  # Samples per task, None for all.
    seed: int
    notices: tuple[str, ...]  # What must be said beside the numbers.
    tasks: Mapping[TaskName, TaskResult]  # Results by task, in catalogue order.
    unsupported: tuple[str, ...]  # Tasks that the model cannot answer: empty cells, not zeros.
    probe: str = ""  # In which other way the questions were asked; empty for results.
    metrics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # Asked for, with their arguments.
    imported: Imported | None = None  # Whose answers these are, if medbench did not ask for them.
    schema: Literal[1] = field(default=SCHEMA)

    @property
    def title(self) -> str:
        """The model's title, with a mark if somebody else had its answers."""
        return f"{self.model.title} (imported)" if self.imported else self.model.title


for _record in (ModelInfo, Imported, IntervalInfo, Traits, MetricResult, Written, TaskResult, Results):
    with_config(ConfigDict(extra="forbid"))(_record)
_RESULTS = TypeAdapter(Results)


def write_results(path: Path, results: Results) -> None:
    """Write `results.json`."""
    write_atomically(path, canonical_json(_RESULTS.dump_python(results, mode="json"), indent=2) + "\n")


def read_results(run: Path) -> Results:
    """Return the results of a run; RunError if the folder is none or was not scored yet, DataError if malformed."""
    if not (run / RESULTS_FILE).exists():
        read_run(run)
        raise RunError(f"{run} has no {RESULTS_FILE}: the run is not finished.", "Give its command again.")
    return read_results_file(run / RESULTS_FILE)


def read_results_file(path: Path) -> Results:
    """Return the results in a `results.json`, wherever it lies. Raises DataError if it is malformed."""
    return parse_json_file(_RESULTS, path)


def percent(metric: MetricResult) -> str:
    """Return a number as a percentage with its interval and, where boxes limit it, its ceiling."""
    interval = f" [{100 * metric.ci[0]:.1f}, {100 * metric.ci[1]:.1f}]" if metric.ci else ""
    ceiling = "" if metric.limiting_ceiling is None else f" of {100 * metric.limiting_ceiling:.1f}"
    return "not scored" if metric.value is None else f"{100 * metric.value:6.2f}{interval}{ceiling}"


def felt_limits(tasks: Mapping[str, TaskResult]) -> tuple[str, ...]:
    """Return a line if the limit of tokens, not the model alone, decides numbers: of which tasks; else nothing."""
    felt = [(name, one) for name, task in tasks.items() if (one := task.written) is not None and one.limit_is_felt]
    if not felt:
        return ()
    told = "; ".join(_cut_off(name, one) for name, one in felt)
    raised = f"Raise it with --max-new-tokens N, or for some tasks with --max-new-tokens {felt[0][0]}=N"
    return (f"Answers were cut off by the limit of tokens: {told}. Under `strict` they are wrong. {raised}.",)


def _cut_off(name: str, one: Written) -> str:
    thoughts = f", {one.cut_thoughts} of them in the midst of a thought" if one.cut_thoughts else ""
    return f"{name} {one.at_limit} of {one.answers} ({100 * one.at_limit / one.answers:.0f} %){thoughts}"
