"""What an audit says in words: neutral, and never more than it knows."""

from collections.abc import Mapping

from medbench.leaderboard.audit.eligibility import REASON_TEXTS, Reason
from medbench.leaderboard.audit.outputs import CellVerdict
from medbench.leaderboard.audit.thresholds import Thresholds
from medbench.leaderboard.audit.verdicts import Verdict

MARKS: dict[Verdict, str] = {
    "strong": "strong \\*",
    "suspicious": "suspicious ?",
    "no_evidence": "no evidence -",
    "not_testable": "not testable ·",
}
LIMITS = (
    (
        "`no evidence` is not `clean`: paraphrased, translated or partly changed copies pass; so does a leak below the "
        "detectable rate."
    ),
    (
        "`not testable` is not `no evidence`: nothing could have been found. On closed questions, labels and boxes a "
        "model that is always right looks like one that has seen the key; there only provenance and probes can tell."
    ),
    (
        "References are compared whole, as they stand in the data. Answers that were cut at the length limit cannot "
        "match and are not counted."
    ),
    "Images were not looked at; neither was what the model was trained on beyond the training references named below.",
)
ALTERNATIVES = (
    "The same captions or reports stand in public sources that the model was trained on lawfully, under another name.",
    "Templates: reports that are put together from a few set sentences can be met by a model that knows the sentences.",
    "The model was trained on another split or another language of the dataset that holds these items.",
    "A model that truly writes four of five words, or every other set sentence, of all reports right could be flagged.",
)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def interval(found: CellVerdict) -> str:
    """Return the rate with its interval."""
    if found.ci is None:
        return "-"
    return f"{percent(found.rate)} [{100 * found.ci[0]:.1f}, {100 * found.ci[1]:.1f}]"


def p_text(p: float | None) -> str:
    """Return a p value with two digits that say something."""
    if p is None:
        return "-"
    return "< 1e-300" if p == 0 else f"{p:.2g}"


def reasons_text(reasons: Mapping[Reason, int]) -> str:
    """Return counts by reason in words, the commonest first."""
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return "; ".join(f"{number:,} {REASON_TEXTS[reason]}" for reason, number in ordered)


def sentence(found: CellVerdict, thresholds: Thresholds) -> str:
    """Return a verdict with what it rests on, in a sentence or two."""
    if found.verdict == "not_testable":
        return _not_testable(found, thresholds)
    counted = f"The outputs equal the reference in {found.k} of the {found.K} cases where a match could prove something"
    if found.verdict == "no_evidence":
        reach = (
            "no leak, however large, would have been found"
            if found.detectable_rate is None
            else f"a leak of {percent(found.detectable_rate)} of them would have been found with a probability of "
            f"{percent(thresholds.power, 0)}"
        )
        return f"{counted}; {reach}. {_explained(found, thresholds)}This does not show that there is none."
    return (
        f"{counted} ({interval(found)}), p = {p_text(found.p)} against a tolerated rate of {percent(found.p0)}. "
        f"{_beyond_skill(found)}{_consistent(found)}"
    )


def _not_testable(found: CellVerdict, thresholds: Thresholds) -> str:
    by_reason = found.items_by_reason.items()
    others: dict[Reason, int] = {reason: number for reason, number in by_reason if reason != "eligible"}
    why = f" Of {found.n:,} items: {reasons_text(others)}." if others else ""
    few = (
        f"{found.K} cases have a reference with which a match could prove something; at least "
        f"{thresholds.fewest_clusters} are needed.{why}"
    )
    return f"{few} In {found.k} of the {found.K} the output equals the reference." if found.k else few


def _explained(found: CellVerdict, thresholds: Thresholds) -> str:
    by_itself = found.k >= thresholds.fewest_suspicious and found.p <= thresholds.suspicious_alpha
    if not by_itself or found.skill is None:
        return ""
    return (
        f"The matches alone would be suspicious (p = {p_text(found.p)}), but the model gets up to "
        f"{percent(found.skill, 0)} of single sentences right, and that explains them (p = {p_text(found.p_skill)}). "
    )


def _beyond_skill(found: CellVerdict) -> str:
    if found.p_skill is None:
        return ""
    return f"Its skill at single sentences does not explain it (p = {p_text(found.p_skill)}). "


def _consistent(found: CellVerdict) -> str:
    if found.attribution == "unknown":
        return (
            "Consistent with test items among the training data; no training references were at hand to compare with."
        )
    if found.in_train is not None and found.in_train.matches:
        return (
            "Consistent with test items among the training data: besides references of the known training data, "
            "unseen ones are reproduced."
        )
    return "Consistent with test items among the training data: references that are not in the known ones."
