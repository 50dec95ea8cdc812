"""The files of an ablation: JSON, a page, CSV, LaTeX, and the learning curves in one figure."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import pandas as pd

from medbench.harness.ablation.grid import Base, TrainedRow
from medbench.leaderboard.ablation.document import KINDS, TOTAL, Ablation, RowScores, Worth, make_ablation
from medbench.leaderboard.numbers import frame_as_csv
from medbench.leaderboard.paper import read_publication
from medbench.leaderboard.render import (
    WORDING,
    interval_text,
    latex_text,
    markdown_table,
    markdown_text,
    metric_title,
    render_markdown,
    value_text,
)  # fmt: skip
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.drawing import drawn, label, shades
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, read_json_lines, write_atomically
from medbench.tasks.foundation.printable import printable
from medbench.tasks.protocols import Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", "-.", ":")


def publish_ablation(folder: Path, table: str, rows: Sequence[TrainedRow], missing: Sequence[str], base: Base) -> None:
    """Write the files of a table of trained rows into a folder, and show what the rows gain.

    Errors are those of `make_ablation`; RunError if a file cannot be written.
    """
    found = make_ablation(table, rows, missing, base)
    curves = draw_curves(folder / "curves.svg", rows)
    write_atomically(folder / "ablation.json", canonical_json(found.as_json(), indent=2) + "\n")
    write_atomically(folder / "ablation.csv", as_csv(found))
    write_atomically(folder / "ablation.tex", as_latex(found))
    write_atomically(folder / "ablation.md", as_markdown(found, curves=curves))
    head, lines = verdict_lines(found.protocols["paper"])
    emit_table(head, lines, title=f"Table {table}, protocol paper")
    say(f"{folder / 'ablation.md'}")


def as_markdown(found: Ablation, *, curves: bool = False) -> str:
    """Return the page."""
    lacking = [f"Not through, and not shown: {', '.join(found.missing)}."] if found.missing else []
    sections = []
    for protocol, rows in found.protocols.items():
        shares = [row.gains[TOTAL].of_seeds for row in rows if row.gains]
        between = max((one for one in shares if one is not None), default=None)
        tables = _as_markdown(*score_lines(found, protocol), right=len(found.metrics)), _as_markdown(*gain_lines(rows))
        sections.append((protocol, *tables, "" if between is None else f"{100 * between:.0f} %"))
    return render_markdown(
        "ablation.md", found=found, sections=sections, notices=[*lacking, *found.notices], told=WORDING["ablation"],
        title=WORDING["ablation"]["titles"][found.table], curves=curves,
    )  # fmt: skip


def _as_markdown(head: Sequence[str], lines: Sequence[Sequence[str]], *, right: int = 0) -> str:
    heads = [title.replace("\n", "<br>") for title in head]
    return markdown_table(heads, [list(map(markdown_text, line)) for line in lines], right=right)


def as_latex(found: Ablation) -> str:
    """Return two tables as wide as the text under the paper's protocol: scores, and what rows gain in total."""
    rows = found.protocols["paper"]
    told = [f"% {latex_text(one)}" for one in (f"Recipe {found.base.told}, protocol paper.", *found.notices)]
    head, _ = score_lines(found, "paper")
    scores = [[row.name, *(value_text(row.scores[task].value) for task, _ in found.metrics)] for row in rows]
    tables = [_tabular(head, scores), r"\medskip", "", _tabular(*verdict_lines(rows))]
    return printable("\n".join([r"% \usepackage{booktabs, graphicx}", *told, *tables]))


