"""The page of an interpretation: figures and tables between words, in one file that needs no other."""

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from medbench.harness.interpreted import Document, Maps, fisher, read
from medbench.harness.workload import MINI_NOTICE
from medbench.leaderboard.interpretation import reading
from medbench.leaderboard.interpretation.figures import draw_all
from medbench.leaderboard.interpretation.spectra import spectra_as_markdown
from medbench.leaderboard.interpretation.turning import turning
from medbench.leaderboard.render import as_page, asset, markdown_as_html, notes, render_html
from medbench.tasks.foundation.files import read_yaml_table, write_atomically

PAGE = "interpretation.html"
_TITLE = "Interference between tasks"
_TURNING = "maps-in-room"  # The figure that the page draws itself.
_FIGURE = (
    '<div class="wide" tabindex="0" role="group" aria-label="Figure"><img class="figure" alt="{title}" '
    'src="data:image/svg+xml;base64,{image}"></div>\n'
)
_SECTIONS: Sequence[Mapping[str, str]] = read_yaml_table(Path(__file__).with_name("sections.yaml"))["sections"]
_TABLES: Mapping[str, Callable[[Document, Sequence[Maps], fisher.FisherDocument | None], str]] = {
    "summary": lambda found, *_: reading.summary_table(found),
    "tasks": lambda found, *_: reading.by_model("By task", found, reading.task_table),
    "parts": lambda found, *_: reading.by_model("By part of the connector", found, reading.group_table),
    "maps": lambda _, made, __: reading.map_table(made),
    "spectra": lambda _, __, spectra: spectra_as_markdown(spectra) if spectra else "",
    "measured": lambda found, *_: reading.how_measured(found),
}


def publish(output: Path) -> Path:
    """Draw what `medbench interpret` left in a folder into `figures/` and write the page; return it.

    Raises DataError if its files are malformed, UsageError if matplotlib is not installed, RunError if a file cannot be
    written.
    """
    found, made, spectra = read(output)
    drawings = draw_all(found, made, spectra, output / "figures")
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in drawings.items()}
    write_atomically(output / PAGE, page(found, made, spectra, images))
    return output / PAGE


def page(
    found: Document, made: Sequence[Maps], spectra: fisher.FisherDocument | None, images: Mapping[str, str]
) -> str:  # fmt: skip
    """Return the page; `images` are the SVG figures by name, in base64."""
    body = f"<h1>{_TITLE}</h1>\n<blockquote><p>{escape(reading.headline(found))}</p></blockquote>\n"
    mini = any(model.suite == "mini" for model in found.models)
    body += markdown_as_html("".join(notes([MINI_NOTICE] if mini else [])))
    for section in _SECTIONS:
        figure, table, title = section.get("figure", ""), section.get("table", ""), section["title"]
        if figure and figure not in images:
            continue
        body += f"<h2>{title}</h2>\n"
        if figure == _TURNING:
            body += turning(made)
        elif figure:
            body += _FIGURE.format(title=title, image=images[figure])
        parts = [section.get("text", ""), _TABLES[table](found, made, spectra) if table else ""]
        body += as_page(markdown_as_html("\n\n".join(filter(None, parts))))
    return render_html(
        "document.html", style=asset("document.css"), script=asset("interpretation/turn.js") if made else "",
        images=True, title=_TITLE, body=body, tone="",
    )  # fmt: skip
