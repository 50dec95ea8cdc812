"""The frame of every page: one style, one script, and a policy that admits nothing else."""

from functools import cache
from pathlib import Path

from medbench.leaderboard.policy import hash_source
from medbench.leaderboard.site.markup import Markup, element, join

_ASSETS = Path(__file__).parent / "assets"


def render_page(title: str, *body: str) -> str:
    """Return an HTML document that opens from disk and asks no network for anything.

    The Content-Security-Policy admits exactly the style and the script of this package, by their hashes, and the
    script writes no markup. Without the script everything is there to read; only sorting and filters are missing.
    """
    style, script = _asset("site.css"), _asset("site.js")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    content = element(
        "body",
        element("a", "To the content", href="#content", class_="skip"),
        element("main", *body, id="content", tabindex="-1"),
        element("script", Markup(script)),
    )
    return join(Markup("<!doctype html>\n"), element("html", head, content, lang="en"), Markup("\n"))


def _policy(style: str, script: str) -> str:
    rules = [
        "default-src 'none'",
        f"style-src {hash_source(style)}",
        f"script-src {hash_source(script)}",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join(rules)


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
