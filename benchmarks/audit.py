"""The audit of outputs on models of which the truth is known: false alarms of honest ones, power against memorisers.

Reports are invented from set sentences with a common core, as radiologists write them: a quarter of the test reports
stand word for word in the training data, studies of one patient may share a report. `python -m benchmarks.audit` prints
the table of docs/audit.md in a few minutes; figures are shares of simulated models.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medbench.leaderboard.audit.document import VERDICTS, Verdict
from medbench.leaderboard.audit.outputs.cells import Answered, long_texts, make_cell
from medbench.leaderboard.audit.outputs.verdict import audit_outputs
from medbench.tasks.foundation.console import emit_table, say

RUNS = 200
CASES = 250
_ORGANS = ("heart", "mediastinum", "left lung", "right lung", "pleura", "spine", "ribs", "aorta", "diaphragm", "hilum")
_STATES = (
    "is normal", "is unremarkable", "appears stable", "shows no acute abnormality", "is within normal limits",
    "shows a small opacity", "is mildly enlarged", "shows chronic change", "is incompletely seen", "is calcified",
)  # fmt: skip
_PLACES = ("apex", "base", "midzone", "periphery", "costophrenic angle", "suprahilar region")
_NORMAL = (
    "The heart size is normal. The lungs are clear. There is no pleural effusion or pneumothorax.",
    "No acute cardiopulmonary abnormality. Heart size within normal limits. The lungs are clear.",
    "Heart size is normal and the lungs are clear without effusion or pneumothorax. No acute disease.",
    "The cardiomediastinal silhouette is within normal limits. The lungs are clear. No acute osseous abnormality.",
)
_PLACEHOLDER = "replace this description of the image or findings"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """An invented task.

    Attributes:
        test: Reference and case of each item.
        train: Training references.
    """

    test: Sequence[tuple[str, str]]
    train: Sequence[str]


Answers = Sequence[str]
Model = Callable[[World, random.Random], Answers]


def report_world(draw: random.Random, cases: int = CASES) -> World:
    """Return reports of patients, a quarter of them standing in the training data."""
    train = [_report(draw) for _ in range(3 * cases)]
    test = []
    for case in range(cases):
        reference = draw.choice(_NORMAL) if draw.random() < 0.25 else _report(draw)  # noqa: PLR2004 - a quarter
        test += [(reference, f"p{case}")] * draw.choice((1, 1, 2))
    return World(test=test, train=[*train, *_NORMAL])


def leaky_world(draw: random.Random, cases: int = CASES) -> World:
    """Return captions split by picture: of many cases a sibling with the same caption is in the training data."""
    world = caption_world(draw, cases)
    split = [reference for reference, _ in world.test if draw.random() < 0.5]  # noqa: PLR2004 - half of them
    return replace(world, train=[*world.train, *split])


def caption_world(draw: random.Random, cases: int = CASES) -> World:
    """Return captions of cases, split by case: none in the training data but a placeholder that five cases share."""
    test = [(_report(draw) if case >= 5 else _PLACEHOLDER, f"c{case}") for case in range(cases)]  # noqa: PLR2004 - five
    return World(test=test, train=[_report(draw) for _ in range(cases)])


def yes_no_world(draw: random.Random, cases: int = CASES) -> World:
    """Return closed questions, four to an image."""
    return World(test=[(draw.choice(("yes", "no")), f"i{case // 4}") for case in range(4 * cases)], train=("yes", "no"))


def _report(draw: random.Random) -> str:
    sentences = [f"The {organ} {draw.choice(_STATES)}." for organ in draw.sample(_ORGANS, draw.randint(2, 5))]
    if draw.random() < 0.8:  # noqa: PLR2004 - most reports measure something
        sentences.append(f"There is a {draw.randint(2, 60)} mm nodule at the {draw.choice(_PLACES)}.")
    return " ".join(sentences)


def skilled(accuracy: float) -> Model:
    """Return a model that is right on a share of closed questions and says the other word otherwise."""

    def answer(world: World, draw: random.Random) -> Answers:
        wrong = {"yes": "no", "no": "yes"}
        return [right if draw.random() < accuracy else wrong[right] for right, _ in world.test]

    return answer


def constant(world: World, _draw: random.Random) -> Answers:
    """Say the commonest report of all cases."""
    return [_NORMAL[0]] * len(world.test)


def templates(world: World, draw: random.Random) -> Answers:
    """Say one of thirty stock phrases, each of which is some case's own unseen reference."""
    phrases = draw.sample([reference for reference, _ in world.test], 30)
    return [draw.choice(phrases) for _ in world.test]


def retrieval(world: World, draw: random.Random) -> Answers:
    """Say the training report that shares most words with the truth, among thirty that look alike."""
    bags = [(text, frozenset(text.split())) for text in world.train]
    answers = []
    for reference, _ in world.test:
        words = frozenset(reference.split())
        answers.append(max(draw.sample(bags, 30), key=lambda bag: len(bag[1] & words) / len(bag[1] | words))[0])
    return answers


