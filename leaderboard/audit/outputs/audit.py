"""`medbench audit model` and `selftest`: a model's outputs beside test references, and would a leak be found?"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medbench.harness.results import Results, read_results
from medbench.leaderboard.audit.document import (
    FOUND,
    WORDS,
    Audit,
    Example,
    Table,
    TaskVerdict,
    Verdict,
    p_text,
    percent,
    write_audit,
)
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, word_count
from medbench.leaderboard.audit.outputs.answers import (
    Answers,
    TaskData,
    read_predictions,
    read_run_answers,
    read_task_data,
    read_train_references,
    refuse_unequal,
)
from medbench.leaderboard.audit.outputs.cells import (
    REASON_TEXTS,
    REASONS,
    THRESHOLDS,
    Cell,
    Thresholds,
    count_matches,
    texts_fingerprint,
)
from medbench.leaderboard.audit.outputs.controls import ByChance, Controls, matches_by_chance, run_controls
from medbench.leaderboard.audit.outputs.evidence import (
    Effect,
    Evidence,
    Pair,
    PartScore,
    beyond_peers,
    effects,
    find_evidence,
)
from medbench.leaderboard.audit.outputs.verdict import CellVerdict, Judged, Peer, Share, audit_outputs, sentence
from medbench.leaderboard.credentialed import is_credentialed
from medbench.leaderboard.leaks import AUDIT_FILE
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, file_sha256
from medbench.tasks.spec import Kind

Predictions = Path | Iterable[Mapping[str, Any]]
"""A file of predictions, or its rows."""

_LONGEST_TEXT = 2000
_QUESTION = (
    "Did the outputs repeat test references more often than an honest model could? k cases of the K in which a match "
    "could prove something."
)
_LIMITS = (
    (
        "No evidence is not clean: paraphrased, translated or partly changed copies pass; so does a leak below the "
        "detectable rate."
    ),
    (
        "Not testable is not no evidence: nothing could have been found. On closed questions, labels and boxes a model "
        "that is always right looks like one that has seen the key; there only provenance and probes can tell."
    ),
    (
        "References are compared whole, as they stand in the data. Answers that were cut at the length limit cannot "
        "match and are not counted."
    ),
    "Images were not looked at; neither was what the model was trained on beyond the training references named below.",
)
_ALTERNATIVES = (
    "The same captions or reports stand in public sources that the model was trained on lawfully, under another name.",
    "Templates: reports that are put together from a few set sentences can be met by a model that knows the sentences.",
    "The model was trained on another split or another language of the dataset that holds these items.",
    "A model that truly writes four of five words, or every other set sentence, of all reports right could be flagged.",
)
_CONTROLS = (
    "The same test where the truth is known: references of some cases written into a copy of the answers, in capital "
    "letters; the same answers dealt to other cases; and the matches to be expected if answers were dealt at random."
)
_WITHHELD = "The texts are under a signed agreement and are withheld. Show them here: add --reveal."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskOutputs:
    """What was found in the outputs of one task.

    Attributes:
        title: Name of the task for people.
        run: Identity of the run.
        cell: Answers and references.
        judged: Counts and verdict.
        controls: The same test where the truth is known.
        chance: Matches of answers dealt to other cases.
        evidence: What a person can look at.
        effects: Scores without the matches; empty where these are too few to be suspicious, or there are no scores.
        peer_effects: The same of peers, by name.
        peers: Answers of peers, by name.
        withheld: Whether texts are left out, since access to them needs a signed agreement.
    """

    title: str
    run: str
    cell: Cell
    judged: Judged
    controls: Controls
    chance: ByChance
    evidence: Evidence
    effects: Sequence[Effect]
    peer_effects: Mapping[str, Sequence[Effect]]
    peers: Mapping[str, Cell]
    withheld: bool

    @property
    def verdict(self) -> CellVerdict:
        """What is to be said of it."""
        return self.judged.verdict


def audit_run(
    path: Path,
    *,
    peers: Sequence[Path] = (),
    data_dir: Path | None = None,
    more_references: Sequence[str] = (),
    reveal: bool = False,
) -> Audit:
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
    ours = read_run_answers(path, data)
    closed = frozenset(task for task in results.tasks if is_credentialed(results, task))
    found = examine_outputs(
        ours,
        titles={task: result.title for task, result in results.tasks.items()},
        peers=_peer_runs(ours, results, peers, data),
        train_texts={task: one.train_texts for task, one in data.items() if isinstance(one, TaskData)},
        withheld=frozenset() if reveal else closed,
    )
    return _report(
        ours,
        found,
        titles={task: result.title for task, result in results.tasks.items()},
        facts=_facts(results),
        command=_command("RUN", len(peers), train=bool(more_references), reveal=reveal),
        revealed=reveal and bool(closed),
    )


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
        found[theirs.run] = read_run_answers(folder, {task: data[task] for task in theirs.tasks if task in data})
    return list(found.values())


def _facts(results: Results) -> dict[str, Any]:
    model = results.model
    trained = ", ".join(sorted(model.trained_on)) or "none of these tasks"
    return {
        "run": results.run,
        "model": model.name,
        "weights": model.weights,
        "suite": results.suite,
        "samples per task": "all" if results.limit is None else f"the first {results.limit}",
        "seed": results.seed,
        "declared training splits": trained if model.declared else "nothing was declared",
        "data of": {task: result.data for task, result in results.tasks.items()},
    }


def audit_predictions(
    given: Predictions,
    kind: Kind = "report",
    *,
    train_references: Path | Iterable[str] | None = None,
    peers: Mapping[str, Predictions] | Sequence[Path] = (),
    name: str = "predictions",
) -> Audit:
    """Audit predictions without a run.

    Args:
        given: A JSON-lines file, or rows, with sample_id, group, prediction and reference.
        kind: What was asked.
        train_references: Known training references, or a file of them.
        peers: Predictions of other models on the same items: files, or rows by name of the model.
        name: What the report calls rows; a file has its own name.

    Raises:
        DataError: If a file is broken.
        UsageError: If a peer has other items.
    """
    train = read_train_references(train_references) if isinstance(train_references, Path) else train_references
    known = None if train is None else list(train)
    others = peers if isinstance(peers, Mapping) else {path.name: path for path in peers}
    called = given.name if isinstance(given, Path) else name
    ours, *theirs = (
        read_predictions(one, kind, name=title, train=known) for title, one in [(called, given), *others.items()]
    )
    found = examine_outputs(ours, titles={kind: kind}, peers=theirs, train_texts={kind: known})
    facts = {"file sha256": file_sha256(given)} if isinstance(given, Path) else {}
    if isinstance(train_references, Path):
        facts["training references sha256"] = file_sha256(train_references)
    command = _command(f"--predictions FILE --kind {kind}", len(theirs), train=known is not None, reveal=False)
    return _report(ours, found, titles={kind: kind}, facts=facts, command=command)


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

    The verdict of a task is that on the planted leak where the audit works, `not_testable` where nothing can be tested,
    and `no_evidence` where it misses the leak or accuses the control.
    """
    results = read_results(path)
    run = read_run_answers(path, read_task_data(path, results, data_dir))
    rows, tasks = [], {}
    for task, cell in run.cells.items():
        title, controls = results.tasks[task].title, run_controls(cell, seed=seed)
        verdicts: dict[str, Verdict] = {"found": controls.planted.verdict, "missed": "no_evidence"}
        tasks[task] = TaskVerdict(
            title=title,
            verdict=verdicts.get(controls.outcome, "not_testable"),
            text="",
            facts={"outcome": controls.outcome},
            details={"planted_cases": controls.planted_cases, **_brief_controls(controls)},
        )
        shown = (controls.planted.K, controls.planted_cases, controls.planted.verdict, controls.shuffled.verdict)
        rows.append([title, *(str(one).replace("_", " ") for one in shown), controls.outcome])
    columns = ("task", "cases that count", "planted in", "planted leak", "dealt to other cases", "outcome")
    return Audit(
        kind="selftest",
        title="Self-test of the leakage audit",
        question="Would a leak in these outputs be found, and its control not?",
        run=results.run,
        tasks=tasks,
        tables=[Table(columns=columns, rows=rows, text=_CONTROLS)],
        notes=[f"{results.tasks[task].title}: could not be checked: {why}" for task, why in run.problems.items()],
        settings={"seed": seed, "thresholds": asdict(THRESHOLDS)},
        command="medbench audit selftest RUN",
    )


