"""How numbers and pages become text: what comes from data stays text, and the same input gives the same bytes."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt

from medbench.harness.results import TaskResult
from medbench.leaderboard.numbers import Number, Table, as_numbers
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.foundation.printable import printable
from medbench.tasks.protocols import Protocol

_HERE = Path(__file__).parent
WORDING: Mapping[str, Any] = read_yaml_table(_HERE / "wording.yaml")
"""The long texts of tables and pages, and the names of metrics, protocols, suites and marks."""
METRIC_TITLES: Mapping[str, str] = WORDING["metric_titles"]
PROTOCOL_MEANINGS: Mapping[Protocol, str] = WORDING["protocol_meanings"]
OVERLAP_TEXT: str = WORDING["overlap"]
WRITTEN_HEADS = ("Thinks first", "Thought tokens", "Thoughts cut off", "At the limit of tokens")
_WHOLE = 0.99995  # the first share that two decimals of a percentage show as all
_SMALLEST_P = 0.0001
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"), (1, ""))
_FOLDED = re.compile(r"^<details><summary>([^\n]*)</summary>$(.*?)^</details>$", re.MULTILINE | re.DOTALL)
_WIDE = '<div class="wide" tabindex="0" role="group" aria-label="Table">'
_NEVER = ["link", "image", "autolink", "html_inline", "html_block", "reference"]
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "‡": r"$\ddagger$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def metric_title(metric: str) -> str:
    """Return the name of a metric in tables."""
    return METRIC_TITLES.get(metric, metric)


def _flat(text: str) -> str:
    return printable(" ".join(text.split()))


def markdown_text(text: str) -> str:
    """Return `text` without anything that markdown or HTML would take for its own."""
    flat = _flat(text)
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", flat) if re.search(r"[|<>`\[\]\\]", flat) else flat


def markdown_code(text: str) -> str:
    """Return `text` as code that stays in its cell."""
    return "`" + printable(text).replace("`", "'").replace("|", "\\|") + "`"


def latex_text(text: str) -> str:
    """Return text with everything that LaTeX would take for its own escaped."""
    return re.sub(r"[\\~^&%$#_{}±‡<>|]", lambda found: _LATEX_SPECIAL.get(found[0], f"\\{found[0]}"), _flat(text))


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0, merged: bool = False
) -> str:
    """Return cells as a table, the last `right` columns aligned right; `merged` leaves out repeated first cells."""
    lines = [header, ["---"] * (len(header) - right) + ["---:"] * right]
    for place, row in enumerate(rows):
        repeated = merged and place > 0 and rows[place - 1][0] == row[0]
        lines.append(["", *row[1:]] if repeated else row)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def notes(notices: Sequence[str]) -> list[str]:
    """Return notices as quotes that cannot be overlooked."""
    return [f"> **{markdown_text(notice)}**" for notice in notices]


def protocol_text(protocol: Protocol) -> str:
    """Return what a protocol is, as markdown."""
    return f"**Protocol `{protocol}`**: {PROTOCOL_MEANINGS[protocol]}"


def box_text(box: Sequence[float]) -> str:
    """Return the edges of a box with six digits at most."""
    return f"[{', '.join(f'{edge:g}' for edge in box)}]"


def p_text(p: float) -> str:
    """Return a p value; none smaller than what exchanges can show."""
    return f"< {_SMALLEST_P}" if p < _SMALLEST_P else f"{p:.4f}"


def is_partly_answered(answered: float | None) -> bool:
    """Return whether the share of answers is so small that it must be shown."""
    return answered is not None and answered < _WHOLE


def beside(answered: float | None, bounds: tuple[float, float] | None) -> list[str]:
    """Return what must be read with a number, as short texts: the share of answers, if it is not all, and bounds."""
    texts = [f"{100 * answered:.1f} % answered"] if answered is not None and is_partly_answered(answered) else []
    if bounds is not None:
        texts.append(f"failures wrong {100 * bounds[0]:.2f}, right {100 * bounds[1]:.2f}")
    return texts


def wrote(task: TaskResult) -> bool:
    """Return whether what a model wrote on a task must be told: it thought there, or met the limit of tokens."""
    return task.written is not None and bool(task.written.thinking or task.written.at_limit)


def written_cells(task: TaskResult) -> list[str]:
    """Return what a model wrote on a task, under `WRITTEN_HEADS`."""
    written = task.written
    if written is None:
        return [""] * len(WRITTEN_HEADS)
    share = "" if written.thought_share is None else f"{100 * written.thought_share:.1f} %"
    limit = f" ({100 * written.at_limit / written.answers:.1f} %)" if written.answers else ""
    thinking, at_limit = f"{written.thinking} of {written.answers}", f"{written.at_limit}{limit}"
    return [thinking, share, str(written.cut_thoughts), at_limit]


def value_text(value: float | None, digits: int = 2) -> str:
    """Return a number as a percentage with some decimals, `n/a` where nothing could be scored."""
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def interval_text(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Return an interval in percent, with one decimal or none; empty if there is none."""
    shown = min(1, digits)
    return f"[{100 * interval[0]:.{shown}f}, {100 * interval[1]:.{shown}f}]" if interval else ""


