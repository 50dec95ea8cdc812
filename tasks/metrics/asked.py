"""Metrics that a user asks for by name (`--metric`), beside those that a task always has.

They are told under `strict`, in which a model's silence is a wrong answer, and never decide a task: they describe. Ours
stand in `ASKED`; other distributions add theirs through entry points of the group `medbench.metrics`. What makes a
number of the statistics is one of three named ways (`AGGREGATES`), so that everybody who has the run's folder can
compare and resample it, also without the library, the weights or the server that scored it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from medbench.tasks.foundation.errors import MedbenchError, UsageError, described, unknown_name
from medbench.tasks.foundation.registry import Registry
from medbench.tasks.metrics.answers import macro_f1, macro_f1_weights, micro_f1, micro_f1_weights
from medbench.tasks.metrics.metric import Aggregate, FloatArray, Metric, Scorable, Traits, everything, mean_of_scores
from medbench.tasks.spec import Kind, TaskSpec

Statistics = Callable[[Sequence[Scorable]], FloatArray]
_Compute = Callable[[FloatArray], FloatArray]
AGGREGATES: Mapping[Aggregate, tuple[_Compute, _Compute | None]] = {
    "mean": (mean_of_scores, None),
    "micro_f1": (micro_f1, micro_f1_weights),
    "macro_f1": (macro_f1, macro_f1_weights),
}
"""By name: the number of a sum of statistics, and what of it hangs on each sample. `mean` has the columns (score,
count); `micro_f1` hits, false alarms and misses; `macro_f1` the hits of C classes, their false alarms, their misses."""
_COLUMNS: Mapping[Aggregate, int] = {"mean": 2, "micro_f1": 3, "macro_f1": 3}
_SLACK = 1e-9
_AUTHORS = "Ask its authors, or leave it out."
_COUNTS = "Statistics are counts or scores, finite, or a whole row of NaN for a sample that could not be scored."
_WHOSE = "Write --metric-arg METRIC:NAME=VALUE, METRIC as in --metric and without what stands behind its colon."
_EXAMPLE = (
    "`medbench metrics` lists what can be asked for; `medbench score RUN --metric none` leaves out what a run has."
)
NO_METRIC = "none"
"""Asks for no metric, where a run has numbers of some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOptions:
    """What a user said of a metric."""

    variant: str = ""  # What stands behind the colon of `--metric NAME:VARIANT`.
    arguments: Mapping[str, str] = field(default_factory=dict)  # Those of `--metric-arg`, by name.
    # Where it may keep what was dear to make, for the next time; None while it is only looked at.
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """One line of the catalogue of metrics that can be asked for; what a plug-in registers."""

    summary: str  # In a sentence: what it says of an answer.
    kinds: frozenset[Kind]
    cost: str  # Of a sample, in words.
    # The metrics; refuses arguments and what is not installed, and loads and sends nothing before a metric scores.
    build: Callable[[MetricOptions], Sequence[Metric]]
    # Why it is not for a task of its kinds, also as its data may not go where it sends them; empty if it is.
    refuses: Callable[[TaskSpec, MetricOptions], str] = lambda *_: ""
    arguments: Mapping[str, str] = field(default_factory=dict)  # What `--metric-arg` may say, with its meaning.
    variant: str = ""  # What stands behind the colon, if something must.
    # What must be said beside the numbers and before they are made: that answers leave the machine.
    notice: Callable[[MetricOptions], str] = lambda _: ""


ASKED: Registry[MetricEntry] = Registry(
    "metric",
    {"chexbert": "medbench.tasks.metrics.clinical:CHEXBERT", "radgraph": "medbench.tasks.metrics.clinical:RADGRAPH",
     "judge": "medbench.harness.judge:JUDGE"},
    "medbench.metrics", MetricEntry,
)  # fmt: skip


def asked_metric(
    metric_id: str, signature: str, statistics: Statistics, *, aggregate: Aggregate = "mean",
    higher_is_better: bool = True, low: float = 0.0, high: float = 1.0,
    applies: Callable[[Scorable], bool] = everything,
) -> Metric:  # fmt: skip
    """Return a metric whose `statistics` are [N, K] of N scorables, as `AGGREGATES` says; a row of NaN scores nothing.

    Scores of a `mean` that go from `low` to `high` are shown as the part of that way, from 0 to 1, and the signature
    says so. What else can change a number (a model, its version, letter case, an average) belongs into `signature`.
    """
    compute, weights = AGGREGATES[aggregate]
    way = [] if (low, high) == (0.0, 1.0) else [f"of={low:g}..{high:g}"]
    parts = [metric_id, signature, *way, aggregate, *([] if higher_is_better else ["lower-is-better"]), "strict"]
    return Metric(
        metric_id=metric_id, signature="|".join(filter(None, parts)), compute=compute, weights=weights,
        applies=applies, statistics=partial(_checked, metric_id, aggregate, statistics, low, high),
        traits=Traits(aggregate=aggregate, higher_is_better=higher_is_better),
    )  # fmt: skip


