"""`medbench site`: a folder of runs as static pages to sort and filter, a page for each run, the data beside."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from medbench.harness.results import Results
from medbench.leaderboard import render
from medbench.leaderboard import runs as known
from medbench.leaderboard.compare import ScoresByRun
from medbench.leaderboard.export.public import LeftOut, PublicRun, read_public, results_text
from medbench.leaderboard.numbers import Board, Number, as_numbers, lines_of, make_board, make_table, numbers_of
from medbench.leaderboard.report.document import REPORT_FILE
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, inside, read_json, write_atomically
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol

MARK = "medbench-site.json"  # lists the files of a site, so that the next one takes away what it no longer has
_SUITES: Mapping[str, str] = render.WORDING["suites"]
_MEANINGS = {name: told.replace("`paper`", "protocol paper") for name, told in render.PROTOCOL_MEANINGS.items()}
_NUMBER_HEADS = (
    "Task", "Metric", "Value %", "95 % interval", "From 0 to 100", "n", "Answered", "Among answered",
    "If failures are wrong, right", *(why.capitalize() for why in known.NOT_OK), "Definition",
)  # fmt: skip


class SiteRun(NamedTuple):
    """A run on the site, as it may be shown; whether its report is copied, and why not if there is one."""

    public: PublicRun
    report: bool
    no_report: str


class Collection(NamedTuple):
    """What a site is made of: runs by identity, boards of those that may be compared, and what was left out."""

    runs: Mapping[str, SiteRun]
    boards: tuple[Board, ...]
    skipped: tuple[LeftOut, ...]  # folders that look like a run


def collect(folder: Path, *, all_reports: bool) -> Collection:
    """Return the runs in a folder and below it, in an order that does not depend on the disk.

    If `all_reports`, those of data that may not be passed on are copied too. It is a UsageError if there is no run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", "Give a folder that holds folders of runs.")
    runs: dict[str, SiteRun] = {}
    leaks: dict[str, frozenset[str]] = {}
    skipped = []
    for path in known.run_folders(folder):
        name = path.relative_to(folder).as_posix()
        try:
            public = read_public(path)
            found = known.leaks_of([path], [public.results])
        except MedbenchError as error:
            skipped.append(LeftOut(name, error.problem.replace(str(path), name)))
            continue
        if public.results.run in runs:
            skipped.append(LeftOut(name, f"run {public.results.run} is there already"))
            continue
        leaks |= found
        runs[public.results.run] = _with_report(public, all_reports=all_reports)
    if not runs:
        raise UsageError(f"{folder} holds no finished run.", "Give a folder below which `medbench run` made runs.")
    scores = {identity: _scores(run.public) for identity, run in runs.items()}
    boards = group([run.public.results for run in runs.values()], leaks, scores)
    return Collection(runs, boards, tuple(skipped))


def _scores(public: PublicRun) -> dict[str, ScoreTable]:
    """Return the scores by sample that are at hand; without them a board says why nobody leads."""
    found = {}
    for task in public.results.tasks:
        with suppress(MedbenchError):
            found[task] = read_score_table(public.path, public.results, task)
    return found


def _with_report(public: PublicRun, *, all_reports: bool) -> SiteRun:
    file, reason = public.path / REPORT_FILE, ""
    there = file.is_file() and not file.is_symlink()
    held_back = {task: terms.reason for task, terms in public.terms.items() if terms.openness != "open"}
    if file.is_symlink():
        reason = "it is a link"
    elif there and held_back and not all_reports:
        reason = f"it may show texts of {', '.join(held_back)}: {'; '.join(dict.fromkeys(held_back.values()))}"
    elif there and public.scrubber.leaks(_text_of(file)):
        reason = "it names a folder or a secret of this machine"
    return SiteRun(public, report=there and not reason, no_report=reason)


def _text_of(report: Path) -> str:
    try:
        return report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{report} cannot be read: {error}.", "Make it again: medbench report RUN") from error


def group(
    runs: Sequence[Results], leaks: known.Leaks | None = None, scores: ScoresByRun | None = None
) -> tuple[Board, ...]:
    """Return boards of runs that may stand side by side: one suite, the same data and definitions of every task.

    A run joins the first board that takes it. The paper's suite comes first, then by the runs' models and identities.
    """
    ordered = sorted(runs, key=lambda run: (list(_SUITES).index(run.suite), run.model.title, run.run))
    groups = known.grouped(ordered, lambda group, one: known.mixture([*group, one], len(group)) is None)
    return tuple(make_board(members, leaks, scores) for members in groups)


def site_files(found: Collection, title: str) -> dict[str, str]:
    """Return the content of every file of a site but reports by its path; the same runs give the same bytes."""
    names = {run.run: name for board in found.boards for run, name in zip(board.runs, board.names, strict=True)}
    files = {
        "index.html": _index(found, title),
        "data/boards.json": canonical_json([_board_data(board) for board in found.boards], indent=2) + "\n",
    }
    for identity, run in found.runs.items():
        files[f"runs/{identity}.html"] = _run_page(run, names[identity])
        files[f"data/{identity}.json"] = results_text(run.public.results)
    return files


