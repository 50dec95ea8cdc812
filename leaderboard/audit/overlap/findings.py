"""From counts to a verdict: what is shared, what any two parts of the data share, what could not be seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from medbench.leaderboard.audit.overlap.items import SAME_NAME, TaskItems, has_id
from medbench.leaderboard.audit.overlap.surrogates import surrogate_groups
from medbench.leaderboard.audit.overlap.tally import Check, Tally
from medbench.leaderboard.audit.overlap.test_side import TestSide
from medbench.leaderboard.audit.verdicts import Verdict

MARK = "\u2021"
MARK_SHARE = 0.01
MARK_EXCESS = 0.05
_STRONG_P = 0.00135
"""Three standard errors, one-sided."""
_SUSPICIOUS_P = 0.05
_ROUNDING = 1e-6
_FOUND: tuple[Verdict, ...] = ("strong", "suspicious")
_TEXTS = frozenset({"text", "near_text"})
# How far above the null a share must be, for checks that honest data pass by chance or by template.
_HEEDS_NULL = {"near_item": MARK_SHARE, "near_image": MARK_SHARE, "text": MARK_EXCESS, "near_text": MARK_EXCESS}

State = Literal["checked", "unknown", "not_applicable"]
Origin = Literal["own", "task", "file"]
# Ids that name a person or a thing, wherever the data come from; the others are numbers of one dataset's files.
_NAMING_IDS = frozenset({"patient", "study", "case", "volume", "lesion"})
_TITLES: Mapping[Check, str] = {
    "item": "items: picture, question and answer",
    "near_item": "items by nearly equal pictures",
    "text": "texts, equal",
    "near_text": "texts, contained",
    "similar_text": "texts, similar",
    "image": "pictures, equal pixels",
    "near_image": "pictures, nearly equal",
    "review_image": "pictures, to review",
    "blank_image": "pictures, blank",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check of one task against one body of training data.

    Attributes:
        check: Its name.
        title: Its name for people.
        state: `unknown` where ids or files are missing that it needs: never the same as nothing shared.
        shared: Test items with a partner.
        of: Test items that were looked at.
        groups: For ids and surrogate groups: groups on both sides; else None.
        of_groups: Groups of the test side.
        null: Share of items with a partner when the training data are split against themselves; None if not computed.
        counts: Whether the verdict heeds it.
        note: What limits it.
    """

    check: str
    title: str
    state: State
    shared: int = 0
    of: int = 0
    groups: int | None = None
    of_groups: int | None = None
    null: float | None = None
    counts: bool = True
    note: str = ""

    @property
    def share(self) -> float:
        """Share of test items with a partner."""
        return self.shared / self.of if self.of else 0.0

    @property
    def group_share(self) -> float:
        """Share of the test side's groups that are on both sides."""
        return self.groups / self.of_groups if self.groups and self.of_groups else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A body of training data.

    Attributes:
        name: What a report calls it.
        origin: The task's own train split, another task's, or a file of the user.
        family: The dataset whose ids it has; empty if unknown.
        rows: Its rows.
        withheld: Whether its texts must not be shown.
    """

    name: str
    origin: Origin
    family: str
    rows: int
    withheld: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """What two parts of a task's own training data share.

    Attributes:
        unit: What was kept together.
        decisive: Whether that is the id that decides; then a finding must exceed it.
        items: Items that were held out.
        shares: Share of them with a partner, by check.
    """

    unit: str
    decisive: bool
    items: int
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """All checks of one task against one body of training data, and what they come to."""

    corpus: Corpus
    findings: tuple[Finding, ...]
    verdict: Verdict
    reasons: tuple[str, ...]


def overlap_of(
    side: TestSide, task: TaskItems, corpus: Corpus, tally: Tally, null: Null | None, *, images: bool
) -> Overlap:
    """Return the findings of one task against one body of training data.

    Args:
        side: The test side.
        task: The task.
        corpus: The training data.
        tally: What is shared.
        null: What parts of the task's training data share.
        images: Whether pictures were looked at.
    """
    findings = [
        *_item_findings(side, task, tally, null, images=images),
        *_text_findings(side, task, tally, null),
        *_picture_findings(side, task, tally, null, images=images),
        *_id_findings(side, task, corpus, tally, null),
    ]
    if any(one.state == "unknown" and one.check.startswith("id:") for one in findings) and corpus.origin == "own":
        found = surrogate_groups(side, task.task, tally)
        findings.append(
            Finding(
                check="surrogate",
                title="surrogate groups",
                state="checked",
                groups=found.shared,
                of_groups=found.groups,
                counts=False,
                note="in place of ids: equal long texts, equal and nearly equal pictures; a lower bound",
            )
        )
    verdict, reasons = judge(findings, null, _size(task))
    return Overlap(corpus=corpus, findings=tuple(findings), verdict=verdict, reasons=reasons)


def judge(findings: Sequence[Finding], null: Null | None, size: int) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and what it rests on.

    - Equal pictures, ids and whole items: `strong` if more than 1 % of test items or groups are shared, `suspicious` if
      any is.
    - Nearly equal pictures, and items by them: the same, above what two parts of the training data share; no more than
      `suspicious` where that null has no ids to keep cases apart.
    - Equal texts, and texts that one training text contains: `strong` if more than 5 points above that null.
    - `not_testable`: nothing was found, and a check that is needed could not be made.

    What lies above the null must do so by Fisher's exact test of both counts: with p below 0.00135 (three standard
    errors) to be `strong`, below 0.05 to be `suspicious`; so is anything where the null has nothing.

    Args:
        findings: Of one task against one body of training data.
        null: What parts of the task's own training data share.
        size: Independent test units, which the test counts.
    """
    levels = {one: _level(one, null, size) for one in findings if one.state == "checked" and one.counts}
    for verdict in _FOUND:
        reasons = tuple(_reason(one) for one, level in levels.items() if level == verdict)
        if reasons:
            return verdict, reasons
    missing = tuple(f"{one.title}: {one.note}" for one in findings if one.state == "unknown")
    return ("not_testable", missing) if missing else ("no_evidence", ())


