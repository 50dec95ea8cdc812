"""Whole pages in markdown: the leaderboard, two runs compared, a run by the data's own labels."""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from medbench.harness.results import Results
from medbench.leaderboard import render
from medbench.leaderboard.compare import VERDICTS, Comparison
from medbench.leaderboard.numbers import Board, Table, as_csv, as_json, as_numbers, gains_over, make_table, read_board
from medbench.leaderboard.paper import LAYOUTS, Layout, read_publication
from medbench.leaderboard.render import markdown_table, markdown_text, metric_title, notes, protocol_text
from medbench.leaderboard.runs import definition_of, notices_of, overlaps_in
from medbench.leaderboard.samples import rows_of
from medbench.leaderboard.standings import Ranking, rank_runs
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol

COMPARED_HEADS = ("Difference [95 %]", "p", "p (Holm)", "Verdict", "Would show")
PART_HEADS = ("Task", "Label", "Value", "Metric", "Score % [95 %]", "Scored", "Of")
_WITHHELD = "(withheld: data under a signed agreement)"
_MOST_CHANGES = 20
_LONGEST = 120
_FEW_CLUSTERS = 15


def leaderboard(
    paths: Sequence[Path], *, form: str = "markdown", protocol: Protocol | None = None, layout: str | None = None,
    models_as_rows: bool = False, grouped: bool = False, reported: Sequence[str] = (), baseline: str | None = None,
    data_audit: Path | None = None,
) -> str:  # fmt: skip
    """Return the page of `medbench leaderboard`.

    `form` is `markdown`, `csv`, `latex` or `json`; no protocol stands for all that fit. `baseline` is the model that
    gains are counted against, `data_audit` a file whose marks stand beside the tasks. Raises UsageError if runs or
    options do not fit together; RunError if a folder is no finished run; DataError if an audit's file is broken.
    """
    published = [read_publication(name) for name in reported]
    if not paths and not published:
        raise UsageError("No run was given.", "Give folders that `medbench run` made, or --reported table3.")
    board, scores = read_board(paths) if paths else (None, {})
    shape = LAYOUTS[layout] if layout else None
    all_protocols: Sequence[Protocol] = ("paper",) if form == "latex" else PROTOCOLS
    protocols = (protocol,) if protocol else tuple(dict.fromkeys(one.protocol for one in published)) or all_protocols
    overlapping = overlaps_in(data_audit) if data_audit else frozenset()
    made = partial(make_table, board, grouped=grouped, published=published, overlapping=overlapping)
    tables = [made(one, layout=shape) for one in protocols]
    notices = notices_of(board.runs) if board else []
    if form != "markdown":
        return as_csv(tables) if form == "csv" else (as_json if form == "json" else _latex)(tables, notices)
    sources = [f"Source: {publication.source}." for publication in published]
    if shape is not None:
        parts = _shown(tables, layout=shape, baseline=baseline)
        return _joined("# Leaderboard", *notes(notices), render.legend(tables), *parts, *sources)
    sections = []
    if board is not None and len(board.runs) > 1 and not grouped:
        ranking = rank_runs(board.runs, scores, board.names, protocols[0], board.leaks)
        sections.append(ranks_section(board.names, ranking))
    if baseline is not None:
        sections.append(gains_section(made(protocols[0], layout=LAYOUTS["table2"]), baseline))
    if board is not None and not models_as_rows:
        return board_as_markdown(board, tables, [*sections, *sources])
    parts = _shown(tables, models_as_rows=models_as_rows)
    return _joined("# Leaderboard", *notes(notices), render.legend(tables), *parts, *sections, *sources)


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(tables: Sequence[Table], notices: Sequence[str]) -> str:
    marks = re.compile(r"`|\*\*|</?u>|</?sup>")
    captions = [f"Protocol {table.protocol}. {marks.sub('', render.legend([table]))}" for table in tables]
    pairs = zip(tables, captions, strict=True)
    return "\n".join(render.table_as_latex(table, caption, notices) for table, caption in pairs)


def _shown(
    tables: Sequence[Table], *, models_as_rows: bool = False, layout: Layout | None = None, baseline: str | None = None
) -> list[str]:
    """Return tables, in the shape of one of the paper's with the gain over a baseline where the paper has it."""
    parts = []
    for table in tables:
        shown = render.table_as_markdown(table, models_as_rows=layout.models_as_rows if layout else models_as_rows)
        heading = f"## In the shape of {layout.name}" if layout else ""
        gains = gains_section(table, baseline) if layout and layout.gains and baseline is not None else ""
        parts += [protocol_text(table.protocol), heading, shown, gains, *render.told_under(table)]
    return parts


