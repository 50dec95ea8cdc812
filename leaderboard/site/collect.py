"""Which runs lie in a folder, and which of them may share a table."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medbench.harness.results import Results
from medbench.leaderboard.board import Board, Leaks, Scores, make_board
from medbench.leaderboard.export.public import PublicRun, read_public
from medbench.leaderboard.leaks import leaks_of
from medbench.leaderboard.score_table import ScoreTable, read_score_table
from medbench.tasks.catalog import TASKS
from medbench.tasks.foundation.errors import MedbenchError, UsageError

REPORT_FILE = "report.html"
_SUITES = ("paper", "custom", "mini")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRun:
    """A folder that looks like a run and is not on the site.

    Attributes:
        name: Its name in the folder of runs.
        reason: Why.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRun:
    """A run on the site.

    Attributes:
        public: The run as it may be shown.
        report: Whether its report is copied.
        no_report: Why it is not; empty if it is, or if there is none.
        leaked: Tasks with evidence of a leak.
    """

    public: PublicRun
    report: bool
    no_report: str
    leaked: frozenset[str] = frozenset()

    @property
    def results(self) -> Results:
        """Its results, as they may be shown."""
        return self.public.results


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a site is made of.

    Attributes:
        runs: The runs by identity.
        boards: Runs that may be compared, each run in one board.
        skipped: What was left out.
    """

    runs: dict[str, SiteRun]
    boards: tuple[Board, ...]
    skipped: tuple[SkippedRun, ...]


def collect(folder: Path, *, all_reports: bool) -> Collection:
    """Return the runs in a folder and below it, in an order that does not depend on the disk.

    Args:
        folder: Folder of runs.
        all_reports: Whether reports of runs with data that may not be passed on are copied too.

    Raises:
        UsageError: If the folder is none, or holds no finished run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", "Give a folder that holds folders of runs.")
    runs: dict[str, SiteRun] = {}
    skipped = []
    for path in _run_folders(folder):
        name = path.relative_to(folder).as_posix()
        try:
            public = read_public(path)
            leaked = leaks_of([path], [public.results]).get(public.results.run, frozenset())
        except MedbenchError as error:
            skipped.append(SkippedRun(name=name, reason=error.problem.replace(str(path), name)))
            continue
        if public.results.run in runs:
            skipped.append(SkippedRun(name=name, reason=f"run {public.results.run} is there already"))
            continue
        runs[public.results.run] = replace(_with_report(public, all_reports=all_reports), leaked=leaked)
    if not runs:
        raise UsageError(f"{folder} holds no finished run.", "Give a folder below which `medbench run` made runs.")
    leaks = {name: run.leaked for name, run in runs.items() if run.leaked}
    scores = {name: _scores(run.public) for name, run in runs.items()}
    boards = group([run.results for run in runs.values()], leaks, scores)
    return Collection(runs=runs, boards=boards, skipped=tuple(skipped))


def _scores(public: PublicRun) -> dict[str, ScoreTable]:
    """Return the scores by sample that are at hand; without them a board says why nobody leads."""
    found = {}
    for task in public.results.tasks:
        with suppress(MedbenchError):
            found[task] = read_score_table(public.path, public.results, task)
    return found


def _run_folders(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("run.yaml")):
        if file.is_file():
            yield file.parent


def _with_report(public: PublicRun, *, all_reports: bool) -> SiteRun:
    file = public.path / REPORT_FILE
    if file.is_symlink() or not file.is_file():
        return SiteRun(public=public, report=False, no_report="it is a link" if file.is_symlink() else "")
    reason = _why_not(public, file, all_reports=all_reports)
    return SiteRun(public=public, report=not reason, no_report=reason)


def _why_not(public: PublicRun, file: Path, *, all_reports: bool) -> str:
    held_back = [task for task, terms in public.terms.items() if terms.openness != "open"]
    if held_back and not all_reports:
        reasons = dict.fromkeys(public.terms[task].reason for task in held_back)
        return f"it may show texts of {', '.join(held_back)}: {'; '.join(reasons)}"
    if public.scrubber.leaks(file.read_text(encoding="utf-8", errors="replace")):
        return "it names a folder or a secret of this machine"
    return ""


def group(runs: Sequence[Results], leaks: Leaks | None = None, scores: Scores | None = None) -> tuple[Board, ...]:
    """Return boards of runs that may stand side by side: one suite, the same data and definitions of every task.

    A run joins the first board that takes it. The paper's suite comes first, then by the runs' models and identities.
    """
    ordered = sorted(runs, key=lambda run: (_SUITES.index(run.suite), run.model.title, run.run))
    groups: list[list[Results]] = []
    for run in ordered:
        home = next((members for members in groups if _fits([*members, run])), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return tuple(make_board(members, leaks, scores) for members in groups)


def _fits(runs: Sequence[Results]) -> bool:
    try:
        make_board(runs)
    except UsageError:
        return False
    return True


def task_title(boards: Sequence[Board], task: str) -> str:
    """Return the name of a task in tables."""
    titles = (run.tasks[task].title for board in boards for run in board.runs if task in run.tasks)
    return next(titles, task)


def tasks_of(boards: Sequence[Board]) -> tuple[str, ...]:
    """Return the tasks of all boards, in catalogue order."""
    there = {task for board in boards for run in board.runs for task in run.tasks}
    known = [task for task in TASKS if task in there]
    return (*known, *sorted(there.difference(known)))
