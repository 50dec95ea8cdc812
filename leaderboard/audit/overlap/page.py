"""An audit of data as a markdown page, made of its JSON document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medbench.leaderboard.audit.overlap.findings import MARK
from medbench.leaderboard.render import markdown_table, markdown_text

Document = Mapping[str, Any]
_STATES = {
    "strong": "strong",
    "suspicious": "suspicious",
    "no_evidence": "no evidence",
    "not_testable": "not testable",
}


_LEGEND = (
    f"{MARK} marks a dataset whose training data hold more than 1 % of its test items or groups, or share texts 5 "
    "points above what two parts of the training data share: the null."
)


def render_page(document: Document) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Audit of data: do test and training data overlap?",
            "",
            f"Verdict: **{_STATES[document['verdict']]}**. {_LEGEND}",
            "",
            *_matrix(document),
            "",
            "## What was not checked",
            "",
            *_not_checked(document),
            *(line for task, found in document["tasks"].items() for line in _task(task, found)),
            "",
            "## Settings",
            "",
            *_settings(document),
            "",
        ]
    )


def _matrix(document: Document) -> Iterator[str]:
    rows = [
        [
            f"{task}{found['mark']}",
            _STATES[found["verdict"]],
            str(found["test_items"]),
            str(found["train_items"]),
            "; ".join(_reasons(found)) or "-",
        ]
        for task, found in document["tasks"].items()
    ]
    yield table(["task", "verdict", "test", "train", "what it rests on"], rows)


def _reasons(found: Document) -> Iterator[str]:
    for overlap in found["overlaps"]:
        if overlap["verdict"] == found["verdict"]:
            yield from (f"{overlap['corpus']}: {reason}" for reason in overlap["reasons"])


def _not_checked(document: Document) -> Iterator[str]:
    for task, found in document["tasks"].items():
        for overlap in found["overlaps"]:
            for check in overlap["checks"]:
                if check["state"] == "unknown":
                    yield f"- {task} in {overlap['corpus']}: {check['title']} **unknown**, {check['note']}"
    yield from (f"- {what}" for what in document["not_covered"])


def _task(task: str, found: Document) -> Iterator[str]:
    yield from ("", f"## {task}{found['mark']}", "")
    null = found["null"]
    if null is None:
        yield "Null: none, there are too few training items to split."
    else:
        kept = f"whole by {null['unit']}" if null["unit"] != "item" else "item by item"
        weak = "" if null["decisive"] else f"; not by {found['decisive_id']}, so that it may hide a leak"
        yield f"Null: {null['items']} training items held out {kept} and compared with the rest{weak}."
    if found["texts_withheld"]:
        yield "Texts are withheld: access to them needs a signed agreement. `--reveal` shows them."
    for split, within in found["within"].items():
        if within["exact_duplicates"] or within["contradicting_groups"]:
            yield (
                f"Within {split}: {within['exact_duplicates']} of {within['rows']} rows repeat another exactly; "
                f"{within['contradicting_groups']} questions have contradicting answers ({within['contradicting_rows']}"
                f" rows), so that exact match cannot exceed {100 * within['ceiling']:.2f} %."
            )
    for overlap in found["overlaps"]:
        if overlap["origin"] != "task" or overlap["verdict"] in {"strong", "suspicious"}:
            yield from _overlap(overlap)
    silent = [one["corpus"] for one in found["overlaps"] if one["origin"] == "task" and one["verdict"] == "no_evidence"]
    if silent:
        yield from ("", f"No evidence in: {', '.join(silent)}.")


def _overlap(overlap: Document) -> Iterator[str]:
    yield from ("", f"### {overlap['corpus']}: {_STATES[overlap['verdict']]}", "")
    rows = [[one["title"], *_cells(one), one["note"] or "-"] for one in overlap["checks"]]
    yield table(["check", "shared", "null", "note"], rows)
    if overlap["examples"]:
        yield ""
        rows = [
            [one["check"], one["test"], one["train"], one["how"], one.get("test_text", ""), one.get("train_text", "")]
            for one in overlap["examples"]
        ]
        yield table(["check", "test", "train", "how", "test text", "train text"], rows)


def _cells(check: Document) -> tuple[str, str]:
    if check["state"] != "checked":
        return check["state"].replace("_", " "), "-"
    parts = []
    if check["of"]:
        parts.append(f"{check['shared']} of {check['of']} items ({100 * check['share']:.1f} %)")
    if "of_groups" in check:
        parts.append(f"{check['groups']} of {check['of_groups']} groups ({100 * check['group_share']:.1f} %)")
    null = "-" if check["null"] is None else f"{100 * check['null']:.1f} %"
    return ", ".join(parts), null


def _settings(document: Document) -> Iterator[str]:
    flat = {name: value for name, value in document["settings"].items() if not isinstance(value, dict)}
    nested = {
        f"{name}.{inner}": value
        for name, values in document["settings"].items()
        if isinstance(values, dict)
        for inner, value in values.items()
    }
    rows = [[name, str(value)] for name, value in {**flat, **nested}.items()]
    rows += [[f"data of {name}", value] for name, value in document["data"].items()]
    yield table(["setting", "value"], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; cells are shown as plain text."""
    return markdown_table(header, [[markdown_text(cell) for cell in row] for row in rows])
