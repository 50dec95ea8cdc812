"""The page of probing: a figure, tables and words for each target, in one file that needs no other."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from medbench.harness.probing.document import FILE, MODES, Probed, read_probed
from medbench.leaderboard.numbers import frame_as_csv
from medbench.leaderboard.probing import reading
from medbench.leaderboard.probing.figures import Curves, draw_all
from medbench.leaderboard.probing.reading import WORDS
from medbench.leaderboard.probing.summary import ModeRow, rows_of, write_summary
from medbench.leaderboard.render import as_page, asset, folded, markdown_as_html, markdown_text, notes, render_html
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import write_atomically

PAGE = "probing.html"
_FIGURE = (
    '<div class="wide" tabindex="0" role="group" aria-label="Figure"><img class="figure" alt="{}" src="{}"></div>\n'
)


def publish(output: Path) -> Path:
    """Write page, figures, `curves.csv`, `modes.csv` and `modes.json` of the models in a folder; return the page.

    Raises UsageError if there are none or matplotlib is not installed, DataError if a file is malformed, RunError if
    one cannot be written.
    """
    folders = sorted(path.parent for path in output.glob(f"*/{FILE}"))
    if not folders:
        raise UsageError(f"{output} has no folder with a {FILE}.", "Give the folder that `medbench probe` wrote to.")
    models = reading.distinct([read_probed(folder) for folder in folders])
    images = [path.read_bytes() for path in draw_all(reading.by_target(models), output / "figures")]
    write_atomically(output / "curves.csv", frame_as_csv(curve_frame(models)))
    write_atomically(output / "modes.csv", frame_as_csv(pd.DataFrame(rows_of(models), columns=list(ModeRow.__slots__))))
    write_summary(output / "modes.json", models)
    write_atomically(output / PAGE, page(models, images))
    return output / PAGE


def page(models: Sequence[Probed], images: Sequence[bytes]) -> str:
    """Return the page; `images` are the SVG figures, one for each target."""
    targets = reading.by_target(models)
    notices = notes(list(dict.fromkeys(text for model in models for text in model.notices)))
    modes = "\n".join(f"- **{name}**: {text}" for name, text in MODES.items())
    said = "".join(f"<p>{escape(text)}</p>" for text in reading.headlines(models))
    body = f"<h1>{WORDS['title']}</h1>\n<blockquote>{said}</blockquote>\n"
    body += _markdown(*notices, "## At a glance", reading.glance_table(models), WORDS["glance"])
    body += _markdown("## How to read it", WORDS["how"], modes, WORDS["figure"])
    for curves, image in zip(targets, images, strict=True):
        body += _target(curves, image)
    body += _markdown("## What is not shown", WORDS["limits"], "## How it was measured", reading.how_measured(models))
    return render_html(
        "document.html", style=asset("document.css"), images=True, title=WORDS["title"], body=body, tone=""
    )  # fmt: skip


def _target(curves: Curves, image: bytes) -> str:
    found = curves[0][1]
    title = found.name if found.name == found.title else f"{found.title} ({found.name})"
    said = [markdown_text(reading.where_lost(*one)) for one in curves]
    lines = "\n".join(f"- {one}" for one in said) if len(said) > 1 else said[0]
    source = f"data:image/svg+xml;base64,{base64.b64encode(image).decode()}"
    drawing = _FIGURE.format(escape(f"Scores of probes along the depth of models: {title}"), source)
    below = [folded(WORDS["places"].format(model=name), reading.place_table(one)) for name, one in curves]
    if health := reading.health_table(curves):
        below.append(folded(WORDS["health"], f"{WORDS['health_text']}\n\n{health}"))
    tables = _markdown(reading.mode_table(curves), reading.samples_text(curves), *below)
    return _markdown(f"## {markdown_text(title)}", lines) + drawing + tables


def curve_frame(models: Sequence[Probed]) -> pd.DataFrame:
    """Return a row for each place, model and target."""
    names = ("module", "readout", "width", "validation", "permuted", "random", "narrow", "strength", "paper")
    return pd.DataFrame([
        {
            "target": found.name, "model": model.title, "place": one.name, "score": one.score.value,
            "low": one.score.low, "high": one.score.high, **{name: getattr(one, name) for name in names},
        }
        for model in models for found in model.targets for one in found.places
    ])  # fmt: skip


def _markdown(*parts: str) -> str:
    return as_page(markdown_as_html("\n\n".join(parts)))
