"""Numbers as markdown, LaTeX and lines for the terminal; pure, and the same bytes for the same numbers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medbench.harness.results import TaskResult
from medbench.leaderboard.numbers import Number, Table, as_numbers
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.protocols import Protocol

ZERO_SHOT = "<sup>zs</sup>"
WORDING: Mapping[str, Any] = read_yaml_table(Path(__file__).with_name("wording.yaml"))
"""The long texts of tables and pages, and the names of metrics, protocols and suites."""
METRIC_TITLES: Mapping[str, str] = WORDING["metric_titles"]
PROTOCOL_MEANINGS: Mapping[Protocol, str] = WORDING["protocol_meanings"]
OVERLAP_TEXT: str = WORDING["overlap"]
WRITTEN_HEADS = ("Thinks first", "Thought tokens", "Thoughts cut off", "At the limit of tokens")
_WHOLE = 0.99995
"""A share that two decimals of a percentage show as less than all."""
_SMALLEST_P = 0.0001
_PACKAGES = r"% \usepackage{booktabs} \usepackage[table]{xcolor}"
_PLUS_MINUS = r"$\pm$"
_OVERLAPS = r" $\ddagger$"
_LATEX_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def metric_title(metric: str) -> str:
    """Return the name of a metric in tables."""
    return METRIC_TITLES.get(metric, metric)


def markdown_text(text: str) -> str:
    """Return `text` without anything that markdown or HTML would take for its own."""
    flat = " ".join(text.split())
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", flat) if re.search(r"[|<>`\[\]\\]", flat) else flat


def markdown_code(text: str) -> str:
    """Return `text` as code that stays in its cell."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0, merged: bool = False
) -> str:
    """Return a table of cells as they are, the last `right` columns aligned to the right.

    If `merged`, the first cell of a row is left out where it is that of the row above.
    """
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    lines = [header, rule]
    for place, row in enumerate(rows):
        repeated = merged and place > 0 and rows[place - 1][0] == row[0]
        lines.append(["", *row[1:]] if repeated else row)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def notes(notices: Sequence[str]) -> list[str]:
    """Return notices as quotes that cannot be overlooked."""
    return [f"> **{markdown_text(notice)}**" for notice in notices]


def remark_list(remarks: Mapping[str, str]) -> str:
    """Return remarks by what they are about as a list; empty ones are left out."""
    return "\n".join(f"- {markdown_text(name)}: {markdown_text(text)}." for name, text in remarks.items() if text)


def protocol_text(protocol: Protocol) -> str:
    """Return what a protocol is, as markdown."""
    return f"**Protocol `{protocol}`**: {PROTOCOL_MEANINGS[protocol]}"


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
    return [
        f"{written.thinking} of {written.answers}", share, str(written.cut_thoughts), f"{written.at_limit}{limit}"
    ]  # fmt: skip


def value_text(value: float | None) -> str:
    """Return a number as a percentage with two decimals, `n/a` where nothing could be scored."""
    return "n/a" if value is None else f"{100 * value:.2f}"


def _uncertainty(number: Number, plus_minus: str) -> str:
    if number.std is not None:
        return f" {plus_minus} {100 * number.std:.2f}"
    if number.interval is not None and number.value is not None:
        return f" [{100 * number.interval[0]:.1f}, {100 * number.interval[1]:.1f}]"
    return ""


def markdown_cell(number: Number | None) -> str:
    """Return a number as it stands in a markdown table; nothing where there is none."""
    if number is None:
        return ""
    value = value_text(number.value)
    marked = {"best": f"**{value}**", "second": f"<u>{value}</u>", "none": value}[number.standing]
    star = "\\*" if number.leaked else ""
    shade = f" {ZERO_SHOT}" if number.zero_shot else ""
    ceiling = "" if number.ceiling is None else f" of {100 * number.ceiling:.1f}"
    told = "".join(f"; {text}" for text in beside(number.answered, number.bounds))
    return f"{marked}{star}{_uncertainty(number, '±')}{ceiling}{shade}{told}"


