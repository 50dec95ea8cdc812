"""Which of the folders that a user names are runs, and which of those may share a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medbench.harness.results import RESULTS_FILE, Results, read_results
from medbench.leaderboard.board import make_board
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError

_RUN_FILE = "run.yaml"


@dataclass(slots=True, kw_only=True)
class Gathered:
    """Runs that may stand side by side, and what was left out.

    Attributes:
        paths: Folders of the runs.
        runs: Their results.
        skipped: What was left out, each with the reason.
    """

    paths: list[Path] = field(default_factory=list)
    runs: list[Results] = field(default_factory=list)
    skipped: list[tuple[Path, MedbenchError]] = field(default_factory=list)

    def tell(self) -> None:
        """Say what was left out, and why."""
        for path, error in self.skipped:
            warn(f"Not shown: {path}: {error.problem.removeprefix(f'{path} ')} {error.hint}".rstrip())


def gather(given: Sequence[Path]) -> Gathered:
    """Return the runs among folders, and among the folders below those that are no runs themselves.

    Left out is what is not finished or broken, and what may not stand beside the others: of the runs that may share a
    table (one suite, the same data and definitions, no probe) the most are shown.

    Raises:
        UsageError: If a folder is named twice, or a probe beside a run that is none.
        RunError: If a path leads nowhere, or no run is left.
    """
    if len({path.absolute() for path in given}) < len(given):
        raise UsageError("One run was given twice.", "Give each run once.")
    found = Gathered()
    read: list[tuple[Path, Results]] = []
    for path in given:
        for folder in _runs_in(path, found):
            try:
                read.append((folder, read_results(folder)))
            except MedbenchError as error:
                found.skipped.append((folder, error))
    # A probe in a folder is left out; one that was named was meant, and is no result.
    if len({results.probe for folder, results in read if folder in given}) > 1:
        raise UsageError(
            "Some of the runs asked in another way (--probe).", "A probe is no result: see `medbench audit probe`."
        )
    for folder, results in _largest_first(read):
        _add(found, folder, results)
    if not found.runs:
        raise _nothing_left(found)
    return found


def _largest_first(read: Sequence[tuple[Path, Results]]) -> list[tuple[Path, Results]]:
    """Return the runs in their order, the largest group that may share a table before the others."""
    groups: list[list[tuple[Path, Results]]] = []
    for one in read:
        home = next((group for group in groups if _fit([results for _, results in (*group, one)])), None)
        if home is None:
            groups.append([one])
        else:
            home.append(one)
    largest = max(groups, key=len, default=[])
    return [*largest, *(one for one in read if one not in largest)]


def _fit(runs: Sequence[Results]) -> bool:
    try:
        make_board(list({results.run: results for results in runs}.values()))
    except UsageError:
        return False
    return not any(results.probe for results in runs) or len(runs) == 1


def _runs_in(path: Path, found: Gathered) -> Iterator[Path]:
    if _is_run(path):
        yield path
        return
    if not path.exists():
        raise RunError(f"{path} is no run: there is no such folder.", "Give folders that `medbench run` made.")
    below = sorted(file.parent for file in path.rglob(_RUN_FILE)) if path.is_dir() else []
    if not below:
        found.skipped.append((path, RunError(f"{path} is no run: it has no {_RUN_FILE}.")))
    yield from below


def _is_run(path: Path) -> bool:
    return (path / _RUN_FILE).is_file() or (path / RESULTS_FILE).is_file()


def _add(found: Gathered, folder: Path, results: Results) -> None:
    if any(results.run == other.run for other in found.runs):
        found.skipped.append((folder, UsageError(f"Run {results.run} is there already.")))
        return
    try:
        make_board([*found.runs, results])
    except UsageError as error:
        found.skipped.append((folder, error))
        return
    found.paths.append(folder)
    found.runs.append(results)


def _nothing_left(found: Gathered) -> MedbenchError:
    if len(found.skipped) == 1:
        return found.skipped[0][1]
    reasons = "; ".join(f"{path.name}: {error.problem}" for path, error in found.skipped)
    return RunError(f"None of these is a finished run: {reasons}", "Give folders of finished runs.")
