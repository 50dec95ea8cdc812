"""Groups where there are no ids: items that share a picture, or a long text, are taken for one case."""

from dataclasses import dataclass

import numpy as np

from medbench.leaderboard.audit.normalise import is_long, norm_v1
from medbench.leaderboard.audit.overlap.tally import Tally
from medbench.leaderboard.audit.overlap.test_side import TestSide


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateGroups:
    """Components of equal long texts, equal pictures and nearly equal pictures among a task's test items.

    They are a lower bound: two pictures of one patient that look different stay apart.

    Attributes:
        groups: How many there are.
        shared: How many have a member whose picture, or long report, is in the training data.
    """

    groups: int
    shared: int


def surrogate_groups(side: TestSide, task: str, tally: Tally) -> SurrogateGroups:
    """Return the surrogate groups of a task, and how many of them the training data of a tally touch."""
    numbers = range(*side.range_of(task).indices(len(side.items)))
    parents = {number: number for number in numbers}
    first_of_text: dict[str, int] = {}
    for number in numbers:
        text = norm_v1(side.items[number].answer)
        if text is not None and is_long(text):
            _join(parents, number, first_of_text.setdefault(text, number))
    _join_pictures(side, parents)
    touched = tally.shared["image"] | tally.shared["near_image"]
    if any(one.task == task and one.kind == "report" for one in side.tasks):
        touched = touched | (tally.shared["text"] & _long_texts(side))
    roots = {number: _root(parents, number) for number in numbers}
    return SurrogateGroups(
        groups=len(set(roots.values())), shared=len({root for number, root in roots.items() if touched[number]})
    )


def _join_pictures(side: TestSide, parents: dict[int, int]) -> None:
    for match in side.picture_index.match(side.prints):
        if match.how not in {"exact", "near"}:
            continue
        both = [*side.items_of_picture[match.row], *side.items_of_picture[match.picture]]
        ours = [number for number in both if number in parents]
        for number in ours[1:]:
            _join(parents, number, ours[0])


def _long_texts(side: TestSide) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return np.array([any(is_long(norm_v1(text)) for text in item.texts) for item in side.items], dtype=bool)


def _root(parents: dict[int, int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _join(parents: dict[int, int], first: int, second: int) -> None:
    one, other = sorted((_root(parents, first), _root(parents, second)))
    parents[other] = one
