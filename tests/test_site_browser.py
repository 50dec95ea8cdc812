"""The site in a browser: sorting, filters, keyboard, dark mode, print, and a name that tries to run a script."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from export_runs import invented, write_run

from medbench.leaderboard.paper import read_publication
from medbench.leaderboard.site import collect, reports_of, site_files, write_site

HOSTILE = "</style></script><script>alert('x')</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
OVERVIEW = "#board table"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for place, (title, value) in enumerate((("Alpha", 0.2), ("Beta", 0.9), (HOSTILE, 0.5))):
        run = invented({"slake-vqa": value, "dermamnist": value - 0.1}, title=title, notices=[title])
        size, is_open = (7 * 10**9, None, 30 * 10**9)[place], (True, False, None)[place]
        model = replace(run.model, released=("2024-05", "2025", "")[place], parameters=size, open_weights=is_open)
        path = write_run(folder / "runs", replace(run, model=model))
        if title == "Beta":
            (path / "report.html").write_text("<!doctype html>the report", encoding="utf-8")
    unscored = invented({"slake-vqa": None}, title="Delta")
    write_run(folder / "runs", replace(unscored, unsupported=()))
    write_run(folder / "runs", invented({"slake-vqa": 0.7}, title="Mini", suite="mini", notices=["MINI: say so"]))
    found = collect(folder / "runs", all_reports=False)
    write_site(folder / "site", site_files(found, HOSTILE, [read_publication("table3")]), reports_of(found))
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page, site: Path) -> Page:
    browser.messages.clear()
    browser.dialogs.clear()
    browser.prefer()
    browser.open(site / "index.html", "#/0")
    choose(browser, "from", "run")
    return browser


def models(page: Page) -> list[str]:
    names: list[str] = page.run(
        f"[...document.querySelector('{OVERVIEW}').tBodies[0].rows]"
        ".map(row => row.cells[0].querySelector('a').textContent)"
    )
    return [name if len(name) < 10 else "hostile" for name in names]


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll(`{selector}`)].map(one => one.textContent)")
    return found


def kept(page: Page) -> str:
    """Return the address once it has been kept."""
    time.sleep(0.2)
    address: str = page.run("location.hash")
    return address


def choose(page: Page, name: str, value: str) -> None:
    page.run(
        f"(() => {{const e = document.getElementById('{name}'); e.value = '{value}';"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}))})()"
    )


def test_nothing_is_asked_of_a_network_and_no_hostile_name_runs(page: Page, site: Path) -> None:
    assert page.requests == [f"{(site / 'index.html').as_uri()}"]
    assert (page.dialogs, page.messages) == ([], [])
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelector('h1').textContent") == HOSTILE
    assert page.run("document.querySelector('.notice').textContent.includes(\"alert('x')\")")


def test_every_page_of_a_run_is_as_quiet(page: Page, site: Path) -> None:
    for file in sorted((site / "runs").glob("*.html")):
        page.open(file)
        assert page.requests[-1] == file.as_uri()
        assert page.run("document.querySelectorAll('table').length") == 3
    assert (page.dialogs, page.messages) == ([], [])


@pytest.mark.parametrize("attempt", [
    "document.body.innerHTML = '<img src=x onerror=alert(1)>'",
    "document.body.setAttribute('onclick', 'alert(1)')",
    "document.body.append(Object.assign(document.createElement('script'), {textContent: 'alert(1)'}))",
])  # fmt: skip
def test_a_script_that_comes_in_later_is_refused(page: Page, attempt: str) -> None:
    assert page.run(f"(() => {{try {{{attempt}; return false}} catch {{return true}}}})()")
    assert page.dialogs == []


def test_the_best_come_first_and_what_is_chosen_is_in_the_address(page: Page) -> None:
    assert models(page) == ["Beta", "hostile", "Alpha", "Delta"]
    page.click("input[value='strict']")
    choose(page, "kind", "cls")
    assert texts(page, f"{OVERVIEW} thead .head") == ["Model", "Rank", "Mean", "DermaMNIST"]
    address = kept(page)
    assert address == "#/0?from=run&kind=cls&protocol=strict"
    page.run("location.hash = '#/1'")
    assert models(page) == ["Mini"]
    page.run(f"location.hash = '{address}'")
    assert texts(page, f"{OVERVIEW} caption") == ["Primary metric of each task, protocol strict"]
    assert page.run("document.getElementById('kind').value") == "cls"


def test_filters_pass_only_what_is_known(page: Page) -> None:
    for name, value, those in (
        ("size", "10", ["Alpha"]), ("size", "35", ["hostile", "Alpha"]), ("since", "2025", ["Beta"]),
        ("open", "no", ["Beta"]), ("q", "LPH", ["Alpha"]),
    ):  # fmt: skip
        choose(page, name, value)
        assert models(page) == those, (name, value)
        assert texts(page, "#count") == [f"{len(those)} of 9 rows shown"]
        choose(page, name, "")
    choose(page, "open", "yes")
    choose(page, "since", "2025")
    assert page.run("document.getElementById('nothing').checkVisibility()")
    page.click("#clear")
    choose(page, "from", "run")
    assert len(models(page)) == 4


def test_a_papers_rows_stand_beside_marked_and_unranked(page: Page) -> None:
    choose(page, "from", "reported")
    rows = texts(page, f"{OVERVIEW} tbody tr")
    assert len(rows) == 5
    assert all("reported" in row for row in rows)
    assert page.run(f"document.querySelectorAll('{OVERVIEW} tbody a').length") == 0


def test_a_number_leads_to_its_samples_or_to_the_runs_page(page: Page, site: Path) -> None:
    links = dict(
        page.run(
            f"[...document.querySelectorAll('{OVERVIEW} tbody tr')].map(row =>"
            "[row.cells[0].querySelector('a').textContent, row.querySelectorAll('td.heat a')[0].getAttribute('href')])"
        )
    )
    assert links["Beta"].endswith("/report.html#/samples/slake-vqa?metric=bleu1&sort=worst")
    assert (site / links["Beta"].partition("#")[0]).is_file()
    page_of, _, place = links["Alpha"].partition("#")
    assert place == "paper-slake-vqa"
    assert f'id="{place}"' in (site / page_of).read_text(encoding="utf-8")


def test_sorting_goes_down_up_and_back_with_what_has_no_number_last(page: Page) -> None:
    button = f"{OVERVIEW} button[data-sort='slake-vqa:bleu1']"
    direction = f"document.querySelector(\"{button}\").closest('th').getAttribute('aria-sort')"
    page.click(button)
    assert (models(page), page.run(direction)) == (["Beta", "hostile", "Alpha", "Delta"], "descending")
    page.click(button)
    assert (models(page), page.run(direction)) == (["Alpha", "hostile", "Beta", "Delta"], "ascending")
    page.click(button)
    assert page.run(direction) is None
    assert models(page) == ["Beta", "hostile", "Alpha", "Delta"]


def test_everything_works_by_keyboard(page: Page) -> None:
    page.press("/")
    page.type("BET")
    assert models(page) == ["Beta"]
    assert page.run("document.activeElement.id") == "q"
    page.press("Escape")
    assert len(models(page)) == 4
    page.run("document.querySelector('button[data-sort=name]').focus()")
    page.press("Enter")
    assert models(page) == ["hostile", "Alpha", "Beta", "Delta"]
    page.press("Enter")
    assert models(page) == ["Delta", "Beta", "Alpha", "hostile"]
    assert page.run("document.activeElement.dataset.sort") == "name"


def test_charts_pairs_and_every_metric_are_told_in_words_too(page: Page) -> None:
    drawn = page.run("[...document.querySelectorAll('#charts svg.drawing')].map(one => one.getAttribute('aria-label'))")
    assert any(text.startswith("Mean rank.") for text in drawn)
    assert any("Alpha: 7 B, 15.0" in text for text in drawn)
    assert any(text.startswith("Scores by kind of task. Visual questions: ") for text in drawn)
    assert "Beta against Alpha" in page.run("document.querySelector('#pairs').innerHTML")
    page.run("document.getElementById('every-metric').open = true")
    time.sleep(0.1)
    assert texts(page, "#metrics thead .head") == ["Model", "BLEU-1", "F1"]
    choose(page, "task", "dermamnist")
    assert texts(page, "#metrics caption") == ["Every metric of DermaMNIST, protocol paper"]


def test_dark_mode_theme_and_print_change_what_they_should(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(251, 252, 253)", "rgb(16, 22, 28)"
    assert page.run(ground) == light
    page.prefer(dark=True)
    assert page.run(ground) == dark
    page.click("#theme")
    assert (page.run(ground), texts(page, "#theme")) == (light, ["Theme: light"])
    page.click("#theme")
    page.click("#theme")
    page.prefer(dark=True, media="print")
    assert page.run(ground) == "rgb(255, 255, 255)"
    assert not page.run("document.getElementById('filters').checkVisibility()")
    assert page.pdf().startswith(b"%PDF")


def test_text_is_readable_in_both_modes(page: Page) -> None:
    contrast = """
      ((selector) => {
        const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const rgb = (c) => { const x = document.createElement('canvas').getContext('2d');
          for (const one of [getComputedStyle(document.body).backgroundColor, c]) {
            x.fillStyle = one; x.fillRect(0, 0, 1, 1); }
          return [...x.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const light = (c) => { const [r, g, b] = rgb(c).map(channel);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const over = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
          if (!/[,\\/] 0\\)/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        const e = document.querySelector(selector);
        const [a, b] = [light(getComputedStyle(e).color), light(over(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      })
    """
    choose(page, "from", "")
    for dark in (False, True):
        page.prefer(dark=dark)
        for selector in ("p", ".notice", "#board small", "td b", "#board thead button", "tbody a", ".badge", ".quiet"):
            assert page.run(f"{contrast}('{selector}')") >= 4.5, (selector, dark)


@pytest.mark.parametrize("width", [390, 1400])
def test_a_narrow_window_scrolls_tables_and_not_the_page(page: Page, width: int) -> None:
    page.size(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.size(1280, 900)