def _command(what: str, peers: int, *, train: bool, reveal: bool) -> str:
    words = [
        "medbench audit model",
        what,
        *(["--peers", *["PEER"] * peers] if peers else []),
        *(["--train-references FILE"] if train else []),
        *(["--reveal"] if reveal else []),
    ]
    return " ".join(words)


def examine_outputs(
    ours: Answers,
    *,
    titles: Mapping[str, str],
    peers: Sequence[Answers],
    train_texts: Mapping[str, Sequence[str] | None],
    withheld: frozenset[str] = frozenset(),
    thresholds: Thresholds = THRESHOLDS,
) -> dict[str, TaskOutputs]:
    """Look at a model's answers from all sides.

    Args:
        ours: Its answers.
        titles: Names of the tasks for people.
        peers: Other models; what they answered of the same tasks must be the same items.
        train_texts: Known training references by task, as they stand in the data.
        withheld: Tasks whose texts are left out.
        thresholds: Where the lines are.
    """
    beside: dict[str, dict[str, Answers]] = {task: {} for task in ours.cells}
    for peer in sorted(peers, key=lambda one: (one.name, one.run)):
        name = f"{peer.name} #{peer.run[:6]}" if peer.tables else peer.name
        for task in ours.cells.keys() & peer.cells.keys():
            refuse_unequal(task, ours.cells[task], peer.cells[task], name)
            beside[task][name] = peer
    counted = {
        task: [_peer_of(name, peer, task, thresholds) for name, peer in found.items()] for task, found in beside.items()
    }
    judged = audit_outputs(ours.cells, counted, thresholds)

    def effects_in(answers: Answers, task: str) -> Sequence[Effect]:
        matched = judged[task].counts.matched
        enough = task in answers.tables and len(matched) >= thresholds.fewest_suspicious
        return effects(answers.tables[task], frozenset(matched)) if enough else ()

    return {
        task: TaskOutputs(
            title=titles[task],
            run=ours.run if ours.tables else "",
            cell=cell,
            judged=judged[task],
            controls=run_controls(cell, thresholds),
            chance=matches_by_chance(cell, thresholds.min_words),
            evidence=find_evidence(cell, judged[task].counts, train_texts.get(task), thresholds),
            effects=effects_in(ours, task),
            peer_effects={name: effects_in(peer, task) for name, peer in beside[task].items()},
            peers={name: peer.cells[task] for name, peer in beside[task].items()},
            withheld=task in withheld,
        )
        for task, cell in ours.cells.items()
    }


