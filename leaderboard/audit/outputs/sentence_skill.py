"""How often a model with this one's skill at single sentences would meet whole references by composing them.

Where reports are put together from set sentences, a model that chooses each of them rightly with probability q writes a
report of m sentences right with probability q^m, without having seen it. Its answers then come in all grades: all
sentences right, all but one, all but two. A model that has seen some of the cases has whole references and, elsewhere,
its usual grade. So q is read from the answers that do not equal the reference, and what q explains is tolerated.

The estimate takes hits of single sentences for independent and equally hard; it is the largest q that the likelihood
does not refuse at 95 %, and what it may explain has a ceiling, since no model is known that writes more than one of ten
unseen reports right, word for word.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import stats

from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.audit.outputs.cells import Cell, MatchCounts, Thresholds
from medbench.tasks.metrics.metric import FloatArray

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_GRID = np.linspace(0.0, 0.999, 1000)
_REFUSED = float(stats.chi2.ppf(0.9, 1)) / 2
"""Drop of the log-likelihood at a one-sided bound of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """A model's skill at single sentences.

    Attributes:
        rate: Upper bound of the share of sentences that it gets right; None where too few answers tell.
        answers: Answers that tell: to references of several sentences, and not equal to them.
    """

    rate: float | None
    answers: int


def sentences_of(text: str | None) -> list[str]:
    """Return the sentences of a text, normalised; lines and semicolons end one too."""
    return [sentence for part in _SENTENCE.split(text or "") if (sentence := norm_v1(part)) is not None]


def sentence_skill(cell: Cell, counts: MatchCounts, thresholds: Thresholds) -> Skill:
    """Estimate the skill from the eligible answers that do not equal their reference."""
    told: Counter[tuple[int, int]] = Counter()
    for row, reason in enumerate(counts.reasons):
        sentences = sentences_of(cell.items[row].reference) if reason == "eligible" and not counts.exact[row] else []
        if len(sentences) > 1:
            answer = f" {cell.predictions[row]} "
            hits = sum(f" {sentence} " in answer for sentence in sentences)
            # An answer may hold all sentences in another order, or more besides: all but equal.
            told[len(sentences), min(hits, len(sentences) - 1)] += 1
    answers = told.total()
    if answers < thresholds.fewest_graded:
        return Skill(rate=None, answers=answers)
    return Skill(rate=_upper_rate(told), answers=answers)


def _upper_rate(told: Counter[tuple[int, int]]) -> float:
    """Return the bound, from how many answers have h of m sentences right, each with h below m."""
    likelihood = np.zeros_like(_GRID)
    for (sentences, hits), answers in sorted(told.items()):
        whole = stats.binom.pmf(sentences, sentences, _GRID)
        likelihood += answers * (stats.binom.logpmf(hits, sentences, _GRID) - np.log1p(-whole))
    kept = np.flatnonzero(likelihood >= likelihood.max() - _REFUSED)
    return float(_GRID[kept[-1]])


def chances(cell: Cell, counts: MatchCounts, rate: float, skill: Skill, thresholds: Thresholds) -> FloatArray:
    """Return for each of K cases, by name, the probability that an honest model meets one of its references [K].

    Any reference is met at the tolerated rate; the model's skill may explain more, up to a ceiling.
    """
    references: dict[str, dict[str | None, float]] = defaultdict(dict)
    for row, reason in enumerate(counts.reasons):
        if reason == "eligible":
            met = max(rate, _by_sentences(cell.items[row].reference, skill, thresholds))
            references[cell.items[row].group][cell.references[row]] = met
    return np.asarray(
        [1 - np.prod([1 - met for met in sorted(references[group].values())]) for group in sorted(references)],
        dtype=np.float64,
    )


def _by_sentences(reference: str | None, skill: Skill, thresholds: Thresholds) -> float:
    sentences = len(sentences_of(reference)) if skill.rate is not None else 0
    if skill.rate is None or sentences < 2:  # noqa: PLR2004 - one sentence is the whole
        return 0.0
    return min(thresholds.skill_ceiling, skill.rate**sentences)
