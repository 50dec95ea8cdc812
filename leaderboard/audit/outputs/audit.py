"""`medbench audit model` and `selftest`: a model's outputs beside test references, and would a leak be found?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.harness.results import Results, read_results
from medbench.leaderboard.audit.document import FOUND, Audit, TaskVerdict, table_of, write_audit
from medbench.leaderboard.audit.outputs import answers as read
from medbench.leaderboard.audit.outputs.answers import Answers, TaskData
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, count_matches
from medbench.leaderboard.audit.outputs.evidence import effects, find_evidence
from medbench.leaderboard.audit.outputs.report import TaskOutputs, report_outputs
from medbench.leaderboard.audit.outputs.verdict import Peer, Share, audit_outputs, matches_by_chance, run_controls
from medbench.leaderboard.runs import AUDIT_FILE, is_credentialed
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.spec import Kind

if TYPE_CHECKING:
    from pandas import DataFrame

Predictions = Path | Iterable[Mapping[str, Any]]
"""A file of predictions, or its rows."""


def audit_answers(given: "str | Predictions | DataFrame", kind: Kind | None = None, **options: Any) -> Audit:
    """Audit a model's outputs: those of a run, of a file of predictions, or of rows in memory.

    Rows are mappings or a pandas DataFrame, with sample_id, group, prediction and reference; `kind` is what predictions
    answer, `report` if it is not given, and a run knows its own. Options are those of `audit_run` or
    `audit_predictions`.
    """
    if isinstance(given, str):
        given = Path(given)
    if isinstance(given, Path) and given.is_dir():
        if kind is not None:
            raise UsageError("A run knows the kinds of its tasks.", "Leave kind out.")
        return audit_run(given, **options)
    rows: Any = given
    if hasattr(given, "to_dict"):
        rows = given.to_dict("records")
    return audit_predictions(rows, kind or "report", **options)


def audit_run(
    path: Path, *, peers: Sequence[Path] = (), train_references: Path | None = None, data_dir: Path | None = None,
    reveal: bool = False,
) -> Audit:  # fmt: skip
    """Audit the outputs of a run.

    The run itself among its peers is left out. `train_references` is a file of those that are known beside the prepared
    ones, `data_dir` where the prepared tasks are now, if not where the run found them. Raises RunError if a folder is
    no finished run; UsageError if a peer answered other data or other items; DataError if results are malformed.
    """
    results = read_results(path)
    more = read.read_train_references(train_references) if train_references is not None else []
    data = read.read_task_data(path, results, data_dir, more)
    ours = read.read_run_answers(path, data)
    titles = {task: result.title for task, result in results.tasks.items()}
    closed = frozenset(task for task in results.tasks if is_credentialed(results, task))
    train_texts = {task: one.train_texts for task, one in data.items() if isinstance(one, TaskData)}
    found = _examined(
        ours, titles, _peer_runs(ours, results, peers, data), train_texts, frozenset() if reveal else closed
    )
    command = _command("RUN", len(peers), train=bool(more), reveal=reveal)
    return report_outputs(ours, titles, found, _facts(results), command, revealed=reveal and bool(closed))


def _peer_runs(
    ours: Answers, results: Results, folders: Sequence[Path], data: Mapping[str, TaskData | str]
) -> list[Answers]:
    found: dict[str, Answers] = {}
    for folder in folders:
        theirs = read_results(folder)
        if theirs.run == results.run:
            continue
        for task in ours.cells:
            if task in theirs.tasks and theirs.tasks[task].data != results.tasks[task].data:
                raise UsageError(
                    f"The peer {theirs.model.title} answered other data of {task}.",
                    "Give peers that answered the same.",
                )
        found[theirs.run] = read.read_run_answers(folder, {task: data[task] for task in theirs.tasks if task in data})
    return list(found.values())


def _facts(results: Results) -> dict[str, Any]:
    model = results.model
    trained = ", ".join(sorted(model.trained_on)) or "none of these tasks"
    return {
        "run": results.run, "model": model.name, "weights": model.weights, "suite": results.suite,
        "samples per task": "all" if results.limit is None else f"the first {results.limit}",
        "seed": results.seed,
        "declared training splits": trained if model.declared else "nothing was declared",
        "data of": {task: result.data for task, result in results.tasks.items()},
    }  # fmt: skip


def audit_predictions(
    given: Predictions, kind: Kind = "report", *, train_references: Path | Iterable[str] | None = None,
    peers: Mapping[str, Predictions] | Sequence[Path] = (), name: str = "predictions",
) -> Audit:  # fmt: skip
    """Audit predictions without a run.

    What is given are JSON lines, or rows, with sample_id, group, prediction and reference; `peers` are the same of
    other models on the same items, rows by name of the model. `name` is what the report calls rows; a file has its own.
    Raises DataError if a file is broken; UsageError if a peer has other items.
    """
    train = read.read_train_references(train_references) if isinstance(train_references, Path) else train_references
    known = None if train is None else list(train)
    others = peers if isinstance(peers, Mapping) else {path.name: path for path in peers}
    called = given.name if isinstance(given, Path) else name
    ours, *theirs = (
        read.read_predictions(one, kind, name=title, train=known) for title, one in [(called, given), *others.items()]
    )
    facts = {"file sha256": given, "training references sha256": train_references}
    found = _examined(ours, {kind: kind}, theirs, {kind: known})
    digests = {name: file_sha256(path) for name, path in facts.items() if isinstance(path, Path)}
    command = _command(f"--predictions FILE --kind {kind}", len(theirs), train=known is not None)
    return report_outputs(ours, {kind: kind}, found, digests, command)


def audit_after_run(path: Path) -> Audit | None:
    """Audit a finished run's outputs against references and training references, and write `audit/` of its folder.

    It never fails a run: what goes wrong is said in one line, and None is returned. Credentialed texts are withheld.
    """
    try:
        audit = audit_run(path)
        write_audit(audit, path / AUDIT_FILE.parent, name=AUDIT_FILE.stem)
    except MedbenchError as error:
        # The answers and their scores are on disk; the audit can be made any time.
        warn(f"Outputs were not audited: {error.problem} Do it later: medbench audit model {path}")
        return None
    for one in audit.tasks.values():
        if one.verdict in FOUND:
            warn(f"Leakage audit, {one.title}: {one.verdict}. See {AUDIT_FILE.with_suffix('.md')}.")
    return audit


def selftest(path: Path, data_dir: Path | None = None, *, seed: int = 0) -> Audit:
    """Plant a leak into a copy of each task's answers and look for it; raises like `audit_run`.

    The verdict of a task is that on the planted leak; `outcome` among its facts says whether the audit works.
    """
    results = read_results(path)
    run = read.read_run_answers(path, read.read_task_data(path, results, data_dir))
    found = {task: run_controls(cell, seed=seed) for task, cell in run.cells.items()}
    tasks = {
        task: TaskVerdict(
            title=results.tasks[task].title, verdict=one.planted.verdict, facts={"outcome": one.outcome},
            details=one.brief(),
        )
        for task, one in found.items()
    }  # fmt: skip
    columns = {
        "task": lambda task: results.tasks[task].title,
        "cases that count": lambda task: found[task].planted.K,
        "planted in": lambda task: found[task].planted_cases,
        "planted leak": lambda task: found[task].planted.verdict.replace("_", " "),
        "dealt to other cases": lambda task: found[task].shuffled.verdict.replace("_", " "),
        "outcome": lambda task: found[task].outcome,
    }
    return Audit(
        kind="selftest", title="Self-test of the leakage audit",
        question="Would a leak in these outputs be found, and its control not?", run=results.run, tasks=tasks,
        tables=[table_of(found, columns)],
        notes=[f"{results.tasks[task].title}: could not be checked: {why}" for task, why in run.problems.items()],
        settings={"seed": seed, "thresholds": asdict(THRESHOLDS)},
        command="medbench audit selftest RUN",
    )  # fmt: skip


def _command(what: str, peers: int, *, train: bool, reveal: bool = False) -> str:
    words = [
        "medbench audit model", what, *(["--peers", *["PEER"] * peers] if peers else []),
        *(["--train-references FILE"] if train else []), *(["--reveal"] if reveal else []),
    ]  # fmt: skip
    return " ".join(words)


def _examined(
    ours: Answers, titles: Mapping[str, str], peers: Sequence[Answers],
    train_texts: Mapping[str, Sequence[str] | None], withheld: frozenset[str] = frozenset(),
) -> dict[str, TaskOutputs]:  # fmt: skip
    """Look at a model's answers from all sides, beside other models that must have answered the same items."""
    beside: dict[str, dict[str, Answers]] = {task: {} for task in ours.cells}
    for peer in sorted(peers, key=lambda one: (one.name, one.run)):
        name = f"{peer.name} #{peer.run[:6]}" if peer.tables else peer.name
        for task in (task for task in ours.cells if task in peer.cells):
            read.refuse_unequal(task, ours.cells[task], peer.cells[task], name)
            beside[task][name] = peer
    counted: dict[str, list[Peer]] = {}
    for task, others in beside.items():
        for name, peer in others.items():
            counts = count_matches(peer.cells[task], THRESHOLDS.min_words)
            share = Share(matches=counts.matches, of=counts.clusters)
            one = Peer(name=name, run=peer.run, share=share, exact=sum(counts.exact))
            counted.setdefault(task, []).append(one)
    judged = audit_outputs(ours.cells, counted)
    found = {}
    for task, cell in ours.cells.items():
        counts = judged[task].counts
        told = task in ours.tables and counts.matches >= THRESHOLDS.fewest_suspicious
        scores = {name: peer.tables[task] for name, peer in beside[task].items() if task in peer.tables}
        found[task] = TaskOutputs(
            title=titles[task], run=ours.run if ours.tables else "", cell=cell, judged=judged[task],
            controls=run_controls(cell), chance=matches_by_chance(cell, THRESHOLDS.min_words),
            evidence=find_evidence(
                cell, counts, train_texts.get(task), task=task, withheld=task in withheld,
                peers={name: peer.cells[task] for name, peer in beside[task].items()},
            ),
            effects=effects(ours.tables[task], frozenset(counts.matched), scores) if told else (),
            withheld=task in withheld,
        )  # fmt: skip
    return found