def _level(finding: Finding, null: Null | None, size: int) -> Verdict:
    share = max(finding.share, finding.group_share)
    if finding.check not in _HEEDS_NULL:
        return "strong" if share > MARK_SHARE else "suspicious" if share > 0 else "no_evidence"
    decisive = null is not None and null.decisive
    beside = finding.null or 0.0
    large = share - beside > _HEEDS_NULL[finding.check]
    p = _exact_p(share, beside, null, size)
    if large and p < _STRONG_P:
        return "strong" if decisive else "suspicious"
    if finding.check in _TEXTS and not large:
        return "no_evidence"
    seen = share > beside and (beside == 0 or p < _SUSPICIOUS_P)
    undecided = not decisive and finding.check not in _TEXTS and share > _HEEDS_NULL[finding.check]
    return "suspicious" if seen or undecided else "no_evidence"


def _reason(finding: Finding) -> str:
    share = max(finding.share, finding.group_share)
    beside = "" if finding.null is None or finding.check not in _HEEDS_NULL else f", null {_percent(finding.null)}"
    return f"{finding.title}: {_percent(share)} shared{beside}"


def _exact_p(share: float, beside: float, null: Null | None, size: int) -> float:
    """Return the one-sided p of Fisher's exact test of a share against the null's, by independent units.

    Where items outnumber units, counts are rounded against the finding. 0 where there is no null to compare with.
    """
    if null is None:
        return 0.0
    units, others = max(size, 1), max(min(null.items, size), 1)
    found = math.floor(share * units + _ROUNDING)
    expected = math.ceil(beside * others - _ROUNDING)
    return float(stats.hypergeom.sf(found - 1, units + others, found + expected, units))


def _size(task: TaskItems) -> int:
    known = {item.groups.get(task.decisive) or item.groups.get("image") or item.item_id for item in task.items}
    return len(known)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _null_of(null: Null | None, check: str) -> float | None:
    return None if null is None else null.shares.get(check)


def _counted(side: TestSide, task: TaskItems, tally: Tally, check: Check) -> int:
    return int(tally.shared[check][side.range_of(task.task)].sum())


def _item_findings(side: TestSide, task: TaskItems, tally: Tally, null: Null | None, *, images: bool) -> list[Finding]:
    pictured = task.kind != "qa"
    found = _counted(side, task, tally, "item")
    blind = pictured and not found and tally.pictures > 0 and (not images or tally.unreadable == tally.pictures)
    titles = (_TITLES["item"], _TITLES["near_item"]) if pictured else _TEXT_ITEMS
    if blind:
        note = "no picture of the training data was looked at"
        return [Finding(check="item", title=titles[0], state="unknown", of=len(task.items), note=note)]
    return [
        Finding(
            check=check,
            title=title,
            state="checked",
            shared=_counted(side, task, tally, check),
            of=len(task.items),
            null=_null_of(null, check),
        )
        for check, title in zip(_ITEM_CHECKS, titles, strict=True)
    ]


_ITEM_CHECKS: tuple[Check, ...] = ("item", "near_item")
_TEXT_ITEMS = ("items: question and answer", "items by nearly equal questions")


