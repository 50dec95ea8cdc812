"""A run beside one that asked in another way: what its answers rest on, and whether it falls further than its peers."""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from medbench.harness.merging import differences
from medbench.harness.results import Results, read_results
from medbench.harness.rundir import read_run
from medbench.leaderboard.audit.document import WORDS, Audit, TaskVerdict, Verdict, flat, p_text, plain, some, wording
from medbench.leaderboard.runs import mixture, notices_of, primary_metric
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.metrics.metric import Metric, mean_of_scores, score_statistics
from medbench.tasks.probes import PROBES, may_change
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.paired import Difference, difference, holm, levels_to_reach

ALPHA = 0.001
LEVEL_OF_DROPS = 0.05
LEAST_PEERS = 3
LEAST_GAP = 0.03
WITH_VERDICT = frozenset({"options-shuffled", "paraphrase"})
"""Probes that a model can only fall in more than its peers by knowing the questions as they stand."""
WRONG_KEYS = "wrong keys"
_SMALLEST_P = 0.0001
# Parts of a run's identity: what a user chose that decides answers, and what says no more than which they are.
_CHOSEN = ("arguments", "decoding", "dtype", "tasks ")
_TOLD_OTHERWISE = ("limit", "model", "own model", "probe", "suite", "tasks ", "weights")
_COLUMNS = ("task", "metric", "as it is", "probed", "drop [95 %]", "peers' drop", "gap [95 %]", "p (Holm)", "verdict")
_SEEN = {True: "falls", False: "no fall shown", None: "too few cases"}
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
    # Whether the drop is shown: interval above 0, p below 0.05, adjusted by Holm; None if none could be: too few cases.
    falls: bool | None
    gap: Difference | None  # drop minus the peers' mean drop, on samples that all scored; None without peers
    least_gap: float  # the smallest gap that would be suspicious 8 times of 10; NaN without a verdict, or where none is
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
    gaps, drops = [one.p for one in found if one.p is not None], [one.drop.p for one in found]
    beyond = iter(zip(holm(gaps), levels_to_reach(gaps, ALPHA), strict=True))
    for place, (p, level) in enumerate(zip(holm(drops), levels_to_reach(drops, LEVEL_OF_DROPS), strict=True)):
        one = found[place]
        falls = None if one.drop.least_p >= level else p < LEVEL_OF_DROPS and one.drop.low > 0
        found[place] = replace(one if one.p is None else _judged(name, one, *next(beyond)), falls=falls)
    return found


def _judged(name: str, one: ProbeFinding, p: float, level: float) -> ProbeFinding:
    """Return a finding with its adjusted p and its verdict; `level` is what the p itself must be below."""
    if name not in WITH_VERDICT or one.peers < LEAST_PEERS or one.gap is None:
        return replace(one, p=p)
    # The test has two sides, the verdict one. What comes out must also be 3 points, which a true 3 often is not.
    least = float(np.maximum(one.gap.detectable_at(2 * level), LEAST_GAP + one.gap.error))
    found = p < ALPHA and one.gap.value >= LEAST_GAP
    verdict: Verdict = "suspicious" if found else "no_evidence" if least < 1 else "not_testable"
    return replace(one, p=p, verdict=verdict, least_gap=least)


def _finding(
    task: str, kind: Kind, pair: Pair, peers: Sequence[Pair], protocol: Protocol, seed: int
) -> ProbeFinding | None:
    metric = primary_metric(kind, pair.plain.columns[protocol])
    if metric is None:
        return None

    def both(one: Pair) -> dict[str, tuple[float, float]]:
        plain, probed = (_values(table, protocol, metric) for table in one)
        return {name: (plain[name], probed[name]) for name in plain if name in probed}

    def compared(first: Sequence[float], second: Sequence[float], names: Iterable[str]) -> Difference | None:
        statistics = score_statistics(first), score_statistics(second)
        return difference(_MEAN, *statistics, pair.plain.groups_of(names), seed=seed)

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
        falls=None, peers=len(peers), peer_drop=float(np.mean(theirs)) if names else None, gap=gap, least_gap=np.nan,
        p=None if gap is None else gap.p / 2 if gap.value > 0 else 1 - gap.p / 2, verdict="not_testable",
    )  # fmt: skip


def _values(table: ScoreTable, protocol: Protocol, metric: str) -> dict[str, float]:
    """Return the per-sample values of a metric; samples without one are left out, never counted as zero."""
    return {
        record.sample_id: found.value
        for record in table.records
        if (found := record.scores(protocol).get(metric)) is not None and found.value is not None
    }


