"""What was found in a model's outputs as an audit: all numbers, the tables of a page, and words that say no more."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medbench.leaderboard.audit.document import WORDS, Audit, Table, TaskVerdict, p_text, percent, table_of, wording
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, word_count
from medbench.leaderboard.audit.outputs.answers import Answers
from medbench.leaderboard.audit.outputs.cells import REASONS, THRESHOLDS, Cell, Reason
from medbench.leaderboard.audit.outputs.evidence import Effect, Evidence, PartScore
from medbench.leaderboard.audit.outputs.verdict import CellVerdict, Controls, Judged, Share, sentence
from medbench.tasks.foundation.files import canonical_json, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskOutputs:
    """What was found in the outputs of one task.

    `effects` are empty where matches are too few to be suspicious, or there are no scores; texts are `withheld` where
    access to them needs a signed agreement.
    """

    title: str
    run: str
    cell: Cell
    judged: Judged
    controls: Controls
    chance: Mapping[str, float]
    evidence: Evidence
    effects: Sequence[Effect]
    withheld: bool

    @property
    def verdict(self) -> CellVerdict:
        """What is to be said of it."""
        return self.judged.verdict


def report_outputs(
    ours: Answers, titles: Mapping[str, str], tasks: Mapping[str, TaskOutputs], facts: Mapping[str, Any], command: str,
    *, revealed: bool = False,
) -> Audit:  # fmt: skip
    """Return what was found as an audit. `titles` has all tasks, also those that could not be read."""
    known = {one.cell.train_references for one in tasks.values() if one.cell.train_references is not None}
    prints = sorted((fingerprint(sorted(texts)), f"{len(texts):,} long ones") for texts in known)
    text = wording("outputs")
    return Audit(
        kind="model", title=f"Leakage audit of outputs: {ours.name}", question=text["question"],
        run=ours.run if ours.tables else "",
        tasks={
            task: _task_verdict(tasks[task])
            if task in tasks
            else TaskVerdict(title=title, verdict="not_testable", text=f"Could not be checked: {ours.problems[task]}")
            for task, title in titles.items()
        },
        tables=[
            _matrix(titles, tasks), *_test(tasks.values()),
            *(part for one in tasks.values() if one.evidence.examples or one.effects for part in _telling(one)),
        ],
        incomplete=bool(ours.problems), notes=ours.notes, limits=text["limits"],
        alternatives=[*text["alternatives"], *(why for one in tasks.values() for why in _own_explanations(one))],
        examples=[example for one in tasks.values() for example in one.evidence.examples],
        settings={
            **facts, "normaliser": NORM_VERSION, "thresholds": asdict(THRESHOLDS),
            "answers and references of": {task: one.cell.fingerprint() for task, one in tasks.items()},
            "training references": dict(prints),
        },
        command=command, revealed=revealed,
    )  # fmt: skip


def _task_verdict(found: TaskOutputs) -> TaskVerdict:
    one, evidence, known = found.verdict, found.evidence, found.cell.train_references
    details: dict[str, Any] = {
        **asdict(one), "in_train": _share(one.in_train), "not_in_train": _share(one.not_in_train),
        "peers": [{"name": p.name, "run": p.run, "exact": p.exact, **(_share(p.share) or {})} for p in one.peers],
        "controls": {**found.controls.brief(), "exact_by_chance": found.chance},
        "near_matches": evidence.near_matches, "of_train_sentences": evidence.of_train_sentences,
        "cut_alike": evidence.cut_alike, "similarities": evidence.similarities, "matches": _matches(found),
        "effect": [asdict(effect) for effect in found.effects], "withheld": found.withheld,
        "train_references": None if known is None else len(known),
    }  # fmt: skip
    return TaskVerdict(
        title=found.title, verdict=one.verdict, text=sentence(one), details=details,
        facts={"matches": f"{one.k} of {one.K} cases", "exact matches": one.exact, "items": one.n},
        silent=one.verdict == "not_testable" and one.k < THRESHOLDS.fewest_suspicious,
    )  # fmt: skip


def _share(share: Share | None) -> dict[str, Any] | None:
    return None if share is None else {"matches": share.matches, "of": share.of, "rate": share.rate}


def _matches(found: TaskOutputs) -> list[dict[str, Any]]:
    """Return every exact match on a long reference; its text only as a hash that is salted with run and sample."""
    cell, counts = found.cell, found.judged.counts
    salted = {
        row: canonical_json([found.run, cell.items[row].sample_id, cell.references[row] or ""])
        for row, exact in enumerate(counts.exact)
        if exact and is_long(cell.references[row])
    }
    return [
        {
            "sample_id": cell.items[row].sample_id, "group": cell.items[row].group, "reason": counts.reasons[row],
            "words": word_count(cell.references[row]),
            "hash": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        }
        for row, text in salted.items()
    ]  # fmt: skip


def _matrix(titles: Mapping[str, str], found: Mapping[str, TaskOutputs]) -> Table:
    matrix = table_of(
        found.values(),
        {
            "task": lambda one: one.title,
            "verdict": lambda one: WORDS[one.verdict.verdict],
            "k of K": lambda one: f"{one.verdict.k} of {one.verdict.K}",
            "rate [95 %]": lambda one: one.verdict.interval,
            "p": lambda one: p_text(one.verdict.p if one.verdict.K else None),
            "detectable": lambda one: percent(one.verdict.detectable_rate),
            "exact of n": lambda one: f"{one.verdict.exact} of {one.verdict.n}",
            "planted leak": lambda one: (
                WORDS[one.controls.planted.verdict] if one.controls.testable else "too few cases"
            ),
        },
    )
    rows = dict(zip(found, matrix.rows, strict=True))
    unread = ("not checked", *("-" for _ in matrix.columns[2:]))
    return replace(matrix, rows=[rows.get(task) or [title, *unread] for task, title in titles.items()])


def _test(found: Collection[TaskOutputs]) -> Iterator[Table]:
    """Yield the numbers of the test, what it was made on, and its controls."""

    def at_longer(verdict: CellVerdict) -> str:
        longer = verdict.sensitivity
        return f"{longer.k} of {longer.K}, p {p_text(longer.p if longer.K else None)}"

    def both(one: TaskOutputs, why: Reason) -> str:
        items = one.verdict.items_by_reason.get(why)
        return f"{items} ({one.verdict.exact_by_reason.get(why, 0)})" if items else ""

    def control(verdict: CellVerdict) -> str:
        return f"{WORDS[verdict.verdict]}, {verdict.k} of {verdict.K}"

    texts = wording("outputs")
    yield table_of(
        found,
        {
            "task": lambda one: one.title,
            "p (skill)": lambda one: p_text(one.verdict.p_skill),
            "p (Holm)": lambda one: p_text(one.verdict.p_holm),
            "tolerated": lambda one: percent(one.verdict.p0) + (" (peers)" if one.verdict.p0_source == "peers" else ""),
            "at 12 words": lambda one: at_longer(one.verdict),
        },
        title="The test",
        right=4,
    )
    used = [why for why in REASONS if any(why in one.verdict.items_by_reason for one in found)]
    rows = [[one.title, *(both(one, why) for why in used)] for one in found]
    columns = ["task", *(texts["reasons"][why] for why in used)]
    yield Table(title="What was checked", text=texts["eligible"], columns=columns, rows=rows, right=len(used))
    yield table_of(
        found,
        {
            "task": lambda one: one.title,
            "planted leak": lambda one: (
                control(one.controls.planted) if one.controls.testable else "too few cases to plant in"
            ),
            "dealt to other cases": lambda one: control(one.controls.shuffled),
            "exact by chance": lambda one: f"{one.chance['exact']:.1f}",
            "... of long ones": lambda one: f"{one.chance['long']:.2f}",
        },
        title="Controls", text=texts["controls"], right=2,
    )  # fmt: skip


def _telling(found: TaskOutputs) -> Iterator[Table]:
    """Yield what is told of a task beside its verdict."""
    verdict, evidence = found.verdict, found.evidence
    composed, cut = evidence.of_train_sentences, evidence.cut_alike
    consist = "of the matching items consist of sentences that all stand in known training references"
    shares = ", ".join(map(str, evidence.similarities))
    lines = [
        _attribution(verdict),
        f"Near matches that were not counted: {evidence.near_matches}.",
        f"{composed} {consist}." if composed else "",
        f"{cut} answers that were cut agree with their reference up to there." if cut else "",
        f"Eligible items by similarity, in tenths, equal ones last: {shares}.",
        wording("outputs")["withheld"] if found.withheld else "",
    ]
    yield Table(title=found.title, bullets=[line for line in lines if line])
    if verdict.peers:
        bound, default = percent(verdict.p0), p_text(verdict.p_default)
        used = f"Their upper bound, {bound}, is the tolerated rate; with the default p = {default}."
        unused = "They leave the tolerated rate as it is."
        yield table_of(
            verdict.peers,
            {
                "peer": lambda peer: peer.name,
                "k of K": lambda peer: f"{peer.share.matches} of {peer.share.of}",
                "rate": lambda peer: percent(peer.share.rate),
                "exact": lambda peer: peer.exact,
            },
            text=f"{used if verdict.p0_source == 'peers' else unused} Peers may share a leak.",
            right=3,
        )
    if found.effects:
        yield _effects(found)


def _attribution(verdict: CellVerdict) -> str:
    def told(share: Share) -> str:
        return f"{share.matches} of {share.of} ({percent(share.rate)})"

    if verdict.in_train is None:
        return f"Exact matches on long references: {told(verdict.not_in_train)}. No training references are known."
    return (
        f"Exact matches on long references that are in the known training data: {told(verdict.in_train)}; on the "
        f"others: {told(verdict.not_in_train)}."
    )


def _effects(found: TaskOutputs) -> Table:
    def value(part: PartScore) -> str:
        return "-" if part.value is None else f"{100 * part.value:.2f} (n={part.n})"

    def beyond(effect: Effect) -> str:
        return "-" if effect.beyond_peers is None else f"{100 * effect.beyond_peers:+.1f}"

    clean = min(effect.without_matches.cases for effect in found.effects)
    few = "" if all(effect.estimable for effect in found.effects) else f" Only {clean} cases are left: not estimable."
    return table_of(
        found.effects,
        {
            "protocol": lambda effect: effect.protocol,
            "metric": lambda effect: effect.metric,
            "all": lambda effect: value(effect.all),
            "without the cases that match": lambda effect: (
                value(effect.without_matches) if effect.estimable else "not estimable"
            ),
            "these cases alone": lambda effect: value(effect.matches_only),
            "beyond peers": beyond,
        },
        text=f"Effect on the scores, in per cent.{few}",
        right=4,
    )


def _own_explanations(found: TaskOutputs) -> Iterator[str]:
    composed, exact = found.evidence.of_train_sentences, len(found.judged.counts.counted_rows)
    if composed and exact:
        yield (
            f"{found.title}: {composed} of {exact} matching references consist of sentences that stand in known "
            "training references."
        )
    if found.verdict.ref_in_train:
        yield (
            f"{found.title}: {percent(found.verdict.ref_in_train)} of the long test references stand word for word in "
            "the known training data. That is a finding about the data, not the model: medbench audit data."
        )
