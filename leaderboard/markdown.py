"""A board as markdown; pure, and the same bytes for the same board."""

import re
from collections.abc import Mapping, Sequence

from medbench.harness.results import MetricResult, Results
from medbench.leaderboard.board import Board, definition_of
from medbench.leaderboard.cells import OVERLAP_TEXT, uncertainty_text, value_text
from medbench.leaderboard.counts import WRITTEN_HEADS, beside, is_partly_answered, writes_to_tell, written_cells
from medbench.leaderboard.table import Cell, Line, Table, make_table
from medbench.tasks.protocols import STATES, Protocol

ZERO_SHOT = "<sup>zs</sup>"

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "bleu1": "BLEU-1",
    "bleu4": "BLEU-4",
    "closed_accuracy": "Accuracy (closed)",
    "closed_f1": "F1 (closed)",
    "f1": "F1",
    "iou": "Mean IoU",
    "macro_f1": "Macro-F1",
    "meteor": "METEOR",
    "open_f1": "F1 (open)",
    "r_at_0.5": "R@0.5",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
PROTOCOL_TEXTS: dict[Protocol, str] = {
    "paper": "**Protocol `paper`**: what the official evaluation scripts compute, quirks included.",
    "strict": "**Protocol `strict`**: what the paper's text and common sense say. Never compare it with `paper`.",
}


