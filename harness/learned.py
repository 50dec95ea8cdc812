"""What a run learned to hold at once, after memory ran out: for the same command after an interruption."""

from collections.abc import Mapping
from pathlib import Path

from medbench.tasks.foundation.files import canonical_json, json_value, write_atomically

FILE = "budget.json"


class Learned:
    """The least that turned out to fit, as the fields of a budget; kept in a file, if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.known: dict[str, int] = _read(path) if path else {}  # Empty before memory ran out.

    def within(self, held: Mapping[str, int]) -> dict[str, int]:
        """Return a budget no larger than what was learned."""
        return {name: min(value, self.known.get(name, value)) for name, value in held.items()}

    def note(self, held: Mapping[str, int]) -> None:
        """Keep what turned out to fit."""
        known = self.within(held)
        if known != self.known and self._path is not None:
            write_atomically(self._path, canonical_json(known) + "\n")
        self.known = known


def _read(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(value) for name, value in json_value(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        # It only spares a retry: a file that is not there or was cut short is no reason to stop.
        return {}
