"""Did a model's outputs repeat references more often than an honest model could? The decision, task by task.

Exact match alone proves nothing: an honest model that is right in 80 % of yes/no questions matches 80 % of them. What
counts are cases whose reference is long, new and their own (`cells`), against a small rate that is tolerated. Where
there are too few such cases the verdict is `not_testable`, never `no_evidence`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medbench.leaderboard.audit.document import Verdict, p_text, percent, wording
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long
from medbench.leaderboard.audit.outputs import chances
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, MatchCounts, Reason, count_matches
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.paired import holm

_SLACK = 1e-12

Attribution = Literal["none", "train_references", "unseen_references", "both", "unknown"]
RateSource = Literal["default", "peers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many of so many matched."""

    matches: int
    of: int

    @property
    def rate(self) -> float | None:
        """The share; None of nothing."""
        return self.matches / self.of if self.of else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another model on the same items: its cases with a match of those that could have one, and all exact matches."""

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
    """What is to be said of one model on one task."""

    n: int  # items, of so many `cases`
    cases: int
    K: int  # cases with an eligible reference; `k` of them have an exact match
    k: int
    rate: float | None  # k / K, with its 95 % interval `ci` (Clopper-Pearson); None without any
    ci: tuple[float, float] | None
    p: float  # probability of k or more were each eligible reference reproduced at the tolerated rate
    # the same with what the model's skill at single sentences explains; None where it explains nothing
    p_skill: float | None
    # upper bound of the share of single sentences that the model gets right; None where too few answers tell
    skill: float | None
    p_holm: float | None = None  # p by Holm over the tasks that could be tested; None where this one could not
    p0: float  # the tolerated rate: the default, or what peers reproduce at most; `p_default` is p at the default rate
    p0_source: RateSource
    p_default: float
    exact: int  # exact matches, whatever they are worth; `exact_by_reason` by what they are, of which `eligible` count
    exact_by_reason: Mapping[Reason, int]
    items_by_reason: Mapping[Reason, int]  # all items likewise
    # smallest share of K that would have been `strong` with 80 % power; None where none would
    detectable_rate: float | None = None
    ref_in_train: float | None  # share of long references that are known training references; None if none are known
    # where exact matches on long references fall: on references that are in the known training data, on unseen ones, on
    # both, on none; unknown if no training data are known
    attribution: Attribution
    # exact matches on long references that are in the known training data; None if none are known
    in_train: Share | None
    not_in_train: Share  # exact matches on the other long references
    sensitivity: Sensitivity
    peers: tuple[Peer, ...]
    verdict: Verdict = "not_testable"
    version: str = NORM_VERSION  # of the normaliser

    @property
    def interval(self) -> str:
        """The rate with its interval, as text."""
        return "-" if self.ci is None else f"{percent(self.rate)} [{100 * self.ci[0]:.1f}, {100 * self.ci[1]:.1f}]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """A verdict with the counts behind it, and for each of K cases the chance of an honest model [K]."""

    counts: MatchCounts
    chances: FloatArray
    verdict: CellVerdict


def audit_outputs(cells: Mapping[str, Cell], peers: Mapping[str, Sequence[Peer]] | None = None) -> dict[str, Judged]:
    """Judge a model on several tasks at once, beside other models on the same items; the order changes nothing."""
    found = {task: _tested(cell, (peers or {}).get(task, ())) for task, cell in cells.items()}
    family = [task for task, one in found.items() if one.counts.clusters >= THRESHOLDS.fewest_clusters]
    # What decides is the larger p: beyond the model's skill, where that explains anything.
    tested = [found[task].verdict for task in family]
    deciding = [one.p if one.p_skill is None else one.p_skill for one in tested]
    adjusted = dict(zip(family, holm(deciding), strict=True))
    return {
        task: replace(one, verdict=_decided(one, adjusted[task], len(family))) if task in adjusted else one
        for task, one in found.items()
    }


def _tested(cell: Cell, peers: Sequence[Peer]) -> Judged:
    counts = count_matches(cell, THRESHOLDS.min_words)
    rate, source = _tolerated_rate(peers)
    longer = count_matches(cell, THRESHOLDS.sensitive_words)
    cases, matches = counts.clusters, counts.matches
    skill = chances.sentence_skill(cell, counts)
    honest = chances.honest_chances(cell, counts, rate, skill)
    p_skill = float(chances.tails(chances.distribution(honest))[matches])
    in_train, not_in_train = _by_training(cell, counts)
    long = 0 if in_train is None else in_train.of + not_in_train.of
    verdict = CellVerdict(
        n=len(cell.items), cases=len(set(cell.groups)), K=cases, k=matches, rate=matches / cases if cases else None,
        ci=chances.clopper_pearson(matches, cases) if cases else None, p=_p_value(counts, rate), skill=skill,
        p_skill=p_skill if (honest > chances.chances_of(counts.sizes, rate) + _SLACK).any() else None,
        p0=rate, p0_source=source, p_default=_p_value(counts, THRESHOLDS.tolerated_rate), exact=sum(counts.exact),
        exact_by_reason=counts.exact_by_reason, items_by_reason=counts.items_by_reason,
        ref_in_train=None if in_train is None or not long else in_train.of / long,
        attribution=_attribution(in_train, not_in_train), in_train=in_train, not_in_train=not_in_train,
        sensitivity=Sensitivity(
            min_words=THRESHOLDS.sensitive_words, k=longer.matches, K=longer.clusters, p=_p_value(longer, rate)
        ),
        peers=tuple(peers),
    )  # fmt: skip
    return Judged(counts=counts, chances=honest, verdict=verdict)


def _tolerated_rate(peers: Sequence[Peer]) -> tuple[float, RateSource]:
    cases = sum(peer.share.of for peer in peers)
    if len(peers) < THRESHOLDS.fewest_peers or not cases:
        return THRESHOLDS.tolerated_rate, "default"
    pooled = chances.upper_bound(sum(peer.share.matches for peer in peers), cases)
    return (pooled, "peers") if pooled > THRESHOLDS.tolerated_rate else (THRESHOLDS.tolerated_rate, "default")


def _p_value(counts: MatchCounts, rate: float) -> float:
    """Return the probability of as many cases with a match or more, at a rate for each reference."""
    return float(chances.tails(chances.distribution(chances.chances_of(counts.sizes, rate)))[counts.matches])


def _decided(one: Judged, p_holm: float, family: int) -> CellVerdict:
    found = one.verdict
    # The smallest share of the cases that would be `strong` with the thresholds' power, were it the only leak.
    needed = chances.fewest_with(
        chances.tails(chances.distribution(one.chances)), THRESHOLDS.alpha / family, THRESHOLDS.fewest_matches
    )
    detectable = None if needed is None else chances.rate_found_with(THRESHOLDS.power, needed, len(one.chances))
    strong = found.k >= THRESHOLDS.fewest_matches and p_holm <= THRESHOLDS.alpha
    beyond_skill = found.p_skill is None or found.p_skill <= THRESHOLDS.skill_alpha
    suspicious = found.k >= THRESHOLDS.fewest_suspicious and found.p <= THRESHOLDS.suspicious_alpha and beyond_skill
    verdict: Verdict = "strong" if strong else "suspicious" if suspicious else "no_evidence"
    return replace(found, p_holm=p_holm, detectable_rate=detectable, verdict=verdict)


def _by_training(cell: Cell, counts: MatchCounts) -> tuple[Share | None, Share]:
    """Return the exact matches on long references that are in the known training data, and on those that are not."""
    known = cell.train_references
    found: dict[bool, list[bool]] = {True: [], False: []}
    for item, reference, exact in zip(cell.items, cell.references, counts.exact, strict=True):
        if not item.closed and is_long(reference, THRESHOLDS.min_words):
            found[known is not None and reference in known].append(exact)
    seen, new = (Share(matches=sum(found[there]), of=len(found[there])) for there in (True, False))
    return None if known is None else seen, new


def _attribution(in_train: Share | None, not_in_train: Share) -> Attribution:
    if in_train is None:
        return "unknown" if not_in_train.matches else "none"
    if in_train.matches:
        return "both" if not_in_train.matches else "train_references"
    return "unseen_references" if not_in_train.matches else "none"


def sentence(found: CellVerdict) -> str:
    """Return a verdict with what it rests on, in a sentence or two; neutral, and never more than is known."""
    if found.verdict == "not_testable":
        return _not_testable(found)
    counted = f"The outputs equal the reference in {found.k} of the {found.K} cases where a match could prove something"
    if found.verdict == "no_evidence":
        reach = (
            "no leak, however large, would have been found"
            if found.detectable_rate is None
            else f"a leak of {percent(found.detectable_rate)} of them would have been found with a probability of "
            f"{percent(THRESHOLDS.power, 0)}"
        )
        return f"{counted}; {reach}. {_explained(found)}This does not show that there is none."
    skill = f"Its skill at single sentences does not explain it (p = {p_text(found.p_skill)}). "
    beyond = "" if found.p_skill is None else skill
    return (
        f"{counted} ({found.interval}), p = {p_text(found.p)} against a tolerated rate of {percent(found.p0)}. {beyond}"
        f"Consistent with test items among the training data{_known_references(found)}."
    )


def _not_testable(found: CellVerdict) -> str:
    texts = wording("outputs")["reasons"]
    others = {reason: number for reason, number in found.items_by_reason.items() if reason != "eligible"}
    ordered = sorted(others.items(), key=lambda pair: (-pair[1], pair[0]))
    reasons = "; ".join(f"{number:,} {texts[reason]}" for reason, number in ordered)
    why = f" Of {found.n:,} items: {reasons}." if others else ""
    few = (
        f"{found.K} cases have a reference with which a match could prove something; at least "
        f"{THRESHOLDS.fewest_clusters} are needed.{why}"
    )
    return f"{few} In {found.k} of the {found.K} the output equals the reference." if found.k else few


def _explained(found: CellVerdict) -> str:
    by_itself = found.k >= THRESHOLDS.fewest_suspicious and found.p <= THRESHOLDS.suspicious_alpha
    if not by_itself or found.skill is None:
        return ""
    return (
        f"The matches alone would be suspicious (p = {p_text(found.p)}), but the model gets up to "
        f"{percent(found.skill, 0)} of single sentences right, and that explains them (p = {p_text(found.p_skill)}). "
    )


def _known_references(found: CellVerdict) -> str:
    if found.attribution == "unknown":
        return "; no training references were at hand to compare with"
    if found.in_train is not None and found.in_train.matches:
        return ": besides references of the known training data, unseen ones are reproduced"
    return ": references that are not in the known ones"
