"""A board as markdown; pure, and the same bytes for the same board."""

import re
from collections.abc import Sequence

from harness.results import MetricResult, Results
from leaderboard.board import Board, Standing, definition_of
from tasks.protocols import STATES, Protocol

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


def render_markdown(board: Board) -> str:
    """Return the board as a markdown document."""
    parts = [
        "# Leaderboard",
        *(f"> **{notice}**" for notice in _notices(board)),
        _legend(board),
    ]
    for protocol in board.rows:
        parts += [PROTOCOL_TEXTS[protocol], render_scores(board, protocol)]
    parts += ["## What happened to the samples", _states(board), "## Definitions", _definitions(board), _runs(board)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notices(board: Board) -> list[str]:
    return [markdown_text(notice) for notice in dict.fromkeys(notice for run in board.runs for notice in run.notices)]


def _legend(board: Board) -> str:
    lines = ["Percentages with 95 % intervals that heed images, patients, volumes or documents."]
    if any(ceiling_note(cell) for rows in board.rows.values() for row in rows for cell in row.cells if cell):
        lines.append("`of`: what a perfect model scores that must write its boxes in this model's notation.")
    if len(board.runs) > 1:
        lines.append(
            "Best **bold**, second <u>underlined</u>, only where all were scored on equally many samples; "
            "a difference inside overlapping intervals is no difference."
        )
    return " ".join(lines)


def render_scores(board: Board, protocol: Protocol) -> str:
    """Return the numbers of one protocol as a markdown table."""
    header = ["Task", "Metric", *map(markdown_text, board.names)]
    cells = [
        [markdown_text(row.title), _metric_title(row.metric), *map(_score, row.cells, row.standings)]
        for row in board.rows[protocol]
    ]
    return markdown_table(header, _without_repeats(cells), right=len(board.names))


def _metric_title(metric: str) -> str:
    return METRIC_TITLES.get(metric) or markdown_text(metric)


def _score(cell: MetricResult | None, standing: Standing) -> str:
    if cell is None:
        return ""
    if cell.value is None:
        return "n/a"
    value = f"{100 * cell.value:.2f}"
    marked = {"best": f"**{value}**", "second": f"<u>{value}</u>", "none": value}[standing]
    interval = "" if cell.ci is None else f" [{100 * cell.ci[0]:.1f}, {100 * cell.ci[1]:.1f}]"
    return f"{marked}{interval}{ceiling_note(cell)}"


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