def read_wrong_keys(answers: Sequence[float]) -> TaskVerdict:
    """Return what the scores (1: the key's answer) on items whose key is known to be wrong say.

    With p of as many agreements or more, were every second one chance: `strong` if it is below 0.001, `not_testable` if
    with so few items it cannot be.
    """
    items, agreed = len(answers), sum(answer == 1 for answer in answers)
    p = float(stats.binom.sf(agreed - 1, items, 0.5))
    verdict: Verdict = "strong" if p < ALPHA else "no_evidence" if 0.5**items < ALPHA else "not_testable"
    said = f"the model agrees with {agreed} of {items}, p {p_text(p)}"
    return TaskVerdict(
        title=WRONG_KEYS, verdict=verdict, short=said, text=f"{said} were every second agreement chance",
        details={"items": items, "agreed": agreed, "p": p, "verdict": verdict},
    )  # fmt: skip


def audit_probe(
    run: Path, probed: Path | None, peers: Sequence[tuple[Path, Path]], wrong_gold: Path | None, protocol: Protocol
) -> Audit:
    """Set a run beside its probe, and its answers beside keys that are known to be wrong.

    `wrong_gold` has JSON lines with task and sample_id of items whose key is wrong. Raises UsageError if nothing was
    given to look at, or runs do not belong together or were not asked alike; DataError if a file is broken.
    """
    if probed is None and (peers or wrong_gold is None):
        way_out = "Give a second run, made with `medbench run --probe NAME`, or --wrong-gold FILE."
        raise UsageError("There is nothing to look at.", way_out)
    results = read_results(run)
    name, findings, notes = "", [], list(results.notices)
    if probed is not None:
        ours, *others = sides = [_sides(*pair) for pair in ((run, probed), *peers)]
        _refuse_apart(sides)
        name, kinds = ours.probed.probe, {task: results.tasks[task].kind for task in ours.tables}
        findings = read_probe(name, kinds, ours.tables, [one.tables for one in others], protocol, seed=results.seed)
        notes = [*filter(None, map(_asked_apart, sides)), *_notes(ours, {one.task for one in findings})]
    tasks = {one.task: _told(name, one) for one in findings}
    if wrong_gold is not None:
        answers, unmatched = _answers_to(run, results, wrong_gold, protocol)
        if unmatched:
            notes.append(f"The run has no score of {len(unmatched)} items with wrong keys: {some(unmatched)}.")
        tasks[WRONG_KEYS] = read_wrong_keys(answers)
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
    told = {True: "the scores fall on", False: "no fall is shown on", None: "there are too few cases to show a fall on"}
    tasks: dict[bool | None, list[str]] = {falls: [] for falls in told}
    for one in findings:
        values = f" ({100 * one.plain:.1f} to {100 * one.probed:.1f} %)" if one.falls else ""
        tasks[one.falls].append(one.task + values)
    parts = [f"{words} {some(tasks[falls])}" for falls, words in told.items() if tasks[falls]]
    said = f"{PROBES[name].asked} {'; '.join(parts)}."
    few = name in WITH_VERDICT and any(one.peers < LEAST_PEERS for one in findings)
    return f"{said} {wording('probe')['peers_wanted'].format(LEAST_PEERS)}" if few else said


def _told(name: str, one: ProbeFinding) -> TaskVerdict:
    why = f"too few {'cases' if one.peers >= LEAST_PEERS else 'peers'} for a verdict" if name in WITH_VERDICT else ""
    if one.verdict != "not_testable":
        why = f"a fall {100 * one.least_gap:.1f} points beyond that of the peers would be shown 8 times of 10"
    cells, short = _row(name, one), "" if one.verdict == "suspicious" else why
    return TaskVerdict(title=one.task, verdict=one.verdict, short=short, text=why, cells=cells, details=plain(one))


def _row(name: str, one: ProbeFinding) -> list[str]:
    def spread(found: Difference | None) -> str:
        values = () if found is None else (100 * found.value, 100 * found.low, 100 * found.high)
        return "{:+.2f} [{:+.1f}, {:+.1f}]".format(*values) if values else "-"

    seen = WORDS[one.verdict] if name in WITH_VERDICT else _SEEN[one.falls]
    peers = "-" if one.peer_drop is None else f"{100 * one.peer_drop:+.2f}"
    values = (f"{100 * one.plain:.2f}", f"{100 * one.probed:.2f}", spread(one.drop), peers, spread(one.gap))
    return [one.task, one.metric, *values, p_text(one.p, _SMALLEST_P), seen]


class _Sides(NamedTuple):
    """A run and its probe: both folders with what they say, and the scores of the tasks that both have."""

    folders: tuple[Path, Path]
    plain: Results
    probed: Results
    tables: Mapping[str, Pair]


