"""`python -m tools.figures`: how large the project is, beside the bounds that it keeps; fails when one is broken."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("src", "tasks", "adapters", "harness", "leaderboard", "unimed")
BESIDE = ("tests", "benchmarks", "tools", "docs")
# 33,000 after the house was halved; then workers, shards, pages, several servers, quantised weights and LoRA came in,
# and imports, sweeps, LaTeX, figures and the site, ablations, interference and probing (docs/design/0015 to 0018 say
# what each buys).
MOST_LINES, MOST_FILES, MOST_OF_LEADERBOARD = 52_200, 320, 10_350
MOST_IN_MEDIAN, MOST_IN_FUNCTION, MOST_IN_FILE, MOST_NOQA = 10, 60, 500, 64


def sources(folder: str) -> list[Path]:
    """Return the Python files of a folder at the top; `src` holds links to the rooms, which are not followed."""
    return sorted((ROOT / folder).rglob("*.py") if folder != "src" else (ROOT / "src" / "medbench").glob("*.py"))


def lines(path: Path) -> int:
    """Return how many lines a file has, blank ones too."""
    return path.read_text(encoding="utf-8").count("\n")


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the length of each function, from `def` to its last line, and where it is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno}"


def main() -> int:
    """Print sizes and bounds; return 1 when a bound is broken."""
    product = [file for room in ROOMS for file in sources(room)]
    for folder in (*ROOMS, *BESIDE):
        print(f"{folder:12} {len(sources(folder)):4} files {sum(map(lines, sources(folder))):7,} lines")
    found = sorted(one for file in product for one in functions(file))
    longest = max(product, key=lines)
    noqa = sum(len(re.findall(r"# noqa", file.read_text(encoding="utf-8"))) for file in product)
    rows = [
        ("lines of the product", sum(map(lines, product)), MOST_LINES, ""),
        ("files of the product", len(product), MOST_FILES, ""),
        ("lines of leaderboard/", sum(map(lines, sources("leaderboard"))), MOST_OF_LEADERBOARD, ""),
        ("median function", int(median(length for length, _ in found)), MOST_IN_MEDIAN, ""),
        ("longest function", found[-1][0], MOST_IN_FUNCTION, found[-1][1]),
        ("longest file", lines(longest), MOST_IN_FILE, str(longest.relative_to(ROOT))),
        ("noqa", noqa, MOST_NOQA, ""),
    ]
    for name, value, most, where in rows:
        verdict = "ok" if value <= most else "BROKEN"
        print(f"{name:22} {value:7,} of at most {most:6,}  {verdict}  {where}")
    return int(any(value > most for _, value, most, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
