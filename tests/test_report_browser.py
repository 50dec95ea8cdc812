"""The report as a reader has it: in a headless Chromium, from disk, with hostile answers in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Page, chromium
from engine_helpers import pictures
from report_fixtures import HOSTILE, Answer, task_source, write_run

from medbench.leaderboard.report.document import BY_COMMAND, make_document, render_page
from medbench.leaderboard.report.sources import TaskSource, read_run_source
from medbench.tasks.foundation.printable import printable

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("chromium"),
]

SHOWN = printable(HOSTILE)
VQA = (
    Answer(sample_id="q/1", text="a red kidney", labels={"organ": "kidney"}),
    Answer(sample_id="q/2", text="a blue liver", score=0.0, labels={"organ": "liver"}),
    Answer(sample_id="q/3", text=HOSTILE, score=0.5, labels={"organ": HOSTILE}, raw=f"raw {HOSTILE}"),
    Answer(sample_id="q/4", text="", score=None, state="error", error=f"It broke: {HOSTILE}"),
    Answer(sample_id=HOSTILE, text="a green liver", score=0.0, labels={"organ": "liver"}),
)
OTHER_VQA = (
    Answer(sample_id="q/1", text="a red kidney"),
    Answer(sample_id="q/2", text="a blue kidney", score=1.0),
    Answer(sample_id="q/3", text="nothing", score=0.4),
)
REC = (Answer(sample_id="r/1", text="[2, 3, 30, 30]", box=(2.0, 3.0, 30.0, 30.0)),)
SECRET = (Answer(sample_id="s/1", text="a secret"),)
ENVIRONMENT = {
    "phases": {"seconds": {"decode": 2.0, HOSTILE: 1.0}, "tasks": {}, "counts": {"answers": 5}},
    "engine": {"routing": {"vqa": [0.25, 0.75]}, "note": HOSTILE},
}


def write_page(path: Path, folders: list[Path], data: dict[str, TaskSource]) -> Path:
    document, images = make_document([read_run_source(folder) for folder in folders], data, budget=BY_COMMAND)
    path.write_text("".join(render_page(document, images)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, TaskSource]:
    (folder / "pictures").mkdir()
    pictures(folder / "pictures", 3)
    return {
        "slake-vqa": task_source("slake-vqa", VQA, folder / "pictures", question=HOSTILE),
        "slake-rec": task_source("slake-rec", REC, folder / "pictures"),
        "mimic-cxr": task_source("mimic-cxr", SECRET, folder / "pictures", withheld=True),
    }


@pytest.fixture(scope="module")
def one(folder: Path, data: dict[str, TaskSource]) -> Path:
    answers = {"slake-vqa": VQA, "slake-rec": REC, "mimic-cxr": SECRET}
    run = write_run(folder / "a", answers, title=HOSTILE, environment=ENVIRONMENT)
    return write_page(folder / "one.html", [run], data)


@pytest.fixture(scope="module")
def both(folder: Path, data: dict[str, TaskSource]) -> Path:
    first = write_run(folder / "first", {"slake-vqa": VQA}, title="First")
    second = write_run(folder / "second", {"slake-vqa": OTHER_VQA}, title="Second")
    return write_page(folder / "both.html", [first, second], {"slake-vqa": data["slake-vqa"]})


@pytest.fixture(scope="module")
def shared_page() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(shared_page: Page) -> Iterator[Page]:
    """A blank tab; afterwards nothing may have been asked for, complained of, or run."""
    shared_page.call("Page.navigate", url="about:blank")
    shared_page.prefer()
    shared_page.size(1280, 900)
    shared_page.messages.clear()
    yield shared_page
    assert shared_page.dialogs == []
    assert shared_page.messages == []
    assert [url for url in shared_page.requests if not url.startswith(("file:", "data:image/"))] == []
    assert len([url for url in shared_page.requests if url.startswith("file:")]) == 1


def text_of(page: Page, selector: str) -> str:
    text: str = page.run(f"document.querySelector({selector!r}).textContent")
    return text


def shown_ids(page: Page) -> list[str]:
    """Go through the whole list by keyboard and return the samples in its order."""
    total = int(text_of(page, "#count").split()[0].replace(",", ""))
    page.press("Home")
    ids = []
    for _ in range(total):
        ids.append(text_of(page, "#sample-title"))
        page.press("j")
    return ids


def choose(page: Page, name: str, value: str) -> None:
    page.run(
        f"(() => {{const s = document.querySelector('select[name=\"{name}\"]'); s.value = {value!r};"
        "s.dispatchEvent(new Event('change', {bubbles: true}))})()"
    )


def later(page: Page, milliseconds: int = 250) -> None:
    page.run(f"new Promise(done => setTimeout(done, {milliseconds}))")


def test_hostile_texts_are_shown_as_texts_and_nothing_of_them_runs(page: Page, one: Path) -> None:
    page.open(one, "#/samples/slake-vqa?at=q%2F3")
    shown = text_of(page, "#sample")
    assert shown.count("</script><script>alert('script')</script>") >= 3
    assert text_of(page, "h1").startswith("</script>")
    for view in ("summary", "routing", "time", "provenance"):
        page.run(f"location.hash = '#/{view}'")
        later(page, 50)
    assert page.run("document.querySelectorAll('script').length") == 3
    assert page.run("document.querySelectorAll('body img[onerror], svg[onload], b').length") == 0
    assert page.run("[...document.querySelectorAll('a')].every(a => a.getAttribute('href').startsWith('#'))")


@pytest.mark.parametrize(
    "slip",
    [
        "document.body.innerHTML = '<img src=x onerror=alert(1)>'",
        "document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))",
        "document.body.append(Object.assign(document.createElement('iframe'), {srcdoc: '<script>alert(1)</script>'}))",
        "setTimeout('alert(1)')",
    ],
)
def test_even_a_slip_of_the_script_could_run_nothing(shared_page: Page, one: Path, slip: str) -> None:
    shared_page.call("Page.navigate", url="about:blank")
    shared_page.open(one)
    refused = shared_page.run(f"(() => {{ try {{ {slip}; return false }} catch (error) {{ return true }} }})()")
    later(shared_page, 100)
    assert refused
    assert shared_page.dialogs == []


def test_even_a_slip_of_the_script_could_send_nothing(shared_page: Page, one: Path) -> None:
    shared_page.call("Page.navigate", url="about:blank")
    shared_page.open(one)
    sent = "fetch('https://example.org/').then(() => true, () => false)"
    assert shared_page.run(sent) is False
    shared_page.run("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")
    later(shared_page, 100)
    assert "Content Security Policy" in " ".join(shared_page.messages)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("state", "error", ["q/4"]),
        ("outcome", "right", ["q/1"]),
        ("outcome", "wrong", ["q/2", SHOWN]),
        ("outcome", "partly", ["q/3"]),
        ("outcome", "none", ["q/4"]),
        ("label.organ", "liver", ["q/2", SHOWN]),
        ("sort", "worst", ["q/2", SHOWN, "q/3", "q/1", "q/4"]),
        ("sort", "best", ["q/1", "q/3", "q/2", SHOWN, "q/4"]),
    ],
)
def test_filters_and_orders(page: Page, one: Path, name: str, value: str, expected: list[str]) -> None:
    page.open(one, "#/samples/slake-vqa")
    choose(page, name, value)
    assert shown_ids(page) == expected
    later(page)
    assert value in page.run("decodeURIComponent(location.hash)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("LIVER", ["q/2", SHOWN]),
        ("liver blue", ["q/2"]),
        ("reference q/1", ["q/1"]),
        ("it broke", ["q/4"]),
        ("raw", ["q/3"]),
        ("onerror", ["q/1", "q/2", "q/3", "q/4", SHOWN]),
        ("no such word", []),
    ],
)
def test_search_finds_words_in_every_text_of_a_sample(page: Page, one: Path, words: str, expected: list[str]) -> None:
    page.open(one, "#/samples/slake-vqa")
    page.press("/")
    page.type(words)
    later(page)
    page.press("Enter")
    assert shown_ids(page) == expected
    assert page.run("document.getElementById('sample-title') !== null")


def test_the_keyboard_is_enough(page: Page, one: Path) -> None:
    page.open(one)
    page.press("2")
    later(page, 100)
    assert text_of(page, "#sample-title") == "q/1"
    for key, expected in (("j", "q/2"), ("ArrowDown", "q/3"), ("k", "q/2"), ("End", SHOWN), ("ArrowUp", "q/4")):
        page.press(key)
        assert text_of(page, "#sample-title") == expected
    page.press("Home")
    page.run("document.getElementById('list').focus()")
    page.press("Enter")
    assert page.run("document.activeElement.id") == "sample"
    page.press("Escape")
    assert page.run("document.activeElement.id") == "list"
    page.press("]")
    assert text_of(page, "#sample-title") == "r/1"
    page.press("[")
    page.press("/")
    page.type("blue")
    later(page)
    page.press("Escape")
    assert page.run("document.getElementById('search').value") == ""
    page.press("Escape")
    page.press("p")
    assert page.run("document.querySelector('input[name=protocol]:checked').value") == "strict"
    page.press("?")
    assert page.run("document.getElementById('help').open")
    page.press("Escape")
    assert not page.run("document.getElementById('help').open")


def test_letters_in_the_search_are_no_commands(page: Page, one: Path) -> None:
    page.open(one, "#/samples/slake-vqa")
    page.press("/")
    for key in "jp?":
        page.press(key)
    assert page.run("document.getElementById('search').value") == "jp?"
    assert not page.run("document.getElementById('help').open")


def test_boxes_lie_where_they_were_said(page: Page, one: Path) -> None:
    page.open(one, "#/samples/slake-rec")
    assert page.run("document.querySelector('.picture').getAttribute('viewBox')") == "0 0 64 64"
    sides = "['x', 'y', 'width', 'height'].map(side => +box.getAttribute(side))"
    read = f"[...document.querySelectorAll('.picture rect.%s:not(.halo)')].map(box => {sides})"
    assert page.run(read % "right-box") == [[2, 3, 18, 27]]
    assert page.run(read % "said-box") == [[2, 3, 28, 27]]
    assert page.run("document.querySelector('.picture image').getAttribute('href').startsWith('data:image/png')")


def test_a_withheld_task_shows_scores_and_says_why_not_more(page: Page, one: Path) -> None:
    page.open(one, "#/samples/mimic-cxr")
    assert "signed agreement" in text_of(page, "#sample")
    assert "a secret" not in page.run("document.documentElement.textContent")
    assert page.run("document.querySelectorAll('#sample figure').length") == 0
    assert "100.0" in text_of(page, "#sample")


def test_samples_where_runs_differ_come_first(page: Page, both: Path) -> None:
    page.open(both, "#/samples/slake-vqa")
    assert shown_ids(page) == ["q/2", SHOWN, "q/3", "q/1", "q/4"]
    choose(page, "between", "only-1")
    assert shown_ids(page) == ["q/2"]
    choose(page, "between", "answers")
    choose(page, "run", "1")
    choose(page, "outcome", "partly")
    assert shown_ids(page) == ["q/3"]
    assert "a red kidney" not in text_of(page, "#sample")


def test_the_comparison_leads_to_its_samples(page: Page, both: Path) -> None:
    page.open(both, "#/compare")
    row = text_of(page, "#view-compare tbody tr")
    assert row.startswith("Slake-VQABLEU-1 ●50.0080.00-30.00 [")
    page.click("#view-compare tbody a")
    later(page, 100)
    assert text_of(page, "#count").startswith("3 of 5 samples")
    assert text_of(page, "#sample-title") == "q/2"


def test_the_address_brings_back_what_was_looked_at(page: Page, one: Path) -> None:
    page.open(one, "#/samples/slake-vqa?q=liver&outcome=wrong&protocol=strict&at=q%2F2&label.organ=liver")
    assert text_of(page, "#sample-title") == "q/2"
    assert page.run("document.getElementById('search').value") == "liver"
    assert page.run("document.querySelector('select[name=\"label.organ\"]').value") == "liver"
    assert page.run("document.querySelector('input[name=protocol]:checked').value") == "strict"


@pytest.mark.parametrize("fragment", ["#/nowhere", "#/samples/constructor?state=x&run=9&sort=__proto__", "#/%zz", "#"])
def test_an_odd_address_leads_to_a_page(page: Page, one: Path, fragment: str) -> None:
    page.open(one, fragment)
    assert page.run("document.querySelectorAll('.view:not([hidden])').length") == 1


def test_routing_and_time_are_drawn(page: Page, one: Path) -> None:
    page.open(one, "#/routing")
    assert text_of(page, "#view-routing tbody tr") == "vqa0.2500.750"
    page.press("4")
    later(page, 50)
    assert "decode2.067" in text_of(page, "#view-time")


def test_every_control_has_a_name(page: Page, both: Path) -> None:
    roles = {"button", "combobox", "searchbox", "textbox", "listbox", "option", "image", "img", "link", "radio"}
    seen = set()
    for fragment in ("#/summary", "#/samples/slake-vqa", "#/compare"):
        page.run("1")
        page.call("Page.navigate", url="about:blank")
        page.open(both, fragment)
        nodes: list[dict[str, Any]] = page.call("Accessibility.getFullAXTree")["nodes"]
        for node in nodes:
            role = node.get("role", {}).get("value")
            if role in roles and not node["ignored"]:
                seen.add(role)
                assert node.get("name", {}).get("value"), node
    assert {"button", "combobox", "searchbox", "listbox", "option", "link", "radio"} <= seen


def test_dark_light_and_print(page: Page, one: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    page.open(one)
    light = page.run(background)
    page.prefer(dark=True)
    assert page.run(background) != light
    page.press("t")
    assert page.run(background) == light
    page.prefer(dark=True, media="print")
    assert page.run(background) == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.run("getComputedStyle(document.getElementById('view-provenance')).display") == "block"


def test_a_narrow_window_needs_no_sideways_scrolling(page: Page, both: Path) -> None:
    page.size(360, 740)
    for fragment in ("#/summary", "#/samples/slake-vqa", "#/compare", "#/provenance"):
        page.open(both, fragment)
        assert page.run("document.documentElement.scrollWidth") <= 360, fragment
        page.call("Page.navigate", url="about:blank")
    page.open(both)


@pytest.mark.slow
def test_twenty_thousand_samples_open_at_once_and_are_drawn_as_they_are_seen(page: Page, folder: Path) -> None:
    answers = [
        Answer(sample_id=f"q/{number}", text=f"answer {number}", score=number % 2, labels={"organ": f"o{number % 9}"})
        for number in range(20_000)
    ]
    run = write_run(folder / "many", {"slake-vqa": answers})
    file = write_page(folder / "many.html", [run], {"slake-vqa": task_source("slake-vqa", answers, None)})
    assert file.stat().st_size < 4_000_000
    page.open(file, "#/samples/slake-vqa")
    assert page.run("performance.getEntriesByType('navigation')[0].domComplete") < 5000
    assert text_of(page, "#count").startswith("20,000 of 20,000 samples")
    page.press("End")
    assert text_of(page, "#sample-title") == "q/19999"
    assert page.run("document.querySelectorAll('.option').length") < 60
    assert page.run("document.querySelector('[aria-selected=true]').getAttribute('aria-posinset')") == "20000"
    page.press("/")
    page.type("19998")
    later(page, 400)
    assert text_of(page, "#count").startswith("1 of 20,000 samples")