def as_read(metric_id: str, traits: Traits) -> Metric:
    """Return a metric as one has it who only reads its numbers: it cannot score."""
    compute, weights = AGGREGATES[traits.aggregate]
    width = _COLUMNS[traits.aggregate]
    return Metric(
        metric_id=metric_id, signature="", compute=compute, weights=weights, traits=traits,
        statistics=lambda scorables: np.full((len(scorables), width), np.nan),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One metric that was asked for."""

    name: str  # As on the command line, with its variant.
    entry: MetricEntry
    options: MetricOptions

    def why_not(self, spec: TaskSpec) -> str:
        """Return why it is not for a task; empty if it is."""
        if spec.kind not in self.entry.kinds:
            return f"it is for tasks of the kind {' or '.join(sorted(self.entry.kinds))}"
        return self.entry.refuses(spec, self.options)

    def metrics(self, spec: TaskSpec, folder: Path) -> tuple[Metric, ...]:
        """Return its metrics for a task, none if it is not for it; in `folder` it may keep what was dear to make."""
        return () if self.why_not(spec) else self.built(folder / self.name.partition(":")[0])

    def built(self, folder: Path | None = None) -> tuple[Metric, ...]:
        """Return its metrics; MedbenchError if a plug-in fails in making them."""
        try:
            return tuple(self.entry.build(replace(self.options, folder=folder)))
        except MedbenchError:
            raise
        except Exception as error:
            raise MedbenchError(f"The metric {self.name} cannot be made: {described(error)}.", _AUTHORS) from error


def wanted_metrics(names: Sequence[str], arguments: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the arguments of each metric that a command line names, given all of them by `METRIC:NAME`.

    UsageError if one is named twice, or an argument is of none of them.
    """
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise UsageError(f"--metric {twice[0]} was given twice.", "Give it once.")
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    for key, value in arguments.items():
        metric, colon, argument = key.partition(":")
        whose = [name for name in names if colon and name.partition(":")[0] == metric]
        if not whose:
            told = f"--metric-arg {key}={value} is of no metric of this command ({', '.join(names) or 'none'})."
            raise UsageError(told, _WHOSE)
        for name in whose:
            found[name][argument] = value
    return found


def read_asked(wanted: Mapping[str, Mapping[str, str]]) -> tuple[Asked, ...]:
    """Return metrics by `NAME` or `NAME:VARIANT` with their arguments; nothing is loaded or sent.

    UsageError if there is no such metric, or an argument is not its own; RunError if it needs what is not installed.
    """
    asked = tuple(_asked(name, arguments) for name, arguments in wanted.items())
    owners: dict[str, str] = {}
    for one in asked:
        for metric in one.built():
            if (other := owners.setdefault(metric.metric_id, one.name)) != one.name:
                problem = f"--metric {other} and --metric {one.name} both bring {metric.metric_id}."
                raise UsageError(problem, "Ask for one of them; the other in a run of its own.")
    return asked


def _asked(word: str, arguments: Mapping[str, str]) -> Asked:
    name, _, variant = word.partition(":")
    try:
        entry = ASKED.load(name)
    except UsageError as error:
        raise UsageError(error.problem, f"{error.hint} {_EXAMPLE}") from None
    if bool(variant) != bool(entry.variant):
        wanted = f"--metric {name}:{entry.variant}" if entry.variant else f"--metric {name}"
        raise UsageError(f"--metric {word} is not how {name} is asked for.", f"Write {wanted}.")
    for argument in arguments:
        if argument not in entry.arguments:
            raise unknown_name(f"argument of the metric {name}", argument, entry.arguments)
    return Asked(name=word, entry=entry, options=MetricOptions(variant=variant, arguments=arguments))


def notices_of(asked: Sequence[Asked]) -> list[str]:
    """Return what must be said of metrics beside their numbers: that answers left the machine."""
    return [notice for one in asked if (notice := one.entry.notice(one.options))]


def refuse_useless(asked: Sequence[Asked], specs: Sequence[TaskSpec]) -> list[str]:
    """Return a line for each task that a metric of its kind is not for; UsageError if one is for none of the tasks."""
    lines = []
    for one in asked:
        reasons = {spec.title: one.why_not(spec) for spec in specs}
        if all(reasons.values()):
            told = "; ".join(f"{title}: {reason}" for title, reason in reasons.items())
            raise UsageError(f"--metric {one.name} is for none of the tasks ({told}).", "Leave it out.")
        lines += [
            f"{spec.title} has no {one.name}: {reasons[spec.title]}."
            for spec in specs
            if spec.kind in one.entry.kinds and reasons[spec.title]
        ]
    return lines


def _checked(
    metric_id: str, aggregate: Aggregate, statistics: Statistics, low: float, high: float,
    scorables: Sequence[Scorable],
) -> FloatArray:  # fmt: skip
    """Return statistics that are what they should be; MedbenchError, with the metric's name, if they are not."""
    try:
        found = np.asarray(statistics(scorables), dtype=np.float64)
    except MedbenchError:
        raise
    except Exception as error:
        raise MedbenchError(f"The metric {metric_id} failed: {described(error)}.", _AUTHORS) from error
    columns, rows = _COLUMNS[aggregate], len(scorables)
    found = found.reshape(rows, columns) if not found.size and not rows else found
    right = found.shape == (rows, columns) if aggregate != "macro_f1" else _is_by_class(found, rows)
    if not right or np.isinf(found).any() or (aggregate != "mean" and (found < 0).any()):
        told = f"statistics of shape {list(found.shape)} for {rows} samples"
        raise MedbenchError(f"The metric {metric_id} gave {told}; {aggregate} has {columns} columns.", _COUNTS)
    if aggregate == "mean":
        found[:, 0] = (found[:, 0] - low * found[:, 1]) / (high - low)
        if ((found[:, 0] < -_SLACK) | (found[:, 0] > found[:, 1] + _SLACK)).any():
            raise MedbenchError(f"The metric {metric_id} gave a score outside of {low:g} to {high:g}.", _COUNTS)
        found[:, 0] = np.clip(found[:, 0], 0.0, found[:, 1])
    return found


def _is_by_class(found: FloatArray, rows: int) -> bool:
    return found.ndim == 2 and len(found) == rows and found.shape[1] > 0 and found.shape[1] % 3 == 0  # noqa: PLR2004