def _peer_of(name: str, peer: Answers, task: str, thresholds: Thresholds) -> Peer:
    counts = count_matches(peer.cells[task], thresholds.min_words)
    return Peer(
        name=name, run=peer.run, share=Share(matches=counts.matches, of=counts.clusters), exact=sum(counts.exact)
    )


def _report(
    ours: Answers,
    found: Mapping[str, TaskOutputs],
    *,
    titles: Mapping[str, str],
    facts: Mapping[str, Any],
    command: str,
    revealed: bool = False,
) -> Audit:
    known = {one.cell.train_references for one in found.values() if one.cell.train_references is not None}
    return Audit(
        kind="model",
        title=f"Leakage audit of outputs: {ours.name}",
        question=_QUESTION,
        run=ours.run if ours.tables else "",
        tasks={task: _task_verdict(titles[task], found.get(task), ours.problems.get(task, "")) for task in titles},
        tables=[
            Table(
                columns=(
                    "task", "verdict", "k of K", "rate [95 %]", "p", "detectable", "exact of n", "planted leak",
                ),
                rows=[_matrix_row(titles[task], found.get(task)) for task in titles],
            ),
            _numbers(found.values()),
            _eligible(found.values()),
            _controls(found.values()),
            *(part for one in found.values() if one.evidence.pairs or one.effects for part in _telling(one)),
        ],
        incomplete=bool(ours.problems),
        notes=ours.notes,
        limits=_LIMITS,
        alternatives=[*_ALTERNATIVES, *(text for one in found.values() for text in _own_explanations(one))],
        examples=[_example(task, one, pair) for task, one in found.items() for pair in one.evidence.pairs],
        settings={
            **facts,
            "normaliser": NORM_VERSION,
            "thresholds": asdict(THRESHOLDS),
            "answers and references of": {task: one.cell.fingerprint() for task, one in found.items()},
            "training references": {f"{len(texts):,} long ones": texts_fingerprint(texts) for texts in known},
        },
        command=command,
        revealed=revealed,
    )  # fmt: skip


