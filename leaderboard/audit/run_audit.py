"""The audit of a run's outputs: everything that its report says, task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.results import Results, read_results
from medbench.leaderboard.audit.controls import ByChance, Controls, matches_by_chance, run_controls
from medbench.leaderboard.audit.effect import Effect, effects
from medbench.leaderboard.audit.evidence import Evidence, find_evidence
from medbench.leaderboard.audit.items import Cell
from medbench.leaderboard.audit.match_counts import count_matches
from medbench.leaderboard.audit.outputs import CellVerdict, Judged, Peer, Share, audit_outputs
from medbench.leaderboard.audit.run_cells import RunCells, TaskData, read_run_cells, read_task_data, refuse_unequal
from medbench.leaderboard.audit.thresholds import THRESHOLDS, Thresholds
from medbench.leaderboard.audit.verdicts import Verdict
from medbench.leaderboard.runs import is_credentialed
from medbench.leaderboard.samples import ScoreTable
from medbench.tasks.foundation.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskAudit:
    """One task.

    Attributes:
        cell: Answers and references.
        judged: Counts and verdict.
        controls: The same test where the truth is known.
        chance: Matches of answers dealt to other cases.
        evidence: What a person can look at.
        effects: Scores without the matches; empty where these are too few to be suspicious, or there are no scores.
        peer_effects: The same of peers, by name.
        peer_cells: Answers of peers, by name.
        withheld: Whether texts are left out, since access to them needs a signed agreement.
    """

    cell: Cell
    judged: Judged
    controls: Controls
    chance: ByChance
    evidence: Evidence
    effects: Sequence[Effect]
    peer_effects: Mapping[str, Sequence[Effect]]
    peer_cells: Mapping[str, Cell]
    withheld: bool

    @property
    def verdict(self) -> CellVerdict:
        """What is to be said of it."""
        return self.judged.verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutputAudit:
    """One model on its tasks.

    Attributes:
        run: Identity of the run; empty for a file of predictions.
        model: Title of the model, or name of the file.
        facts: What else identifies it, by name.
        titles: Title of each task, in order.
        tasks: What was found, of the tasks that could be read.
        problems: Why the other tasks could not be checked.
        notes: What must be said beside the verdicts.
        thresholds: Where the lines are.
        revealed: Whether texts of credentialed data are shown.
    """

    run: str
    model: str
    facts: Mapping[str, str]
    titles: Mapping[str, str]
    tasks: Mapping[str, TaskAudit]
    problems: Mapping[str, str]
    notes: Sequence[str]
    thresholds: Thresholds
    revealed: bool

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of every task; `not_testable` where it could not be checked."""
        return {
            task: self.tasks[task].verdict.verdict if task in self.tasks else "not_testable" for task in self.titles
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PeerAnswers:
    """Another model on the same items: its answers, and its scores where there are some."""

    name: str
    run: str
    cell: Cell
    table: ScoreTable | None = None


def audit_tasks(
    cells: Mapping[str, Cell],
    *,
    peers: Mapping[str, Sequence[PeerAnswers]],
    tables: Mapping[str, ScoreTable],
    train_texts: Mapping[str, Sequence[str] | None],
    withheld: frozenset[str],
    thresholds: Thresholds = THRESHOLDS,
) -> dict[str, TaskAudit]:
    """Audit a model's answers.

    Args:
        cells: Its answers by task.
        peers: Other models by task.
        tables: Its scores by task, where there are some.
        train_texts: Known training references by task, as they stand in the data.
        withheld: Tasks whose texts are left out.
        thresholds: Where the lines are.
    """
    counted = {
        task: tuple(_counted(one, thresholds) for one in sorted(found, key=lambda one: (one.name, one.run)))
        for task, found in peers.items()
    }
    judged = audit_outputs(cells, counted, thresholds)
    return {
        task: TaskAudit(
            cell=cell,
            judged=judged[task],
            controls=run_controls(cell, thresholds),
            chance=matches_by_chance(cell, thresholds.min_words),
            evidence=find_evidence(cell, judged[task].counts, train_texts.get(task), thresholds),
            effects=_effects(tables.get(task), judged[task], thresholds),
            peer_effects={one.name: _effects(one.table, judged[task], thresholds) for one in peers.get(task, ())},
            peer_cells={one.name: one.cell for one in peers.get(task, ())},
            withheld=task in withheld,
        )
        for task, cell in cells.items()
    }


def _counted(peer: PeerAnswers, thresholds: Thresholds) -> Peer:
    counts = count_matches(peer.cell, thresholds.min_words)
    return Peer(
        name=peer.name, run=peer.run, share=Share(matches=counts.matches, of=counts.clusters), exact=sum(counts.exact)
    )


def _effects(table: ScoreTable | None, judged: Judged, thresholds: Thresholds) -> tuple[Effect, ...]:
    matched = frozenset(judged.counts.matched)
    return effects(table, matched) if table is not None and len(matched) >= thresholds.fewest_suspicious else ()


def audit_run(
    path: Path,
    *,
    peers: Sequence[Path] = (),
    data_dir: Path | None = None,
    more_references: Sequence[str] = (),
    reveal: bool = False,
) -> OutputAudit:
    """Audit the outputs of a run.

    Args:
        path: Its folder.
        peers: Folders of runs that answered the same items; the run itself among them is left out.
        data_dir: Where the prepared tasks are now, if not where the run found them.
        more_references: Training references that are known beside those of the prepared tasks.
        reveal: Whether texts of credentialed data are shown.

    Raises:
        RunError: If a folder is no finished run.
        UsageError: If a peer answered other data or other items.
        DataError: If results are malformed.
    """
    results = read_results(path)
    data = read_task_data(path, results, data_dir, more_references)
    ours = read_run_cells(path, data)
    others = [_peer(ours, folder, data) for folder in peers if read_results(folder).run != results.run]
    distinct = {peer.results.run: peer for peer in others}
    withheld = frozenset(task for task in results.tasks if not reveal and is_credentialed(results, task))
    return OutputAudit(
        run=results.run,
        model=results.model.title,
        facts=_facts(results),
        titles={task: result.title for task, result in results.tasks.items()},
        tasks=audit_tasks(
            ours.cells,
            peers={task: _answers_of(task, ours.cells[task], list(distinct.values())) for task in ours.cells},
            tables=ours.tables,
            train_texts={task: found.train_texts for task, found in data.items() if isinstance(found, TaskData)},
            withheld=withheld,
        ),
        problems=ours.problems,
        notes=results.notices,
        thresholds=THRESHOLDS,
        revealed=reveal and any(is_credentialed(results, task) for task in results.tasks),
    )


def _peer(ours: RunCells, folder: Path, data: Mapping[str, TaskData | str]) -> RunCells:
    results = read_results(folder)
    for task in ours.cells:
        if task in results.tasks and results.tasks[task].data != ours.results.tasks[task].data:
            raise UsageError(
                f"The peer {results.model.title} answered other data of {task}.", "Give peers that answered the same."
            )
    return read_run_cells(folder, {task: found for task, found in data.items() if task in results.tasks})


def _answers_of(task: str, cell: Cell, peers: Sequence[RunCells]) -> list[PeerAnswers]:
    found = []
    for peer in peers:
        if task in peer.cells:
            name = f"{peer.results.model.title} #{peer.results.run[:6]}"
            refuse_unequal(task, cell, peer.cells[task], name)
            found.append(PeerAnswers(name=name, run=peer.results.run, cell=peer.cells[task], table=peer.tables[task]))
    return found


def _facts(results: Results) -> dict[str, str]:
    told = results.model
    facts = {
        "run": results.run,
        "model": told.name,
        "weights": told.weights,
        "suite": results.suite,
        "samples per task": "all" if results.limit is None else f"the first {results.limit}",
        "seed": str(results.seed),
        "declared training splits": _declared(results),
    }
    return facts | {f"data of {task}": result.data for task, result in results.tasks.items()}


def _declared(results: Results) -> str:
    if not results.model.declared:
        return "nothing was declared"
    return ", ".join(sorted(results.model.trained_on)) or "none of these tasks"
