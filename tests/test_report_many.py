"""A report of many runs, in a headless Chromium: everybody's real case begins at three."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from engine_helpers import pictures
from report_fixtures import Answer, task_source, write_run

from medbench.leaderboard.report.document import BY_COMMAND, make_document, render_page
from medbench.leaderboard.report.sources import read_run_source
from medbench.tasks.foundation.files import canonical_json, write_atomically

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("chromium"),
]
RUNS = 12
CASES = 24
TITLES = [f"Model {letter} with a long name" for letter in "ABCDEFGHIJKL"]
SAVES = (
    "(() => {window.saved = {}; URL.createObjectURL = blob => {window.blob = blob; return '#'};"
    "HTMLAnchorElement.prototype.click = function () {window.saved.name = this.download}})()"
)


def right(run: int, case: int) -> bool:
    """Whether a run is right: the first always, each later one more seldom."""
    return (case * 7) % CASES < CASES - 2 * run


def answers(task: str, run: int) -> list[Answer]:
    """Each run's answers of a task; boxes are those of the run's number."""
    box = (float(run), 2.0, 30.0, 30.0) if task == "slake-rec" else None
    said = {True: {"dermamnist": "nevus", "mimic-cxr": "The heart is normal."}, False: {"dermamnist": "melanoma"}}
    return [
        Answer(
            sample_id=f"c/{case}", text=said[right(run, case)].get(task, "no"), score=float(right(run, case)), box=box,
            labels={"organ": "liver" if case % 4 else "kidney"},
        )
        for case in range(CASES)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    pictures(folder, 3)
    tasks = ("medqa", "slake-vqa", "slake-rec", "dermamnist", "mimic-cxr")
    data = {task: task_source(task, answers(task, 0), None if task == "medqa" else folder) for task in tasks}
    paths = [
        write_run(folder / f"run-{run}", {task: answers(task, run) for task in tasks}, title=title)
        for run, title in enumerate(TITLES)
    ]
    runs = [read_run_source(path) for path in paths]
    verdicts = {"run": runs[0].results.run, "verdicts": {"mimic-cxr": "strong"}}
    write_atomically(paths[0] / "audit" / "audit.json", canonical_json(verdicts))
    runs[0] = read_run_source(paths[0])
    document, images = make_document(runs, data, budget=BY_COMMAND)
    (folder / "many.html").write_text("".join(render_page(document, images)), encoding="utf-8")
    return folder / "many.html"


@pytest.fixture(scope="module")
def shared_page() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(shared_page: Page) -> Iterator[Page]:
    shared_page.call("Page.navigate", url="about:blank")
    shared_page.prefer()
    shared_page.size(1400, 900)
    shared_page.messages.clear()
    yield shared_page
    assert shared_page.messages == []


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    return found


def saved(page: Page, selector: str) -> tuple[str, str]:
    """Press a button that saves something, and return the name of the file and what is in it."""
    page.run(SAVES)
    page.run(f"document.querySelector({json.dumps(selector)}).click()")
    name, text = page.run("window.blob.text().then(text => [window.saved.name, text])")
    return name, text


def test_the_first_screen_tells_who_is_ahead_in_order_with_leaks_and_fits(page: Page, many: Path) -> None:
    page.open(many)
    names = [text.strip() for text in texts(page, ".primary tbody th")]
    # The best has no rank over all tasks, since there is evidence of a leak of one.
    assert names == [*TITLES[1:], TITLES[0]]
    assert texts(page, ".headline")[0].startswith(f" {TITLES[1]} is better on")
    assert texts(page, ".primary tbody tr:last-child td")[0] == "\N{EN DASH}"
    assert "Model A with a long name: Strong evidence of a leak on MIMIC-CXR." in texts(page, ".alarm")[0]
    assert "100.0*" in texts(page, ".primary tbody tr:last-child td")
    assert page.run("document.documentElement.scrollWidth") <= 1400
    bottom = page.run("document.querySelector('.primary').getBoundingClientRect().bottom")
    assert bottom < 900


def test_bars_by_kind_have_the_runs_own_marks_and_the_audit_its_sentence(page: Page, many: Path) -> None:
    page.open(many)
    label = page.run("document.querySelector('svg[aria-label^=\"Report generation\"]').getAttribute('aria-label')")
    assert label.startswith("Report generation. Model B with a long name: 91.7; Model C with a long name: 83.3;")
    assert "; Model A with a long name: 100.0*" in label
    marks = "[...document.querySelectorAll(%s)].map(one => `${one.tagName} ${one.getAttribute('class')}`)"
    legend = page.run(marks % "'#view-summary .legend .key > *'")
    drawn = page.run(marks % "'svg[aria-label^=\"Report generation\"] g > g > *'")
    assert drawn == [*legend[1:RUNS], legend[0]]
    assert len(set(drawn)) == RUNS
    page.open(many, "#/audit")
    assert texts(page, "#view-audit .verdict")[0] == "Strong evidence of a leak on MIMIC-CXR."


def test_the_best_is_bold_and_a_leak_leads_nobody(page: Page, many: Path) -> None:
    page.open(many)
    bold = page.run(
        "[...document.querySelectorAll('.primary tbody tr')].map(r => [...r.cells].map(c => !!c.querySelector('b')))"
    )
    leaked = texts(page, ".primary thead th").index(next(t for t in texts(page, ".primary thead th") if "MIMIC" in t))
    assert [line[leaked] for line in bold].index(True) == 0
    others = [place for place in range(2, len(bold[0])) if place != leaked]
    assert all([line[place] for line in bold] == [False] * (RUNS - 1) + [True] for place in others)


def test_every_number_has_a_panel_with_all_runs(page: Page, many: Path) -> None:
    page.open(many)
    panels = page.run("[...document.querySelectorAll('.forest')].map(e => e.querySelectorAll('g > .mark').length)")
    assert panels == [2 * RUNS] * 5


def test_all_pairs_are_compared_and_a_cell_leads_to_its_pair(page: Page, many: Path) -> None:
    page.open(many, "#/compare")
    assert len(texts(page, ".wins td a")) == RUNS * (RUNS - 1)
    mirrored = page.run(
        "[...document.querySelectorAll('.wins tbody tr')].map(r => [...r.cells].slice(1)"
        ".map(c => c.textContent.trim()))"
    )
    turned = [[" / ".join(reversed(cell.split(" ")[0:3:2])) for cell in line] for line in zip(*mirrored, strict=True)]
    assert [[" / ".join(cell.split(" ")[0:3:2]) for cell in line] for line in mirrored] == turned
    page.run("document.querySelectorAll('.wins td a')[30].click()")
    page.run("new Promise(done => setTimeout(done, 100))")
    assert " against " in texts(page, "#view-compare h3")[0]
    assert "Model D" in texts(page, "#view-compare h3")[0]


def test_samples_open_where_pictures_are_and_runs_differ_with_a_mark_for_each_run(page: Page, many: Path) -> None:
    page.open(many, "#/samples")
    assert page.run("document.querySelector('select[name=task]').value") != "medqa"
    assert page.run("document.querySelectorAll('.option .strip')[0].children.length") == RUNS
    height = page.run(
        "Math.max(...[...document.querySelectorAll('.option')].map(e => e.scrollHeight - e.clientHeight))"
    )
    assert height <= 0
    right_edge = page.run("document.querySelector('.list').getBoundingClientRect().right")
    assert page.run("document.querySelector('.strip').lastChild.getBoundingClientRect().right") <= right_edge


def test_each_box_bears_the_mark_of_its_run(page: Page, many: Path) -> None:
    page.open(many, "#/samples/slake-rec")
    shapes = "[...document.querySelectorAll('.on-picture')].map(e => [e.getAttribute('transform').match(/[\\d.]+/)[0],"
    marks = page.run(shapes + "e.firstChild.getAttribute('class')])")
    assert [int(float(left)) for left, _ in marks] == list(range(RUNS))
    assert [kind for _, kind in marks] == [f"mark run-{run % 6}" for run in range(RUNS)]


def test_a_picture_is_enlarged_and_closed_again(page: Page, many: Path) -> None:
    page.open(many, "#/samples/slake-rec")
    page.click("#sample .zoom")
    assert page.run("document.querySelector('#help').open && !!document.querySelector('#help .picture')")
    page.press("Escape")
    assert not page.run("document.querySelector('#help').open")


def test_words_that_the_reference_does_not_have_are_marked(page: Page, many: Path) -> None:
    page.open(many, "#/samples/mimic-cxr")
    first = texts(page, ".answer:first-child .said")[0]
    marked = texts(page, ".answer:first-child .extra")
    assert first == "The heart is normal."
    assert set(marked) <= {"The", "heart", "is", "normal"}
    assert texts(page, ".missed summary")[0].endswith("of the reference missing")


def test_what_lies_behind_a_number(page: Page, many: Path) -> None:
    page.open(many, "#/samples/dermamnist")
    page.run("document.querySelectorAll('.numbers, .behind').forEach(one => {one.open = true})")
    assert len(texts(page, ".numbers .scores tbody tr")) >= RUNS
    rows = page.run(
        "[...document.querySelectorAll('.numbers .behind table')].map(t => [t.caption.textContent,"
        "[...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent))])"
    )
    by_label = next(found for caption, found in rows if "by organ" in caption)
    liver = [case for case in range(CASES) if case % 4]
    shares = [f"{100 * sum(right(run, case) for case in liver) / len(liver):.1f}" for run in range(RUNS)]
    assert next(line for line in by_label if line[0] == "liver") == ["liver", str(len(liver)), *shares]


def test_figures_and_tables_can_be_taken_along(page: Page, many: Path, tmp_path: Path) -> None:
    page.open(many)
    name, drawn = saved(page, ".panel .tool")
    assert name.endswith(".svg")
    assert "var(" not in drawn
    name, csv = saved(page, "[title='Save this table as CSV']")
    assert name == "primary-paper.csv"
    lines = csv.split("\r\n")
    assert lines[1].startswith(f'"{TITLES[1]}","')
    assert len(lines) == 1 + RUNS
    name, latex = saved(page, "[title='Save this table as LaTeX']")
    assert latex.startswith("% \\usepackage{booktabs}")
    assert latex.count("\\\\\n") == 1 + RUNS
    assert "100.0*" in latex
    (tmp_path / name).with_suffix(".svg").write_text(drawn, encoding="utf-8")
    page.open((tmp_path / name).with_suffix(".svg"))
    assert page.run("document.documentElement.namespaceURI") == "http://www.w3.org/2000/svg"
    assert page.run("document.querySelectorAll('parsererror').length") == 0


@pytest.mark.parametrize("fragment", ["", "#/samples/slake-vqa", "#/compare"])
@pytest.mark.parametrize("width", [390, 768])
def test_a_narrow_window_needs_no_sideways_scrolling(page: Page, many: Path, fragment: str, width: int) -> None:
    page.size(width, 844)
    page.open(many, fragment)
    assert page.run("document.documentElement.scrollWidth") <= width


def columns(run: int, count: int) -> Sequence[Answer]:
    return [Answer(sample_id=f"q/{n}", text=f"answer {n * (run + 1) % 97}", score=(n + run) % 2) for n in range(count)]


@pytest.mark.slow
def test_twelve_runs_of_twenty_thousand_samples_open_in_three_seconds(page: Page, tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"r{run}", {"slake-vqa": columns(run, 20_000)}, title=f"M{run}") for run in range(12)]
    runs = [read_run_source(path) for path in paths]
    document, images = make_document(
        runs, {"slake-vqa": task_source("slake-vqa", columns(0, 20_000), None)}, budget=None
    )
    (tmp_path / "page.html").write_text("".join(render_page(document, images)), encoding="utf-8")
    page.open(tmp_path / "page.html", "#/samples/slake-vqa")
    assert page.run("performance.getEntriesByType('navigation')[0].domComplete") < 3000