def reports_of(found: Collection) -> dict[str, Path]:
    """Return the reports that a site copies, by their path there; together they may be larger than the memory."""
    copied = {identity: run.public.path / REPORT_FILE for identity, run in found.runs.items() if run.report}
    return {f"runs/{identity}/{REPORT_FILE}": file for identity, file in copied.items()}


def _page(template: str, title: str, **content: Any) -> str:
    return render.render_html(
        template, style=render.asset("site.css"), script=render.asset("site.js"), title=title, beside=render.beside,
        meanings=_MEANINGS, protocols=PROTOCOLS, **content,
    )  # fmt: skip


def _index(found: Collection, title: str) -> str:
    titles = {task: one.title for board in found.boards for run in board.runs for task, one in run.tasks.items()}
    return _page(
        "site_index.html", title, runs=len(found.runs), boards=len(found.boards), skipped=found.skipped,
        suites=[(suite, suite) for suite in dict.fromkeys(board.runs[0].suite for board in found.boards)],
        tasks=[(task, titles[task]) for task in known.in_catalogue_order(titles)],
        sections=[_section(found.boards, board, protocol) for board in found.boards for protocol in PROTOCOLS],
        definition_of=known.definition_of, overlap_text=render.OVERLAP_TEXT,
    )  # fmt: skip


def _section(boards: Sequence[Board], board: Board, protocol: Protocol) -> dict[str, Any]:
    suite = board.runs[0].suite
    same = [other for other in boards if other.runs[0].suite == suite]
    place = next(number for number, other in enumerate(same, 1) if other is board)
    models = list(zip(board.names, board.runs, strict=True))
    lines, numbers = list(make_table(board, protocol).lines()), as_numbers(board.numbers)
    said_of = {told: [name for name, run in models if told in run.notices] for told in known.notices_of(board.runs)}
    return {
        "name": _SUITES[suite] if len(same) == 1 else f"{_SUITES[suite]}, data {place} of {len(same)}",
        "suite": suite, "protocol": protocol, "models": models, "lines": lines,
        # It is said of which runs, if not of all.
        "notices": [told if len(of) == len(models) else f"{', '.join(of)}: {told}" for told, of in said_of.items()],
        "by_task": [(task, list(those)) for task, those in groupby(lines, key=lambda line: line[0].task)],
        "numbers": numbers, "qualified": any(render.beside(one.answered, one.bounds) for one in numbers),
    }  # fmt: skip


def _run_page(run: SiteRun, name: str) -> str:
    results = run.public.results
    return _page(
        "site_run.html", name, results=results, report=run.report, no_report=run.no_report,
        suite=_SUITES[results.suite], numbers=numbers_of(results), heads=_NUMBER_HEADS,
        states=list(STATES), written_heads=list(render.WRITTEN_HEADS), wrote=render.wrote, terms=run.public.terms,
        tasks=[results.tasks[task] for task in known.in_catalogue_order(results.tasks)],
    )  # fmt: skip


def _board_data(board: Board) -> dict[str, Any]:
    def cell(one: Number) -> dict[str, Any]:
        same = known.picked(one, ("value", "n", "compared", "answered", "among_answered", "bounds"))
        return {**same, **one.not_ok, "ci": one.interval, "ceiling": one.measured_ceiling}

    tables = {protocol: make_table(board, protocol) for protocol in PROTOCOLS}
    return {
        "suite": board.runs[0].suite, "notices": known.notices_of(board.runs),
        "runs": [{"run": run.run, "name": name} for run, name in zip(board.runs, board.names, strict=True)],
        "rows": {name: lines_of(table, ("task", "metric", "remark"), cell) for name, table in tables.items()},
    }  # fmt: skip


def write_site(folder: Path, files: Mapping[str, str], reports: Mapping[str, Path] | None = None) -> None:
    """Write a site with copies of reports, and take away what an earlier one left.

    Cut short at any point, it can be done again: what is to be there stands in the folder's list before it is written.
    UsageError if the folder holds anything that no site wrote.
    """
    before, written = set(_files_before(folder)), {*files, *(reports or {})}
    _list(folder, before | written)
    for name, report in (reports or {}).items():
        write_atomically(folder / name, _text_of(report))
    # The first page, which leads to the others, comes last.
    for name, text in reversed(list(files.items())):
        write_atomically(folder / name, text)
    for name in sorted(before - written):
        inside(folder, name).unlink(missing_ok=True)
    _list(folder, written)


def _list(folder: Path, files: Iterable[str]) -> None:
    write_atomically(folder / MARK, canonical_json({"files": sorted(files)}, indent=2) + "\n")


def _files_before(folder: Path) -> list[str]:
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(f".{MARK}.") for path in folder.iterdir())):
        return []
    if not (folder / MARK).is_file():
        raise UsageError(f"{folder} holds other things than a site.", "Give an empty or a new folder with --output.")
    document = read_json(folder / MARK)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise UsageError(f"{folder / MARK} is not the list of a site's files.", "Give an empty or a new folder.")
    return files