def board_as_markdown(board: Board, tables: Sequence[Table] | None = None, sections: Sequence[str] = ()) -> str:
    """Return a board as a markdown document.

    Its tables, one a protocol, are plain ones of both if none are given; further sections stand behind them.
    """
    shown = [make_table(board, protocol) for protocol in PROTOCOLS] if tables is None else tables
    return _joined(
        "# Leaderboard", *notes(notices_of(board.runs)), render.legend(shown), *_shown(shown), *sections,
        "## What happened to the samples", *_samples(board), "## Definitions", _definitions(board), "## Runs",
        _runs(board),
    )  # fmt: skip


def _samples(board: Board) -> list[str]:
    """Return what became of the samples, and what was written where a model thought or met the limit of tokens."""
    states, written = [], []
    for name, run in zip(map(markdown_text, board.names), board.runs, strict=True):
        for task in run.tasks.values():
            title, counts = markdown_text(task.title), [str(task.states.get(state, 0)) for state in STATES]
            states.append([name, title, str(task.samples), *counts])
            written += [[name, title, *render.written_cells(task)]] if render.wrote(task) else []
        states += [[name, markdown_text(task), "not supported", *[""] * len(STATES)] for task in run.unsupported]
    parts = [markdown_table(["Model", "Task", "Samples", *STATES], states, right=len(STATES) + 1, merged=True)]
    if written:
        table = markdown_table(
            ["Model", "Task", *render.WRITTEN_HEADS], written, right=len(render.WRITTEN_HEADS), merged=True
        )
        parts += ["## Thoughts, and answers at the limit of tokens", table]
    return parts


def _definitions(board: Board) -> str:
    texts = {
        (one.title, metric_title(one.metric), one.protocol): definition_of(one.signature)
        for one in as_numbers(board.numbers)
    }
    rows = [
        [markdown_text(task), markdown_text(metric), protocol, render.markdown_code(text)]
        for (task, metric, protocol), text in texts.items()
    ]
    table = markdown_table(["Task", "Metric", "Protocol", "Signature"], rows)
    return f"<details><summary>The exact definition behind each number</summary>\n\n{table}\n\n</details>"


def _runs(board: Board) -> str:
    rows = []
    for name, run in zip(board.names, board.runs, strict=True):
        codes = map(render.markdown_code, (run.run, run.model.weights[:12], run.model.device, run.model.dtype))
        rows.append([markdown_text(name), *codes, str(run.limit or "none")])
    return markdown_table(["Model", "Run", "Weights", "Device", "Type", "Limit"], rows)


def ranks_section(names: Sequence[str], ranking: Ranking) -> str:
    """Return the ranks with their intervals, and why tasks have none."""
    if not ranking.tasks and not ranking.left_out:
        return ""
    rows = []
    for task in ranking.tasks:
        ranks = [
            "" if rank is None else f"{rank.rank:g}"
            + ("" if f"{rank.low:g}" == f"{rank.high:g}" else f" ({rank.low:g} to {rank.high:g})")
            for rank in task.ranks
        ]  # fmt: skip
        rows.append([markdown_text(task.title), metric_title(task.metric), *ranks])
    if ranking.overall:
        means = [f"{one.rank:.2f} ({one.low:.2f} to {one.high:.2f})" for one in ranking.overall]
        rows.append(["**All tasks**", "mean rank", *means])
    return _joined(
        "## Ranks", render.WORDING["ranks"],
        markdown_table(["Task", "Metric", *map(markdown_text, names)], rows, right=len(names)) if rows else "",
        render.remark_list({one.title: one.remark for one in ranking.tasks}),
        render.remark_list({title: f"no rank: {reason}" for title, reason in ranking.left_out.items()}),
    ).rstrip("\n")  # fmt: skip


def gains_section(table: Table, baseline: str) -> str:
    """Return the gain of each model over a baseline, by kind of task and in total; a UsageError if there is none."""
    kinds = list(dict.fromkeys(get_task(task).kind for task in table.numbers["task"]))
    total = gains_over(table, baseline)
    percent = {f"Δ {kind}": gains_over(table, baseline, kind)["relative"] for kind in kinds}
    percent |= {"Δ": total["relative"], "Δ geometric": total["geometric"]}
    shown = pd.DataFrame({
        "Model": total["model"].map(markdown_text),
        **{name: _each(column, "{:+.1f} %") for name, column in percent.items()},
        "points": _each(total["points"], "{:+.2f}"),
        "data sets": total["datasets"].map(str),
    })  # fmt: skip
    left_out = {
        name: f"without {', '.join(titles)}, of which not the same samples were scored" if titles else ""
        for name, titles in zip(total["model"], total["left_out"], strict=True)
    }
    drawn = markdown_table(list(shown.columns), shown.to_numpy().tolist(), right=len(shown.columns) - 1)
    told = f"Against {markdown_text(baseline)}. {render.WORDING['gains']}"
    return _joined("## Gain over a baseline", told, drawn, render.remark_list(left_out)).rstrip("\n")


