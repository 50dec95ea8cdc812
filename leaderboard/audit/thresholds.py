"""The numbers by which an audit of outputs decides; every report repeats them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where the lines are. The defaults hold in simulations with real references; `docs/audit.md` has the table.

    Attributes:
        min_words: Words that a reference needs, normalised, to be hardly ever written twice.
        sensitive_words: The same for the second look that is reported beside the first.
        tolerated_rate: Share of eligible references that an honest model may reproduce.
        alpha: Level of `strong`, by Holm over the tasks that could be tested.
        suspicious_alpha: Level of `suspicious`, for one task alone.
        fewest_matches: Cases with a match that `strong` needs.
        fewest_suspicious: Cases with a match that `suspicious` needs.
        fewest_clusters: Cases with an eligible reference below which nothing is tested.
        fewest_peers: Peers from which on their own rate replaces the tolerated one, if it is higher.
        near_similarity: Word LCS over the longer text from which on a pair counts as a near match (evidence only).
        near_words: Words that both texts of a near match need.
        fewest_graded: Answers that must tell of a model's skill at single sentences before it explains anything.
        skill_ceiling: Most that this skill may explain of one reference.
        skill_alpha: Level of `suspicious` beyond what this skill explains: that line an honest model may well reach.
        power: Probability with which the detectable rate would have been found.
        planted: Share of cases that a planted leak takes.
        fewest_clean_clusters: Cases without a match below which no score without them is given.
    """

    min_words: int = 8
    sensitive_words: int = 12
    tolerated_rate: float = 0.005
    alpha: float = 0.001
    suspicious_alpha: float = 0.05
    fewest_matches: int = 5
    fewest_suspicious: int = 3
    fewest_clusters: int = 20
    fewest_peers: int = 3
    near_similarity: float = 0.9
    near_words: int = 12
    fewest_graded: int = 10
    skill_ceiling: float = 0.1
    skill_alpha: float = 0.01
    power: float = 0.8
    planted: float = 0.1
    fewest_clean_clusters: int = 30


THRESHOLDS = Thresholds()
