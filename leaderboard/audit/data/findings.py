"""From counts to a verdict: what is shared, what any two parts of the data share, what could not be seen."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np

from medbench.leaderboard.audit.data.items import SAME_NAME, Item, TaskItems
from medbench.leaderboard.audit.data.scan import ItemIndex, Tally, Witness
from medbench.leaderboard.audit.document import FOUND, Verdict, wording
from medbench.leaderboard.audit.normalise import is_long, norm_v1

MARK = "\u2021"
MARK_SHARE = 0.01
MARK_EXCESS = 0.05
_STRONG_P = 0.00135
"""Three standard errors, one-sided."""
_SUSPICIOUS_P = 0.05
_ROUNDING = 1e-6
_TEXTS = frozenset({"text", "near_text"})
# How far above the null a share must be, for checks that honest data pass by chance or by template.
_ABOVE_NULL = {"near_item": MARK_SHARE, "near_image": MARK_SHARE, "text": MARK_EXCESS, "near_text": MARK_EXCESS}
# Ids that name a person or a thing, wherever the data come from; the others are numbers of one dataset's files.
_NAMING_IDS = frozenset({"patient", "study", "case", "volume", "lesion"})
# The held-out part is at most so much of the training data, so that what it is compared with stays alike.
_LARGEST_SHARE = 4
_SHOWN_CHECKS = ("item", "near_item", "text", "near_text", "image", "near_image", "review_image")
_SHOWN = 3

State = Literal["checked", "unknown", "not_applicable"]
Origin = Literal["own", "task", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A body of training data."""

    name: str
    task: str = ""  # whose train split it is; empty for a file of the user
    origin: Origin  # the task's own train split, another task's, or a file of the user
    family: str = ""  # the dataset whose ids it has; empty if unknown
    rows: int = 0
    credentialed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one task against one body of training data."""

    check: str  # its name
    title: str  # its name for people
    state: State = "checked"  # `unknown` where ids or files are missing that it needs: never the same as nothing shared
    shared: int = 0  # test items with a partner, of so many that were looked at
    of: int = 0
    groups: int | None = None  # of ids and surrogate groups: those on both sides, of so many; else None
    of_groups: int | None = None
    null: float | None = None  # share when the training data are split against themselves; None if not computed
    counts: bool = True  # whether the verdict depends on it
    note: str = ""  # what limits it

    @property
    def share(self) -> float:
        """Share of test items with a partner."""
        return self.shared / self.of if self.of else 0.0

    @property
    def group_share(self) -> float:
        """Share of the test side's groups that are on both sides."""
        return self.groups / self.of_groups if self.groups and self.of_groups else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """What two parts of a task's own training data share."""

    unit: str  # what was kept together
    decisive: bool  # whether that is the id that decides, so that a finding must exceed the null
    items: int  # how many were held out
    shares: Mapping[str, float]  # by check


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """All checks of one task against one body of training data, and what they come to."""

    corpus: Corpus
    findings: Sequence[Finding]
    verdict: Verdict
    reasons: tuple[str, ...]
    witnesses: Sequence[tuple[str, Item, Witness]]  # the first test items with a partner, by check


