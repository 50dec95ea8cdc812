"""The project's own source files, parsed."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")


def source_files() -> Iterator[tuple[Path, ast.Module]]:
    """Yield every Python file of the five rooms, relative to the root, with its syntax tree."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))