def latex_cell(number: Number | None) -> str:
    """Return a number as it stands in a LaTeX table: bold, underlined, shaded and starred as in the paper's Table 3."""
    if number is None:
        return "--"
    value = value_text(number.value)
    marked = {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", "none": value}[number.standing]
    star = "$^{*}$" if number.leaked else ""
    shade = r"\cellcolor[gray]{0.9}" if number.zero_shot else ""
    return f"{shade}{marked}{star}{_uncertainty(number, _PLUS_MINUS)}"


def _column_names(table: Table) -> list[str]:
    return [f"{column.name}{' (reported)' if column.kind == 'reported' else ''}" for column in table.columns]


def table_as_markdown(table: Table, *, models_as_rows: bool = False) -> str:
    """Return a table: a line for each metric of each task, or for each model."""
    names = list(map(markdown_text, _column_names(table)))
    lines = list(table.lines())
    heads = [
        (f"{markdown_text(first.title)}{' ‡' if first.overlaps else ''}", markdown_text(metric_title(first.metric)))
        for first, _ in lines
    ]
    if models_as_rows:
        columns = [f"{title} {metric}" for title, metric in heads]
        rows = [[name, *(markdown_cell(line[place]) for _, line in lines)] for place, name in enumerate(names)]
        return markdown_table(["Model", *columns], rows, right=len(columns))
    rows = [[*head, *map(markdown_cell, line)] for head, (_, line) in zip(heads, lines, strict=True)]
    return markdown_table(["Task", "Metric", *names], rows, right=len(names), merged=True)


def told_under(table: Table) -> list[str]:
    """Return what must stand under a table: who was compared on which samples, and numbers among the answered."""
    lines = list(table.lines())
    remarks = {f"{first.title}, {metric_title(first.metric)}": first.remark for first, _ in lines}
    rows = [
        [
            markdown_text(first.title), markdown_text(metric_title(first.metric)), markdown_text(number.model),
            f"{100 * number.answered:.1f} %", value_text(number.among_answered),
        ]
        for first, line in lines
        for number in line
        if number is not None and number.answered is not None and is_partly_answered(number.answered)
    ]  # fmt: skip
    among = ""
    if rows:
        shown = markdown_table(["Task", "Metric", "Model", "Answered", "Among these"], rows, right=2, merged=True)
        told = "Numbers among the answers that could be read: never to be compared, since silence raises them"
        among = f"<details><summary>{told}</summary>\n\n{shown}\n\n</details>"
    return [part for part in (remark_list(remarks), among) if part]


_MARKS: Mapping[str, Callable[[Number], object]] = {
    "Percentages with 95 % intervals that account for images, patients, volumes or documents.": lambda n: n.interval,
    "`±`: standard deviation over several runs of a model.": lambda one: one.std is not None,
    "`of`: what a perfect model scores that must write its boxes in this model's notation.": lambda one: (
        one.ceiling is not None
    ),
    "Best **bold**, second <u>underlined</u>, decided on the samples that the runs share; nobody leads at zero; "
    f"{OVERLAP_TEXT}": lambda one: one.standing != "none",
    f"{ZERO_SHOT}: zero-shot, the model is known not to have seen the task's train split.": lambda one: one.zero_shot,
    "`*`: there is evidence that the model has seen the test split; such a number leads nobody.": lambda one: (
        one.leaked
    ),
    "‡: test and training data of the task overlap, see the audit of the data; it concerns every model trained on "
    "it.": lambda one: one.overlaps,
    "`answered`: share of the answers that could be read; under `strict` the others are wrong.": (
        lambda one: is_partly_answered(one.answered)
    ),
    "`failures`: the number had all samples that a machine failed on been wrong, and had all been right; they are "
    "left out of it.": lambda one: one.bounds,
}
"""What marks mean, and which numbers have them."""


def legend(tables: Sequence[Table]) -> str:
    """Return what the marks in these tables mean; only of marks that are there."""
    numbers = [number for table in tables for number in as_numbers(table.numbers)]
    told = [text for text, has_it in _MARKS.items() if any(map(has_it, numbers))]
    if any(column.kind == "reported" for table in tables for column in table.columns):
        told.append("(reported): numbers of a paper, not made here.")
    return " ".join(told)


def latex_text(text: str) -> str:
    """Return text with everything that LaTeX would take for its own escaped."""
    flat = " ".join(text.split())
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX_SPECIAL.get(found[0], f"\\{found[0]}"), flat)


def table_as_latex(table: Table, caption: str, notices: Sequence[str] = ()) -> str:
    """Return a `table` environment with booktabs rules; needs the packages booktabs and xcolor, option `table`."""
    heads = ["Task", "Metric", *_column_names(table)]
    lines = [
        _PACKAGES, *(f"% {' '.join(notice.split())}" for notice in (*notices, *_told_in_comments(table))),
        r"\begin{table}", r"  \centering", rf"  \caption{{{latex_text(caption)}}}",
        rf"  \begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"    \toprule", f"    {' & '.join(map(latex_text, heads))} \\\\", r"    \midrule", *_latex_body(table),
        r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _told_in_comments(table: Table) -> Iterator[str]:
    """Yield what a reader of the numbers must know and the cells have no room for."""
    for first, line in table.lines():
        name = f"{first.title}, {metric_title(first.metric)}"
        if first.remark:
            yield f"{name}: {first.remark}."
        for number in line:
            if number is not None and (texts := beside(number.answered, number.bounds)):
                yield f"{name}, {number.model}: {'; '.join(texts)}."


def _latex_body(table: Table) -> Iterator[str]:
    above = None
    for first, line in table.lines():
        repeated = first.task == above
        if above is not None and not repeated:
            yield r"    \addlinespace"
        title = "" if repeated else f"{latex_text(first.title)}{_OVERLAPS if first.overlaps else ''}"
        yield f"    {' & '.join([title, latex_text(metric_title(first.metric)), *map(latex_cell, line)])} \\\\"
        above = first.task
