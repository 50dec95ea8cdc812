"""What axe-core finds in the pages that people read: nothing, on any of them, in any light and width."""

import base64
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from audit_cells import reports
from browser import CHROMIUM, Page, chromium
from engine_helpers import pictures
from report_fixtures import Answer, task_source, write_run
from test_interpret_page import maps, model, spectra

from medbench.leaderboard.audit.outputs.audit import audit_predictions
from medbench.leaderboard.interpretation.page import page as interpretation
from medbench.leaderboard.report.document import BY_COMMAND, make_document, render_page
from medbench.leaderboard.report.sources import read_run_source
from medbench.tasks.protocols import STATES
from medbench.unimed.interpret.document import Document

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("chromium"),
]
TASKS = ("medqa", "slake-vqa", "slake-rec", "dermamnist", "mimic-cxr")
VIEWS = ("summary", *(f"samples/{task}" for task in TASKS), "compare", "routing", "time", "audit", "provenance")
FINDS = (
    "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(one =>"
    " `${one.id}: ${one.nodes.map(node => node.target.join(' ')).join(', ')}`))"
)


def answers(task: str, run: int) -> list[Answer]:
    """Answers of all outcomes and states, with labels, thoughts and errors."""
    box = (float(run), 2.0, 30.0, 30.0) if task == "slake-rec" else None
    said = ("nevus", "melanoma") if task == "dermamnist" else ("The heart is normal.", "No heart.")
    return [
        Answer(
            sample_id=f"c/{case}", text=said[case % 2], score=(case + run) % 3 / 2, box=box,
            state=STATES[case] if case < len(STATES) and run else "ok", labels={"organ": f"o{case % 4}"},
            raw="Thoughts first" if case % 3 else "", error="It broke." if case == 5 and run else "",
        )
        for case in range(24)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    pictures(folder, 3)
    return folder


def report_of(folder: Path, count: int) -> Path:
    file = folder / f"report-{count}.html"
    if file.exists():
        return file
    data = {task: task_source(task, answers(task, 0), None if task == "medqa" else folder) for task in TASKS}
    environment = {
        "phases": {"seconds": {"decode": 2.0}, "tasks": {}, "counts": {"answers": 5}},
        "engine": {"routing": {"vqa": [0.25, 0.75]}, "rows": 4},
    }
    paths = [
        write_run(
            folder / f"{count}-{run}", {task: answers(task, run) for task in TASKS}, title=f"Model {run}",
            environment=environment,
        )
        for run in range(count)
    ]  # fmt: skip
    for path in paths:
        identity = read_run_source(path).results.run
        audit = {
            "run": identity, "verdict": "strong", "verdicts": {"mimic-cxr": "strong", "medqa": "not_testable"},
            "headline": "Strong evidence of a leak on MIMIC-CXR: 6 of 56 testable cases repeat their reference.",
            "findings": [
                {"task": task, "verdict": verdict, "text": "Told.", "matches": 6}
                for task, verdict in (("mimic-cxr", "strong"), ("medqa", "not_testable"))
            ],
            "next": ["Look at the examples."],
        }  # fmt: skip
        (path / "audit").mkdir()
        (path / "audit" / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    document, images = make_document([read_run_source(path) for path in paths], data, budget=BY_COMMAND)
    file.write_text("".join(render_page(document, images)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as page:
        # The page's policy admits no script of others: axe is put in by the browser's own means.
        page.call("Page.setBypassCSP", enabled=True)
        yield page


def found_in(page: Page, file: Path, fragment: str = "") -> dict[str, list[str]]:
    """Return what axe finds in a page with all that folds open, by width and colours."""
    axe = (importlib.resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    page.call("Page.navigate", url="about:blank")
    page.open(file, fragment)
    page.run(f"{axe}; document.querySelectorAll('details').forEach(one => {{one.open = true}})")
    found = {}
    for width, dark in ((1400, False), (1400, True), (390, True)):
        page.size(width, 900)
        page.prefer(dark=dark)
        if problems := page.run(FINDS):
            found[f"{fragment} {width} {'dark' if dark else 'light'}"] = problems
    return found


@pytest.mark.parametrize(("count", "views"), [
    (1, VIEWS), (2, (VIEWS[0], "compare")), (5, VIEWS[:4]), (5, VIEWS[4:7]), (5, VIEWS[7:]),
])  # fmt: skip
def test_axe_finds_nothing_in_a_report(page: Page, folder: Path, count: int, views: Sequence[str]) -> None:
    file = report_of(folder, count)
    assert [one for view in views for one in found_in(page, file, f"#/{view}").items()] == []


def test_axe_finds_nothing_in_an_audit(page: Page, folder: Path) -> None:
    references = reports(60)
    rows = [
        {"sample_id": str(place), "group": str(place), "reference": one, "prediction": one if place < 9 else "no"}
        for place, one in enumerate(references)
    ]
    audit = audit_predictions(rows)
    file = folder / "audit.html"
    file.write_text(audit.to_html(), encoding="utf-8")
    assert audit.verdict == "strong"
    assert found_in(page, file) == {}


def test_axe_finds_nothing_in_an_interpretation(page: Page, folder: Path) -> None:
    document = Document(models=(model("cmoe"), model("mlp", experts=0)))
    names = ("direction", "tug-of-war", "statistics-scores", "routing", "maps", "maps-in-room", "spectra")
    picture = base64.b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>').decode()
    html = interpretation(document, [maps("cmoe")], spectra("cmoe", "mlp"), dict.fromkeys(names, picture))
    file = folder / "interpretation.html"
    file.write_text(html, encoding="utf-8")
    assert html.count("<figure>") == 2
    assert found_in(page, file) == {}


def test_axe_finds_what_is_wrong(page: Page, folder: Path) -> None:
    file = folder / "wrong.html"
    file.write_text("<!doctype html><html><title>t</title><p style='color:#ddd'>pale</p><img src=x>", encoding="utf-8")
    problems = " ".join(found_in(page, file)[" 1400 light"])
    assert all(rule in problems for rule in ("color-contrast", "html-has-lang", "image-alt"))
