"""From folders and wishes to the page of `medbench leaderboard`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.results import read_results
from medbench.leaderboard.board import Board, Scores, make_board
from medbench.leaderboard.compare import Side
from medbench.leaderboard.latex import render_latex
from medbench.leaderboard.layouts import LAYOUTS
from medbench.leaderboard.leaks import leaks_of, overlaps_in
from medbench.leaderboard.markdown import (
    PROTOCOL_TEXTS,
    legend,
    notes,
    notices_of,
    render_markdown,
    render_table,
    told_under,
)
from medbench.leaderboard.plain_formats import render_csv, render_json
from medbench.leaderboard.published.read import Publication, read_publication
from medbench.leaderboard.ranking import rank_runs
from medbench.leaderboard.read_runs import read_scores
from medbench.leaderboard.sections import render_gains, render_layout, render_ranks
from medbench.leaderboard.table import Table, make_table
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user wants to see.

    Attributes:
        form: `markdown`, `csv`, `latex` or `json`.
        protocol: One alone, or None for all that fit.
        layout: Name of a table of the paper, or None.
        models_as_rows: Whether models are the rows.
        grouped: Whether runs of one model become one column.
        reported: Published numbers to show.
        baseline: Model that gains are counted against.
        data_audit: File of an audit of the data, whose marks stand beside the tasks.
    """

    form: str = "markdown"
    protocol: Protocol | None = None
    layout: str | None = None
    models_as_rows: bool = False
    grouped: bool = False
    reported: tuple[str, ...] = ()
    baseline: str | None = None
    data_audit: Path | None = None


def make_page(paths: Sequence[Path], wanted: Wanted) -> str:
    """Return the page.

    Raises:
        UsageError: If runs or options do not fit together.
        RunError: If a folder is no finished run.
        DataError: If an audit's file is broken.
    """
    published = [read_publication(name) for name in wanted.reported]
    if not paths and not published:
        raise UsageError("No run was given.", "Give folders that `medbench run` made, or --reported table3.")
    runs = [read_results(path) for path in paths]
    scores = read_scores(paths, runs) if len(runs) > 1 else {}
    board = make_board(runs, leaks_of(paths, runs), scores) if runs else None
    layout = LAYOUTS[wanted.layout] if wanted.layout else None
    overlapping = overlaps_in(wanted.data_audit) if wanted.data_audit else frozenset()
    tables = [
        make_table(board, protocol, grouped=wanted.grouped, published=published, layout=layout, overlapping=overlapping)
        for protocol in _protocols(wanted, published)
    ]
    notices = notices_of(board) if board else []
    if wanted.form == "csv":
        return render_csv(tables)
    if wanted.form == "json":
        return render_json(tables, notices)
    if wanted.form == "latex":
        captions = [f"Protocol {table.protocol}. {_plain(legend([table]))}" for table in tables]
        return "\n".join(render_latex(table, caption, notices) for table, caption in zip(tables, captions, strict=True))
    return _markdown(board, scores, tables, published, wanted)


def _protocols(wanted: Wanted, published: Sequence[Publication]) -> tuple[Protocol, ...]:
    if wanted.protocol is not None:
        return (wanted.protocol,)
    if published:
        return tuple(dict.fromkeys(publication.protocol for publication in published))
    return ("paper",) if wanted.form == "latex" else PROTOCOLS


def _plain(text: str) -> str:
    for mark in ("`", "**", "<u>", "</u>", "<sup>", "</sup>"):
        text = text.replace(mark, "")
    return text


def _markdown(
    board: Board | None,
    scores: Scores,
    tables: Sequence[Table],
    published: Sequence[Publication],
    wanted: Wanted,
) -> str:
    sections = _sections(board, scores, tables, published, wanted)
    sources = [f"Source: {publication.source}." for publication in published]
    if board is not None and wanted.layout is None and not wanted.models_as_rows:
        return render_markdown(board, tables, [*sections, *sources])
    notices = notices_of(board) if board else []
    parts = ["# Leaderboard", *notes(notices), legend(tables)]
    for table in tables:
        parts.append(PROTOCOL_TEXTS[table.protocol])
        if wanted.layout:
            parts.append(render_layout(table, LAYOUTS[wanted.layout], wanted.baseline))
        else:
            parts.append(render_table(table, models_as_rows=wanted.models_as_rows))
        parts += told_under(table)
    parts += [*(sections if wanted.layout is None else []), *sources]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(
    board: Board | None, scores: Scores, tables: Sequence[Table], published: Sequence[Publication], wanted: Wanted
) -> list[str]:
    sections = []
    if board is not None and len(board.runs) > 1 and not wanted.grouped:
        sides = [Side(results=run, tables=dict(scores[run.run])) for run in board.runs]
        ranking = rank_runs(sides, board.names, tables[0].protocol, board.leaks)
        sections.append(render_ranks(board.names, ranking))
    if wanted.baseline is not None and wanted.layout is None:
        primary = make_table(
            board, tables[0].protocol, grouped=wanted.grouped, published=published, layout=LAYOUTS["table2"]
        )
        sections.append(render_gains(primary, wanted.baseline))
    return sections