def _each(fractions: "pd.Series[float]", form: str) -> "pd.Series[str]":
    return fractions.map(lambda fraction: "" if math.isnan(fraction) else form.format(100 * fraction))


def compared_rows(comparison: Comparison) -> list[list[str]]:
    """Return a line for each metric: task, metric, both values, and what stands under `COMPARED_HEADS`."""
    return [
        [
            row.title, metric_title(row.metric), f"{100 * row.first:.2f}", f"{100 * row.second:.2f}",
            f"{100 * row.difference:+.2f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]", render.p_text(row.p),
            "" if math.isnan(row.p_adjusted) else render.p_text(row.p_adjusted),
            f"{row.verdict} ({row.clusters})" if row.verdict == "too few clusters" else row.verdict or "",
            "nothing" if math.isnan(row.detectable) else f"{100 * row.detectable:.1f}",
        ]
        for row in rows_of(comparison.rows)
    ]  # fmt: skip


def compared_summary(comparison: Comparison) -> str:
    """Return the verdicts in one sentence."""
    verdicts = list(comparison.decisive["verdict"])
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    told = [f"{verdict} on {count}" for verdict, count in counts.items() if count or verdict != "too few clusters"]
    first, second = comparison.names
    return f"{first} against {second}: {', '.join(told)} of {len(verdicts)} tasks."


def compared_remarks(comparison: Comparison) -> list[str]:
    """Return what was left out of the comparison."""
    remarks = [f"Only one of the two has {', '.join(comparison.left_out)}."] if comparison.left_out else []
    counts = [
        f"{task}: {ours} by the first, {theirs} by the second" for task, (ours, theirs) in comparison.unpaired.items()
    ]
    if counts:
        remarks.append(f"Samples that only one of the two scored, and that are left out. {'; '.join(counts)}.")
    return remarks


def comparison_as_markdown(comparison: Comparison) -> str:
    """Return the page of `medbench compare`."""
    first, second = map(markdown_text, comparison.names)
    rows = [[markdown_text(row[0]), *row[1:]] for row in compared_rows(comparison)]
    return _joined(
        f"# {first} against {second}", *notes(comparison.notices), markdown_text(compared_summary(comparison)),
        protocol_text(comparison.protocol), render.WORDING["compared"],
        markdown_table(["Task", "Metric", first, second, *COMPARED_HEADS], rows),
        *map(markdown_text, compared_remarks(comparison)), "## Samples that changed", _changes(comparison),
        f"Runs: `{comparison.runs[0]}` and `{comparison.runs[1]}`.",
    )  # fmt: skip


def _changes(comparison: Comparison) -> str:
    """Return the samples that changed, the largest changes of each task first."""
    changed = comparison.changed
    if not len(changed):
        return "None by the primary metrics."
    counted = f"{len(changed)} samples, {(changed['gain'] > 0).sum()} of them gains of the first."
    rows = []
    for task, changes in changed.groupby("task", sort=False):
        order = changes.assign(size=-changes["gain"].abs()).sort_values(["size", "sample_id"], kind="stable")
        for one in rows_of(order.head(_MOST_CHANGES)):
            texts = [_WITHHELD] * 2 if task in comparison.withheld else [_short(one.first), _short(one.second)]
            rows.append([markdown_text(one.task), markdown_text(one.sample_id), f"{100 * one.gain:+.1f}", *texts])
    table = markdown_table(["Task", "Sample", "Gain", *map(markdown_text, comparison.names)], rows)
    return f"{counted} The largest of each task, at most {_MOST_CHANGES}:\n\n{table}"


def _short(text: str) -> str:
    return markdown_text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...") or "(empty)"


def part_rows(parts: pd.DataFrame) -> list[list[str]]:
    """Return a line for each part of a breakdown, under `PART_HEADS`."""
    rows = []
    for part in rows_of(parts):
        score = "n/a" if math.isnan(part.score) else f"{100 * part.score:.2f}"
        if not math.isnan(part.low):
            few = ", few clusters" if part.clusters < _FEW_CLUSTERS else ""
            score += f" [{100 * part.low:.1f}, {100 * part.high:.1f}{few}]"
        counts = [str(part.n), str(part.samples)]
        rows.append([part.title, part.label, part.value, metric_title(part.metric), score, *counts])
    return rows


def breakdown_as_markdown(results: Results, protocol: Protocol, parts: pd.DataFrame) -> str:
    """Return the page of `medbench breakdown`."""
    rows = [[*map(markdown_text, row[:3]), *row[3:]] for row in part_rows(parts)]
    title = f"# {markdown_text(results.model.title)} by the labels of the data"
    return _joined(title, *notes(results.notices), protocol_text(protocol), markdown_table(PART_HEADS, rows))
