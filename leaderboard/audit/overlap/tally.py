"""What one body of training data shares with the test side, counted by test item."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Check = Literal[
    "item", "near_item", "text", "near_text", "similar_text", "image", "near_image", "review_image", "blank_image"
]
CHECKS: tuple[Check, ...] = get_args(Check)


@dataclass(frozen=True, slots=True)
class Witness:
    """The first training row that shares something with a test item.

    Attributes:
        row: What a report calls the row.
        text: The row's text that is shared, or empty.
        score: Containment or similarity of texts, bits of pictures, as words.
    """

    row: str
    text: str = ""
    score: str = ""


@dataclass(slots=True)
class Tally:
    """Counts by test item; memory depends on the test side alone.

    Attributes:
        items: How many test items there are.
        rows: Training rows that were seen.
        pictures: Pictures that these rows name.
        unreadable: Those that could not be decoded.
        shared: For each check whether a test item has a partner in the training data [items].
        groups: Values of ids that are on both sides, by task and name of the id.
        in_groups: By name of the id, whether a test item's id is in the training data [items].
        known_ids: Names of the ids that any training row has.
        witnesses: The first partner of a test item, by check.
    """

    items: int
    rows: int = 0
    pictures: int = 0
    unreadable: int = 0
    shared: dict[Check, npt.NDArray[np.bool_]] = field(default_factory=dict)
    groups: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    in_groups: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    known_ids: set[str] = field(default_factory=set)
    witnesses: dict[Check, dict[int, Witness]] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        self.shared = {check: np.zeros(self.items, dtype=bool) for check in CHECKS}

    def share(self, check: Check, item: int, witness: Witness) -> None:
        """Note that a test item has a partner."""
        if not self.shared[check][item]:
            self.shared[check][item] = True
            self.witnesses[check][item] = witness

    def share_group(self, task: str, name: str, value: str, item: int) -> None:
        """Note that a test item's id is in the training data."""
        self.groups[task, name].add(value)
        if name not in self.in_groups:
            self.in_groups[name] = np.zeros(self.items, dtype=bool)
        self.in_groups[name][item] = True
