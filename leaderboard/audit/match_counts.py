"""How many cases a model could have given itself away in, and in how many it did."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.eligibility import Reason, classify, counted, exact_items
from medbench.leaderboard.audit.items import Cell

IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatchCounts:
    """The counts of one model on one task.

    Attributes:
        reasons: Of each of N items.
        exact: Of each of N items, whether the answer equals the reference.
        sizes: Distinct eligible references of each of K cases that have any [K].
        matched: The cases among these with an eligible exact match, sorted.
    """

    reasons: list[Reason]
    exact: list[bool]
    sizes: IntArray
    matched: tuple[str, ...]

    @property
    def clusters(self) -> int:
        """Cases with an eligible reference, K."""
        return len(self.sizes)

    @property
    def matches(self) -> int:
        """Cases with an eligible exact match, k."""
        return len(self.matched)

    @property
    def items_by_reason(self) -> dict[Reason, int]:
        """All items by reason."""
        return counted(self.reasons, [True] * len(self.reasons))

    @property
    def exact_by_reason(self) -> dict[Reason, int]:
        """Exact matches by reason."""
        return counted(self.reasons, self.exact)

    @property
    def counted_rows(self) -> list[int]:
        """Places of the exact matches that count."""
        pairs = zip(self.reasons, self.exact, strict=True)
        return [place for place, (reason, exact) in enumerate(pairs) if exact and reason == "eligible"]


def count_matches(cell: Cell, min_words: int) -> MatchCounts:
    """Count by case: two pictures of one study with one report are one match, not two."""
    reasons, exact = classify(cell, min_words), exact_items(cell)
    references: dict[str, set[str | None]] = defaultdict(set)
    matched = set()
    for item, reference, reason, same in zip(cell.items, cell.references, reasons, exact, strict=True):
        if reason == "eligible":
            references[item.group].add(reference)
            if same:
                matched.add(item.group)
    return MatchCounts(
        reasons=reasons,
        exact=exact,
        sizes=np.asarray([len(references[group]) for group in sorted(references)], dtype=np.intp),
        matched=tuple(sorted(matched)),
    )
