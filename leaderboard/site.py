"""`medbench site`: a folder of runs as static pages to sort and filter, a page for each run, the data beside."""

import gc
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from medbench.harness.predictions.submission import SUBMISSION_FILE, Submission, read_submission
from medbench.harness.results import Results
from medbench.leaderboard import render
from medbench.leaderboard import runs as known
from medbench.leaderboard.compare import ScoresByRun
from medbench.leaderboard.export.public import LeftOut, PublicRun, read_public, results_text
from medbench.leaderboard.numbers import Board, make_board, numbers_of
from medbench.leaderboard.paper import Publication
from medbench.leaderboard.report.document import REPORT_FILE, inert_text
from medbench.leaderboard.samples import ScoreTable, read_score_table
from medbench.leaderboard.site_document import SCHEMA, board_document, histories, history_data, remarks_on
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import JsonObject, canonical_json, inside, read_json, write_atomically
from medbench.tasks.protocols import PROTOCOLS, STATES

MARK = "medbench-site.json"  # lists the files of a site, so that the next one takes away what it no longer has
SCRIPTS = (
    "report/dom.js", "report/tools.js", "report/plots.js", "site/board.js", "site/route.js", "site/filters.js",
    "site/cells.js", "site/table.js", "site/charts.js", "site/compare.js", "site/history.js", "site/theme.js",
    "site/main.js",
)  # fmt: skip
"""In the order in which they are joined, those of the report first."""
_RUN_SCRIPTS = ("report/dom.js", "site/theme.js")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SUITES: Mapping[str, str] = render.WORDING["suites"]
_MEANINGS = {name: told.replace("`paper`", "protocol paper") for name, told in render.PROTOCOL_MEANINGS.items()}
_NUMBER_HEADS = ("Task", "Metric", "Value %", "95 % interval", "From 0 to 100", "n", "Remarks")


class SiteRun(NamedTuple):
    """A run on the site, as it may be shown; whether its report is copied, and why not if there is one."""

    public: PublicRun
    report: bool
    no_report: str
    date: str  # the day on which it ended or was handed in, empty if nobody noted it
    said: Submission | None  # what was said of it when it was handed in


class Collection(NamedTuple):
    """What a site is made of: runs by identity, boards of those that may be compared, and what was left out."""

    runs: Mapping[str, SiteRun]
    boards: tuple[Board, ...]
    skipped: tuple[LeftOut, ...]  # folders that look like a run
    scores: ScoresByRun

    @property
    def dates(self) -> dict[str, str]:
        """The days of the runs by identity."""
        return {identity: run.date for identity, run in self.runs.items()}


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
            made = _with_report(public, all_reports=all_reports)
        except MedbenchError as error:
            skipped.append(LeftOut(name, error.problem.replace(str(path), name)))
            continue
        if public.results.run in runs:
            skipped.append(LeftOut(name, f"run {public.results.run} is there already"))
            continue
        leaks |= found
        runs[public.results.run] = made
    if not runs:
        raise UsageError(f"{folder} holds no finished run.", "Give a folder below which `medbench run` made runs.")
    with _everything_stays():
        scores = {identity: _scores(run.public) for identity, run in runs.items()}
    boards = group([run.public.results for run in runs.values()], leaks, scores)
    return Collection(runs, boards, tuple(skipped), scores)


