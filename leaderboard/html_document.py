"""Our markdown pages as HTML: one file, no script, no link, no request; what comes from data stays text.

The markdown is our own, with everything from data escaped. The parser is told besides to take no HTML, no links and no
images, and the Content-Security-Policy admits nothing but one style sheet.
"""

from functools import cache
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from medbench.leaderboard.policy import hash_source
from medbench.tasks.foundation.files import write_atomically

_STYLE = Path(__file__).parent / "assets" / "document.css"
_NEVER = ("link", "image", "autolink", "html_inline", "html_block", "reference")


def html_document(title: str, markdown: str) -> str:
    """Return a markdown page as an HTML document; the same bytes for the same page."""
    style = _style()
    policy = f"default-src 'none'; style-src {hash_source(style)}; base-uri 'none'; form-action 'none'"
    # The policy admits no attribute of style, which is how the parser aligns columns.
    body = _parser().render(markdown).replace(' style="text-align:right"', ' class="right"')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, title: str, markdown: str) -> None:
    """Write a page as `<path>.md` and, beside it, as `<path>.html`.

    Args:
        path: The markdown file.
        title: Of the HTML document.
        markdown: The page.

    Raises:
        RunError: If the folder cannot be written to.
    """
    write_atomically(path, markdown)
    write_atomically(path.with_suffix(".html"), html_document(title, markdown))


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(list(_NEVER))


@cache
def _style() -> str:
    return _STYLE.read_text(encoding="utf-8")
