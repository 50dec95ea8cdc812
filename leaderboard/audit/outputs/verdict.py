"""Did a model's outputs repeat references more often than an honest model could? The decision, task by task.

Exact match alone proves nothing: an honest model that is right in 80 % of yes/no questions matches 80 % of them. What
counts are cases whose reference is long, new and their own (`cells`), against a small rate that is tolerated. Where
there are too few such cases the verdict is `not_testable`, never `no_evidence`.

A case with u references of its own, each reproduced with probability p0, shows a match with probability
1 - (1 - p0)^u. Cases of one size make a binomial; the sizes together are its convolutions, all terms positive, so that
tails are exact to rounding however small they are (Wang 1993, "On the number of successes in independent trials").

Skill raises that chance. Where reports are put together from set sentences, a model that chooses each of them rightly
with probability q writes a report of m sentences right with probability q^m, without having seen it. Its answers then
come in all grades: all sentences right, all but one, all but two. A model that has seen some of the cases has whole
references and, elsewhere, its usual grade. So q is read from the answers that do not equal the reference, and what q
explains is tolerated. The estimate takes hits of single sentences for independent and equally hard; it is the largest q
that the likelihood does not refuse at 95 %, and what it may explain has a ceiling, since no model is known that writes
more than one of ten unseen reports right, word for word.

The controls say what the same test says where the truth is known: answers dealt to other cases, and a leak that was
planted. Without them nobody could tell `no_evidence` from a detector that does not work on these data.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.leaderboard.audit.document import FOUND, Verdict, p_text, percent, wording
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, norm_v1
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, MatchCounts, Reason, count_matches
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.paired import holm

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_GRID = np.linspace(0.0, 0.999, 1000)
_REFUSED = float(stats.chi2.ppf(0.9, 1)) / 2
"""Drop of the log-likelihood at a one-sided bound of 95 %."""


def distribution(chances: FloatArray) -> FloatArray:
    """Return the probabilities [K + 1] of 0 to K cases with a match, from the chance of each case [K]."""
    found = np.ones(1)
    for chance, cases in zip(*np.unique(chances, return_counts=True), strict=True):
        found = np.convolve(found, stats.binom.pmf(np.arange(cases + 1), cases, chance))
    return found


def chances_of(sizes: Sequence[int] | npt.NDArray[np.intp], rate: float) -> FloatArray:
    """Return the chance of each case [K] to show a match, from its references [K] and the rate of one of them."""
    return np.asarray(1 - (1 - rate) ** np.asarray(sizes, dtype=np.float64), dtype=np.float64)


def tails(probabilities: FloatArray) -> FloatArray:
    """Return the probability of at least 0, 1, ... K cases [K + 1], summed from the small end."""
    found = np.minimum(1.0, np.cumsum(probabilities[::-1])[::-1])
    found[0] = 1.0
    return found


def fewest_with(tail: FloatArray, level: float, least: int) -> int | None:
    """Return the smallest count from `least` on whose tail is within the level; None if there is none."""
    within = np.flatnonzero(tail[least:] <= level)
    return least + int(within[0]) if len(within) else None


def rate_found_with(power: float, needed: int, cases: int) -> float:
    """Return the rate at which `needed` of so many cases match with probability `power`: a quantile of the beta."""
    return float(stats.beta.ppf(power, needed, cases - needed + 1))


def clopper_pearson(matches: int, cases: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share; cases must be one or more."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, matches, cases - matches + 1)) if matches else 0.0
    high = float(stats.beta.ppf(1 - tail, matches + 1, cases - matches)) if matches < cases else 1.0
    return low, high


def upper_bound(matches: int, cases: int, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share; 1 without any cases."""
    return float(stats.beta.ppf(level, matches + 1, cases - matches)) if matches < cases else 1.0


def sentences_of(text: str | None) -> list[str]:
    """Return the sentences of a text, normalised; lines and semicolons end one too."""
    return [sentence for part in _SENTENCE.split(text or "") if (sentence := norm_v1(part)) is not None]