@contextmanager
def _everything_stays() -> Iterator[None]:
    """Look for no garbage among the millions of scores that are read: all of them live as long as the site is made."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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
    handed_in = public.path / SUBMISSION_FILE
    said = read_submission(handed_in) if handed_in.is_file() else None
    date = (said and said.submitted) or _date_of(public.path)
    return SiteRun(public, report=there and not reason, no_report=reason, date=date, said=said)


def _date_of(run: Path) -> str:
    with suppress(MedbenchError):
        environment = read_json(run / "env.json")
        date = environment.get("date") if isinstance(environment, dict) else None
        return date if isinstance(date, str) and _DAY.fullmatch(date) else ""
    return ""


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


def site_files(found: Collection, title: str, published: Sequence[Publication] = ()) -> dict[str, str]:
    """Return the content of every file of a site but reports by its path; the same runs give the same bytes.

    Numbers that were `published` stand beside the runs of the paper's suite; UsageError if there are none.
    """
    if published and all(board.runs[0].suite != "paper" for board in found.boards):
        raise UsageError(
            "Published numbers stand beside runs of the suite 'paper' only, and there are none.",
            "Leave --reported out, or run on the paper's datasets.",
        )
    names = {run.run: name for board in found.boards for run, name in zip(board.runs, board.names, strict=True)}
    boards = [_board(found, board, published) for board in found.boards]
    document = {
        "schema": SCHEMA, "title": title, "protocols": list(PROTOCOLS), "meanings": _MEANINGS,
        "metricTitles": render.METRIC_TITLES, "ranksTold": render.WORDING["ranks"], "overlap": render.OVERLAP_TEXT,
        "boards": boards,
    }  # fmt: skip
    shown = {"document": inert_text(document), "names": names.items(), "skipped": found.skipped}
    files = {
        "index.html": _page("site_index.html", title, SCRIPTS, **shown),
        "data/boards.json": canonical_json(boards) + "\n",
        "data/history.json": canonical_json(history_data(found.boards, found.dates)) + "\n",
    }
    for identity, run in found.runs.items():
        files[f"runs/{identity}.html"] = _run_page(run, names[identity])
        files[f"data/{identity}.json"] = results_text(run.public.results, indent=None)
    return files


def reports_of(found: Collection) -> dict[str, Path]:
    """Return the reports that a site copies, by their path there; together they may be larger than the memory."""
    copied = {identity: run.public.path / REPORT_FILE for identity, run in found.runs.items() if run.report}
    return {f"runs/{identity}/{REPORT_FILE}": file for identity, file in copied.items()}


def _board(found: Collection, board: Board, published: Sequence[Publication]) -> JsonObject:
    suite = board.runs[0].suite
    same = [other for other in found.boards if other.runs[0].suite == suite]
    place = next(number for number, other in enumerate(same, 1) if other is board)
    name = _SUITES[suite] if len(same) == 1 else f"{_SUITES[suite]}, data {place} of {len(same)}"
    about = {
        run: {"date": one.date, "report": one.report, "organization": one.said.organization if one.said else ""}
        for run, one in found.runs.items()
    }
    beside = published if suite == "paper" else ()
    return board_document(board, name, found.scores, about, beside) | {"history": histories(board, found.dates)}


def _page(template: str, title: str, scripts: Sequence[str], **content: Any) -> str:
    script = "\n".join(render.asset(name) for name in scripts)
    style = render.asset("report/report.css") + render.asset("site/site.css")
    return render.render_html(
        template, style=style, script=f'"use strict";\n(() => {{\n{script}\n}})();\n', title=title,
        meanings=_MEANINGS, protocols=PROTOCOLS, **content,
    )  # fmt: skip


def _run_page(run: SiteRun, name: str) -> str:
    results, model = run.public.results, run.public.results.model
    seen = ", ".join(model.trained_on) or ("none of these tasks" if model.declared else "not known")
    cards = [
        ("Run on", run.date), ("Parameters", render.count_text(model.parameters)), ("Released", model.released),
        ("Weights", {True: "open", False: "closed", None: ""}[model.open_weights]), ("Trained on", seen),
        ("Samples per task", "all" if results.limit is None else f"the first {results.limit}"),
    ]  # fmt: skip
    facts = [
        ("Run", results.run), ("Model", model.name), ("Weights", model.weights), ("Seed", str(results.seed)),
        ("Device, type", f"{model.device}, {model.dtype}"), ("Not supported", ", ".join(results.unsupported)),
        *((f"Answers, {task}", file) for task, file in (results.imported.files if results.imported else {}).items()),
    ]  # fmt: skip
    numbers = numbers_of(results)
    return _page(
        "site_run.html", name, _RUN_SCRIPTS, results=results, report=run.report, no_report=run.no_report, cards=cards,
        facts=facts, suite=_SUITES[results.suite], numbers=numbers, heads=_NUMBER_HEADS, states=list(STATES),
        terms=run.public.terms, said=run.said,
        written_heads=list(render.WRITTEN_HEADS), wrote=render.wrote, remarks=remarks_on,
        tasks=[results.tasks[task] for task in known.in_catalogue_order(results.tasks)],
    )  # fmt: skip


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
    if not isinstance(files, list) or not all(isinstance(name, str) and Path(name).name for name in files):
        raise UsageError(f"{folder / MARK} is not the list of a site's files.", "Give an empty or a new folder.")
    return files
