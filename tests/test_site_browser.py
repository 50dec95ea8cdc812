"""The site in a browser: sorting, filters, keyboard, dark mode, print, and a name that tries to run a script."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, chromium
from export_runs import invented, write_run

from medbench.leaderboard.site import collect, site_files, write_site

HOSTILE = "</style></script><script>alert('x')</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
OVERVIEW = "section.board:not([hidden]) .scroll table"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for title, value in (("Alpha", 0.2), ("Beta", 0.9), (HOSTILE, 0.5)):
        write_run(
            folder / "runs", invented({"slake-vqa": value, "dermamnist": 1 - value}, title=title, notices=[title])
        )
    unscored = invented({"slake-vqa": None}, title="Delta")
    write_run(folder / "runs", replace(unscored, unsupported=()))
    write_run(folder / "runs", invented({"slake-vqa": 0.7}, title="Mini", suite="mini", notices=["MINI: say so"]))
    write_site(folder / "site", site_files(collect(folder / "runs", all_reports=False), HOSTILE))
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
    browser.open(site / "index.html")
    return browser


def models(page: Page) -> list[str]:
    names: list[str] = page.run(
        f"[...document.querySelector('{OVERVIEW}').tBodies[0].rows].filter(row => !row.hidden)"
        ".map(row => row.cells[0].textContent)"
    )
    return [name if len(name) < 10 else "hostile" for name in names]


def shown_sections(page: Page) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelectorAll('section.board')].filter(one => one.checkVisibility())"
        ".map(one => one.dataset.suite + ' ' + one.dataset.protocol)"
    )
    return found


def choose(page: Page, name: str, value: str) -> None:
    page.run(
        f"(() => {{const e = document.getElementById('{name}'); e.value = '{value}';"
        "e.dispatchEvent(new Event('input', {bubbles: true}))})()"
    )


def test_nothing_is_asked_of_a_network_and_no_hostile_name_runs(page: Page, site: Path) -> None:
    assert page.requests == [(site / "index.html").as_uri()]
    assert page.dialogs == []
    assert page.messages == []
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelector('h1').textContent") == HOSTILE
    assert page.run("document.querySelector('.notice').parentElement.textContent.includes(\"alert('x')\")")


def test_every_page_of_a_run_is_as_quiet(page: Page, site: Path) -> None:
    for file in sorted((site / "runs").glob("*.html")):
        page.open(file)
        assert page.requests == [file.as_uri()]
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


def test_suite_and_protocol_choose_the_tables(page: Page) -> None:
    assert shown_sections(page) == ["paper paper", "mini paper"]
    choose(page, "suite", "mini")
    assert shown_sections(page) == ["mini paper"]
    choose(page, "protocol", "strict")
    assert shown_sections(page) == ["mini strict"]
    choose(page, "protocol", "")
    assert shown_sections(page) == ["mini paper", "mini strict"]
    choose(page, "task", "dermamnist")
    assert shown_sections(page) == []
    assert page.run("document.getElementById('nothing').checkVisibility()")


def test_a_task_hides_the_columns_of_the_others(page: Page) -> None:
    choose(page, "task", "dermamnist")
    shown = "[...document.querySelectorAll('section.board:not([hidden]) thead th')].filter(th => th.checkVisibility())"
    assert page.run(f"{shown}.map(th => th.dataset.task || 'model')") == ["model", "dermamnist"] * 2


def test_sorting_by_mouse_goes_down_up_and_back_with_what_has_no_number_last(page: Page) -> None:
    button = f"{OVERVIEW} button[data-sort='0']"
    first = models(page)
    assert sorted(first) == ["Alpha", "Beta", "Delta", "hostile"]
    page.click(button)
    assert models(page) == ["Beta", "hostile", "Alpha", "Delta"]
    assert page.run(f"document.querySelector(\"{button}\").closest('th').getAttribute('aria-sort')") == "descending"
    page.click(button)
    assert models(page) == ["Alpha", "hostile", "Beta", "Delta"]
    page.click(button)
    assert models(page) == first


def test_everything_works_by_keyboard(page: Page) -> None:
    page.press("Tab")
    assert page.run("document.activeElement.textContent") == "To the content"
    page.press("/")
    page.type("BET")
    assert models(page) == ["Beta"]
    assert page.run("document.getElementById('count').textContent") == "1 run shown"
    page.press("Escape")
    assert len(models(page)) == 4
    page.press("Tab")
    assert page.run("document.activeElement.className") == "scroll"
    page.press("Tab")
    assert page.run("document.activeElement.dataset.sort") == "name"
    page.press("Enter")
    assert models(page) == ["hostile", "Alpha", "Beta", "Delta"]
    page.press("Enter")
    assert models(page) == ["Delta", "Beta", "Alpha", "hostile"]


def test_dark_mode_and_print_change_what_they_should(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.run(ground) == "rgb(255, 255, 255)"
    page.prefer(dark=True)
    assert page.run(ground) == "rgb(20, 24, 29)"
    page.prefer(dark=True, media="print")
    assert page.run(ground) == "rgb(255, 255, 255)"
    assert not page.run("document.getElementById('filters').checkVisibility()")
    assert page.pdf().startswith(b"%PDF")


def test_text_is_readable_in_both_modes(page: Page) -> None:
    contrast = """
      ((selector) => {
        const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = (c) => { const [r, g, b] = c.match(/\\d+/g).map(Number).map(channel);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const over = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
          if (!/, 0\\)/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
        const e = document.querySelector(selector);
        const [a, b] = [light(getComputedStyle(e).color), light(over(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
      })
    """
    for dark in (False, True):
        page.prefer(dark=dark)
        for selector in ("p", ".notice", "small", ".failed", "td b", "thead button", "tbody a", ".lead"):
            assert page.run(f"{contrast}('{selector}')") >= 4.5, (selector, dark)


def test_a_narrow_window_scrolls_tables_and_not_the_page(page: Page) -> None:
    page.size(400, 800)
    assert page.run("document.documentElement.scrollWidth <= 400")
    page.size(1280, 900)
