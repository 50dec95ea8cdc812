"""What `medbench audit probe` shows: rows for the terminal, markdown, JSON; pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medbench.leaderboard.audit.probes import LEAST_PEERS, WITH_VERDICT, ProbeFinding, WrongKey
from medbench.leaderboard.compare_page import p_text
from medbench.leaderboard.markdown import METRIC_TITLES, markdown_table, markdown_text, notes
from medbench.tasks.foundation.files import canonical_json, finite
from medbench.tasks.probes import PROBES
from medbench.tasks.statistics.paired import Difference

COLUMNS = ("task", "metric", "as it is", "probed", "drop [95 %]", "peers' drop", "gap [95 %]", "p (Holm)", "verdict")


def rows(findings: Sequence[ProbeFinding]) -> list[list[str]]:
    """Return a line for each task."""
    return [
        [
            one.task, METRIC_TITLES.get(one.metric, one.metric), f"{100 * one.plain:.2f}", f"{100 * one.probed:.2f}",
            _spread(one.drop), "-" if one.peer_drop is None else f"{100 * one.peer_drop:+.2f}",
            "-" if one.gap is None else _spread(one.gap), "-" if one.p is None else p_text(one.p), one.verdict,
        ]
        for one in findings
    ]  # fmt: skip


def _spread(found: Difference) -> str:
    return f"{100 * found.value:+.2f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def reading(name: str) -> str:
    """Return how a probe is to be read."""
    told = f"Probe {name}: {PROBES[name].meaning}. Values are means over samples scored both ways."
    if name in WITH_VERDICT:
        return (
            f"{told} A drop alone may only mean a harder question; the verdict is by the gap to at least {LEAST_PEERS} "
            "peers."
        )
    return (
        f"{told} What stays right shows priors of the questions, which is no leak, so there is no verdict. Whole "
        "references repeated without their picture would be one: medbench audit model on the probed run."
    )


def wrong_key_text(found: WrongKey) -> str:
    """Return what the wrong keys say, in one sentence."""
    return (
        f"Wrong keys: the model agrees with {found.agreed} of {found.items}, p {p_text(found.p)} were every second "
        f"agreement chance: {found.verdict}."
    )


def render_probe(
    title: str, name: str, findings: Sequence[ProbeFinding], wrong: WrongKey | None, notices: Sequence[str]
) -> str:
    """Return the page."""
    parts = [f"# Probe of {markdown_text(title)}", *notes(notices)]
    if name:
        parts += [reading(name), markdown_table(COLUMNS, rows(findings))]
    if wrong is not None:
        parts.append(wrong_key_text(wrong))
    return "\n\n".join(parts) + "\n"


def probe_json(run: str, name: str, findings: Sequence[ProbeFinding], wrong: WrongKey | None) -> str:
    """Return the same for programs."""
    document: dict[str, Any] = {
        "schema": 1, "run": run, "probe": name, "tasks": {one.task: asdict(one) for one in findings},
        "wrong_keys": None if wrong is None else asdict(wrong),
    }  # fmt: skip
    return canonical_json(finite(document), indent=2) + "\n"
