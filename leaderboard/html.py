"""HTML pages from templates: what comes from data stays text, and nothing runs but what a page's policy names."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

_HERE = Path(__file__).parent
_NEVER = ("link", "image", "autolink", "html_inline", "html_block", "reference")


def render_template(template: str, *, style: str, script: str = "", images: bool = False, **content: Any) -> str:
    """Return the page of a template in `templates/`: the same content gives the same bytes.

    Text is escaped wherever a template does not call it `safe`. The Content-Security-Policy admits exactly the style
    and the script, by their hashes, and no script may make markup of text. `images` says whether images may stand in
    the page itself, as data URIs; `content` is what the template names.
    """
    rules = {
        "default-src": "'none'", "img-src": "data:" if images else "", "style-src": _hash(style),
        "script-src": _hash(script) if script else "", "base-uri": "'none'", "form-action": "'none'",
        "require-trusted-types-for": "'script'" if script else "", "trusted-types": "'none'" if script else "",
    }  # fmt: skip
    policy = "; ".join(f"{name} {value}" for name, value in rules.items() if value)
    page = _environment().get_template(template)
    return page.render(policy=policy, style=style, script=script, **content)


def asset(name: str) -> str:
    """Return a style sheet or script of `assets/`."""
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, finalize=_printable,
    )  # fmt: skip


def _printable(value: object) -> object:
    """Return a text without what no page can hold: lone surrogates are no UTF-8, control characters no HTML."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return "".join(one if one.isprintable() or one in "\n\t" else "�" for one in whole)


def _hash(text: str) -> str:
    """Return the source expression that admits exactly this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def markdown_as_html(markdown: str) -> str:
    """Return a markdown page of ours as a piece of HTML, without HTML, links or images of its own."""
    html: str = _parser().render(markdown)
    return html


def html_document(title: str, markdown: str) -> str:
    """Return one of our markdown pages as an HTML document: one file, no script, no link, no request.

    Everything from data is escaped in it already. The parser is told besides to take no HTML, no links and no images.
    """
    # The policy admits no attribute of style, which is how the parser aligns columns.
    body = markdown_as_html(markdown).replace(' style="text-align:right"', ' class="right"')
    return render_template("document.html", style=asset("document.css"), title=title, body=body)


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(list(_NEVER))