def judge(findings: Sequence[Finding], null: Null | None, units: int) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and what it rests on.

    - Equal images, ids and whole items: `strong` if more than 1 % of test items or groups are shared, `suspicious` if
      any is.
    - Nearly equal images, and items by them: the same, above what two parts of the training data share; no more than
      `suspicious` where that null has no ids to keep cases apart.
    - Equal texts, and texts that one training text contains: `strong` if more than 5 points above that null.
    - `not_testable`: nothing was found, and a check that is needed could not be made.

    What lies above the null must do so by Fisher's exact test of both counts: with p below 0.00135 (three standard
    errors) to be `strong`, below 0.05 to be `suspicious`; so is anything where the null has nothing.
    The test counts independent units of the test side.
    """
    found: dict[Verdict, list[str]] = defaultdict(list)
    for one in findings:
        if one.state == "checked" and one.counts:
            told = f"{one.title}: {100 * max(one.share, one.group_share):.1f} % shared"
            if one.null is not None and one.check in _ABOVE_NULL:
                told += f", null {100 * one.null:.1f} %"
            found[_level(one, null, units)].append(told)
    for verdict in FOUND:
        if found[verdict]:
            return verdict, tuple(found[verdict])
    missing = tuple(f"{one.title}: {one.note}" for one in findings if one.state == "unknown")
    return ("not_testable", missing) if missing else ("no_evidence", ())


def _level(finding: Finding, null: Null | None, units: int) -> Verdict:
    share, beside = max(finding.share, finding.group_share), finding.null or 0.0
    if finding.check not in _ABOVE_NULL:
        return "strong" if share > MARK_SHARE else "suspicious" if share > 0 else "no_evidence"
    decisive = null is not None and null.decisive
    large = share - beside > _ABOVE_NULL[finding.check]
    p = _exact_p(share, beside, null, units)
    if large and p < _STRONG_P:
        return "strong" if decisive else "suspicious"
    if finding.check in _TEXTS and not large:
        return "no_evidence"
    seen = share > beside and (beside == 0 or p < _SUSPICIOUS_P)
    undecided = not decisive and finding.check not in _TEXTS and share > _ABOVE_NULL[finding.check]
    return "suspicious" if seen or undecided else "no_evidence"


def _exact_p(share: float, beside: float, null: Null | None, units: int) -> float:
    """Return the one-sided p of Fisher's exact test of a share against the null's, by independent units.

    Where items outnumber units, counts are rounded against the finding. 0 where there is no null to compare with.
    """
    from scipy import stats

    if null is None:
        return 0.0
    units, others = max(units, 1), max(min(null.items, units), 1)
    found, expected = math.floor(share * units + _ROUNDING), math.ceil(beside * others - _ROUNDING)
    return float(stats.hypergeom.sf(found - 1, units + others, found + expected, units))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One task beside one body of training data: what the tally says of it; `images` if they were looked at."""

    index: ItemIndex
    task: TaskItems
    corpus: Corpus
    tally: Tally
    null: Null | None
    images: bool

    def overlap(self) -> Overlap:
        """Return all checks and what they come to."""
        ids = list(self._ids())
        findings = [*self._items_and_texts(), *self._images(), *ids]
        if self.corpus.origin == "own" and any(one.state == "unknown" for one in ids):
            findings.append(_surrogate_groups(self.index, self.task, self.tally))
        verdict, reasons = judge(findings, self.null, len({self.task.unit_of(item) for item in self.task.items}))
        witnesses = [
            (check, self.index.items[number], there[number])
            for check in _SHOWN_CHECKS
            for there in [self.tally.witnesses[check]]
            for number in sorted(there.keys() & self.index.range_of(self.task.task))[:_SHOWN]
        ]
        return Overlap(corpus=self.corpus, findings=findings, verdict=verdict, reasons=reasons, witnesses=witnesses)

    def _checked(
        self, check: str, title: str, note: str = "", *, counts: bool = True, groups: int | None = None,
        of_groups: int | None = None,
    ) -> Finding:  # fmt: skip
        return Finding(
            check=check, title=title, shared=self.index.count(self.tally.shared[check], self.task.task),
            of=len(self.task.items), groups=groups, of_groups=of_groups,
            null=None if self.null is None else self.null.shares.get(check), counts=counts, note=note,
        )  # fmt: skip

    def _unseen(self) -> bool:
        return not self.images or self.tally.unreadable == self.tally.images

    def _items_and_texts(self) -> Iterator[Finding]:
        kind, templated = self.task.kind, self.task.kind == "vqa"
        item = self._checked("item", f"items: {'' if kind == 'qa' else 'image, '}question and answer")
        if kind != "qa" and not item.shared and self.tally.images and self._unseen():
            yield replace(item, state="unknown", null=None, note="no image of the training data was looked at")
        else:
            yield item
            yield self._checked("near_item", f"items by nearly equal {'questions' if kind == 'qa' else 'images'}")
        if any(one.texts for one in self.task.items):
            what, note = "questions" if kind in {"qa", "vqa"} else "reports", wording("data")["templates"]
            for check, how in (("text", "equal"), ("near_text", "contained in one text")):
                yield self._checked(check, f"{what}, {how}", note if templated else "", counts=not templated)

    def _images(self) -> Iterator[Finding]:
        tally, text = self.tally, wording("data")
        if not any(item.images for item in self.task.items):
            return
        if not tally.images:
            note = "the training data name no images"
            yield Finding(check="image", title="images", state="not_applicable", note=note)
        elif self._unseen():
            note = f"none of {tally.images} images could be read" if self.images else "images were left out"
            yield Finding(check="image", title="images", state="unknown", of=len(self.task.items), note=note)
        else:
            yield self._checked("image", "images, equal pixels")
            yield self._checked("near_image", "images, nearly equal")
            yield self._checked("review_image", "images, to review", text["review"], counts=False)
            if (blank := self._checked("blank_image", "images, blank", text["blank"], counts=False)).shared:
                yield blank
            if tally.unreadable:
                note = f"{tally.unreadable} of {tally.images} images could not be read"
                yield Finding(check="unreadable", title="unreadable images", state="unknown", note=note)

    def _ids(self) -> Iterator[Finding]:
        task, known, needed = self.task, self.tally.known_ids, self.task.decisive
        if self.corpus.family not in {"", task.family}:
            return
        missing = sum(not item.has_id(needed) for item in task.items)
        # Of other people's data only ids that name somebody are missed where they are not there.
        wanted = self.corpus.origin == "own" or needed in _NAMING_IDS
        unknown = wanted and (missing > 0 or needed not in known)
        for name in sorted({name for item in task.items for name in item.groups} & known):
            values = {item.groups[name] for item in task.items if name in item.groups}
            found = self._id(name, f"shared {name} ids", len(values))
            if any(item.has_id(name) for item in task.items) and (name != needed or not unknown or found.groups):
                yield found
        if SAME_NAME in known and self.corpus.origin == "file":
            images = {image for item in task.items for image in item.images}
            yield self._id(SAME_NAME, "images, by the name of their file", len(images))
        if unknown:
            who = f"{missing} of {len(task.items)} test items have" if missing else "the training data have"
            title, note = f"shared {needed} ids", f"{who} no {needed} id"
            yield Finding(check=f"id:{needed}", title=title, state="unknown", note=note)

    def _id(self, name: str, title: str, groups: int) -> Finding:
        shared = self.tally.groups.get((self.task.task, name), ())
        return self._checked(f"id:{name}", title, groups=len(shared), of_groups=groups)


