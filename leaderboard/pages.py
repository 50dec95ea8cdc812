"""Whole pages in markdown: the leaderboard, two runs compared, a run by the data's own labels."""

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medbench.harness.results import Results
from medbench.leaderboard import render
from medbench.leaderboard.compare import VERDICTS, Comparison
from medbench.leaderboard.numbers import Board, Table, as_csv, as_json, as_numbers, gains_over, make_table, read_board
from medbench.leaderboard.paper import LAYOUTS, read_publication
from medbench.leaderboard.render import markdown_text, metric_title, p_text, render_markdown
from medbench.leaderboard.runs import definition_of, notices_of, overlaps_in
from medbench.leaderboard.samples import rows_of
from medbench.leaderboard.standings import Ranking, rank_runs
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol

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
    sections = [f"Source: {publication.source}." for publication in published]
    if shape is None and baseline is not None:
        sections.insert(0, gains_section(made(protocols[0], layout=LAYOUTS["table2"]), baseline))
    if shape is None and board is not None and len(board.runs) > 1 and not grouped:
        ranking = rank_runs(board.runs, scores, board.names, protocols[0], board.leaks)
        sections.insert(0, ranks_section(board.names, ranking))
    as_rows = shape.models_as_rows if shape else models_as_rows
    whole = None if shape is not None or models_as_rows else board
    return _page(notices, tables, sections, board=whole, models_as_rows=as_rows, layout=shape, baseline=baseline)


def _latex(tables: Sequence[Table], notices: Sequence[str]) -> str:
    marks = re.compile(r"`|\*\*|</?u>|</?sup>")
    captions = [f"Protocol {table.protocol}. {marks.sub('', render.legend([table]))}" for table in tables]
    pairs = zip(tables, captions, strict=True)
    return "\n".join(render.table_as_latex(table, caption, notices) for table, caption in pairs)


def board_as_markdown(board: Board, tables: Sequence[Table] | None = None, sections: Sequence[str] = ()) -> str:
    """Return a board as a markdown document, with plain tables of both protocols if none are given."""
    shown = [make_table(board, protocol) for protocol in PROTOCOLS] if tables is None else tables
    return _page(notices_of(board.runs), shown, sections, board=board)


def _page(
    notices: Sequence[str], tables: Sequence[Table], sections: Sequence[str], *, board: Board | None, **shape: Any
) -> str:
    models = list(zip(board.names, board.runs, strict=True)) if board else []
    definitions = {
        (one.title, metric_title(one.metric), one.protocol): definition_of(one.signature)
        for one in (as_numbers(board.numbers) if board else ())
    }
    return render_markdown(
        "leaderboard.md", notices=notices, legend=render.legend(tables), tables=tables, sections=sections, board=board,
        models=models, states=STATES, definitions=definitions, written_heads=render.WRITTEN_HEADS,
        written=[(name, task) for name, run in models for task in run.tasks.values() if render.wrote(task)],
        gains_section=gains_section, **{"models_as_rows": False, "layout": None, "baseline": None, **shape},
    )  # fmt: skip


def ranks_section(names: Sequence[str], ranking: Ranking) -> str:
    """Return the ranks with their intervals, and why tasks have none."""
    if not ranking.tasks and not ranking.left_out:
        return ""
    return render_markdown("ranks.md", names=names, ranking=ranking, told=render.WORDING["ranks"]).rstrip("\n")


def gains_section(table: Table, baseline: str) -> str:
    """Return the gain of each model over a baseline, by kind of task and in total; a UsageError if there is none."""
    kinds = dict.fromkeys(get_task(task).kind for task in table.numbers["task"])
    total = gains_over(table, baseline)
    percent = {f"Δ {kind}": gains_over(table, baseline, kind)["relative"] for kind in kinds}
    percent |= {"Δ": total["relative"], "Δ geometric": total["geometric"]}
    shown = pd.DataFrame({
        **{name: _each(column, "{:+.1f} %") for name, column in percent.items()},
        "points": _each(total["points"], "{:+.2f}"),
        "data sets": total["datasets"].map(str),
    })  # fmt: skip
    return render_markdown(
        "gains.md", baseline=baseline, told=render.WORDING["gains"], shown=shown,
        rows=list(zip(total["model"], shown.to_numpy().tolist(), strict=True)),
        left_out=list(zip(total["model"], total["left_out"], strict=True)),
    ).rstrip("\n")  # fmt: skip


def _each(fractions: "pd.Series[float]", form: str) -> "pd.Series[str]":
    return fractions.map(lambda fraction: "" if math.isnan(fraction) else form.format(100 * fraction))


def compared_rows(comparison: Comparison) -> list[list[str]]:
    """Return a line for each metric: task, metric, both values, difference, p, p (Holm), verdict, what would show."""
    return [
        [
            row.title, metric_title(row.metric), f"{100 * row.first:.2f}", f"{100 * row.second:.2f}",
            f"{100 * row.difference:+.2f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]", p_text(row.p),
            "" if math.isnan(row.p_adjusted) else p_text(row.p_adjusted),
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
    """Return the page of `medbench compare`; of the samples that changed, the largest changes of each task."""
    changed = comparison.changed.assign(size=-comparison.changed["gain"].abs())
    changed["place"] = pd.factorize(changed["task"])[0]
    largest = changed.sort_values(["place", "size", "sample_id"], kind="stable").groupby("task").head(_MOST_CHANGES)
    shown = largest.assign(**{side: largest[side].map(_short) for side in ("first", "second")})
    return render_markdown(
        "compare.md", found=comparison, rows=compared_rows(comparison), summary=compared_summary(comparison),
        remarks=compared_remarks(comparison), told=render.WORDING["compared"], largest=rows_of(shown),
        most=_MOST_CHANGES, withheld=_WITHHELD,
    )  # fmt: skip


def _short(text: str) -> str:
    return markdown_text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ...") or "(empty)"


def part_rows(parts: pd.DataFrame) -> list[list[str]]:
    """Return a line for each part of a breakdown: task, label, value, metric, score, samples that were scored, all."""
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
    return render_markdown("breakdown.md", results=results, asked=protocol, rows=part_rows(parts))
