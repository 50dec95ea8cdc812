"""A seeded re-split of the training data against themselves: what two parts of a dataset share without any leak."""

from collections import defaultdict
from dataclasses import dataclass, replace
from hashlib import blake2b

from medbench.leaderboard.audit.overlap.items import Item, TaskItems, has_id

# The held-out part is at most so much of the training data, so that what it is compared with stays alike.
_LARGEST_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSplit:
    """A part of a task's training data in the place of its test data.

    Attributes:
        test: The part in place of the test items.
        rest: The training data without that part and without all that shares an id with it.
        unit: What is kept together: the decisive id, else the picture, else nothing (`item`).
    """

    test: TaskItems
    rest: tuple[Item, ...]
    unit: str


def null_split(train: TaskItems, size: int, seed: int) -> NullSplit:
    """Hold out about `size` items of the training data, whole cases at a time.

    Args:
        train: The training items.
        size: Items to hold out; at most a quarter of all is.
        seed: Orders the cases.
    """
    unit = _unit(train)
    cases: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(train.items):
        cases[item.groups.get(unit, "") or item.item_id].append(number)
    wanted = min(size, len(train.items) // _LARGEST_SHARE)
    held: set[int] = set()
    for case in sorted(cases, key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()):
        if len(held) >= wanted:
            break
        held.update(cases[case])
    kept = tuple(item for number, item in enumerate(train.items) if number not in held)
    return NullSplit(
        test=replace(train, items=tuple(train.items[number] for number in sorted(held))), rest=kept, unit=unit
    )


def _unit(train: TaskItems) -> str:
    for name in (train.decisive, "image"):
        if train.items and all(has_id(item, name) for item in train.items):
            return name
    return "item"