def render_markdown(board: Board, tables: Sequence[Table] | None = None, sections: Sequence[str] = ()) -> str:
    """Return the board as a markdown document.

    Args:
        board: The runs.
        tables: What to show of them, one table a protocol; plain ones of both protocols if there are none.
        sections: Further sections, ready-made, behind the tables.
    """
    shown = [make_table(board, protocol) for protocol in board.rows] if tables is None else tables
    parts = ["# Leaderboard", *notes(notices_of(board)), legend(shown)]
    for table in shown:
        parts += [PROTOCOL_TEXTS[table.protocol], render_table(table), *told_under(table)]
    parts += [
        *sections, "## What happened to the samples", _states(board), _written(board), "## Definitions",
        _definitions(board), _runs(board),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def notices_of(board: Board) -> list[str]:
    """Return what must be said beside the numbers of all runs, each once."""
    return list(dict.fromkeys(notice for run in board.runs for notice in run.notices))


def notes(notices: Sequence[str]) -> list[str]:
    """Return notices as quotes that cannot be overlooked."""
    return [f"> **{markdown_text(notice)}**" for notice in notices]


def legend(tables: Sequence[Table]) -> str:
    """Return what the marks in these tables mean; only of marks that are there."""
    cells = [cell for table in tables for line in table.lines for cell in line.cells if cell is not None]
    kinds = {column.kind for table in tables for column in table.columns}
    told = {
        "Percentages with 95 % intervals that heed images, patients, volumes or documents.": any(
            cell.ci for cell in cells
        ),
        "`±`: standard deviation over several runs of a model.": any(cell.spread is not None for cell in cells),
        "`of`: what a perfect model scores that must write its boxes in this model's notation.": any(
            cell.ceiling is not None for cell in cells
        ),
        "Best **bold**, second <u>underlined</u>, decided on the samples that the runs share; nobody leads at zero; "
        f"{OVERLAP_TEXT}": any(cell.standing != "none" for cell in cells),
        f"{ZERO_SHOT}: zero-shot, the model is known not to have seen the task's train split.": any(
            cell.zero_shot for cell in cells
        ),
        "`*`: there is evidence that the model has seen the test split; such a number leads nobody.": any(
            cell.leaked for cell in cells
        ),
        "‡: test and training data of the task overlap, see the audit of the data; it concerns every model trained on "
        "it.": any(line.overlaps for table in tables for line in table.lines),
        "`answered`: share of the answers that could be read; under `strict` the others are wrong.": any(
            is_partly_answered(cell.answered) for cell in cells
        ),
        "`failures`: the number had all samples that a machine failed on been wrong, and had all been right; they are "
        "left out of it.": any(cell.bounds for cell in cells),
        "(reported): numbers of a paper, not made here.": "reported" in kinds,
    }
    return " ".join(text for text, needed in told.items() if needed)


def render_scores(board: Board, protocol: Protocol) -> str:
    """Return the numbers of one protocol as a markdown table."""
    return render_table(make_table(board, protocol))


def render_table(table: Table, *, models_as_rows: bool = False) -> str:
    """Return a table: a line for each metric of each task, or for each model."""
    names = [f"{markdown_text(column.name)}{_reported(column.kind)}" for column in table.columns]
    heads = [(f"{markdown_text(line.title)}{_overlap(line)}", _metric_title(line.metric)) for line in table.lines]
    if models_as_rows:
        columns = [f"{title} {metric}" for title, metric in heads]
        rows = [
            [name, *(_score(line.cells[place]) for line in table.lines)] for place, name in enumerate(names)
        ]  # fmt: skip
        return markdown_table(["Model", *columns], rows, right=len(columns))
    rows = [[*head, *map(_score, line.cells)] for head, line in zip(heads, table.lines, strict=True)]
    return markdown_table(["Task", "Metric", *names], _without_repeats(rows), right=len(names))


def _overlap(line: Line) -> str:
    return " ‡" if line.overlaps else ""


def _reported(kind: str) -> str:
    return " (reported)" if kind == "reported" else ""


def _metric_title(metric: str) -> str:
    return METRIC_TITLES.get(metric) or markdown_text(metric)


def _score(cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = value_text(cell)
    marked = {"best": f"**{value}**", "second": f"<u>{value}</u>", "none": value}[cell.standing]
    star = "\\*" if cell.leaked else ""
    shade = f" {ZERO_SHOT}" if cell.zero_shot else ""
    ceiling = "" if cell.ceiling is None else f" of {100 * cell.ceiling:.1f}"
    told = "".join(f"; {text}" for text in beside(cell.answered, cell.bounds))
    return f"{marked}{star}{uncertainty_text(cell, plus_minus='±')}{ceiling}{shade}{told}"


def told_under(table: Table) -> list[str]:
    """Return what must stand under a table: who was compared on which samples, and numbers among the answered."""
    remarks = {f"{line.title}, {METRIC_TITLES.get(line.metric, line.metric)}": line.remark for line in table.lines}
    return [part for part in (remark_list(remarks), _among_answered(table)) if part]


def remark_list(remarks: Mapping[str, str]) -> str:
    """Return remarks by what they are about as a list; empty ones are left out."""
    return "\n".join(f"- {markdown_text(name)}: {markdown_text(text)}." for name, text in remarks.items() if text)


def _among_answered(table: Table) -> str:
    rows = [
        [markdown_text(line.title), _metric_title(line.metric), markdown_text(column.name), *_answered_cells(cell)]
        for line in table.lines
        for column, cell in zip(table.columns, line.cells, strict=True)
        if cell is not None and is_partly_answered(cell.answered)
    ]
    if not rows:
        return ""
    shown = markdown_table(["Task", "Metric", "Model", "Answered", "Among these"], _without_repeats(rows), right=2)
    told = "Numbers among the answers that could be read: never to be compared, since silence raises them"
    return f"<details><summary>{told}</summary>\n\n{shown}\n\n</details>"


def _answered_cells(cell: Cell) -> list[str]:
    among = "n/a" if cell.among_answered is None else f"{100 * cell.among_answered:.2f}"
    return ["" if cell.answered is None else f"{100 * cell.answered:.1f} %", among]


def ceiling_note(cell: MetricResult) -> str:
    """Return ` of 87.4`, the most that can be scored in the model's box notation; nothing where that is everything."""
    return "" if cell.limiting_ceiling is None else f" of {100 * cell.limiting_ceiling:.1f}"


def _states(board: Board) -> str:
    rows = [
        row for name, run in zip(board.names, board.runs, strict=True) for row in _state_rows(markdown_text(name), run)
    ]
    return markdown_table(["Model", "Task", "Samples", *STATES], _without_repeats(rows), right=len(STATES) + 1)


def _state_rows(name: str, run: Results) -> list[list[str]]:
    asked = [
        [name, markdown_text(task.title), str(task.samples), *(str(task.states.get(state, 0)) for state in STATES)]
        for task in run.tasks.values()
    ]
    return asked + [[name, markdown_text(task), "not supported", *[""] * len(STATES)] for task in run.unsupported]


def _written(board: Board) -> str:
    rows = [
        [markdown_text(name), markdown_text(task.title), *written_cells(task)]
        for name, run in zip(board.names, board.runs, strict=True)
        for task in writes_to_tell(run)
    ]
    if not rows:
        return ""
    table = markdown_table(["Model", "Task", *WRITTEN_HEADS], _without_repeats(rows), right=len(WRITTEN_HEADS))
    return f"## Thoughts, and answers at the limit of tokens\n\n{table}"


def _definitions(board: Board) -> str:
    signatures = {
        (row.title, _metric_title(row.metric), protocol): definition_of(cell)
        for protocol, rows in board.rows.items()
        for row in rows
        for cell in row.cells
        if cell is not None
    }
    rows = [
        [markdown_text(task), metric, protocol, _code(text)] for (task, metric, protocol), text in signatures.items()
    ]
    table = markdown_table(["Task", "Metric", "Protocol", "Signature"], rows)
    return f"<details><summary>The exact definition behind each number</summary>\n\n{table}\n\n</details>"


def _runs(board: Board) -> str:
    rows = [
        [
            markdown_text(name),
            *map(_code, (run.run, run.model.weights[:12], run.model.device, run.model.dtype)),
            str(run.limit or "none"),
        ]
        for name, run in zip(board.names, board.runs, strict=True)
    ]
    return "## Runs\n\n" + markdown_table(["Model", "Run", "Weights", "Device", "Type", "Limit"], rows)


def _without_repeats(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    shown: list[list[str]] = []
    for index, row in enumerate(rows):
        repeated = index > 0 and rows[index - 1][0] == row[0]
        shown.append(["" if repeated else row[0], *row[1:]])
    return shown


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0) -> str:
    """Return a table whose last `right` columns are aligned to the right; cells are taken as they are."""
    left = len(header) - right
    rule = ["---"] * left + ["---:"] * right
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def markdown_text(text: str) -> str:
    """Return `text` without anything that markdown or HTML would take for its own."""
    flat = " ".join(text.split())
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", flat) if re.search(r"[|<>`\[\]\\]", flat) else flat
