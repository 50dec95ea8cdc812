"""What the same test says where the truth is known: answers dealt to other cases, and a leak that was planted.

Without them nobody could tell `no_evidence` from a detector that does not work on these data.
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from medbench.leaderboard.audit.document import FOUND
from medbench.leaderboard.audit.normalise import is_long, norm_v1
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, count_matches
from medbench.leaderboard.audit.outputs.verdict import CellVerdict, audit_outputs

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
        planted_cases=cases,
        testable=planted.verdict != "not_testable" and cases >= THRESHOLDS.fewest_suspicious,
        planted=planted,
        shuffled=audit_outputs({"": shuffle(copy, seed)})[""].verdict,
    )


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