def count_text(parameters: int | None) -> str:
    """Return how many parameters a model has, with two digits: `7.2 B`, `350 M`; nothing if nobody knows."""
    if parameters is None:
        return ""
    size, unit = next((parameters / one, word) for one, word in _UNITS if parameters >= one)
    return f"{float(f'{size:.2g}'):g} {unit}".rstrip()


def _cell(number: Number | None, digits: int) -> str:
    if number is None:
        return ""
    mark = {"best": "**{}**", "second": "<u>{}</u>", "none": "{}"}[number.standing]
    text = mark.format(value_text(number.value, digits)) + (r"\*" if number.leaked else "")
    if number.std is not None:
        text += f" ± {100 * number.std:.{digits}f}"
    elif number.value is not None:
        text = f"{text} {interval_text(number.interval, digits)}".rstrip()
    ceiling = "" if number.ceiling is None else f" of {100 * number.ceiling:.1f}"
    shade = " <sup>zs</sup>" if number.zero_shot else ""
    return "; ".join([f"{text}{ceiling}{shade}", *beside(number.answered, number.bounds)])


def column_names(table: Table) -> list[str]:
    """Return the heads of a table's columns."""
    return [f"{column.name}{' (reported)' if column.kind == 'reported' else ''}" for column in table.columns]


def table_as_markdown(table: Table, *, models_as_rows: bool = False, digits: int = 2) -> str:
    """Return a table: a line for each metric of each task, or for each model."""
    names = list(map(markdown_text, column_names(table)))
    heads, cells = [], []
    for first, line in table.lines():
        title = f"{markdown_text(first.title)}{' ‡' if first.overlaps else ''}"
        heads.append([title, markdown_text(metric_title(first.metric))])
        cells.append([_cell(number, digits) for number in line])
    if models_as_rows:
        rows = [[name, *(line[place] for line in cells)] for place, name in enumerate(names)]
        return markdown_table(["Model", *map(" ".join, heads)], rows, right=len(heads))
    rows = [head + line for head, line in zip(heads, cells, strict=True)]
    return markdown_table(["Task", "Metric", *names], rows, right=len(names), merged=True)


def told_under(table: Table) -> list[str]:
    """Return what must stand under a table: who was compared on which samples, and numbers among the answered."""
    remarks, rows = [], []
    for first, line in table.lines():
        title, metric = first.title, metric_title(first.metric)
        if first.remark:
            remarks.append(f"- {markdown_text(f'{title}, {metric}')}: {markdown_text(first.remark)}.")
        for number in line:
            if number is not None and number.answered is not None and is_partly_answered(number.answered):
                shares = f"{100 * number.answered:.1f} %", value_text(number.among_answered)
                rows.append([*map(markdown_text, (title, metric, number.model)), *shares])
    parts = ["\n".join(remarks)] if remarks else []
    if rows:
        shown = markdown_table(["Task", "Metric", "Model", "Answered", "Among these"], rows, right=2, merged=True)
        told = "Numbers among the answers that could be read: never to be compared, since silence raises them"
        parts.append(folded(told, shown))
    return parts


def folded(title: str, text: str) -> str:
    """Return markdown below a line, its title as plain text, that unfolds it."""
    return f"<details><summary>{markdown_text(title)}</summary>\n\n{text}\n\n</details>"


