"""`medbench audit model` and `selftest`: a model's outputs beside test references, and would a leak be found?"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medbench.harness.predictions.rows import Source
from medbench.harness.results import Results, read_results
from medbench.leaderboard.audit import document
from medbench.leaderboard.audit.document import WORDS, Audit, Example, TaskVerdict, percent, plain
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, word_count
from medbench.leaderboard.audit.outputs import answers as read
from medbench.leaderboard.audit.outputs.answers import Answers, Predictions, TaskData
from medbench.leaderboard.audit.outputs.cells import THRESHOLDS, Cell, count_matches
from medbench.leaderboard.audit.outputs.evidence import Evidence, effects, find_evidence
from medbench.leaderboard.audit.outputs.verdict import Judgement, Peer, audit_outputs, matches_by_chance, run_controls
from medbench.leaderboard.runs import AUDIT_FILE, is_credentialed
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, file_sha256, fingerprint
from medbench.tasks.spec import Kind

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMNS = ("task", "verdict", "testable cases that repeat their reference", "p", "could have been found")


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
    closed = frozenset(task for task in results.tasks if is_credentialed(results, task))
    model = results.model
    trained = ", ".join(sorted(model.trained_on)) or "none of these tasks"
    settings = {
        "run": results.run, "model": model.name, "weights": model.weights, "suite": results.suite,
        "samples per task": "all" if results.limit is None else f"the first {results.limit}",
        "seed": results.seed,
        "declared training splits": trained if model.declared else "nothing was declared",
        "data of": {task: result.data for task, result in results.tasks.items()},
    }  # fmt: skip
    return _audit(
        ours, {task: result.title for task, result in results.tasks.items()}, _peer_runs(ours, results, peers, data),
        settings,
        _command("RUN", len(peers), train=bool(more), reveal=reveal), withheld=frozenset() if reveal else closed,
        revealed=reveal and bool(closed),
    )  # fmt: skip


def _peer_runs(
    ours: Answers, results: Results, folders: Sequence[Path], data: Mapping[str, TaskData | str]
) -> list[Answers]:
    found: dict[str, Answers] = {}
    for folder in folders:
        theirs = read_results(folder)
        for task in (task for task in ours.cells if task in theirs.tasks):
            if theirs.tasks[task].data != results.tasks[task].data:
                what = f"The peer {theirs.model.title} answered other data of {task}."
                raise UsageError(what, "Give peers that answered the same.")
        if theirs.run != results.run:
            there = {task: data[task] for task in theirs.tasks if task in data}
            found[theirs.run] = read.read_run_answers(folder, there)
    return list(found.values())


def audit_predictions(
    given: Predictions, kind: Kind = "report", *, train_references: Path | Iterable[str] | None = None,
    peers: Mapping[str, Predictions] | Sequence[Path] = (), name: str = "predictions",
) -> Audit:  # fmt: skip
    """Audit predictions without a run.

    What is given is a file in any format that `medbench score` reads, or rows, with sample_id, group, prediction and
    reference; `peers` are the same of other models on the same items, rows by name of the model. `name` is what the
    report calls rows; a file has its own.
    Raises DataError if a file is broken; UsageError if a peer has other items.
    """
    train = read.read_train_references(train_references) if isinstance(train_references, Path) else train_references
    known = None if train is None else list(train)
    others = peers if isinstance(peers, Mapping) else {path.name: path for path in peers}
    file = given.path if isinstance(given, Source) else given
    called = file.name if isinstance(file, Path) else name
    ours, *theirs = (
        read.read_predictions(one, kind, name=title, train=known) for title, one in [(called, given), *others.items()]
    )
    files = {"file sha256": file, "training references sha256": train_references}
    digests = {name: file_sha256(path) for name, path in files.items() if isinstance(path, Path)}
    command = _command(f"--predictions FILE --kind {kind}", len(theirs), train=known is not None)
    return _audit(ours, {kind: kind}, theirs, digests, command)


def audit_after_run(path: Path, data_dir: Path | None = None) -> Audit:
    """Audit a scored run's outputs against references and training references, and write `audit/` of its folder.

    Credentialed texts are withheld. Raises like `audit_run`, and RunError if the files cannot be written.
    """
    audit = audit_run(path, data_dir=data_dir)
    document.write_audit(audit, path / AUDIT_FILE.parent, name=AUDIT_FILE.stem)
    if audit.verdict in document.FOUND:
        warn(f"Leakage audit: {audit.headline} See {AUDIT_FILE.with_suffix('.html')}.")
    return audit


def selftest(path: Path, data_dir: Path | None = None, *, seed: int = 0) -> Audit:
    """Plant a leak into a copy of each task's answers and look for it; raises like `audit_run`.

    The verdict of a task is that on the planted leak; `outcome` among its facts says whether the audit works.
    """
    results = read_results(path)
    run = read.read_run_answers(path, read.read_task_data(path, results, data_dir))
    titles = {task: result.title for task, result in results.tasks.items()}
    tasks = {}
    for task, cell in run.cells.items():
        one = run_controls(cell, seed=seed)
        dealt = "nothing, as it must be" if one.shuffled.verdict not in document.FOUND else "something: wrong"
        found = (one.planted.K, one.planted_cases, WORDS[one.planted.verdict], dealt, one.outcome)
        tasks[task] = TaskVerdict(
            title=titles[task], verdict=one.planted.verdict, cells=(titles[task], *found),
            facts={"outcome": one.outcome}, details=one.brief(),
        )  # fmt: skip
    return Audit(
        kind="selftest", title="Self-test of the leakage audit",
        question="Would a leak in these outputs be found, and its control not?", run=results.run, tasks=tasks,
        columns=("task", "testable cases", "planted in", "evidence for it", "found in a wrong order", "planted leak"),
        notes=[f"{titles[task]}: could not be checked: {why}" for task, why in run.problems.items()],
        settings={"seed": seed, "thresholds": plain(THRESHOLDS)}, command="medbench audit selftest RUN",
    )  # fmt: skip


def _command(what: str, peers: int, *, train: bool, reveal: bool = False) -> str:
    others = ["--peers", *["PEER"] * peers] if peers else []
    known, shown = ["--train-references FILE"] if train else [], ["--reveal"] if reveal else []
    return " ".join(["medbench audit model", what, *others, *known, *shown])


def _audit(
    ours: Answers, titles: Mapping[str, str], peers: Sequence[Answers], settings: Mapping[str, Any], command: str, *,
    withheld: frozenset[str] = frozenset(), revealed: bool = False,
) -> Audit:  # fmt: skip
    """Look at a model's answers from all sides, beside other models that must have answered the same items.

    `titles` has all tasks, also those that could not be read.
    """
    judged = audit_outputs(ours.cells, {task: list(_peers(task, cell, peers)) for task, cell in ours.cells.items()})
    text, tasks = document.wording("outputs"), {}
    examples: list[Example] = []
    reasons: list[str] = list(text["alternatives"])
    for task, title in titles.items():
        if task in judged:
            cell, others = ours.cells[task], {one.name: one.cell for one in judged[task].peers if one.cell is not None}
            evidence = find_evidence(
                cell, judged[task].counts, cell.train_texts, task=task, peers=others, withheld=task in withheld
            )
            tasks[task] = _examined(title, ours.identity, cell, judged[task], evidence, others, task in withheld)
            examples += evidence.examples
            reasons += _own_explanations(title, tasks[task].details)
        else:
            why = f"Could not be checked: {ours.problems[task]}"
            row = (title, "not checked", *"-" * (len(_COLUMNS) - 2))
            tasks[task] = TaskVerdict(title=title, verdict="not_testable", short=why, text=why, cells=row)
    known = {cell.train_references for cell in ours.cells.values() if cell.train_references is not None}
    prints = sorted((fingerprint(sorted(texts)), f"{len(texts):,} long ones") for texts in known)
    return Audit(
        kind="model", title=f"Leakage audit of outputs: {ours.name}", question=text["question"], run=ours.identity,
        tasks=tasks, columns=_COLUMNS, incomplete=bool(ours.problems), notes=ours.notes, limits=text["limits"],
        alternatives=reasons, examples=examples, advice=list(_advice(tasks)), trust=list(_trust(tasks)),
        settings={
            **settings, "normaliser": NORM_VERSION, "thresholds": plain(THRESHOLDS),
            "answers and references of": {task: cell.fingerprint() for task, cell in ours.cells.items()},
            "training references": dict(prints),
        },
        command=command, revealed=revealed,
    )  # fmt: skip


def _peers(task: str, ours: Cell, peers: Sequence[Answers]) -> Iterator[Peer]:
    for peer in sorted(peers, key=lambda one: (one.name, one.run)):
        if task in peer.cells:
            name, cell = f"{peer.name} #{peer.run[:6]}" if peer.identity else peer.name, peer.cells[task]
            read.refuse_unequal(task, ours, cell, name)
            counts = count_matches(cell, THRESHOLDS.min_words)
            matches, of, exact = len(counts.matched), len(counts.sizes), sum(counts.exact)
            yield Peer(name=name, run=peer.run, matches=matches, of=of, exact=exact, cell=cell)


def _examined(
    title: str, run: str, cell: Cell, found: Judgement, evidence: Evidence, peers: Mapping[str, Cell], withheld: bool
) -> TaskVerdict:
    few, known = found.k < THRESHOLDS.fewest_suspicious, cell.train_references
    controls, chance = run_controls(cell), matches_by_chance(cell, THRESHOLDS.min_words)
    scores = {name: peer.table for name, peer in peers.items() if peer.table is not None}
    effect = [] if few or cell.table is None else effects(cell.table, found.counts.matched, scores)
    details = plain(found) | plain(evidence) | {
        "controls": {**controls.brief(), "exact_by_chance": chance}, "matches": list(_matches(cell, found, run)),
        "effect": plain(effect), "withheld": withheld, "train_references": None if known is None else len(known),
    }  # fmt: skip
    why = _why_untestable(found)
    findable = "nothing" if found.detectable_rate is None else f"a leak of {percent(found.detectable_rate)}"
    cells = (
        title, WORDS[found.verdict], f"{found.k} of {found.K}" if found.K else "-",
        document.p_text(found.p if found.K else None), f"nothing: {why}" if why else findable,
    )  # fmt: skip
    facts = {"matches": f"{found.k} of {found.K} cases", "exact matches": found.exact, "items": found.n}
    text = document.rendered("sentence.md", found=found, least=THRESHOLDS)
    return TaskVerdict(
        title=title, verdict=found.verdict, short=why or _repeated(found), text=" ".join(text.split()), cells=cells,
        facts=facts, details=details, silent=found.verdict == "not_testable" and few,
    )  # fmt: skip


def _repeated(found: Judgement) -> str:
    cases = f"{found.k or 'none'} of {found.K} testable cases"
    told = f"{cases} {'repeats its' if found.k <= 1 else 'repeat their'} reference"
    if found.verdict == "no_evidence" and found.detectable_rate is not None:
        told += f"; a leak of {percent(found.detectable_rate)} of them would most likely have been found"
    return told


def _main_reason(found: Mapping[str, Any]) -> str:
    """Return the rule that keeps most items from counting; `few` where most count, and are too few."""
    items = found["items_by_reason"]
    reason = max(items, key=lambda why: (items[why], why), default="few")
    return "few" if reason == "eligible" else str(reason)


def _why_untestable(found: Judgement) -> str:
    if found.verdict != "not_testable":
        return ""
    reason, text = _main_reason(plain(found)), document.wording("outputs")["reasons"]
    return f"{found.K} testable cases, {THRESHOLDS.fewest_clusters} are needed" if reason == "few" else text[reason]


def _advice(tasks: Mapping[str, TaskVerdict]) -> Iterator[str]:
    """Yield what to do next, a line for each piece of advice, with the tasks that it is for."""
    text, found = document.wording("outputs"), dict[str, list[str]]()
    for one in tasks.values():
        if one.verdict in document.FOUND:
            found.setdefault(text["advice"]["found"], []).append(one.title)
        elif one.verdict == "not_testable" and one.details:
            advice = text["advice"]
            found.setdefault(advice.get(_main_reason(one.details), advice["few"]), []).append(one.title)
    yield from (f"{document.some(titles)}: {advice}" for advice, titles in found.items())


def _trust(tasks: Mapping[str, TaskVerdict]) -> Iterator[str]:
    """Yield what the controls say of the test on these data."""
    text = document.wording("outputs")
    for outcome, told in (("found", text["planted"]), ("missed", text["missed"])):
        there = [one.title for one in tasks.values() if one.details and one.details["controls"]["outcome"] == outcome]
        if there:
            yield told.format(document.some(there))


def _matches(cell: Cell, found: Judgement, run: str) -> Iterator[dict[str, Any]]:
    """Yield every exact match on a long reference; its text only as a hash that is salted with run and sample."""
    for item, reason, exact in zip(cell.items, found.counts.reasons, found.counts.exact, strict=True):
        if exact and is_long(item.right):
            salted = canonical_json([run, item.sample_id, item.right])
            yield {
                "sample_id": item.sample_id, "group": item.group, "reason": reason, "words": word_count(item.right),
                "hash": hashlib.blake2b(salted.encode(), digest_size=16).hexdigest(),
            }  # fmt: skip


def _own_explanations(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    text, composed, exact = document.wording("outputs"), found["of_train_sentences"], found["exact_by_reason"]
    if composed and "eligible" in exact:
        yield f"{title}: {composed} of {exact['eligible']} {text['composed']}"
    if found["ref_in_train"]:
        yield f"{title}: {percent(found['ref_in_train'])} {text['known']}"
