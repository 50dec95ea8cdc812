"""Whose texts may leave the machine: decided by a task's declaration, never by what its data look like."""

import re
from dataclasses import dataclass
from typing import Literal

from harness.results import Results
from leaderboard.credentialed import is_bundled
from tasks.catalog import TASKS, get_task
from tasks.spec import TaskSpec

# Licences under which a text may be passed on as long as its source is named.
_FREE = re.compile(r"Apache\b|(?:MIT|CC0|CC[ -]BY(?:-NC)?(?:-SA)?)(?:[ -]\d|(?![\w-]))")
Openness = Literal["open", "no texts", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be passed on of a task.

    Attributes:
        openness: `open`: scores, answers and labels; `no texts`: scores by sample; `closed`: scores under running
            numbers, since even the names of samples and patients are under an agreement.
        reason: Why not everything; empty if it is open.
    """

    openness: Openness
    reason: str


def terms_of(results: Results, task: str) -> Terms:
    """Return what may be passed on of a task of a run.

    The bundled mini suite's samples are free, whatever task they stand in for: they are known by their fingerprint.
    A task that nothing is known of, such as one of a plugin that is not installed, is closed.
    """
    if task not in TASKS:
        return Terms(openness="closed", reason="this installation does not know the task, so neither its licence")
    if is_bundled(results, task):
        return Terms(openness="open", reason="")
    return declared_terms(get_task(task))


def declared_terms(spec: TaskSpec) -> Terms:
    """Return what a task's declaration allows for its real data."""
    if spec.credentialed:
        return Terms(openness="closed", reason=f"its data are under a signed agreement ({spec.licence})")
    if not _FREE.match(spec.licence):
        return Terms(
            openness="no texts", reason=f"its licence does not say that texts may be passed on: {spec.licence}"
        )
    return Terms(openness="open", reason="")