def legend(tables: Sequence[Table], marks: Mapping[str, str] = WORDING["marks"]) -> str:
    """Return what the marks in these tables mean, by the field of a number that brings each; only of those there."""
    numbers = [number for table in tables for number in as_numbers(table.numbers)]
    told = [
        text.format(overlap=OVERLAP_TEXT) for name, text in marks.items() if any(_has(one, name) for one in numbers)
    ]
    if any(column.kind == "reported" for table in tables for column in table.columns):
        told.append("(reported): numbers of a paper, not made here.")
    return " ".join(told).format(overlap=OVERLAP_TEXT)


def _has(number: Number, mark: str) -> bool:
    if mark == "answered":
        return is_partly_answered(number.answered)
    value = getattr(number, mark)
    return value is not None and value is not False and value != "none"


@cache
def environment(folder: Path) -> Environment:
    """Return what renders a folder's templates; text is escaped in HTML where a template does not call it `safe`."""
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(["html"]), trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined,
    )  # fmt: skip
    made.filters |= {
        "md": markdown_text, "code": markdown_code, "tex": latex_text, "flat": _flat, "metric": metric_title,
        "protocol": protocol_text, "drawn": table_as_markdown, "told": told_under, "written": written_cells,
        "percent": value_text,
    }  # fmt: skip
    return made


def render_text(template: str, **content: Any) -> str:
    """Return a text from a template in `templates/`, in which nothing is escaped by itself, and nothing steers."""
    return printable(environment(_HERE / "templates").get_template(template).render(**content))


def render_markdown(template: str, **content: Any) -> str:
    """Return a page or a section in markdown, one blank line between its parts, however many of them are empty."""
    return re.sub(r"\n{3,}", "\n\n", render_text(template, **content)).strip("\n") + "\n"


def render_html(template: str, *, style: str, script: str = "", images: bool = False, **content: Any) -> str:
    """Return the HTML page that `html_pieces` makes."""
    return "".join(html_pieces(template, style=style, script=script, images=images, **content))


def html_pieces(template: str, *, style: str, script: str = "", images: bool = False, **content: Any) -> Iterator[str]:
    """Return an HTML page, piece by piece, from a template in `templates/`, which names `content`.

    The Content-Security-Policy admits exactly the style and the script, by their hashes, images only as data URIs and
    if `images`, and no script may make markup of text.
    """
    rules = {
        "default-src": "'none'", "img-src": "data:" if images else "", "style-src": _hash(style),
        "script-src": _hash(script) if script else "", "base-uri": "'none'", "form-action": "'none'",
        "require-trusted-types-for": "'script'" if script else "", "trusted-types": "'none'" if script else "",
    }  # fmt: skip
    policy = "; ".join(f"{name} {value}" for name, value in rules.items() if value)
    made = environment(_HERE / "templates").get_template(template)
    return map(printable, made.generate(policy=policy, style=style, script=script, **content))


def asset(name: str) -> str:
    """Return a style sheet or script of `assets/`."""
    return (_HERE / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def markdown_as_html(markdown: str) -> str:
    """Return a markdown page of ours as a piece of HTML; the parser takes no HTML, links or images of its own.

    Of HTML only sections that fold are known, in lines of their own: no text of data stands there unescaped.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(_NEVER)
    html, at = "", 0
    for part in _FOLDED.finditer(markdown):
        folded = f"<details><summary>{parser.renderInline(part[1])}</summary>\n{parser.render(part[2])}</details>\n"
        html += parser.render(markdown[at : part.start()]) + folded
        at = part.end()
    return html + str(parser.render(markdown[at:]))


def as_page(html: str) -> str:
    """Return a piece of HTML as it stands in a file of ours, whose style has words for what the parser says itself."""
    # The policy admits no attribute of style, which is how the parser aligns columns.
    html = html.replace(' style="text-align:right"', ' class="right"')
    # What is too wide can be moved by keys too.
    return html.replace("<table>", f"{_WIDE}<table>").replace("</table>", "</table></div>")


def html_document(title: str, markdown: str, *, tone: str = "") -> str:
    """Return one of our markdown pages, in which data are escaped, as an HTML file: no script, no link, no request.

    `tone` names the colour of the quote under its heading.
    """
    body = as_page(markdown_as_html(markdown))
    return render_html("document.html", style=asset("document.css"), title=title, body=body, tone=tone)