def _task_verdict(title: str, found: TaskOutputs | None, problem: str) -> TaskVerdict:
    if found is None:
        return TaskVerdict(title=title, verdict="not_testable", text=f"Could not be checked: {problem}")
    one = found.verdict
    return TaskVerdict(
        title=title,
        verdict=one.verdict,
        text=sentence(one, THRESHOLDS),
        facts={"matches": f"{one.k} of {one.K} cases", "exact matches": one.exact, "items": one.n},
        details=_details(found),
        silent=one.verdict == "not_testable" and one.k < THRESHOLDS.fewest_suspicious,
    )


def _details(found: TaskOutputs) -> dict[str, Any]:
    verdict, evidence, known = found.verdict, found.evidence, found.cell.train_references
    return {
        **asdict(verdict),
        "in_train": _share(verdict.in_train),
        "not_in_train": _share(verdict.not_in_train),
        "peers": [
            {"name": peer.name, "run": peer.run, "exact": peer.exact, **(_share(peer.share) or {})}
            for peer in verdict.peers
        ],
        "controls": {
            "planted_cases": found.controls.planted_cases,
            **_brief_controls(found.controls),
            "exact_by_chance": asdict(found.chance),
        },
        "near_matches": evidence.near_matches,
        "of_train_sentences": evidence.of_train_sentences,
        "cut_alike": evidence.cut_alike,
        "similarities": evidence.similarities,
        "matches": _matches(found),
        "effect": [_effect_details(found, effect) for effect in found.effects],
        "withheld": found.withheld,
        "train_references": None if known is None else len(known),
    }


def _brief_controls(controls: Controls) -> dict[str, Any]:
    brief = {
        name: {"verdict": one.verdict, "k": one.k, "K": one.K, "p": one.p}
        for name, one in (("planted", controls.planted), ("shuffled", controls.shuffled))
    }
    return {"testable": controls.testable, **brief}


def _share(share: Share | None) -> dict[str, Any] | None:
    return None if share is None else {"matches": share.matches, "of": share.of, "rate": share.rate}


def _matches(found: TaskOutputs) -> list[dict[str, Any]]:
    """Return every exact match on a long reference; its text only as a hash that is salted with run and sample."""

    def salted(sample_id: str, text: str) -> str:
        return hashlib.blake2b(canonical_json([found.run, sample_id, text]).encode(), digest_size=16).hexdigest()

    cell, counts = found.cell, found.judged.counts
    return [
        {
            "sample_id": item.sample_id,
            "group": item.group,
            "reason": counts.reasons[row],
            "words": word_count(cell.references[row]),
            "hash": salted(item.sample_id, cell.references[row] or ""),
        }
        for row, item in enumerate(cell.items)
        if counts.exact[row] and is_long(cell.references[row])
    ]


def _of_peers(found: TaskOutputs, effect: Effect) -> dict[str, Effect]:
    return {
        name: same
        for name, rows in found.peer_effects.items()
        for same in rows
        if (same.protocol, same.metric) == (effect.protocol, effect.metric)
    }