def _tabular(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    titles = [r"\\".join(map(latex_text, title.split("\n"))) for title in head]
    heads = [rf"\shortstack{{{title}}}".replace("Δ", r"$\Delta$") for title in titles]
    cells = pd.DataFrame([list(map(latex_text, line)) for line in lines], columns=heads)
    table = cells.to_latex(index=False, escape=False, column_format="l" + "r" * (len(head) - 1)).strip()
    return f"\\noindent\\resizebox{{\\textwidth}}{{!}}{{\\setlength{{\\tabcolsep}}{{3pt}}%\n{table}}}\n"


def score_lines(found: Ablation, protocol: Protocol) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table of scores; on the paper's own data what it prints stands beneath."""
    heads = [f"{get_task(task).title}\n{metric_title(metric)}" for task, metric in found.metrics]
    published = read_publication(f"table{found.table}")
    beneath = published.models if (found.suite, protocol) == ("paper", published.protocol) else {}
    lines = []
    for row in found.protocols[protocol]:
        lines.append([row.name, *(_percent(row.scores[task]) for task, _ in found.metrics)])
        if row.name in beneath:
            printed = beneath[row.name].scores
            lines.append(["as printed", *(f"{printed[task][metric]:.2f}" for task, metric in found.metrics)])
    return ["Row", *heads], lines


def _percent(worth: Worth) -> str:
    return f"{value_text(worth.value)} {interval_text(_interval(worth))}".rstrip()


def _interval(worth: Worth) -> tuple[float, float] | None:
    return None if worth.low is None or worth.high is None else (worth.low, worth.high)


def gain_lines(rows: Sequence[RowScores]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the table of gains by kind and in total; beneath each what the paper prints."""
    kinds = [kind for kind in (*KINDS, TOTAL) if any(kind in row.gains for row in rows)]
    gains = [f"Δ {kind}" for kind in kinds]
    head = ["Row", "Trained parameters", "over", *gains, "Verdict", "p (Holm)", "Would show"]
    lines = []
    for row in rows:
        own = [_gain(row.gains[kind]) if row.gains else "" for kind in kinds]
        lines.append([row.name, f"{row.parameters:,}", row.over, *own, row.verdict, *_decided_by(row)])
        if row.over and row.reported:
            printed = [_percent_more(row.reported.get(kind)) for kind in kinds]
            lines.append(["as printed", "", "", *printed, "", "", ""])
    return head, lines


def verdict_lines(rows: Sequence[RowScores]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of a narrower table: what rows gain in total, and what is decided."""
    lines = [
        [row.name, _gain(row.gains[TOTAL]), row.verdict, *_decided_by(row), _percent_more(row.reported.get(TOTAL))]
        for row in rows
        if row.over
    ]
    return ["Row", "Δ total", "Verdict", "p (Holm)", "Would show", "Paper"], lines


def _decided_by(row: RowScores) -> tuple[str, str]:
    """Return p and the smallest gain that would show, both empty with one training."""
    p = "" if row.p_adjusted is None else f"{row.p_adjusted:.3f}"
    return p, "" if row.detectable is None else f"{100 * row.detectable:.1f} %"


def _percent_more(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def _gain(worth: Worth) -> str:
    if worth.value is None:
        return "n/a"
    bounds = [f"{100 * one:+.1f}" for one in _interval(worth) or ()]
    return _percent_more(worth.value) + (f" [{', '.join(bounds)}]" if bounds else "")


def as_csv(found: Ablation) -> str:
    """Return all numbers as fractions, one a line: of a task, or of a gain by kind or in total."""
    lines = []
    for protocol, rows in found.protocols.items():
        for row in rows:
            about = {"protocol": protocol, "row": row.name, "over": row.over}
            numbers = [("score", task, metric, row.scores[task]) for task, metric in found.metrics]
            numbers += [("gain", kind, "", row.gains[kind]) for kind in (*KINDS, TOTAL) if kind in row.gains]
            for what, of, metric, one in numbers:
                more = {"value": one.value, "low": one.low, "high": one.high, "of_seeds": one.of_seeds}
                total = {"p_adjusted": row.p_adjusted, "verdict": row.verdict} if (what, of) == ("gain", TOTAL) else {}
                lines.append({**about, "what": what, "of": of, "metric": metric, **more, **total,
                              "reported": row.reported.get(of) if what == "gain" else None})  # fmt: skip
    return frame_as_csv(pd.DataFrame(lines))


def draw_curves(image: Path, rows: Sequence[TrainedRow]) -> bool:
    """Draw the training loss and the held-out loss of rows, means over seeds; return whether matplotlib is there."""
    try:
        with drawn(image) as figure:
            _draw(figure, rows)
    except UsageError as error:
        say(f"The curves were not drawn: {error.problem} {error.hint}")
        return False
    return True


def _draw(figure: "Figure", rows: Sequence[TrainedRow]) -> None:
    figure.set_size_inches(6.9, 2.6 + 0.13 * math.ceil(len(rows) / 2))
    training, held_out = figure.subplots(1, 2)
    for place, row in enumerate(rows):
        look = {"color": shades(len(rows) + 1)[place], "linestyle": _LINES[place % len(_LINES)], "linewidth": 0.9}
        logs = [[one for one in read_json_lines(log) if one["stage"] == "language"] for log in row.logs]
        _line(training, [{one["step"]: one["mean_loss"] for one in log} for log in logs], label(row.name), look)
        looks = [{one["step"]: [*one["held_out"].values()] for one in log if one.get("held_out")} for log in logs]
        means = [
            {step: mean(told) for step, of in one.items() if (told := [x for x in of if x is not None])}
            for one in looks
        ]
        _line(held_out, means, label(row.name), look)
    for axes, title in ((training, "Training loss"), (held_out, "Held-out loss, mean over tasks")):
        axes.set(title=title, xlabel="step", ylabel="cross-entropy per answer token", yscale="log")
        axes.grid(linewidth=0.4, alpha=0.5)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    handles, labels = training.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def _line(axes: "Axes", seeds: Sequence[dict[int, float]], name: str, look: dict[str, object]) -> None:
    """Draw the mean of several trainings at the steps that all of them tell of."""
    steps = sorted(set.intersection(*map(set, seeds)))
    axes.plot(steps, [mean(one[step] for one in seeds) for step in steps], label=name, **look)  # type: ignore[arg-type]
