"""A run beside one that asked in another way: what its answers rest on, and whether it falls further than its peers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from medbench.harness.results import Results, read_results
from medbench.leaderboard.audit.document import WORDS, Audit, TaskVerdict, Verdict, p_text, plain, some, wording
from medbench.leaderboard.runs import primary_metric
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.metrics.metric import Metric, mean_of_scores, score_statistics
from medbench.tasks.probes import PROBES
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.paired import Difference, difference, holm

ALPHA = 0.001
SHOWN = 0.05
LEAST_PEERS = 3
LEAST_GAP = 0.03
WITH_VERDICT = frozenset({"options-shuffled", "paraphrase"})
"""Probes that a model can only fall in more than its peers by knowing the questions as they stand."""
WRONG_KEYS = "wrong keys"
_SMALLEST_P = 0.0001
_COLUMNS = ("task", "metric", "as it is", "probed", "drop [95 %]", "peers' drop", "gap [95 %]", "p (Holm)", "verdict")
_MEAN = Metric(
    metric_id="value", signature="mean of per-sample values", statistics=lambda _: np.zeros((0, 2)),
    compute=mean_of_scores,
)  # fmt: skip


class Pair(NamedTuple):
    """The scores of one model on a task, as it is and as the probe asks."""

    plain: ScoreTable
    probed: ScoreTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFinding:
    """What a probe shows on one task."""

    task: str
    metric: str  # whose per-sample values are averaged: as the task is (`plain`), and as the probe asks (`probed`)
    plain: float
    probed: float
    drop: Difference  # the first minus the second, on samples scored both ways
    peers: int  # how many peers there are; `peer_drop` is their mean drop
    peer_drop: float | None
    falls: bool  # whether the drop is shown: its interval above 0, and p below 0.05, adjusted by Holm over the tasks
    gap: Difference | None  # drop minus the peers' mean drop, on samples that all scored; None without peers
    p: float | None  # one-sided p of a gap as large, adjusted by Holm over the tasks
    verdict: Verdict  # only probes that knowing by heart alone explains have one besides `not_testable`


def read_probe(
    name: str, kinds: Mapping[str, Kind], model: Mapping[str, Pair], peers: Sequence[Mapping[str, Pair]],
    protocol: Protocol, *, seed: int,
) -> list[ProbeFinding]:  # fmt: skip
    """Return what a probe, by its name, shows on every task that all have; the seed is that of the exchanges."""
    pairs = ((task, pair, [peer[task] for peer in peers if task in peer]) for task, pair in model.items())
    all_found = (_finding(task, kinds[task], pair, others, protocol, seed) for task, pair, others in pairs)
    found = [finding for finding in all_found if finding is not None]
    adjusted = iter(holm([finding.p for finding in found if finding.p is not None]))
    falls = [p < SHOWN for p in holm([finding.drop.p for finding in found])]
    for place, finding in enumerate(found):
        p = None if finding.p is None else next(adjusted)
        verdict: Verdict = "not_testable"
        if name in WITH_VERDICT and finding.peers >= LEAST_PEERS and finding.gap is not None and p is not None:
            verdict = "suspicious" if p < ALPHA and finding.gap.value >= LEAST_GAP else "no_evidence"
        found[place] = replace(finding, p=p, verdict=verdict, falls=falls[place] and finding.drop.low > 0)
    return found


def _finding(
    task: str, kind: Kind, pair: Pair, peers: Sequence[Pair], protocol: Protocol, seed: int
) -> ProbeFinding | None:
    metric = primary_metric(kind, pair.plain.columns[protocol])
    if metric is None:
        return None
    groups = {record.sample_id: record.group for record in pair.plain.records}

    def both(one: Pair) -> dict[str, tuple[float, float]]:
        plain, probed = (_values(table, protocol, metric) for table in one)
        return {name: (plain[name], probed[name]) for name in plain if name in probed}

    def compared(first: Sequence[float], second: Sequence[float], names: Iterable[str]) -> Difference | None:
        clusters = [groups[name] for name in names]
        return difference(_MEAN, score_statistics(first), score_statistics(second), clusters, seed=seed)

    ours, others = both(pair), [both(peer) for peer in peers]
    plain, probed = [one for one, _ in ours.values()], [one for _, one in ours.values()]
    drop = compared(plain, probed, ours)
    if drop is None:
        return None
    names = [name for name in ours if others and all(name in other for other in others)]
    theirs = [float(np.mean([other[name][0] - other[name][1] for other in others])) for name in names]
    gap = compared([ours[name][0] - ours[name][1] for name in names], theirs, names) if others else None
    return ProbeFinding(
        task=task, metric=metric, plain=float(np.mean(plain)), probed=float(np.mean(probed)), drop=drop,
        falls=False, peers=len(peers), peer_drop=float(np.mean(theirs)) if names else None, gap=gap,
        p=None if gap is None else gap.p / 2 if gap.value > 0 else 1 - gap.p / 2, verdict="not_testable",
    )  # fmt: skip


def _values(table: ScoreTable, protocol: Protocol, metric: str) -> dict[str, float]:
    """Return the per-sample values of a metric; samples without one are left out, never counted as zero."""
    return {
        record.sample_id: found.value
        for record in table.records
        if (found := record.scores(protocol).get(metric)) is not None and found.value is not None
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongKeys:
    """With how many keys that are known to be wrong a model agrees."""

    items: int
    agreed: int
    p: float  # of as many or more, were every second agreement chance
    verdict: Verdict  # `strong` if that is below 0.001, `not_testable` if no number of agreements could be


def read_wrong_keys(answers: Sequence[float]) -> WrongKeys:
    """Return what the scores (1: the key's answer) on items with wrong keys say."""
    items, agreed = len(answers), sum(answer == 1 for answer in answers)
    p = float(stats.binom.sf(agreed - 1, items, 0.5)) if items else 1.0
    testable = items > 0 and 0.5**items < ALPHA
    verdict: Verdict = "not_testable" if not testable else "strong" if p < ALPHA else "no_evidence"
    return WrongKeys(items=items, agreed=agreed, p=p, verdict=verdict)


def audit_probe(
    run: Path, probed: Path | None, peers: Sequence[tuple[Path, Path]], wrong_gold: Path | None, protocol: Protocol
) -> Audit:
    """Set a run beside its probe, and its answers beside keys that are known to be wrong.

    `wrong_gold` has JSON lines with task and sample_id of items whose key is wrong. Raises UsageError if nothing was
    given to look at, or runs do not belong together; DataError if a file is broken.
    """
    if probed is None and wrong_gold is None:
        raise UsageError("There is nothing to look at.", "Give a second run (--probe), or --wrong-gold FILE.")
    results = read_results(run)
    name, findings, notes = "", [], list(results.notices)
    if probed is not None:
        name, pairs = _pairs(run, probed)
        others = [_pairs(*peer, expected=name)[1] for peer in peers]
        kinds = {task: results.tasks[task].kind for task in pairs}
        findings = read_probe(name, kinds, pairs, others, protocol, seed=results.seed)
        if left_out := [task for task in results.tasks if task not in {one.task for one in findings}]:
            notes.append(f"Not compared, as the probe has no answers or no score there: {', '.join(left_out)}.")
    tasks = {
        one.task: TaskVerdict(title=one.task, verdict=one.verdict, cells=_row(name, one), details=plain(one))
        for one in findings
    }
    if wrong_gold is not None:
        wrong = read_wrong_keys(_answers_to(run, results, wrong_gold, protocol))
        said = f"the model agrees with {wrong.agreed} of {wrong.items}, p {p_text(wrong.p)}"
        tasks[WRONG_KEYS] = TaskVerdict(
            title=WRONG_KEYS, verdict=wrong.verdict, short=said, details=plain(wrong),
            text=f"{said} were every second agreement chance",
        )  # fmt: skip
    return Audit(
        kind="probe", title=f"Probe of {results.model.title}, protocol {protocol}",
        question=_reading(name) if name else "Does the model agree with keys that are known to be wrong?",
        run=results.run, tasks=tasks, columns=_COLUMNS, notes=notes, told=summary(name, findings),
        settings={"run": results.run, "probe": name, "protocol": protocol, "seed": results.seed},
    )  # fmt: skip


def _reading(name: str) -> str:
    verdict = wording("probe")["with_verdict" if name in WITH_VERDICT else "without_verdict"].format(LEAST_PEERS)
    return f"Probe {name}: {PROBES[name].meaning}. Values are means over samples scored both ways. {verdict}"


def summary(name: str, findings: Sequence[ProbeFinding]) -> str:
    """Return in a sentence where the scores fall; empty where nothing was compared."""
    if not findings:
        return ""
    falls = [f"{one.task} ({100 * one.plain:.1f} to {100 * one.probed:.1f} %)" for one in findings if one.falls]
    same = [one.task for one in findings if not one.falls]
    parts = [f"the scores fall on {some(falls)}"] if falls else []
    parts += [f"no fall is shown on {some(same)}"] if same else []
    said = f"{PROBES[name].asked} {'; '.join(parts)}."
    return f"{said} {wording('probe')['peers_wanted'].format(LEAST_PEERS)}" if name in WITH_VERDICT else said


def _row(name: str, one: ProbeFinding) -> list[str]:
    def spread(found: Difference | None) -> str:
        if found is None:
            return "-"
        return f"{100 * found.value:+.2f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"

    seen = WORDS[one.verdict] if name in WITH_VERDICT else "falls" if one.falls else "no fall shown"
    peers = "-" if one.peer_drop is None else f"{100 * one.peer_drop:+.2f}"
    values = (f"{100 * one.plain:.2f}", f"{100 * one.probed:.2f}", spread(one.drop), peers, spread(one.gap))
    return [one.task, one.metric, *values, p_text(one.p, _SMALLEST_P), seen]


def _pairs(run: Path, probed: Path, *, expected: str = "") -> tuple[str, dict[str, Pair]]:
    plain, other = read_results(run), read_results(probed)
    if plain.probe or not other.probe:
        raise UsageError(
            f"{run} and {probed} are not a run and its probe.", "Give the plain run first, then that made with --probe."
        )
    if expected and other.probe != expected:
        raise UsageError(f"{probed} is the probe {other.probe!r}, not {expected!r}.", "Give peers of the same probe.")
    if plain.model.weights != other.model.weights:
        raise UsageError(f"{run} and {probed} are of different weights.", "Probe the very model of the run.")
    shared = [task for task in plain.tasks if task in other.tasks]
    for task in shared:
        if plain.tasks[task].data != other.tasks[task].data:
            raise UsageError(f"{run} and {probed} answered different data of {task}.", "Probe the data of the run.")
    return other.probe, {
        task: Pair(plain=read_score_table(run, plain, task), probed=read_score_table(probed, other, task))
        for task in shared
    }


def _answers_to(run: Path, results: Results, file: Path, protocol: Protocol) -> list[float]:
    wanted: dict[str, set[str]] = defaultdict(set)
    for number, line in read_numbered_json_lines(file):
        task, sample_id = line.get("task"), line.get("sample_id")
        if not isinstance(task, str) or not isinstance(sample_id, str):
            raise DataError(f"{file}, line {number} names no item.", 'Write {"task": "...", "sample_id": "..."}.')
        wanted[task].add(sample_id)
    tables = {task: read_score_table(run, results, task) for task in sorted(wanted.keys() & results.tasks.keys())}
    if not tables:
        raise UsageError(f"{file} names no task of {run}.", f"The run has {', '.join(results.tasks)}.")
    answers: list[float] = []
    for task, table in tables.items():
        metric = primary_metric(results.tasks[task].kind, table.columns[protocol])
        values = _values(table, protocol, metric or "")
        answers += [values[name] for name in values if name in wanted[task]]
    return answers