def _is_estimable(effect: Effect) -> bool:
    return effect.without_matches.cases >= THRESHOLDS.fewest_clean_clusters


def _effect_details(found: TaskOutputs, effect: Effect) -> dict[str, Any]:
    peers = _of_peers(found, effect)
    estimable = _is_estimable(effect)
    return {
        **asdict(effect),
        "estimable": estimable,
        "peers": {name: {**asdict(one), "estimable": _is_estimable(one)} for name, one in peers.items()},
        "beyond_peers": beyond_peers(effect, list(peers.values())) if estimable else None,
    }


def _matrix_row(title: str, found: TaskOutputs | None) -> list[str]:
    if found is None:
        return [title, "not checked", *("-" for _ in range(6))]
    one, controls = found.verdict, found.controls
    return [
        title,
        WORDS[one.verdict],
        f"{one.k} of {one.K}",
        one.interval,
        p_text(one.p if one.K else None),
        percent(one.detectable_rate),
        f"{one.exact} of {one.n}",
        controls.planted.verdict.replace("_", " ") if controls.testable else "too few cases",
    ]


def _numbers(found: Iterable[TaskOutputs]) -> Table:
    rows = []
    for one in found:
        verdict, longer = one.verdict, one.verdict.sensitivity
        tolerated = f"{percent(verdict.p0)}{' (peers)' if verdict.p0_source == 'peers' else ''}"
        at_longer = f"{longer.k} of {longer.K}, p {p_text(longer.p if longer.K else None)}"
        rows.append([one.title, p_text(verdict.p_skill), p_text(verdict.p_holm), tolerated, at_longer])
    columns = ("task", "p (skill)", "p (Holm)", "tolerated", "at 12 words")
    return Table(title="The test", columns=columns, rows=rows, right=4)


def _eligible(found: Iterable[TaskOutputs]) -> Table:
    verdicts = {one.title: one.verdict for one in found}
    used = [why for why in REASONS if any(why in one.items_by_reason for one in verdicts.values())]
    rows = [
        [
            title,
            *(
                f"{one.items_by_reason[why]} ({one.exact_by_reason.get(why, 0)})" if why in one.items_by_reason else ""
                for why in used
            ),
        ]
        for title, one in verdicts.items()
    ]
    return Table(
        title="What was checked",
        text="Items by the first rule that keeps a match from counting, and in brackets the exact matches.",
        columns=["task", *(REASON_TEXTS[why] for why in used)],
        rows=rows,
        right=len(used),
    )


def _controls(found: Iterable[TaskOutputs]) -> Table:
    rows = []
    for one in found:
        planted, shuffled = (
            f"{WORDS[control.verdict]}, {control.k} of {control.K}"
            for control in (one.controls.planted, one.controls.shuffled)
        )
        rows.append(
            [
                one.title,
                planted if one.controls.testable else "too few cases to plant in",
                shuffled,
                f"{one.chance.exact:.1f}",
                f"{one.chance.long:.2f}",
            ]
        )
    columns = ("task", "planted leak", "dealt to other cases", "exact by chance", "... of long ones")
    return Table(title="Controls", text=_CONTROLS, columns=columns, rows=rows, right=2)


def _telling(found: TaskOutputs) -> Iterator[Table]:
    """Yield what is told of a task beside its verdict."""
    verdict, evidence = found.verdict, found.evidence
    lines = [_attribution(verdict), f"Near matches that were not counted: {evidence.near_matches}."]
    if evidence.of_train_sentences:
        lines.append(
            f"{evidence.of_train_sentences} of the matching items consist of sentences that all stand in known "
            "training references."
        )
    if evidence.cut_alike:
        lines.append(f"{evidence.cut_alike} answers that were cut agree with their reference up to there.")
    shares = ", ".join(map(str, evidence.similarities))
    lines.append(f"Eligible items by similarity, in tenths, equal ones last: {shares}.")
    if found.withheld:
        lines.append(_WITHHELD)
    yield Table(title=found.title, bullets=lines)
    if verdict.peers:
        used = (
            f"Their upper bound, {percent(verdict.p0)}, is the tolerated rate; with the default p = "
            f"{p_text(verdict.p_default)}."
            if verdict.p0_source == "peers"
            else "They leave the tolerated rate as it is."
        )
        rows = [
            [peer.name, f"{peer.share.matches} of {peer.share.of}", percent(peer.share.rate), str(peer.exact)]
            for peer in verdict.peers
        ]
        yield Table(
            text=f"{used} Peers may share a leak.", columns=("peer", "k of K", "rate", "exact"), rows=rows, right=3
        )
    if found.effects:
        yield _effects(found)