def sentence_skill(cell: Cell, counts: MatchCounts) -> float | None:
    """Return an upper bound of the share of sentences that a model gets right; None where too few answers tell.

    Answers tell that are eligible, do not equal their reference, and have a reference of several sentences.
    """
    told: Counter[tuple[int, int]] = Counter()
    for row in counts.eligible:
        sentences = [] if counts.exact[row] else sentences_of(cell.items[row].reference)
        if len(sentences) > 1:
            answer = f" {cell.predictions[row]} "
            hits = sum(f" {sentence} " in answer for sentence in sentences)
            # An answer may hold all sentences in another order, or more besides: all but equal.
            told[len(sentences), min(hits, len(sentences) - 1)] += 1
    if told.total() < THRESHOLDS.fewest_graded:
        return None
    likelihood = np.zeros_like(_GRID)
    for (sentences_in, hits), answers in sorted(told.items()):
        whole = stats.binom.pmf(sentences_in, sentences_in, _GRID)
        likelihood += answers * (stats.binom.logpmf(hits, sentences_in, _GRID) - np.log1p(-whole))
    kept = np.flatnonzero(likelihood >= likelihood.max() - _REFUSED)
    return float(_GRID[kept[-1]])


def honest_chances(cell: Cell, counts: MatchCounts, rate: float, skill: float | None) -> FloatArray:
    """Return for each of K cases, by name, the probability that an honest model meets one of its references [K].

    Any reference is met at the tolerated rate; the model's skill may explain more, up to a ceiling.
    """
    references: dict[str, dict[str | None, float]] = defaultdict(dict)
    for row in counts.eligible:
        item = cell.items[row]
        sentences = len(sentences_of(item.reference)) if skill is not None else 0
        composed = min(THRESHOLDS.skill_ceiling, (skill or 0.0) ** sentences) if sentences > 1 else 0.0
        references[item.group][cell.references[row]] = max(rate, composed)
    return np.asarray(
        [1 - np.prod([1 - met for met in sorted(references[group].values())]) for group in sorted(references)],
        dtype=np.float64,
    )


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
    p_skill: float | None  # the same with what skill at single sentences explains; None where it explains nothing
    skill: float | None  # upper bound of the share of single sentences that it gets right; None where too few tell
    p_holm: float | None = None  # p by Holm over the tasks that could be tested; None where this one could not
    p0: float  # the tolerated rate: the default, or what peers reproduce at most; `p_default` is p at the default rate
    p0_source: RateSource
    p_default: float
    exact: int  # exact matches, whatever they are worth; `exact_by_reason` by what they are, of which `eligible` count
    exact_by_reason: Mapping[Reason, int]
    items_by_reason: Mapping[Reason, int]  # all items likewise
    detectable_rate: float | None = None  # smallest share of K found `strong` with 80 % power; None for none
    ref_in_train: float | None  # share of long references that are known training references; None if none are known
    # where exact matches on long references fall: on references that are in the known training data, on unseen ones, on
    # both, on none; unknown if no training data are known
    attribution: Attribution
    in_train: Share | None  # exact matches on long references of the known training data; None if none are known
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
    skill = sentence_skill(cell, counts)
    honest = honest_chances(cell, counts, rate, skill)
    p_skill = float(tails(distribution(honest))[matches])
    in_train, not_in_train = _by_training(cell, counts)
    long = 0 if in_train is None else in_train.of + not_in_train.of
    verdict = CellVerdict(
        n=len(cell.items), cases=len(set(cell.groups)), K=cases, k=matches, rate=matches / cases if cases else None,
        ci=clopper_pearson(matches, cases) if cases else None, p=_p_value(counts, rate), skill=skill,
        p_skill=p_skill if (honest > chances_of(counts.sizes, rate) + _SLACK).any() else None,
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
    pooled = upper_bound(sum(peer.share.matches for peer in peers), cases)
    return (pooled, "peers") if pooled > THRESHOLDS.tolerated_rate else (THRESHOLDS.tolerated_rate, "default")


def _p_value(counts: MatchCounts, rate: float) -> float:
    """Return the probability of as many cases with a match or more, at a rate for each reference."""
    return float(tails(distribution(chances_of(counts.sizes, rate)))[counts.matches])


def _decided(one: Judged, p_holm: float, family: int) -> CellVerdict:
    found = one.verdict
    # The smallest share of the cases that would be `strong` with the thresholds' power, were it the only leak.
    needed = fewest_with(tails(distribution(one.chances)), THRESHOLDS.alpha / family, THRESHOLDS.fewest_matches)
    detectable = None if needed is None else rate_found_with(THRESHOLDS.power, needed, len(one.chances))
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
    known = ": references that are not in the known ones"
    if found.attribution == "unknown":
        known = "; no training references were at hand to compare with"
    elif found.in_train is not None and found.in_train.matches:
        known = ": besides references of the known training data, unseen ones are reproduced"
    return (
        f"{counted} ({found.interval}), p = {p_text(found.p)} against a tolerated rate of {percent(found.p0)}. {beyond}"
        f"Consistent with test items among the training data{known}."
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


Outcome = Literal["found", "missed", "not testable"]


def matches_by_chance(cell: Cell, min_words: int) -> dict[str, float]:
    """Return the exact matches to be expected were the answers dealt to other cases: skill is gone, templates stay.

    An answer goes to an item of another case with equal probability. `exact` is of all items, `long` of those with a
    long reference.
    """
    by_text: Counter[str | None] = Counter(cell.predictions)
    by_group: Counter[tuple[str | None, str]] = Counter(zip(cell.predictions, cell.groups, strict=True))
    group_sizes = Counter(cell.groups)
    found = {"exact": 0.0, "long": 0.0}
    for item, reference in zip(cell.items, cell.references, strict=True):
        others = len(cell.items) - group_sizes[item.group]
        if reference is not None and others:
            share = (by_text[reference] - by_group[reference, item.group]) / others
            found["exact"] += share
            found["long"] += share if is_long(reference, min_words) else 0.0
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The test on answers of which the truth is known."""

    planted_cases: int  # cases into whose answers the reference was written, in capital letters
    testable: bool  # whether a leak of this size could be found at all: enough cases, and enough of them planted
    planted: CellVerdict  # what is said of these answers
    shuffled: CellVerdict  # what is said of the same answers, dealt to other cases

    @property
    def outcome(self) -> Outcome:
        """`found` if the planted leak is evidence and the dealt answers are not."""
        if self.planted.verdict in FOUND and self.shuffled.verdict not in FOUND:
            return "found"
        return "missed" if self.testable else "not testable"

    def brief(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        tests = {"planted": self.planted, "shuffled": self.shuffled}
        told = {name: {"verdict": one.verdict, "k": one.k, "K": one.K, "p": one.p} for name, one in tests.items()}
        return {"planted_cases": self.planted_cases, "testable": self.testable, **told}


def run_controls(cell: Cell, seed: int = 0) -> Controls:
    """Plant a leak into a copy of the answers, test it, deal the answers to other cases, and test again."""
    copy, cases = _plant(cell, seed)
    planted = audit_outputs({"": copy})[""].verdict
    return Controls(
        planted_cases=cases, testable=planted.verdict != "not_testable" and cases >= THRESHOLDS.fewest_suspicious,
        planted=planted, shuffled=audit_outputs({"": shuffle(copy, seed)})[""].verdict,
    )  # fmt: skip


def _plant(cell: Cell, seed: int) -> tuple[Cell, int]:
    """Return the cell with the references of some cases written into their answers, and how many cases.

    Cases are drawn among those with an eligible reference, by a hash, so that neither order nor generator matters.
    """
    eligible = count_matches(cell, THRESHOLDS.min_words).eligible
    groups = sorted({cell.items[place].group for place in eligible}, key=lambda group: (drawn(seed, group), group))
    chosen = set(groups[: math.ceil(THRESHOLDS.planted * len(groups))])
    predictions = list(cell.predictions)
    for item, place in ((cell.items[place], place) for place in eligible):
        if item.group in chosen:
            predictions[place] = norm_v1((item.reference or "").upper())
    return cell.with_predictions(predictions), len(chosen)


def shuffle(cell: Cell, seed: int = 0) -> Cell:
    """Return the cell with every answer at an item of another case, as far as there is one.

    Cases are put in an order by a hash, and each item gets the answer half of all items further on.
    """
    keys = [(drawn(seed, item.group), item.sample_id) for item in cell.items]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    predictions: list[str | None] = [None] * len(order)
    for rank, place in enumerate(order):
        predictions[place] = cell.predictions[order[(rank + len(order) // 2) % len(order)]]
    return cell.with_predictions(predictions)


def drawn(seed: int, name: str) -> str:
    """Return the place of a name in a random order that depends on nothing else."""
    return hashlib.blake2b(f"{seed} {name}".encode(errors="replace"), digest_size=16).hexdigest()