def oracle_retrieval(world: World, draw: random.Random) -> Answers:
    """Say the very training report where there is one, and the best of thirty otherwise."""
    known = set(world.train)
    return [
        reference if reference in known else other
        for (reference, _), other in zip(world.test, retrieval(world, draw), strict=True)
    ]


def nearly_right(edited: float) -> Model:
    """Return a model that writes the truth with a share of its words exchanged: as skilled as can be imagined."""

    def answer(world: World, draw: random.Random) -> Answers:
        words = sorted({word for text in world.train for word in text.split()})
        return [
            " ".join(draw.choice(words) if draw.random() < edited else word for word in reference.split())
            for reference, _ in world.test
        ]

    return answer


def by_sentence(right: float) -> Model:
    """Return a model that knows all sentences and chooses each one rightly with a probability."""

    def answer(world: World, draw: random.Random) -> Answers:
        known = sorted({sentence for text in world.train for sentence in text.split(". ")})
        return [
            ". ".join(sentence if draw.random() < right else draw.choice(known) for sentence in reference.split(". "))
            for reference, _ in world.test
        ]

    return answer


def memoriser(share: float) -> Model:
    """Return a retrieval model that has seen the references of a share of the cases.

    It repeats them in capital letters, with a word of one in five wrong.
    """

    def answer(world: World, draw: random.Random) -> Answers:
        cases = sorted({case for _, case in world.test})
        seen = set(draw.sample(cases, round(share * len(cases))))
        honest = retrieval(world, draw)
        return [
            _recalled(reference, draw) if case in seen else other
            for (reference, case), other in zip(world.test, honest, strict=True)
        ]

    return answer


def _recalled(reference: str, draw: random.Random) -> str:
    words = reference.upper().split()
    if draw.random() < 0.2:  # noqa: PLR2004 - one in five has a slip
        words[draw.randrange(len(words))] = "SLIP"
    return " ".join(words)


def judge(world: World, answers: Answers) -> Verdict:
    """Return what the audit says of a model's answers."""
    items = [
        Answered(sample_id=f"{place:06d}", group=case, prediction=answer, reference=reference)
        for place, ((reference, case), answer) in enumerate(zip(world.test, answers, strict=True))
    ]
    cell = make_cell(items, train_references=long_texts(world.train))
    return audit_outputs({"": cell})[""].verdict


def shares(make: Callable[[random.Random], World], model: Model, *, runs: int) -> dict[Verdict, float]:
    """Return the share of simulated runs by verdict; the same numbers of a seed always."""
    found: Counter[Verdict] = Counter()
    for seed in range(runs):
        draw = random.Random(seed)
        world = make(draw)
        found[judge(world, model(world, draw))] += 1
    return {verdict: found[verdict] / runs for verdict in VERDICTS}


HONEST: dict[str, tuple[Callable[[random.Random], World], Model]] = {
    "yes/no, 60 % right": (yes_no_world, skilled(0.6)),
    "yes/no, 95 % right": (yes_no_world, skilled(0.95)),
    "yes/no, all right": (yes_no_world, skilled(1.0)),
    "reports, one for all": (report_world, constant),
    "reports, thirty stock phrases": (report_world, templates),
    "reports, noisy retrieval": (report_world, retrieval),
    "reports, every known one found": (report_world, oracle_retrieval),
    "captions split by case, retrieval": (caption_world, retrieval),
    "captions split by picture, siblings copied": (leaky_world, oracle_retrieval),
    "reports, 30 % of words wrong": (report_world, nearly_right(0.3)),
    "reports, every third sentence right": (report_world, by_sentence(1 / 3)),
}
BOUNDARY: dict[str, tuple[Callable[[random.Random], World], Model]] = {
    "reports, 20 % of words wrong": (report_world, nearly_right(0.2)),
    "reports, every other sentence right": (report_world, by_sentence(0.5)),
    "reports, two of three sentences right": (report_world, by_sentence(2 / 3)),
}
"""Honest models of a skill that nobody has seen: where the method ends."""
MEMORISERS: dict[str, tuple[Callable[[random.Random], World], Model]] = {
    f"{name}, {share:.0%} of cases memorised": (world, memoriser(share))
    for share in (0.03, 0.05, 0.1, 0.3)
    for name, world in (("reports", report_world), ("captions by case", caption_world), ("by picture", leaky_world))
}


def main() -> None:
    """Simulate and print a row for each model."""
    say(f"{RUNS} simulated models a row, {CASES} cases; shares by verdict")
    rows = [
        [name, kind, *(f"{found[verdict]:.3f}" for verdict in VERDICTS)]
        for kind, models in (("honest", HONEST), ("too skilled", BOUNDARY), ("leaking", MEMORISERS))
        for name, (world, model) in models.items()
        for found in [shares(world, model, runs=RUNS)]
    ]
    emit_table(["model", "truth", *VERDICTS], rows)


if __name__ == "__main__":
    main()
