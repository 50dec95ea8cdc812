"""The page of an interpretation: figures and tables between words, in one file that needs no other."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medbench.harness.interpreted import Document, Maps, read
from medbench.leaderboard.interpretation import reading
from medbench.leaderboard.interpretation.figures import draw_all
from medbench.leaderboard.render import asset, markdown_as_html, render_html
from medbench.tasks.foundation.files import read_yaml_table, write_atomically

PAGE = "interpretation.html"
_SECTIONS: Sequence[Mapping[str, str]] = read_yaml_table(Path(__file__).with_name("sections.yaml"))["sections"]
_TABLES: Mapping[str, Callable[[Document, Sequence[Maps]], str]] = {
    "summary": lambda found, _: reading.summary_table(found),
    "tasks": lambda found, _: reading.folded("By task", found, reading.task_table),
    "parts": lambda found, _: reading.folded("By part of the connector", found, reading.group_table),
    "maps": lambda _, made: reading.map_table(made),
    "measured": lambda found, _: reading.how_measured(found),
}


def publish(output: Path) -> Path:
    """Draw what `medbench interpret` left in a folder into `figures/` and write the page; return it.

    Raises DataError if its files are malformed, UsageError if matplotlib is not installed, RunError if a file cannot be
    written.
    """
    found, made = read(output)
    drawings = draw_all(found, made, output / "figures")
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in drawings.items()}
    write_atomically(output / PAGE, page(found, made, images))
    return output / PAGE


def page(found: Document, made: Sequence[Maps], images: Mapping[str, str]) -> str:
    """Return the page; `images` are the SVG figures by name, in base64."""
    shown: list[Mapping[str, Any]] = []
    for section in _SECTIONS:
        figure, table = section.get("figure", ""), section.get("table", "")
        if figure and figure not in images:
            continue
        parts = [section.get("text", ""), _TABLES[table](found, made) if table else ""]
        html = markdown_as_html("\n\n".join(filter(None, parts)))
        shown.append({"title": section["title"], "html": html, "image": images.get(figure, "")})
    return render_html(
        "interpretation.html", style=asset("document.css"), images=True, headline=reading.headline(found),
        sections=shown,
    )  # fmt: skip
