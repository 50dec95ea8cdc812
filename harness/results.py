"""`results.json`: the numbers of a run, small, sorted and diffable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.rundir import read_run
from tasks.foundation.errors import RunError
from tasks.foundation.files import canonical_json, read_json, write_atomically
from tasks.protocols import Protocol, State
from tasks.spec import Kind

SCHEMA = 1
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """One number with everything that is needed to read it.

    Attributes:
        value: Fraction from 0 to 1; None where nothing could be scored.
        ci: 95 % interval, or None.
        n: Samples that were scored.
        errors: Samples of this metric that failed.
        unparsed: Samples whose answer could not be read.
        truncated: Samples whose answer hit the length limit.
        empty: Samples without an answer.
        signature: The exact definition behind the number.
    """

    __pydantic_config__ = _STRICT

    value: float | None
    ci: tuple[float, float] | None
    n: int
    errors: int
    unparsed: int
    truncated: int
    empty: int
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The numbers of one task under both protocols.

    Attributes:
        title: Name in tables.
        kind: Kind of the task.
        version: Version of its declaration.
        data: Fingerprint of the prepared data.
        samples: Samples that were asked.
        states: Samples by state.
        paper: Metrics as the official scripts compute them.
        strict: Metrics as the paper's text and common sense say.
    """

    __pydantic_config__ = _STRICT

    title: str
    kind: Kind
    version: int
    data: str
    samples: int
    states: Mapping[State, int]
    paper: Mapping[str, MetricResult]
    strict: Mapping[str, MetricResult]

    def metrics(self, protocol: Protocol) -> Mapping[str, MetricResult]:
        """Return the metrics of a protocol."""
        return self.paper if protocol == "paper" else self.strict


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model the numbers belong to."""

    __pydantic_config__ = _STRICT

    name: str
    title: str
    weights: str
    device: str
    dtype: str
    trained_on: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The numbers of one run.

    Attributes:
        run: Identity of the run.
        model: The model.
        suite: `mini` or `paper`.
        limit: Samples per task, None for all.
        seed: Seed of the run.
        notices: What must be said beside the numbers.
        tasks: Results by task, in catalogue order.
        unsupported: Tasks that the model cannot answer: empty cells, not zeros.
        schema: Version of this layout.
    """

    __pydantic_config__ = _STRICT

    run: str
    model: ModelInfo
    suite: Literal["mini", "paper"]
    limit: int | None
    seed: int
    notices: tuple[str, ...]
    tasks: Mapping[str, TaskResult]
    unsupported: tuple[str, ...]
    schema: int = field(default=SCHEMA)


_RESULTS = TypeAdapter(Results)


def write_results(path: Path, results: Results) -> None:
    """Write `results.json`."""
    write_atomically(path, canonical_json(_RESULTS.dump_python(results, mode="json"), indent=2) + "\n")


def read_results(run: Path) -> Results:
    """Return the results of a finished run.

    Raises:
        RunError: If the folder is no run, is not finished, or its results are malformed.
    """
    path = run / "results.json"
    if not path.exists():
        read_run(run)
        raise RunError(f"{run} has no results.json: the run is not finished.", "Start the same command again.")
    try:
        return _RESULTS.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{path} is malformed at {where}: {first['msg']}.", "Make it again: medbench score RUN"
        ) from error