def _sides(run: Path, probed: Path) -> _Sides:
    plain, other = read_results(run), read_results(probed)
    if plain.probe or not other.probe:
        way_out = "Give the plain run first, then that made with --probe."
        raise UsageError(f"{run} and {probed} are not a run and its probe.", way_out)
    if plain.model.weights != other.model.weights:
        raise UsageError(f"{run} and {probed} are of different weights.", "Probe the very model of the run.")
    return _Sides((run, probed), plain, other, {
        task: Pair(plain=read_score_table(run, plain, task), probed=read_score_table(probed, other, task))
        for task in plain.tasks if task in other.tasks
    })  # fmt: skip


def _refuse_apart(sides: Sequence[_Sides]) -> None:
    """Raise a UsageError unless all are of one probe and of the same data and metrics, each of another model."""
    probes, weights = {one.probed.probe for one in sides}, [one.plain.model.weights for one in sides]
    if len(probes) > 1:
        raise UsageError(f"These are several probes: {', '.join(sorted(probes))}.", "Give peers of the same probe.")
    if twice := [f"{one.folders[0]}" for one, own in zip(sides, weights, strict=True) if weights.count(own) > 1]:
        way_out = "Give each model once, the audited one not as its own peer."
        raise UsageError(f"These are runs of the same weights: {', '.join(twice)}.", way_out)
    # A suite is also that of tasks that are not compared.
    those = [replace(run, suite="custom", probe="") for one in sides for run in (one.plain, one.probed)]
    if (apart := mixture(those, tasks=sides[0].tables)) is not None:
        raise apart


def _asked_apart(one: _Sides) -> str:
    """Return what a run and its probe have apart that may change answers; a UsageError if a user chose it."""
    where = " and ".join(folder.name for folder in one.folders)
    try:
        ours, theirs = (dict(flat(plain(read_run(folder)["identity_of"]))) for folder in one.folders)
    except RunError as error:
        return f"Whether {where} were asked alike is not known: {error.problem}"
    # Greedy answers do not depend on the seed.
    known = _TOLD_OTHERWISE if "decoding temperature" in ours else (*_TOLD_OTHERWISE, "seed")
    limits = [f"tasks {task} max_new_tokens" for task in one.tables]
    names = {name for name in (*ours, *theirs) if name in limits or not name.startswith(known)}
    apart = {name: said for name, said in differences(ours, theirs).items() if name in names}
    if chosen := [said for name, said in apart.items() if name.startswith(_CHOSEN)]:
        raise UsageError(f"{where} differ in {', '.join(chosen)}.", "Probe with the settings of the run.")
    return f"{where} differ in {', '.join(apart.values())}, which may change answers too." if apart else ""


def _notes(ours: _Sides, found: Container[str]) -> Iterator[str]:
    """Yield what both runs say of themselves, and which tasks are not compared, by the reason."""
    probe, said = ours.probed.probe, tuple(one for one in ours.probed.notices if not one.startswith("PROBE "))
    yield from notices_of((ours.plain, replace(ours.probed, notices=said)), ("as it is", "probed"))
    why = defaultdict[str, list[str]](list)
    for task, one in ours.plain.tasks.items():
        if task not in found:
            unasked = "was not asked them" if may_change(probe, task, one.kind) else "changes nothing of them"
            why["has no sample scored both ways" if task in ours.tables else unasked].append(task)
    yield from (f"Not compared, as the probe {reason}: {', '.join(tasks)}." for reason, tasks in why.items())


def _answers_to(run: Path, results: Results, file: Path, protocol: Protocol) -> tuple[list[float], list[str]]:
    """Return the scores of the items that a file names, and those items that the run has no score of."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for number, line in read_numbered_json_lines(file):
        task, sample_id = line.get("task"), line.get("sample_id")
        if not isinstance(task, str) or not isinstance(sample_id, str):
            raise DataError(f"{file}, line {number} names no item.", 'Write {"task": "...", "sample_id": "..."}.')
        wanted[task].add(sample_id)
    answers: list[float] = []
    for task in sorted(wanted.keys() & results.tasks.keys()):
        table = read_score_table(run, results, task)
        values = _values(table, protocol, primary_metric(results.tasks[task].kind, table.columns[protocol]) or "")
        answers += [values[name] for name in values if name in wanted[task]]
        wanted[task].difference_update(values)
    unmatched = [f"{task}/{name}" for task, names in sorted(wanted.items()) for name in sorted(names)]
    if not answers:
        problem = f"{file} names no item that {run} has a score of{f': {some(unmatched)}' if unmatched else ''}."
        raise UsageError(problem, f"The run has {', '.join(results.tasks)}; scores/TASK.jsonl has their sample_id.")
    return answers, unmatched