def _attribution(verdict: CellVerdict) -> str:
    def said(share: Share) -> str:
        return f"{share.matches} of {share.of} ({percent(share.rate)})"

    if verdict.in_train is None:
        return f"Exact matches on long references: {said(verdict.not_in_train)}. No training references are known."
    return (
        f"Exact matches on long references that are in the known training data: {said(verdict.in_train)}; on the "
        f"others: {said(verdict.not_in_train)}."
    )


def _effects(found: TaskOutputs) -> Table:
    def value(part: PartScore) -> str:
        return "-" if part.value is None else f"{100 * part.value:.2f} (n={part.n})"

    rows = []
    for effect in found.effects:
        beyond = beyond_peers(effect, list(_of_peers(found, effect).values())) if _is_estimable(effect) else None
        rows.append(
            [
                effect.protocol,
                effect.metric,
                value(effect.all),
                value(effect.without_matches) if _is_estimable(effect) else "not estimable",
                value(effect.matches_only),
                "-" if beyond is None else f"{100 * beyond:+.1f}",
            ]
        )
    clean = min(effect.without_matches.cases for effect in found.effects)
    few = clean < THRESHOLDS.fewest_clean_clusters
    remark = f" Only {clean} cases are left: not estimable." if few else ""
    columns = ("protocol", "metric", "all", "without the cases that match", "these cases alone", "beyond peers")
    return Table(text=f"Effect on the scores, in per cent.{remark}", columns=columns, rows=rows, right=4)


def _example(task: str, found: TaskOutputs, pair: Pair) -> Example:
    cell, item = found.cell, found.cell.items[pair.row]
    facts = {
        "sample_id": item.sample_id,
        "group": item.group,
        "why": pair.why,
        "words": pair.words,
        "similarity": pair.similarity,
        "run": asdict(pair.run),
    }
    if found.withheld:
        return Example(task=task, facts=facts)
    texts = {
        "reference": item.reference,
        "prediction": item.prediction,
        "reference, normalised": _marked(cell.references[pair.row], pair.run.first, pair.run.words),
        "prediction, normalised": _marked(cell.predictions[pair.row], pair.run.second, pair.run.words),
        **{f"peer {name}": peer.items[pair.row].prediction for name, peer in found.peers.items()},
    }
    if pair.nearest is not None:
        texts[f"nearest training reference ({pair.nearest.similarity:.2f})"] = pair.nearest.text
    return Example(task=task, facts=facts, texts={name: _cut(text or "") for name, text in texts.items()})


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ..."


def _marked(text: str | None, start: int, words: int) -> str:
    """Return a normalised text with the common run in bold; it holds letters, digits and spaces alone."""
    parts = (text or "").split()
    pieces = [parts[:start], parts[start : start + words], parts[start + words :]]
    before, common, after = (_cut(" ".join(piece)) for piece in pieces)
    return " ".join(piece for piece in (before, f"**{common}**" if common else "", after) if piece)


def _own_explanations(found: TaskOutputs) -> Iterator[str]:
    composed, exact = found.evidence.of_train_sentences, len(found.judged.counts.counted_rows)
    if composed and exact:
        yield (
            f"{found.title}: {composed} of {exact} matching references consist of sentences that stand in known "
            "training references."
        )
    if found.verdict.ref_in_train:
        yield (
            f"{found.title}: {percent(found.verdict.ref_in_train)} of the long test references stand word for word in "
            "the known training data. That is a finding about the data, not the model: medbench audit data."
        )