def _surrogate_groups(index: ItemIndex, task: TaskItems, tally: Tally) -> Finding:
    """Return how many groups the training data touch, where items of one image or long text are taken for one case.

    Groups are components of equal long answers, equal images and nearly equal images among the test items.
    """
    from scipy.cluster.hierarchy import DisjointSet

    numbers = index.range_of(task.task)
    cases: Any = DisjointSet(numbers)
    first_of_text: dict[str, int] = {}
    for number in numbers:
        text = index.asked[number][1]
        if is_long(text):
            cases.merge(number, first_of_text.setdefault(text, number))
    for match in index.near_images.match(index.prints):
        if match.how in {"exact", "near"}:
            both = [*index.items_of_image[match.row], *index.items_of_image[match.image]]
            ours = [number for number in both if number in cases]
            for number in ours[1:]:
                cases.merge(number, ours[0])
    touched = tally.shared["image"] | tally.shared["near_image"]
    if task.kind == "report":
        long = [any(is_long(norm_v1(text)) for text in item.texts) for item in index.items]
        touched |= tally.shared["text"] & np.asarray(long, dtype=bool)
    shared = {cases[number] for number in numbers if touched[number]}
    return Finding(
        check="surrogate", title="surrogate groups", groups=len(shared), of_groups=cases.n_subsets, counts=False,
        note=wording("data")["surrogate"],
    )  # fmt: skip


class NullSplit(NamedTuple):
    """A part of a task's training data in the place of its test data, and the rest."""

    test: TaskItems
    rest: tuple[Item, ...]
    unit: str  # what is kept together: the decisive id, else the image, else nothing (`item`)


def null_split(train: TaskItems, size: int, seed: int) -> NullSplit:
    """Hold out about `size` items of the training data, at most a quarter, whole cases at a time in a seeded order."""
    units = (name for name in (train.decisive, "image") if train.items and all(one.has_id(name) for one in train.items))
    unit = next(units, "item")
    cases: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(train.items):
        cases[item.groups.get(unit, "") or item.item_id].append(number)
    held: set[int] = set()
    for case in sorted(cases, key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()):
        if len(held) < min(size, len(train.items) // _LARGEST_SHARE):
            held.update(cases[case])
    kept, rest = (tuple(one for n, one in enumerate(train.items) if (n in held) is there) for there in (True, False))
    return NullSplit(test=replace(train, items=kept), rest=rest, unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Repeats and contradictions of one split."""

    rows: int
    exact_duplicates: int  # rows that repeat image, question and answer of an earlier one, letter by letter
    contradicting_groups: int  # pairs of image and question that have more than one right answer
    contradicting_rows: int
    ceiling: float  # largest share of rows that a model which always says the same can answer exactly


def consistency(items: Sequence[Item], *, one_answer: bool = True) -> Consistency:
    """Return repeats and contradictions; texts are compared as they are, images by their id or their file.

    Two reports on one image, where a question has not `one_answer`, do not contradict each other.
    """
    whole = Counter((*_as_asked(item), item.answer) for item in items)
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for item in items:
        answers[_as_asked(item) if one_answer else (item.item_id, "")][item.answer] += 1
    contradicting = [counts for counts in answers.values() if len(counts) > 1]
    best = sum(max(counts.values()) for counts in answers.values())
    return Consistency(
        rows=len(items), exact_duplicates=whole.total() - len(whole), contradicting_groups=len(contradicting),
        contradicting_rows=sum(counts.total() for counts in contradicting),
        ceiling=best / len(items) if items else 1.0,
    )  # fmt: skip


def _as_asked(item: Item) -> tuple[str, str]:
    images = ";".join(f"{image.path}:{image.member}:{image.index}" for image in item.images)
    return images or item.groups.get("image", ""), item.question or ("" if images else item.item_id)