def _text_findings(side: TestSide, task: TaskItems, tally: Tally, null: Null | None) -> list[Finding]:
    if not any(item.texts for item in task.items):
        return []
    templated = task.kind == "vqa"
    note = "questions are templates; a shared question is no shared item" if templated else ""
    return [
        Finding(
            check=check,
            title=f"{'questions' if task.kind in {'qa', 'vqa'} else 'reports'}, {how}",
            state="checked",
            shared=_counted(side, task, tally, check),
            of=len(task.items),
            null=_null_of(null, check),
            counts=not templated and check != "similar_text",
            note=note or _SIMILAR if check == "similar_text" else note,
        )
        for check, how in _TEXT_CHECKS
    ]


_TEXT_CHECKS: tuple[tuple[Check, str], ...] = (
    ("text", "equal"),
    ("near_text", "contained in one text"),
    ("similar_text", "similar"),
)
_SIMILAR = "half of the runs of five words are the same: usual for templates; never counted"


def _picture_findings(
    side: TestSide, task: TaskItems, tally: Tally, null: Null | None, *, images: bool
) -> list[Finding]:
    if not any(item.images for item in task.items):
        return []
    if not tally.pictures:
        note = "the training data name no pictures"
        return [Finding(check="image", title="pictures", state="not_applicable", note=note)]
    if not images or tally.unreadable == tally.pictures:
        note = f"none of {tally.pictures} pictures could be read" if images else "pictures were left out"
        return [Finding(check="image", title="pictures", state="unknown", of=len(task.items), note=note)]
    note = f"{tally.unreadable} of {tally.pictures} pictures could not be read" if tally.unreadable else ""
    findings = [
        Finding(
            check=check,
            title=_TITLES[check],
            state="checked",
            shared=_counted(side, task, tally, check),
            of=len(task.items),
            null=_null_of(null, check),
            counts=check in {"image", "near_image"},
            note=_picture_note(side, check),
        )
        for check in ("image", "near_image", "review_image", "blank_image")
        if check != "blank_image" or _counted(side, task, tally, check)
    ]
    if note:
        findings.append(Finding(check="unreadable", title="unreadable pictures", state="unknown", note=note))
    return findings


def _picture_note(side: TestSide, check: str) -> str:
    if check == "blank_image":
        return "blank: all pictures that show nothing are equal; no leak"
    if check == "review_image":
        rest = "" if side.picture_index.searches_all else "; of so many pictures some of these pairs are not found"
        return f"32 to 60 of 256 bits differ: only a person can tell; never counted{rest}"
    return ""


def _id_findings(side: TestSide, task: TaskItems, corpus: Corpus, tally: Tally, null: Null | None) -> list[Finding]:
    comparable = not corpus.family or corpus.family == task.family
    if not comparable:
        return []
    names = sorted({name for item in task.items for name in item.groups})
    known = [name for name in names if name in tally.known_ids and _has(task, name)]
    findings = [_id_finding(side, task, tally, name, null) for name in known]
    if SAME_NAME in tally.known_ids and corpus.origin == "file":
        findings.append(_name_finding(side, task, tally))
    needed = task.decisive
    missing = [item for item in task.items if not has_id(item, needed)]
    wanted = corpus.origin == "own" or needed in _NAMING_IDS
    if wanted and (missing or needed not in tally.known_ids):
        who = f"{len(missing)} of {len(task.items)} test items have" if missing else "the training data have"
        note = f"{who} no {needed} id"
        findings = [one for one in findings if one.check != f"id:{needed}" or one.groups]
        findings.append(Finding(check=f"id:{needed}", title=f"shared {needed} ids", state="unknown", note=note))
    return findings


def _has(task: TaskItems, name: str) -> bool:
    return any(has_id(item, name) for item in task.items)


def _id_finding(side: TestSide, task: TaskItems, tally: Tally, name: str, null: Null | None) -> Finding:
    flags = tally.in_groups.get(name)
    return Finding(
        check=f"id:{name}",
        title=f"shared {name} ids",
        state="checked",
        shared=0 if flags is None else int(flags[side.range_of(task.task)].sum()),
        of=len(task.items),
        groups=len(tally.groups.get((task.task, name), ())),
        of_groups=len({item.groups[name] for item in task.items if name in item.groups}),
        null=_null_of(null, f"id:{name}"),
    )


def _name_finding(side: TestSide, task: TaskItems, tally: Tally) -> Finding:
    found = _id_finding(side, task, tally, SAME_NAME, None)
    return Finding(
        check=f"id:{SAME_NAME}",
        title="pictures, by the name of their file",
        state="checked",
        shared=found.shared,
        of=found.of,
        groups=found.groups,
        of_groups=len({image for item in task.items for image in item.images}),
    )
