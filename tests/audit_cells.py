"""Invented answers to audit, from a line each."""

import random
from collections.abc import Sequence

from medbench.leaderboard.audit.outputs.cells import Answered, Cell, long_texts, make_cell
from medbench.leaderboard.audit.outputs.verdict import Judgement, audit_outputs

WORDS = [f"{start}{end}" for start in ("neph", "card", "oste", "pulm", "hepat", "crani") for end in ("al", "ic", "oid")]


def report(draw: random.Random, words: int = 14) -> str:
    """Return a report that is nobody else's."""
    return f"{' '.join(draw.choices(WORDS, k=words - 2))} measures {draw.randrange(10**9)}."


def reports(count: int, seed: int = 0, words: int = 14) -> list[str]:
    draw = random.Random(seed)
    return [report(draw, words) for _ in range(count)]


def answered(
    references: Sequence[str | None], answers: Sequence[str | None], groups: Sequence[str] | None = None
) -> list[Answered]:
    groups = groups or [f"p{place}" for place in range(len(references))]
    return [
        Answered(sample_id=f"s{place:04d}", group=group, prediction=answer, reference=reference)
        for place, (reference, answer, group) in enumerate(zip(references, answers, groups, strict=True))
    ]


def cell(
    references: Sequence[str | None],
    answers: Sequence[str | None],
    groups: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
) -> Cell:
    known = None if train is None else long_texts(train)
    return make_cell(answered(references, answers, groups), train_references=known)


def verdict_of(found: Cell) -> Judgement:
    return audit_outputs({"": found})[""]
