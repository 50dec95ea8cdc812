"""Did a model's outputs repeat references more often than an honest model could? The decision, task by task.

Exact match alone proves nothing: an honest model that is right in 80 % of yes/no questions matches 80 % of them. What
counts are cases whose reference is long, new and their own (`eligibility`), against a small rate that is tolerated.
Where there are too few such cases the verdict is `not_testable`, never `no_evidence`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medbench.leaderboard.audit.eligibility import Reason
from medbench.leaderboard.audit.items import Cell
from medbench.leaderboard.audit.match_counts import MatchCounts, count_matches
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long
from medbench.leaderboard.audit.poisson_binomial import (
    chances_of,
    clopper_pearson,
    distribution,
    fewest_with,
    rate_found_with,
    tails,
    upper_bound,
)
from medbench.leaderboard.audit.sentence_skill import chances, sentence_skill
from medbench.leaderboard.audit.thresholds import THRESHOLDS, Thresholds
from medbench.leaderboard.audit.verdicts import Verdict
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.paired import holm

_SLACK = 1e-12

Attribution = Literal["none", "train_references", "unseen_references", "both", "unknown"]
RateSource = Literal["default", "peers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many of so many matched.

    Attributes:
        matches: Those that did.
        of: All.
    """

    matches: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share; None of nothing."""
        return self.matches / self.of if self.of else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another model on the same items.

    Attributes:
        name: Its title.
        run: Identity of its run.
        share: Its cases with a match, of those with an eligible reference.
        exact: All its exact matches.
    """

    name: str
    run: str
    share: Share
    exact: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The same test with longer references alone."""

    min_words: int
    k: int
    K: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellVerdict:
    """What is to be said of one model on one task.

    Attributes:
        n: Items.
        cases: Cases among them.
        K: Cases with an eligible reference.
        k: Those of them with an exact match.
        rate: k / K; None without any.
        ci: Its 95 % interval (Clopper-Pearson); None without any.
        p: Probability of k or more were each eligible reference reproduced at the tolerated rate.
        p_skill: The same with what the model's skill at single sentences explains; None where it explains nothing.
        skill: Upper bound of the share of single sentences that the model gets right; None where too few answers tell.
        p_holm: The larger of the two by Holm over the tasks that could be tested; None where this one could not.
        p0: The tolerated rate.
        p0_source: The default, or what peers reproduce at most.
        p_default: p at the default rate, where peers raised it.
        exact: Exact matches, whatever they are worth.
        exact_by_reason: The same by what they are worth; `eligible` ones count.
        items_by_reason: All items likewise.
        detectable_rate: Smallest share of K that would have been `strong` with 80 % power; None where none would.
        ref_in_train: Share of long references that are known training references; None if none are known.
        attribution: Where exact matches on long references fall: on references that are in the known training data,
            on unseen ones, on both, on none; unknown if no training data are known.
        in_train: Exact matches on long references that are in the known training data; None if none are known.
        not_in_train: Exact matches on the other long references.
        sensitivity: The test with longer references.
        peers: Other models on the same items.
        verdict: The verdict.
        version: Of the normaliser.
    """

    n: int
    cases: int
    K: int
    k: int
    rate: float | None
    ci: tuple[float, float] | None
    p: float
    p_skill: float | None
    skill: float | None
    p_holm: float | None
    p0: float
    p0_source: RateSource
    p_default: float
    exact: int
    exact_by_reason: Mapping[Reason, int]
    items_by_reason: Mapping[Reason, int]
    detectable_rate: float | None
    ref_in_train: float | None
    attribution: Attribution
    in_train: Share | None
    not_in_train: Share
    sensitivity: Sensitivity
    peers: tuple[Peer, ...]
    verdict: Verdict
    version: str = NORM_VERSION


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A verdict with the counts behind it, and for each of K cases the chance of an honest model [K]."""

    counts: MatchCounts
    chances: FloatArray
    verdict: CellVerdict

    @property
    def p(self) -> float:
        """The p that decides."""
        return self.verdict.p if self.verdict.p_skill is None else self.verdict.p_skill


def audit_outputs(
    cells: Mapping[str, Cell],
    peers: Mapping[str, Sequence[Peer]] | None = None,
    thresholds: Thresholds = THRESHOLDS,
) -> dict[str, Judged]:
    """Judge a model on several tasks at once.

    Args:
        cells: Its answers by task; the order changes nothing.
        peers: By task, other models on the same items.
        thresholds: Where the lines are.

    Returns:
        Counts and verdict by task, in the order given.
    """
    found = {task: _tested(cell, (peers or {}).get(task, ()), thresholds) for task, cell in cells.items()}
    family = [task for task, one in found.items() if one.counts.clusters >= thresholds.fewest_clusters]
    adjusted = dict(zip(family, holm([found[task].p for task in family]), strict=True))
    return {
        task: replace(one, verdict=_decided(one, adjusted.get(task), len(family), thresholds))
        for task, one in found.items()
    }


