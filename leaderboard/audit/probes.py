"""A run beside one that asked in another way: what its answers rest on, and whether it falls further than its peers.

A drop alone shows nothing: reordered options or another instruction may be harder for everybody. What counts is the
gap between a model's drop and that of at least three peers on the same samples, tested by exchanging clusters. Pictures
taken away or swapped show question priors, which are no leak: there the drop is told, and no verdict is given. A key
that is known to be wrong is another matter: honest models disagree with it, one that knows it by heart agrees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from medbench.leaderboard.audit.verdicts import Verdict
from medbench.leaderboard.runs import primary_metric
from medbench.leaderboard.samples import ScoreTable
from medbench.tasks.metrics.metric import Metric, mean_of_scores, score_statistics
from medbench.tasks.protocols import Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.statistics.paired import Difference, difference, holm

ALPHA = 0.001
LEAST_PEERS = 3
LEAST_GAP = 0.03
WITH_VERDICT = frozenset({"options-shuffled", "paraphrase"})
"""Probes that a model can only fall in more than its peers by knowing the questions as they stand."""
_MEAN = Metric(
    metric_id="value", signature="mean of per-sample values", statistics=lambda _: np.zeros((0, 2)),
    compute=mean_of_scores,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The scores of one model on a task, as it is and as the probe asks."""

    plain: ScoreTable
    probed: ScoreTable


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFinding:
    """What a probe shows on one task.

    Attributes:
        task: Name of the task.
        metric: Whose per-sample values are averaged.
        plain: Mean as the task is, a fraction.
        probed: Mean as the probe asks.
        drop: The first minus the second, on samples scored both ways.
        peers: How many peers there are.
        peer_drop: Mean drop of the peers; None without any.
        gap: Drop minus the peers' mean drop, on samples that all scored; None without peers.
        p: One-sided p of a gap as large, adjusted by Holm over the tasks.
        verdict: Only probes that knowing by heart alone explains have one besides `not_testable`.
    """

    task: str
    metric: str
    plain: float
    probed: float
    drop: Difference
    peers: int
    peer_drop: float | None
    gap: Difference | None
    p: float | None
    verdict: Verdict


def read_probe(
    name: str, kinds: Mapping[str, Kind], model: Mapping[str, Pair], peers: Sequence[Mapping[str, Pair]],
    protocol: Protocol, *, seed: int,
) -> list[ProbeFinding]:  # fmt: skip
    """Return what a probe shows on every task that all have.

    Args:
        name: Name of the probe.
        kinds: Kind of each task.
        model: Scores of the model by task.
        peers: Those of its peers.
        protocol: Whose definitions.
        seed: Of the exchanges.
    """
    found = [
        finding
        for task, pair in model.items()
        if (
            finding := _finding(task, kinds[task], pair, [peer[task] for peer in peers if task in peer], protocol, seed)
        )
    ]
    adjusted = iter(holm([finding.p for finding in found if finding.p is not None]))
    tested = [replace(finding, p=next(adjusted)) if finding.p is not None else finding for finding in found]
    return [replace(finding, verdict=_verdict(name, finding)) for finding in tested]


def _finding(
    task: str, kind: Kind, pair: Pair, peers: Sequence[Pair], protocol: Protocol, seed: int
) -> ProbeFinding | None:
    metric = primary_metric(kind, pair.plain.columns[protocol])
    if metric is None:
        return None
    plain, probed = _values(pair.plain, protocol, metric), _values(pair.probed, protocol, metric)
    names = [name for name in plain if name in probed]
    groups = {record.sample_id: record.group for record in pair.plain.records}
    drop = _difference([plain[name] for name in names], [probed[name] for name in names], names, groups, seed)
    if drop is None:
        return None
    gap, peer_drop = _gap(plain, probed, [_drops(peer, protocol, metric) for peer in peers], groups, seed)
    return ProbeFinding(
        task=task, metric=metric, plain=_mean(plain, names), probed=_mean(probed, names), drop=drop, peers=len(peers),
        peer_drop=peer_drop, gap=gap, p=None if gap is None else _one_sided(gap), verdict="not_testable",
    )  # fmt: skip


def _values(table: ScoreTable, protocol: Protocol, metric: str) -> dict[str, float]:
    """Return the per-sample values of a metric; samples without one are left out, never counted as zero."""
    return {
        record.sample_id: found.value
        for record in table.records
        if (found := record.scores(protocol).get(metric)) is not None and found.value is not None
    }


def _drops(peer: Pair, protocol: Protocol, metric: str) -> dict[str, float]:
    plain, probed = _values(peer.plain, protocol, metric), _values(peer.probed, protocol, metric)
    return {name: plain[name] - probed[name] for name in plain if name in probed}


def _gap(
    plain: Mapping[str, float], probed: Mapping[str, float], peers: Sequence[Mapping[str, float]],
    groups: Mapping[str, str], seed: int,
) -> tuple[Difference | None, float | None]:  # fmt: skip
    if not peers:
        return None, None
    names = [name for name in plain if name in probed and all(name in peer for peer in peers)]
    ours = [plain[name] - probed[name] for name in names]
    theirs = [float(np.mean([peer[name] for peer in peers])) for name in names]
    return _difference(ours, theirs, names, groups, seed), float(np.mean(theirs)) if names else None


def _difference(
    first: Sequence[float], second: Sequence[float], names: Sequence[str], groups: Mapping[str, str], seed: int
) -> Difference | None:
    clusters = [groups[name] for name in names]
    return difference(_MEAN, score_statistics(first), score_statistics(second), clusters, seed=seed)


def _mean(values: Mapping[str, float], names: Sequence[str]) -> float:
    return float(np.mean([values[name] for name in names]))


def _one_sided(gap: Difference) -> float:
    return gap.p / 2 if gap.value > 0 else 1 - gap.p / 2


def _verdict(name: str, finding: ProbeFinding) -> Verdict:
    if name not in WITH_VERDICT or finding.peers < LEAST_PEERS or finding.gap is None or finding.p is None:
        return "not_testable"
    return "suspicious" if finding.p < ALPHA and finding.gap.value >= LEAST_GAP else "no_evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongKey:
    """Whether a model agrees with keys that are known to be wrong.

    Attributes:
        items: Such items that it answered.
        agreed: With how many of their keys it agrees.
        p: Probability of as many, would it agree with every second one.
        verdict: `strong` if that is below 0.001, `not_testable` if no number of agreements could be.
    """

    items: int
    agreed: int
    p: float
    verdict: Verdict


def read_wrong_keys(answers: Sequence[float]) -> WrongKey:
    """Return what the scores (1: the key's answer) on items with wrong keys say."""
    items, agreed = len(answers), sum(answer == 1 for answer in answers)
    p = float(stats.binom.sf(agreed - 1, items, 0.5)) if items else 1.0
    testable = items > 0 and 0.5**items < ALPHA
    verdict: Verdict = "not_testable" if not testable else "strong" if p < ALPHA else "no_evidence"
    return WrongKey(items=items, agreed=agreed, p=p, verdict=verdict)
