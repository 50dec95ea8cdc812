"""Tables for programs: CSV with a line for each number, and JSON."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from medbench.leaderboard.counts import NOT_OK
from medbench.leaderboard.table import Table
from medbench.tasks.foundation.files import canonical_json

HEADER = (
    "protocol", "task", "metric", "model", "kind", "source", "value", "low", "high", "n", "std", "runs", "ceiling",
    "zero_shot", "leaked", "standing", "overlaps", "compared", "remark", "answered", "among_answered",
    "if_failed_wrong", "if_failed_right", *NOT_OK,
)  # fmt: skip


def render_csv(tables: Sequence[Table]) -> str:
    """Return all numbers as fractions, one a line; no name can be taken for a formula by a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(row for table in tables for row in _rows(table))
    return stream.getvalue()


def _rows(table: Table) -> Iterator[list[Any]]:
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            if cell is None:
                continue
            low, high = cell.ci or (None, None)
            wrong, right = cell.bounds or (None, None)
            yield [
                table.protocol, line.task, line.metric, _no_formula(column.name), column.kind, column.source,
                cell.value, low, high, cell.n, cell.spread, cell.runs, cell.ceiling, cell.zero_shot, cell.leaked,
                cell.standing, line.overlaps, cell.compared, line.remark, cell.answered, cell.among_answered, wrong,
                right, *(cell.not_ok.get(why) for why in NOT_OK),
            ]  # fmt: skip


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def render_json(tables: Sequence[Table], notices: Sequence[str]) -> str:
    """Return the tables as JSON: columns, lines, cells; numbers are fractions."""
    document = {"schema": 1, "notices": list(notices), "tables": [asdict(table) for table in tables]}
    return canonical_json(document, indent=2) + "\n"