def _tested(cell: Cell, peers: Sequence[Peer], thresholds: Thresholds) -> Judged:
    counts = count_matches(cell, thresholds.min_words)
    rate, source = tolerated_rate(peers, thresholds)
    longer = count_matches(cell, thresholds.sensitive_words)
    cases, matches = counts.clusters, counts.matches
    skill = sentence_skill(cell, counts, thresholds)
    honest = chances(cell, counts, rate, skill, thresholds)
    p, p_skill = p_value(counts, rate), float(tails(distribution(honest))[matches])
    in_train, not_in_train = _by_training(cell, counts, thresholds.min_words)
    return Judged(
        counts=counts,
        chances=honest,
        verdict=CellVerdict(
            n=len(cell.items),
            cases=len(set(cell.groups)),
            K=cases,
            k=matches,
            rate=matches / cases if cases else None,
            ci=clopper_pearson(matches, cases) if cases else None,
            p=p,
            p_skill=p_skill if (honest > chances_of(counts.sizes, rate) + _SLACK).any() else None,
            skill=skill.rate,
            p_holm=None,
            p0=rate,
            p0_source=source,
            p_default=p_value(counts, thresholds.tolerated_rate),
            exact=sum(counts.exact),
            exact_by_reason=counts.exact_by_reason,
            items_by_reason=counts.items_by_reason,
            detectable_rate=None,
            ref_in_train=_share_in_train(in_train, not_in_train),
            attribution=_attribution(in_train, not_in_train),
            in_train=in_train,
            not_in_train=not_in_train,
            sensitivity=Sensitivity(
                min_words=thresholds.sensitive_words, k=longer.matches, K=longer.clusters, p=p_value(longer, rate)
            ),
            peers=tuple(peers),
            verdict="not_testable",
        ),
    )


def tolerated_rate(peers: Sequence[Peer], thresholds: Thresholds) -> tuple[float, RateSource]:
    """Return the rate that an honest model may have, and where it comes from."""
    cases = sum(peer.share.of for peer in peers)
    if len(peers) < thresholds.fewest_peers or not cases:
        return thresholds.tolerated_rate, "default"
    pooled = upper_bound(sum(peer.share.matches for peer in peers), cases)
    return (pooled, "peers") if pooled > thresholds.tolerated_rate else (thresholds.tolerated_rate, "default")


def p_value(counts: MatchCounts, rate: float) -> float:
    """Return the probability of as many cases with a match or more, at a rate for each reference."""
    return float(tails(distribution(chances_of(counts.sizes, rate)))[counts.matches])


def _decided(one: Judged, p_holm: float | None, family: int, thresholds: Thresholds) -> CellVerdict:
    found = one.verdict
    if p_holm is None:
        return found
    strong = found.k >= thresholds.fewest_matches and p_holm <= thresholds.alpha
    suspicious = found.k >= thresholds.fewest_suspicious and is_surprising(found, thresholds)
    return replace(
        found,
        p_holm=p_holm,
        detectable_rate=detectable_rate(one.chances, family, thresholds),
        verdict="strong" if strong else "suspicious" if suspicious else "no_evidence",
    )


def is_surprising(found: CellVerdict, thresholds: Thresholds) -> bool:
    """Return whether neither the tolerated rate nor the model's skill at sentences explains the matches."""
    beyond_skill = found.p_skill is None or found.p_skill <= thresholds.skill_alpha
    return found.p <= thresholds.suspicious_alpha and beyond_skill


def detectable_rate(honest: FloatArray, family: int, thresholds: Thresholds) -> float | None:
    """Return the smallest share of K that would be `strong` with the thresholds' power, were it the only leak.

    Args:
        honest: For each of K cases the chance of an honest model [K].
        family: Tasks that could be tested.
        thresholds: Where the lines are.
    """
    needed = fewest_with(tails(distribution(honest)), thresholds.alpha / family, thresholds.fewest_matches)
    return None if needed is None else rate_found_with(thresholds.power, needed, len(honest))


def _by_training(cell: Cell, counts: MatchCounts, min_words: int) -> tuple[Share | None, Share]:
    """Return the exact matches on long references that are in the known training data, and on those that are not."""
    known = cell.train_references
    free = [not item.closed and is_long(reference, min_words)
            for item, reference in zip(cell.items, cell.references, strict=True)]  # fmt: skip
    seen = [known is not None and reference in known for reference in cell.references]
    exact = np.asarray(counts.exact, dtype=bool)
    within = np.asarray(free, dtype=bool) & np.asarray(seen, dtype=bool)
    outside = np.asarray(free, dtype=bool) & ~np.asarray(seen, dtype=bool)
    new = Share(matches=int((exact & outside).sum()), of=int(outside.sum()))
    if known is None:
        return None, new
    return Share(matches=int((exact & within).sum()), of=int(within.sum())), new


def _share_in_train(in_train: Share | None, not_in_train: Share) -> float | None:
    long = 0 if in_train is None else in_train.of + not_in_train.of
    return None if in_train is None or not long else in_train.of / long


def _attribution(in_train: Share | None, not_in_train: Share) -> Attribution:
    if in_train is None:
        return "unknown" if not_in_train.matches else "none"
    if in_train.matches and not_in_train.matches:
        return "both"
    if in_train.matches:
        return "train_references"
    return "unseen_references" if not_in_train.matches else "none"
