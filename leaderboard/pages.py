"""Whole pages in markdown, and those of a run's own folder and of several runs together."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medbench.harness.results import Results, percent, read_results
from medbench.leaderboard import numbers, render
from medbench.leaderboard import runs as known
from medbench.leaderboard.audit.outputs.audit import audit_after_run
from medbench.leaderboard.compare import VERDICTS, Comparison, Ranking, rank_runs
from medbench.leaderboard.latex import Wishes, table_as_latex
from medbench.leaderboard.numbers import Board, Order, Shown, Table
from medbench.leaderboard.paper import LAYOUTS, read_publication
from medbench.leaderboard.probing.summary import probing_of
from medbench.leaderboard.render import markdown_text, metric_title, p_text, render_markdown
from medbench.leaderboard.report.document import AT_THE_END_OF_A_RUN, REPORT_FILE, report_of
from medbench.leaderboard.samples import rows_of
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError
from medbench.tasks.foundation.files import JsonObject, fingerprint, write_atomically
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol

_WITHHELD = "(withheld: data under a signed agreement)"
_MOST_CHANGES = 20
_LONGEST = 120
_FEW_CLUSTERS = 15
PAGE = "leaderboard.md"
_OWN_HEADINGS = ("# Leaderboard", "## What happened to the samples", "## Definitions")


def leaderboard(
    paths: Sequence[Path], *, form: str = "markdown", protocol: Protocol | None = None, layout: str | None = None,
    models_as_rows: bool = False, grouped: bool = False, reported: Sequence[str] = (), baseline: str | None = None,
    data_audit: Path | None = None, names: Mapping[str, str] | None = None, order: Order = "given",
    shown: Shown | None = None, digits: int | None = None, **wishes: Any,
) -> str:  # fmt: skip
    """Return the page of `medbench leaderboard`.

    `form` is `markdown`, `csv`, `latex` or `json`; no protocol stands for all that fit. `baseline` is the model that
    gains are counted against, `data_audit` a file whose marks stand beside the tasks, `names` what runs are called
    instead, `shown` which rows and whether intervals, `digits` the decimals, `wishes` what else a LaTeX table may be
    told (`latex.Wishes`). Raises UsageError if runs or
    options do not fit together; RunError if a folder is no finished run; DataError if an audit's file is broken.
    """
    published = [read_publication(name) for name in reported]
    if not paths and not published:
        raise UsageError("No run was given.", "Give folders that `medbench run` made, or --reported table3.")
    board, scores = numbers.read_board(paths, names) if paths else (None, {})
    probing = _probing(paths, board.runs) if board and form == "json" else {}
    shape = LAYOUTS[layout] if layout else None
    all_protocols: Sequence[Protocol] = ("paper",) if form == "latex" else PROTOCOLS
    protocols = (protocol,) if protocol else tuple(dict.fromkeys(one.protocol for one in published)) or all_protocols
    overlapping = known.overlaps_in(data_audit) if data_audit else frozenset()
    board = numbers.ordered(board, scores, order, protocols[0]) if board else None
    made = partial(
        numbers.make_table, board, grouped=grouped, published=published, overlapping=overlapping, shown=shown
    )
    tables = [made(one, layout=shape) for one in protocols]
    notices = [*known.notices_of(board.runs, board.names), *_not_audited(board)] if board else []
    as_rows = models_as_rows or (shape is not None and shape.models_as_rows)
    if form == "latex":
        asked = Wishes(models_as_rows=as_rows, digits=digits, **wishes)
        return "\n".join(table_as_latex(table, asked, notices) for table in tables)
    if form != "markdown":
        return numbers.as_csv(tables) if form == "csv" else numbers.as_json(tables, notices, probing)
    sections = [f"Source: {publication.source}." for publication in published]
    if shape is None and baseline is not None:
        sections.insert(0, gains_section(made(protocols[0], layout=LAYOUTS["table2"]), baseline))
    if shape is None and board is not None and len(board.runs) > 1 and not grouped:
        ranking = rank_runs(board.runs, scores, board.names, protocols[0], board.leaks)
        sections.insert(0, ranks_section(board.names, ranking))
    whole = None if shape is not None or models_as_rows else board
    return _page(
        notices, tables, sections, board=whole, models_as_rows=as_rows, layout=shape, baseline=baseline,
        digits=2 if digits is None else digits,
    )  # fmt: skip


def _probing(paths: Sequence[Path], runs: Sequence[Results]) -> dict[str, list[JsonObject]]:
    """Return the failure modes of runs whose models were probed, by the identity of the run."""
    return {run.run: rows for path, run in zip(paths, runs, strict=True) if (rows := probing_of(path))}


def _not_audited(board: Board) -> list[str]:
    names = [name for name, run in zip(board.names, board.runs, strict=True) if run.run not in board.leaks]
    return [f"Not audited for leaks: {', '.join(names)}. Do it with medbench audit model RUN."] if names else []


def board_as_markdown(board: Board, tables: Sequence[Table] | None = None, sections: Sequence[str] = ()) -> str:
    """Return a board as a markdown document, with plain tables of both protocols if none are given."""
    shown = [numbers.make_table(board, protocol) for protocol in PROTOCOLS] if tables is None else tables
    return _page(known.notices_of(board.runs, board.names), shown, sections, board=board)


def _page(
    notices: Sequence[str], tables: Sequence[Table], sections: Sequence[str], *, board: Board | None, **shape: Any
) -> str:
    models = list(zip(board.names, board.runs, strict=True)) if board else []
    definitions = {
        (one.title, metric_title(one.metric), one.protocol): known.definition_of(one.signature)
        for one in (numbers.as_numbers(board.numbers) if board else ())
    }
    return render_markdown(
        "leaderboard.md", notices=notices, legend=render.legend(tables), tables=tables, sections=sections, board=board,
        models=models, states=STATES, definitions=definitions, written_heads=render.WRITTEN_HEADS,
        written=[(name, task) for name, run in models for task in run.tasks.values() if render.wrote(task)],
        gains_section=gains_section,
        **{"models_as_rows": False, "layout": None, "baseline": None, "digits": 2, **shape},
    )  # fmt: skip


def ranks_section(names: Sequence[str], ranking: Ranking) -> str:
    """Return the ranks with their intervals, and why tasks have none."""
    if not ranking.tasks and not ranking.left_out:
        return ""
    unranked = [(name, why) for name, why in zip(names, ranking.unranked, strict=True) if why]
    told = render.WORDING["ranks"]
    return render_markdown("ranks.md", names=names, ranking=ranking, unranked=unranked, told=told).rstrip("\n")


def gains_section(table: Table, baseline: str) -> str:
    """Return the gain of each model over a baseline, by kind of task and in total; a UsageError if there is none."""
    kinds = dict.fromkeys(get_task(task).kind for task in table.numbers["task"])
    total = numbers.gains_over(table, baseline)
    shares = {f"Δ {kind}": numbers.gains_over(table, baseline, kind)["relative"] for kind in kinds}
    shares |= {"Δ": total["relative"], "Δ geometric": total["geometric"]}
    shown = pd.DataFrame({
        **{name: _each(column, "{:+.1f} %") for name, column in shares.items()},
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


def publish_run(path: Path, data_dir: Path | None = None) -> None:
    """Audit a run's outputs, then write `leaderboard.md` and `report.html` from all of its folder.

    `data_dir` is where the prepared tasks are now. One that cannot be made keeps the others from nothing; then the
    RunError that says so is raised: without its audit a leaderboard would lack the mark of a leak.
    """
    lost: list[str] = []
    with _noted(lost, "Outputs were not audited"):
        audit_after_run(path, data_dir)
    results = read_results(path)
    write_atomically(path / PAGE, board_as_markdown(numbers.make_board([results], known.leaks_of([path], [results]))))
    with _noted(lost, f"{REPORT_FILE} was not written"):
        write_atomically(path / REPORT_FILE, report_of([path], data_dir, budget=AT_THE_END_OF_A_RUN))
    if lost:
        raise RunError(" ".join(lost), f"Answers and numbers are kept in {path}; the same command makes the rest.")


@contextmanager
def _noted(lost: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except MedbenchError as error:
        lost.append(f"{what}: {error.problem}")


def publish_together(names: Mapping[Path, str], folder: Path, *, grouped: bool = False) -> None:
    """Show primary metrics of several runs, each with its name, and write their `leaderboard.md`.

    If `grouped`, runs of a model are one column of that page: mean ± std. Only such a page is replaced.
    """
    found = known.gather(list(names))
    columns = ["task", "metric", *(f"{names[path]}, % [95 %]" for path in found.paths)]
    for protocol in PROTOCOLS:
        emit_table(columns, _primary_rows(found.runs, protocol), title=f"Primary metrics, {protocol} protocol")
    target = folder / PAGE
    replaced = target.exists()
    if replaced and not _is_ours(target):
        target = folder / f"leaderboard-{fingerprint([run.run for run in found.runs])[:8]}.md"
        replaced = target.exists()
    write_atomically(target, leaderboard(found.paths, grouped=grouped))
    say(f"The leaderboard of these runs: {target}{' (in place of an older one)' if replaced else ''}")


def _primary_rows(runs: Sequence[Results], protocol: Protocol) -> list[list[str]]:
    rows = []
    for task in known.in_catalogue_order(name for run in runs for name in run.tasks):
        found = [run.tasks.get(task) for run in runs]
        first = next(one for one in found if one)
        metric = known.PRIMARY[first.kind]
        cells = [one.metrics(protocol).get(metric) if one else None for one in found]
        if any(cells):
            rows.append([first.title, metric, *("" if cell is None else percent(cell) for cell in cells)])
    return rows


def _is_ours(page: Path) -> bool:
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return all(heading in text for heading in _OWN_HEADINGS)
