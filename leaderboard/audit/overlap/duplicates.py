"""What is wrong inside one split: rows that are there twice, questions with more than one right answer."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from medbench.leaderboard.audit.overlap.items import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Repeats and contradictions of one split.

    Attributes:
        rows: All rows.
        exact_duplicates: Rows that repeat picture, question and answer of an earlier one, letter by letter.
        contradicting_groups: Pairs of picture and question that have more than one right answer.
        contradicting_rows: Rows of these groups.
        ceiling: Largest share of rows that a model which always says the same can answer exactly.
    """

    rows: int
    exact_duplicates: int
    contradicting_groups: int
    contradicting_rows: int
    ceiling: float


def consistency(items: Sequence[Item], *, one_answer: bool = True) -> Consistency:
    """Return repeats and contradictions; texts are compared as they are, pictures by their id or their file.

    Args:
        items: The rows.
        one_answer: Whether a question has one right answer; two reports on one picture do not contradict each other.
    """
    whole = Counter((*_asked(item), item.answer) for item in items)
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item in items:
        answers[_asked(item) if one_answer else (item.item_id, "")][item.answer] += 1
    contradicting = [counts for counts in answers.values() if len(counts) > 1]
    best = sum(max(counts.values()) for counts in answers.values())
    return Consistency(
        rows=len(items),
        exact_duplicates=sum(count - 1 for count in whole.values()),
        contradicting_groups=len(contradicting),
        contradicting_rows=sum(sum(counts.values()) for counts in contradicting),
        ceiling=best / len(items) if items else 1.0,
    )


def _asked(item: Item) -> tuple[str, str]:
    pictures = ";".join(f"{image.path}:{image.member}:{image.index}" for image in item.images)
    return pictures or item.groups.get("image", ""), item.question or ("" if pictures else item.item_id)
