"""Markdown pages as HTML: nothing runs, nothing leads anywhere, the style is admitted by its hash."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.leaderboard.render import html_document, markdown_table, markdown_text, notes

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "em", "code", "table",
    "thead", "tbody", "tr", "th", "td", "blockquote", "ul", "ol", "li", "pre", "hr", "br",
}  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


def tags(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    return parser.found


def test_a_page_is_a_page() -> None:
    table = markdown_table(["Task", "Score"], [["Slake", "**1.0**"]], right=1)
    page = html_document("A & B", f"# Audit\n\n{notes(['MINI SUITE'])[0]}\n\n{table}\n\n- `k`: told\n")
    assert "<title>A &amp; B</title>" in page
    assert "<strong>MINI SUITE</strong>" in page
    assert '<td class="right"><strong>1.0</strong></td>' in page
    assert page == html_document("A & B", f"# Audit\n\n{notes(['MINI SUITE'])[0]}\n\n{table}\n\n- `k`: told\n")


def test_the_policy_admits_the_style_and_nothing_else() -> None:
    page = html_document("T", "text")
    [style] = re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in page
    assert " style=" not in page


@pytest.mark.parametrize("text", [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://a.b/c.png)",
    "<http://a.b>", "[a]: http://a.b\n\n[a]", "<style>*{}</style>", "&lt;script&gt;",
])  # fmt: skip
def test_hostile_text_is_text_even_where_it_was_not_escaped(text: str) -> None:
    for page in (html_document(text, text), html_document("t", markdown_text(text))):
        assert {tag for tag, _ in tags(page)} <= ALLOWED
        assert not any(name in {"href", "src", "onerror"} for _, attributes in tags(page) for name, _ in attributes)


@given(st.text())
def test_no_text_makes_an_element_that_could_do_anything(text: str) -> None:
    for _, attributes in tags(html_document("t", f"{text}\n\n{markdown_table(['a'], [[markdown_text(text)]])}")):
        assert not any(name.startswith("on") or name in {"href", "src", "style"} for name, _ in attributes)
