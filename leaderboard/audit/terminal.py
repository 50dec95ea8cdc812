"""An audit of outputs as rows for the terminal."""

from medbench.leaderboard.audit.run_audit import OutputAudit
from medbench.leaderboard.audit.wording import interval, p_text, percent, sentence

COLUMNS = ("task", "verdict", "k of K", "rate [95 %]", "p", "detectable", "exact of n", "planted leak")


def rows(audit: OutputAudit) -> list[list[str]]:
    """Return a line for each task."""
    return [_row(audit, task) for task in audit.titles]


def _row(audit: OutputAudit, task: str) -> list[str]:
    title = audit.titles[task]
    if task not in audit.tasks:
        return [title, "not checked", *[""] * (len(COLUMNS) - 2)]
    one = audit.tasks[task]
    found = one.verdict
    planted = one.controls.planted.verdict if one.controls.testable else "too few cases"
    return [
        title, found.verdict.replace("_", " "), f"{found.k} of {found.K}", interval(found),
        p_text(found.p if found.K else None), percent(found.detectable_rate), f"{found.exact} of {found.n}",
        planted.replace("_", " "),
    ]  # fmt: skip


def sentences(audit: OutputAudit) -> list[str]:
    """Return what is to be said of each task that could be tested, and why others were not even read."""
    found = [
        f"{audit.titles[task]}: {sentence(one.verdict, audit.thresholds)}"
        for task, one in audit.tasks.items()
        if one.verdict.verdict != "not_testable" or one.verdict.k >= audit.thresholds.fewest_suspicious
    ]
    return found + [f"{audit.titles[task]}: could not be checked: {why}" for task, why in audit.problems.items()]
