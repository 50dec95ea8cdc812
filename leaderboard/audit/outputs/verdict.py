"""Did a model's outputs repeat references more often than an honest model could? The decision, task by task.

The reasoning behind the test, its skill and its controls: docs/design/0008-the-audit.md.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.leaderboard.audit.document import FOUND, Verdict, percent
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, norm_v1
from medbench.leaderboard.audit.outputs.cells import (
    OF_THE_REFERENCE,
    THRESHOLDS,
    Cell,
    MatchCounts,
    Reason,
    count_matches,
)
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.paired import holm

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_GRID = np.linspace(0.0, 0.999, 1000)
_REFUSED = float(stats.chi2.ppf(0.9, 1)) / 2
"""Drop of the log-likelihood at a one-sided bound of 95 %."""
_SLACK = 1e-12


def distribution(chances: FloatArray) -> FloatArray:
    """Return the probabilities [K + 1] of 0 to K cases with a match, from the chance of each case [K].

    Cases of one chance are a binomial, all together its convolutions (Wang 1993, "On the number of successes in
    independent trials"): all terms are positive, so that tails are exact to rounding however small they are.
    """
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
    return low, upper_bound(matches, cases, 1 - tail)


def upper_bound(matches: int, cases: int, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share; 1 without any cases."""
    return float(stats.beta.ppf(level, matches + 1, cases - matches)) if matches < cases else 1.0


def sentences_of(text: str | None) -> list[str]:
    """Return the sentences of a text, normalised; lines and semicolons end one too."""
    return list(filter(None, map(norm_v1, _SENTENCE.split(text or ""))))


def sentence_skill(cell: Cell, counts: MatchCounts) -> float | None:
    """Return an upper bound of the share of sentences that a model gets right; None where too few answers tell.

    Answers tell that are eligible, do not equal their reference, and have a reference of several sentences.
    """
    told: Counter[tuple[int, int]] = Counter()
    for item in (cell.items[row] for row in counts.eligible if not counts.exact[row]):
        sentences = sentences_of(item.reference)
        if len(sentences) > 1:
            hits = sum(f" {sentence} " in f" {item.said} " for sentence in sentences)
            # An answer may hold all sentences in another order, or more besides: all but equal.
            told[len(sentences), min(hits, len(sentences) - 1)] += 1
    if told.total() < THRESHOLDS.fewest_graded:
        return None
    likelihood = np.zeros_like(_GRID)
    for (sentences_in, hits), answers in sorted(told.items()):
        whole = stats.binom.pmf(sentences_in, sentences_in, _GRID)
        likelihood += answers * (stats.binom.logpmf(hits, sentences_in, _GRID) - np.log1p(-whole))
    return float(_GRID[np.flatnonzero(likelihood >= likelihood.max() - _REFUSED)[-1]])


def honest_chances(cell: Cell, counts: MatchCounts, rate: float, skill: float | None) -> FloatArray:
    """Return for each of K cases, by name, the probability that an honest model meets one of its references [K].

    Any reference is met at the tolerated rate; the model's skill may explain more, up to a ceiling.
    """
    references: dict[str, dict[str | None, float]] = defaultdict(dict)
    for item in (cell.items[row] for row in counts.eligible):
        sentences = len(sentences_of(item.reference)) if skill is not None else 0
        composed = min(THRESHOLDS.skill_ceiling, (skill or 0.0) ** sentences) if sentences > 1 else 0.0
        references[item.group][item.right] = max(rate, composed)
    met = (sorted(references[group].values()) for group in sorted(references))
    return np.asarray([1 - np.prod([1 - one for one in chances]) for chances in met], dtype=np.float64)


Attribution = Literal["none", "train_references", "unseen_references", "both", "unknown"]
_ATTRIBUTION: Mapping[tuple[bool, bool], Attribution] = {
    (False, False): "none", (True, False): "train_references", (False, True): "unseen_references", (True, True): "both",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Share:
    """How many of so many matched; there is no rate of nothing."""

    matches: int
    of: int
    rate: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.rate = self.matches / self.of if self.of else None


@dataclass(slots=True, kw_only=True)
class Peer(Share):
    """Another model on the same items: its cases with a match of those that could have one, and all exact matches."""

    name: str
    run: str
    exact: int
    cell: Cell | None = field(default=None, repr=False, compare=False)  # its answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is to be said of one model on one task; the fields but the first two are what JSON has."""

    counts: MatchCounts = field(repr=False, compare=False)
    chances: FloatArray = field(repr=False, compare=False)  # of an honest model to match in each of K cases [K]
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
    p0_source: Literal["default", "peers"]
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
    sensitivity: Mapping[str, float]  # the same test with longer references alone: min_words, k, K, p
    peers: Sequence[Peer]
    verdict: Verdict = "not_testable"
    version: str = NORM_VERSION  # of the normaliser

    @property
    def interval(self) -> str:
        """The rate with its interval, as text."""
        return "-" if self.ci is None else f"{percent(self.rate)} [{100 * self.ci[0]:.1f}, {100 * self.ci[1]:.1f}]"


def audit_outputs(cells: Mapping[str, Cell], peers: Mapping[str, Sequence[Peer]] | None = None) -> dict[str, Judgement]:
    """Judge a model on several tasks at once, beside other models on the same items; the order changes nothing."""
    found = {task: _tested(cell, (peers or {}).get(task, ())) for task, cell in cells.items()}
    family = {task: one for task, one in found.items() if len(one.chances) >= THRESHOLDS.fewest_clusters}
    # What decides is the larger p: beyond the model's skill, where that explains anything.
    adjusted = holm([one.p if one.p_skill is None else one.p_skill for one in family.values()])
    decided = {task: _decided(one, p, len(family)) for (task, one), p in zip(family.items(), adjusted, strict=True)}
    return found | decided


def _tested(cell: Cell, peers: Sequence[Peer]) -> Judgement:
    counts, longer = (count_matches(cell, words) for words in (THRESHOLDS.min_words, THRESHOLDS.sensitive_words))
    asked = sum(peer.of for peer in peers) if len(peers) >= THRESHOLDS.fewest_peers else 0
    pooled = upper_bound(sum(peer.matches for peer in peers), asked) if asked else 0.0
    rate = max(pooled, THRESHOLDS.tolerated_rate)
    cases, matches, skill = len(counts.sizes), len(counts.matched), sentence_skill(cell, counts)
    honest = honest_chances(cell, counts, rate, skill)
    explains = (honest > chances_of(counts.sizes, rate) + _SLACK).any()
    # Exact matches on long references that are in the known training data, and on those that are not.
    known = cell.train_references
    found: dict[bool, list[bool]] = {True: [], False: []}
    for item, exact in zip(cell.items, counts.exact, strict=True):
        if not item.closed and is_long(item.right, THRESHOLDS.min_words):
            found[known is not None and item.right in known].append(exact)
    seen, new = (Share(matches=sum(found[there]), of=len(found[there])) for there in (True, False))
    long = seen.of + new.of
    return Judgement(
        counts=counts, chances=honest, n=len(cell.items), cases=len({item.group for item in cell.items}),
        K=cases, k=matches, rate=matches / cases if cases else None,
        ci=clopper_pearson(matches, cases) if cases else None, p=_p_value(counts, rate), skill=skill,
        p_skill=float(tails(distribution(honest))[matches]) if explains else None,
        p0=rate, p0_source="peers" if pooled > THRESHOLDS.tolerated_rate else "default",
        p_default=_p_value(counts, THRESHOLDS.tolerated_rate), exact=sum(counts.exact),
        exact_by_reason=Counter(compress(counts.reasons, counts.exact)), items_by_reason=Counter(counts.reasons),
        ref_in_train=None if known is None or not long else seen.of / long,
        attribution="unknown" if known is None and new.matches else _ATTRIBUTION[seen.matches > 0, new.matches > 0],
        in_train=None if known is None else seen, not_in_train=new,
        sensitivity={
            "min_words": THRESHOLDS.sensitive_words, "k": len(longer.matched), "K": len(longer.sizes),
            "p": _p_value(longer, rate),
        },
        peers=peers,
    )  # fmt: skip


def _p_value(counts: MatchCounts, rate: float) -> float:
    """Return the probability of as many cases with a match or more, at a rate for each reference."""
    return float(tails(distribution(chances_of(counts.sizes, rate)))[len(counts.matched)])


def _decided(one: Judgement, p_holm: float, family: int) -> Judgement:
    # The smallest share of the cases that would be `strong` with the thresholds' power, were it the only leak.
    needed = fewest_with(tails(distribution(one.chances)), THRESHOLDS.alpha / family, THRESHOLDS.fewest_matches)
    detectable = None if needed is None else rate_found_with(THRESHOLDS.power, needed, len(one.chances))
    strong = one.k >= THRESHOLDS.fewest_matches and p_holm <= THRESHOLDS.alpha
    beyond_skill = one.p_skill is None or one.p_skill <= THRESHOLDS.skill_alpha
    suspicious = one.k >= THRESHOLDS.fewest_suspicious and one.p <= THRESHOLDS.suspicious_alpha and beyond_skill
    verdict: Verdict = "strong" if strong else "suspicious" if suspicious else "no_evidence"
    return replace(one, p_holm=p_holm, detectable_rate=detectable, verdict=verdict)


def matches_by_chance(cell: Cell, min_words: int) -> dict[str, float]:
    """Return the exact matches to be expected were the answers dealt to other cases: skill is gone, templates stay.

    An answer goes to an item of another case with equal probability. `exact` is of all items, `long` of those with a
    long reference.
    """
    by_text = Counter(item.said for item in cell.items)
    by_group = Counter((item.said, item.group) for item in cell.items)
    sizes = Counter(item.group for item in cell.items)
    found = {"exact": 0.0, "long": 0.0}
    for item in cell.items:
        others = len(cell.items) - sizes[item.group]
        if item.right is not None and others:
            share = (by_text[item.right] - by_group[item.right, item.group]) / others
            found["exact"] += share
            found["long"] += share if is_long(item.right, min_words) else 0.0
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The test on answers of which the truth is known."""

    planted_cases: int  # cases into whose answers the reference was written, in capital letters
    testable: bool  # whether a leak of this size could be found at all: enough cases, and enough of them planted
    planted: Judgement  # what is said of these answers
    shuffled: Judgement  # what is said of the same answers, dealt to other cases

    @property
    def outcome(self) -> Literal["found", "missed", "not testable"]:
        """`found` if the planted leak is evidence and the dealt answers are not."""
        if self.planted.verdict in FOUND and self.shuffled.verdict not in FOUND:
            return "found"
        return "missed" if self.testable else "not testable"

    def brief(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        tests = {"planted": self.planted, "shuffled": self.shuffled}
        told = {name: {"verdict": one.verdict, "k": one.k, "K": one.K, "p": one.p} for name, one in tests.items()}
        return {"planted_cases": self.planted_cases, "testable": self.testable, "outcome": self.outcome, **told}


def run_controls(cell: Cell, seed: int = 0) -> Controls:
    """Plant a leak into a copy of the answers, test it, deal the answers to other cases, and test again.

    Cases are drawn among those with an eligible reference, by a hash, so that neither order nor generator matters.
    """
    counts = count_matches(cell, THRESHOLDS.min_words)
    if OF_THE_REFERENCE.issuperset(counts.reasons):
        # No answer, whoever's it is, could prove anything: there is nothing to plant.
        same = audit_outputs({"as they are": cell})["as they are"]
        return Controls(planted_cases=0, testable=False, planted=same, shuffled=same)
    eligible = counts.eligible
    groups = sorted({cell.items[place].group for place in eligible}, key=lambda group: (drawn(seed, group), group))
    chosen = set(groups[: math.ceil(THRESHOLDS.planted * len(groups))])
    answers = [item.prediction for item in cell.items]
    for place in eligible:
        if cell.items[place].group in chosen:
            answers[place] = (cell.items[place].reference or "").upper()
    copy = cell.with_answers(answers)
    found = audit_outputs({"planted": copy})["planted"]
    testable = found.verdict != "not_testable" and len(chosen) >= THRESHOLDS.fewest_suspicious
    dealt = audit_outputs({"dealt": shuffle(copy, seed)})["dealt"]
    return Controls(planted_cases=len(chosen), testable=testable, planted=found, shuffled=dealt)


def shuffle(cell: Cell, seed: int = 0) -> Cell:
    """Return the cell with every answer at an item of another case, as far as there is one.

    Cases are put in an order by a hash, and each item gets the answer half of all items further on.
    """
    order = sorted(cell.items, key=lambda item: (drawn(seed, item.group), item.sample_id))
    half = len(order) // 2
    dealt = {ours.sample_id: theirs.prediction for ours, theirs in zip(order, order[half:] + order[:half], strict=True)}
    return cell.with_answers([dealt[item.sample_id] for item in cell.items])


def drawn(seed: int, name: str) -> str:
    """Return the place of a name in a random order that depends on nothing else."""
    return hashlib.blake2b(f"{seed} {name}".encode(errors="replace"), digest_size=16).hexdigest()
