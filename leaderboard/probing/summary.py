"""The failure modes of probed models as rows: `modes.json` of all, and `probed.json` in a run's folder.

What stands in a run's folder goes into the leaderboard's JSON.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medbench.tasks.foundation.files import JsonObject, canonical_json, write_atomically
from medbench.tasks.validation import parse_json_file

if TYPE_CHECKING:
    from medbench.harness.probing.document import Probed  # Which brings torch.

PROBED = "probed.json"
_OF_SCORE = {"difference": "value", "low": "low", "high": "high"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRow:
    """One failure mode of one model on one target; numbers are None where it cannot be tested."""

    target: str
    model: str
    weights: str
    mode: str
    verdict: str
    first: str
    second: str
    difference: float | None  # First minus second, on a scale from chance, 0, to all right, 1.
    low: float | None  # Of its 95 % interval.
    high: float | None
    p: float | None  # By Holm over the modes of the target.
    would_show: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Rows of one model or several."""

    rows: tuple[ModeRow, ...]
    schema: Literal[1] = 1


def rows_of(models: Sequence["Probed"]) -> list[ModeRow]:
    """Return the modes of models, target by target."""
    rows = [
        ModeRow(
            target=found.name, model=model.title, weights=model.weights, mode=mode.name, verdict=mode.verdict,
            first=mode.first, second=mode.second, p=mode.p, would_show=mode.would_show, why=mode.why,
            **{name: getattr(mode.difference, of, None) for name, of in _OF_SCORE.items()},
        )
        for model in models for found in model.targets for mode in found.modes
    ]  # fmt: skip
    order = list(dict.fromkeys(row.target for row in rows))
    return sorted(rows, key=lambda row: order.index(row.target))


def write_summary(path: Path, models: Sequence["Probed"]) -> None:
    """Write the modes of models as JSON; RunError if that cannot be done."""
    write_atomically(path, canonical_json(asdict(Summary(rows=tuple(rows_of(models)))), indent=2) + "\n")


def probing_of(run: Path) -> list[JsonObject] | None:
    """Return the modes that lie in a run's folder, or None; DataError if the file is malformed."""
    path = run / PROBED
    return [asdict(row) for row in parse_json_file(Summary, path).rows] if path.exists() else None
