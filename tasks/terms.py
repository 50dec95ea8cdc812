"""What of a dataset may be shown, sent and passed on: decided here alone, by what the data are, never by their layout.

Known are the bundled mini suite (by the digest of its samples), tasks under a signed agreement (by their declaration)
and real datasets (by a recorded fingerprint, `tasks/known_data.json`). Of any other data their owner says the licence
(`medbench data prepare --licence`); where nobody does, nothing is passed on but scores under running numbers. What that
makes of each stands in `docs/export.md`. A hospital's own data prepared in Slake's layout are the last: neither the
layout nor a count of samples that equals a paper's says whose they are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.prepared import Prepared
from medbench.tasks.spec import TaskSpec
from medbench.tasks.suite import suite_of

KNOWN_FILE = Path(__file__).with_name("known_data.json")
# Licences under which a text may be passed on as long as its source is named.
_FREE = re.compile(r"Apache\b|(?:MIT|CC0|CC[ -]BY(?:-NC)?(?:-SA)?)(?:[ -]\d|(?![\w-]))")
NOBODY_SAID = (
    "nobody has said under which licence these data may be passed on; who owns them says so with "
    "`medbench data prepare --licence`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be passed on of the data of a task.

    `open`: scores, answers and labels; `no texts`: scores by sample; `closed`: scores under running numbers, since even
    the names of samples and patients may say whose they are.
    """

    openness: Literal["open", "no texts", "closed"]
    reason: str = ""  # Why not everything; empty if it is open.
    licence: str = ""  # As far as anybody knows; empty for the mini suite, whose items have their own.


def needs_agreement(task: str) -> bool:
    """Return whether the data of a task, the mini suite's stand-ins apart, count as under a signed agreement.

    Such texts and images are shown nowhere and sent nowhere without the user's word. Of a task that is not known here
    nobody can say, so it counts as one.
    """
    return task not in TASKS or get_task(task).credentialed


def is_under_agreement(prepared: Prepared) -> bool:
    """Return whether prepared data count as under a signed agreement; the mini suite's phantoms do not."""
    return needs_agreement(prepared.task) and suite_of([prepared]) != "mini"


def terms_of_prepared(prepared: Prepared) -> Terms:
    """Return what may be passed on of prepared data."""
    manifest, bundled = prepared.manifest, suite_of([prepared]) == "mini"
    return terms_of_data(prepared.task, manifest.data_fingerprint, bundled=bundled, licence=manifest.licence)


def terms_of_data(task: str, fingerprint: str, *, bundled: bool, licence: str) -> Terms:
    """Return what may be passed on of data in a task's layout; `bundled` are ours, `licence` is the owner's word."""
    if bundled:
        return Terms(openness="open")
    if task not in TASKS:
        return Terms(openness="closed", reason="this installation does not know the task, so neither its licence")
    spec = get_task(task)
    if spec.credentialed:
        reason = f"its data are under a signed agreement ({spec.licence})"
        return Terms(openness="closed", reason=reason, licence=spec.licence)
    known = spec.licence if fingerprint in known_data().get(task, ()) else licence
    if not known:
        return Terms(openness="closed", reason=NOBODY_SAID)
    if _FREE.match(known):
        return Terms(openness="open", licence=known)
    reason = f"its licence does not say that texts may be passed on: {known}"
    # The names of a published dataset's samples are known to everybody.
    return Terms(openness="no texts" if known == spec.licence else "closed", reason=reason, licence=known)


def checked_licence(spec: TaskSpec, licence: str) -> str:
    """Return what the owner says of a licence; UsageError if the data count as under a signed agreement anyway."""
    said = " ".join(licence.split())
    if said and spec.credentialed:
        raise UsageError(
            f"--licence has no effect on {spec.name}: data in its layout count as under a signed agreement, since "
            "nothing tells yours from those that are.",
            "Leave --licence out.",
        )
    return said


@cache
def known_data() -> Mapping[str, frozenset[str]]:
    """Return the recorded fingerprints of real datasets as this version prepares them, by task."""
    return {task: frozenset(found) for task, found in read_json(KNOWN_FILE).items()}
