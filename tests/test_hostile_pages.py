"""No page, table or terminal shows a character of a stranger that steers it; a rule finds doors that were forgotten."""

import ast
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, chromium
from command_line import medbench
from export_runs import Planted, invented, write_run

ROOT = Path(__file__).parent.parent
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
# Terminal sequences, C1, NUL, directions, what is not seen, a line end of JavaScript, a tag; halves are no UTF-8.
STEERING = "=x\x1b]0;owned\x07\x1b[2J\x9b31m\x00\u202egnp.exe\u2066\u200b\ufeff\u2028\U000e0041 \ud83d<b>"
HELD = STEERING.replace("\ud83d", "")  # What a file of a run can hold.
SEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
VALUES = {"slake-vqa": 0.25, "dermamnist": 0.5}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page and table of two hostile runs, by name; what was said stands under the command's own."""
    at = tmp_path_factory.mktemp("hostile")
    planted = Planted(model=HELD, data_dir="", output_dir="", notice=HELD, server=HELD, text=HELD, sample=HELD,
                      patient=HELD)  # fmt: skip
    folder = at / "runs \u202e\x1b[2J"
    first, second = (
        write_run(folder, replace(invented(VALUES, title=f"{mark}{HELD}", notices=[HELD], model=HELD)), planted)
        for mark in ("", "@")
    )
    out = at / "out"
    commands = {
        "report": ("report", first, second, "--output", out / "report.html"),
        "one report": ("report", first, "--output", out / "one.html"),
        "site": ("site", folder, "--output", out / "site", "--title", HELD),
        "compare": ("compare", first, second, "--output", out / "compare.md"),
        "breakdown": ("breakdown", first, "--output", out / "breakdown.md"),
        "audit": ("audit", "provenance", "--model", HELD, "--output", out / "audit"),
        "folder": ("export", first, "--format", "folder", "--output", out / "folder"),
        "hub": ("export", first, "--format", "eval-results", "--dataset", "*=a/b", "--output", out / "hub"),
        "nothing": ("run", "--model", STEERING),
        "no file": ("report", at / HELD.replace("\x00", "").replace("<b>", "")),
        **{
            form: ("leaderboard", first, second, "--format", form, "--output", out / f"board.{form}")
            for form in ("markdown", "csv", "latex")
        },
    }  # fmt: skip
    said = {}
    for name, words in commands.items():
        done = medbench(*words)
        assert done.returncode in {0, 1, 2, 5}, done.stderr
        assert "did not foresee" not in done.stderr, (name, done.stderr)
        said[name] = done.stderr
    files = {path.relative_to(out).as_posix(): path.read_bytes().decode() for path in out.rglob("*") if path.is_file()}
    return said | files


def test_no_page_holds_a_character_that_steers(pages: dict[str, str]) -> None:
    kept = {name: text for name, text in pages.items() if not name.endswith((".json", ".jsonl", ".yaml", ".parquet"))}
    assert {Path(name).suffix for name in kept} == {"", ".html", ".md", ".csv", ".latex", ".markdown"}
    assert {name: found[0] for name, text in kept.items() if (found := SEEN.search(text))} == {}
    shown = [name for name, text in kept.items() if r"\x1b" in text]
    assert {"report.html", "site/index.html", "compare.md", "board.csv", "board.markdown"} <= set(shown)


def test_no_cell_of_a_table_is_a_formula(pages: dict[str, str]) -> None:
    rows = list(csv.reader(io.StringIO(pages["board.csv"])))
    cells = {cell for row in rows for cell in row}
    assert [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))] == []
    assert any(cell.startswith("'=x") for cell in cells)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_and_runs_nothing_of_it(pages: dict[str, str], tmp_path: Path) -> None:
    with chromium() as page:
        for name, text in pages.items():
            if name.endswith(".html"):
                file = tmp_path / "page.html"
                file.write_text(text, encoding="utf-8")
                page.open(file)
                seen = page.run("document.documentElement.outerHTML + document.title + document.body.innerText")
                assert SEEN.search(seen) is None, name
                assert (page.dialogs, [one for one in page.messages if one]) == ([], []), name


def _called(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_pages_leave_by_known_doors() -> None:
    """Whoever writes a page another way must make it printable there, and stand here."""
    doors = {
        "Environment": {"leaderboard/render.py"}, "to_csv": {"leaderboard/numbers.py"}, "to_html": set(),
        "get_template": {"leaderboard/render.py", "leaderboard/audit/document.py"},
        "savefig": {"tasks/foundation/drawing.py"}, "inert_json": {"leaderboard/report/document.py"},
        "to_latex": {"leaderboard/ablation/pages.py"},
        "Markup": set(), "from_string": set(),
    }  # fmt: skip
    found: dict[str, set[str]] = {name: set() for name in doors}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for name in doors.keys() & set(_called(file)):
                found[name].add(file.relative_to(ROOT).as_posix())
    assert found == doors
