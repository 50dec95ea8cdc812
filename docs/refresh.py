"""Writes the lists and tables of README.md and docs/ from their sources; `--check` only says whether they are fresh.

A section stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; this file says what NAME is made of.
"""

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from adapters.catalog import ADAPTERS
from harness.cli import COMMANDS
from harness.results import Results, read_results_file
from leaderboard.board import make_board
from leaderboard.markdown import render_scores
from tasks.catalog import get_task, task_names
from tasks.foundation.console import say
from tasks.foundation.errors import EXIT_FAILED
from tasks.foundation.files import read_json
from tasks.mini_suite import DATA
from tasks.protocols import metric_ids

ROOT = Path(__file__).resolve().parent.parent
MINI_RESULTS = ROOT / "docs" / "mini"
OWN_MODELS = ("uni-med", "blind", "mock")
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
SECTION = re.compile(r"(<!-- begin:(?P<name>[a-z-]+) -->\n).*?(<!-- end:(?P=name) -->)", re.DOTALL)


def commands() -> str:
    """Return the commands and what each does."""
    return table(["command", "does"], [[f"`medbench {name}`", text] for name, (_, text) in COMMANDS.items()])


def rooms() -> str:
    """Return the packages and the first line of what each says of itself."""
    rows = [[f"`{room}/`", (import_module(room).__doc__ or "").strip().splitlines()[0]] for room in ROOMS]
    return table(["room", "holds"], rows)


def tasks() -> str:
    """Return the tasks with kind, counts of the paper, metrics and licence."""
    rows = []
    for name in task_names()[:12]:
        spec = get_task(name)
        metrics = " ".join(metric_ids(name, spec.kind, "paper"))
        counts = " / ".join(str(spec.counts[split]) for split in ("train", "test"))
        rows.append([f"`{name}`", spec.kind, counts, metrics, spec.licence])
    return table(["task", "kind", "train / test in the paper", "metrics", "licence of the data"], rows)


def layouts() -> str:
    """Return the native layout that each task reads."""
    rows = [[f"`{name}`", f"`{get_task(name).layout}`".replace("|", "\\|")] for name in task_names()[:12]]
    return table(["task", "native layout"], rows)


def models() -> str:
    """Return the models and the weights that they need."""
    cards = [ADAPTERS.load(name).card for name in OWN_MODELS]
    return table(["model", "weights", "licence"], [[f"`{card.name}`", card.weights, card.licence] for card in cards])


def mini_suite() -> str:
    """Return what the bundled tasks are made of."""
    suite = read_json(DATA / "suite.json")["tasks"]
    rows = [
        [f"`{name}`", suite[name]["origin"], suite[name]["licence"], suite[name]["split"]] for name in task_names()[:12]
    ]
    return table(["task", "origin", "licence", "split"], rows)


def mini_board() -> str:
    """Return the paper-protocol table of the committed mini runs: Uni-Med beside the blind baseline."""
    board = make_board([mini_results("uni-med"), mini_results("blind")])
    return render_scores(board, "paper")


def mini_results(model: str) -> Results:
    """Return the committed results of a model on the mini suite."""
    return read_results_file(MINI_RESULTS / f"{model}.json")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


SOURCES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "rooms": rooms,
    "tasks": tasks,
    "layouts": layouts,
    "models": models,
    "mini-suite": mini_suite,
    "mini-board": mini_board,
}


def refreshed(text: str) -> str:
    """Return a page with every section made anew."""
    return SECTION.sub(lambda found: f"{found[1]}{SOURCES[found['name']]()}\n{found[3]}", text)


def pages() -> Iterator[Path]:
    """Yield the pages that may hold sections."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def stale_pages() -> list[Path]:
    """Return the pages whose sections are not what their sources say."""
    return [page for page in pages() if refreshed(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]


def main() -> int:
    """Refresh the pages, or with `--check` only name the stale ones."""
    stale = stale_pages()
    for page in stale:
        say(f"{page.relative_to(ROOT)} is stale: make docs")
        if "--check" not in sys.argv:
            page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
    return EXIT_FAILED if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
