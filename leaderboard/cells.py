"""The parts of a cell as text, for all renderers."""

from medbench.leaderboard.table import Cell

OVERLAP_TEXT = (
    "overlapping intervals decide nothing about a difference: medbench compare does, on the samples that both scored."
)


def value_text(cell: Cell) -> str:
    """Return the number as a percentage with two decimals, `n/a` where nothing could be scored."""
    return "n/a" if cell.value is None else f"{100 * cell.value:.2f}"


def uncertainty_text(cell: Cell, *, plus_minus: str) -> str:
    """Return the standard deviation over runs, or else the interval; nothing where there is neither."""
    if cell.spread is not None:
        return f" {plus_minus} {100 * cell.spread:.2f}"
    if cell.ci is not None and cell.value is not None:
        return f" [{100 * cell.ci[0]:.1f}, {100 * cell.ci[1]:.1f}]"
    return ""
