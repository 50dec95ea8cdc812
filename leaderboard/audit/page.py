"""An audit of outputs as a markdown page; pure, and the same bytes for the same audit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from medbench.leaderboard.audit.document import cut
from medbench.leaderboard.audit.effect import Effect, beyond_peers
from medbench.leaderboard.audit.eligibility import REASON_TEXTS, REASONS
from medbench.leaderboard.audit.evidence import Example
from medbench.leaderboard.audit.items import texts_fingerprint
from medbench.leaderboard.audit.normalise import NORM_VERSION
from medbench.leaderboard.audit.outputs import Share
from medbench.leaderboard.audit.run_audit import OutputAudit, TaskAudit
from medbench.leaderboard.audit.wording import ALTERNATIVES, LIMITS, MARKS, interval, p_text, percent, sentence
from medbench.leaderboard.render import METRIC_TITLES, markdown_table, markdown_text

_MATRIX = (
    "Task", "Verdict", "k of K", "Rate [95 %]", "p", "p (skill)", "p (Holm)", "Tolerated", "Detectable", "At 12 words",
    "Exact of n",
)  # fmt: skip
_CONTROLS = ("Task", "Planted leak", "Dealt to other cases", "Exact by chance", "... of long ones")
_QUESTION = (
    "Did the outputs repeat test references more often than an honest model could? `k` cases of the `K` in which a "
    "match could prove something."
)
_CONTROLS_TEXT = (
    "The same test where the truth is known: references of some cases written into a copy of the answers, in capital "
    "letters; the same answers dealt to other cases; and the matches to be expected if answers were dealt at random."
)
_WITHHELD = "The texts are under a signed agreement and are withheld. Show them here: add --reveal."
_WHY = {
    "longest": "among the longest",
    "random": "drawn at random",
    "weakest": "among the shortest that count",
    "near": "near match, not counted",
    "not counted": "exact, not counted",
}


def render_audit(audit: OutputAudit, *, command: str) -> str:
    """Return the page.

    Args:
        audit: What was found.
        command: How to make it again.
    """
    parts = [
        f"# Leakage audit of outputs: {markdown_text(audit.model)}",
        *(f"> **{markdown_text(note)}**" for note in audit.notes),
        _QUESTION,
        _matrix(audit),
        *_sentences(audit),
        "## What was checked, and what was not",
        _eligible(audit),
        _bullets(LIMITS),
        "## Controls",
        _CONTROLS_TEXT,
        _controls(audit),
        *_findings(audit),
        "## Alternative explanations",
        _bullets([*ALTERNATIVES, *_own_explanations(audit)]),
        "## To repeat this",
        f"`{command}`",
        _settings(audit),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _matrix(audit: OutputAudit) -> str:
    return markdown_table(_MATRIX, [_matrix_row(audit, task) for task in audit.titles], right=len(_MATRIX) - 2)


def _matrix_row(audit: OutputAudit, task: str) -> list[str]:
    title = markdown_text(audit.titles[task])
    if task not in audit.tasks:
        return [title, "not checked", *("-" for _ in _MATRIX[2:])]
    found = audit.tasks[task].verdict
    longer = found.sensitivity
    return [
        title,
        MARKS[found.verdict],
        f"{found.k} of {found.K}",
        interval(found),
        p_text(found.p if found.K else None),
        p_text(found.p_skill),
        p_text(found.p_holm),
        f"{percent(found.p0)}{' (peers)' if found.p0_source == 'peers' else ''}",
        percent(found.detectable_rate),
        f"{longer.k} of {longer.K}, p {p_text(longer.p if longer.K else None)}",
        f"{found.exact} of {found.n}",
    ]


def _sentences(audit: OutputAudit) -> list[str]:
    lines = []
    for task, title in audit.titles.items():
        found = audit.tasks.get(task)
        said = sentence(found.verdict, audit.thresholds) if found else f"Could not be checked: {audit.problems[task]}"
        lines.append(f"**{markdown_text(title)}**: {markdown_text(said)}")
    return [_bullets(lines)]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _eligible(audit: OutputAudit) -> str:
    used = [why for why in REASONS if any(why in one.verdict.items_by_reason for one in audit.tasks.values())]
    if not used:
        return ""
    rows = [
        [markdown_text(audit.titles[task]), *(_both(found, why) for why in used)] for task, found in audit.tasks.items()
    ]
    table = markdown_table(["Task", *(REASON_TEXTS[why] for why in used)], rows, right=len(used))
    return f"Items by the first rule that keeps a match from counting, and in brackets the exact matches:\n\n{table}"


def _both(found: TaskAudit, why: str) -> str:
    items = {str(reason): number for reason, number in found.verdict.items_by_reason.items()}
    exact = {str(reason): number for reason, number in found.verdict.exact_by_reason.items()}
    return f"{items[why]} ({exact.get(why, 0)})" if why in items else ""


def _controls(audit: OutputAudit) -> str:
    rows = []
    for task, found in audit.tasks.items():
        controls = found.controls
        planted = f"{MARKS[controls.planted.verdict]}, {controls.planted.k} of {controls.planted.K}"
        rows.append(
            [
                markdown_text(audit.titles[task]),
                planted if controls.testable else "too few cases to plant in",
                f"{MARKS[controls.shuffled.verdict]}, {controls.shuffled.k} of {controls.shuffled.K}",
                f"{found.chance.exact:.1f}",
                f"{found.chance.long:.2f}",
            ]
        )
    return markdown_table(_CONTROLS, rows, right=2)


def _findings(audit: OutputAudit) -> list[str]:
    parts = []
    for task, found in audit.tasks.items():
        if found.evidence.examples or found.effects:
            parts += [f"## {markdown_text(audit.titles[task])}", *_finding(found, audit)]
    return parts


def _finding(found: TaskAudit, audit: OutputAudit) -> list[str]:
    return [
        _attribution(found),
        _peers(found),
        _counts(found),
        *_effects(found, audit),
        *([_WITHHELD] if found.withheld and found.evidence.examples else []),
        *(_example(found, example) for example in found.evidence.examples),
    ]


def _attribution(found: TaskAudit) -> str:
    verdict = found.verdict
    if verdict.in_train is None:
        return f"Exact matches on long references: {_share(verdict.not_in_train)}. No training references are known."
    return (
        f"Exact matches on long references that are in the known training data: {_share(verdict.in_train)}; on the "
        f"others: {_share(verdict.not_in_train)}."
    )


def _share(share: Share) -> str:
    return f"{share.matches} of {share.of} ({percent(share.rate)})"


def _peers(found: TaskAudit) -> str:
    verdict = found.verdict
    if not verdict.peers:
        return ""
    rows = [
        [
            markdown_text(peer.name),
            f"{peer.share.matches} of {peer.share.of}",
            percent(peer.share.rate),
            str(peer.exact),
        ]
        for peer in verdict.peers
    ]
    used = (
        f"Their upper bound, {percent(verdict.p0)}, is the tolerated rate; with the default p = "
        f"{p_text(verdict.p_default)}."
        if verdict.p0_source == "peers"
        else "They leave the tolerated rate as it is."
    )
    table = markdown_table(["Peer", "k of K", "Rate", "Exact"], rows, right=3)
    return f"{table}\n\n{used} Peers may share a leak."


def _counts(found: TaskAudit) -> str:
    evidence = found.evidence
    composed = evidence.of_train_sentences
    parts = [f"Near matches that were not counted: {evidence.near_matches}."]
    if composed:
        parts.append(
            f"{composed} of the matching items consist of sentences that all stand in known training references."
        )
    if evidence.cut_alike:
        parts.append(f"{evidence.cut_alike} answers that were cut agree with their reference up to there.")
    shares = ", ".join(map(str, evidence.similarities))
    parts.append(f"Eligible items by similarity, in tenths, equal ones last: {shares}.")
    return " ".join(parts)


def _effects(found: TaskAudit, audit: OutputAudit) -> list[str]:
    if not found.effects:
        return []
    rows = [_effect_row(found, effect, audit) for effect in found.effects]
    header = ["Protocol", "Metric", "All", "Without the cases that match", "These cases alone", "Beyond peers"]
    clean = min(effect.without.cases for effect in found.effects)
    few = clean < audit.thresholds.fewest_clean_clusters
    remark = f" Only {clean} cases are left: not estimable." if few else ""
    return [f"Effect on the scores, in per cent.{remark}", markdown_table(header, rows, right=4)]


def _effect_row(found: TaskAudit, effect: Effect, audit: OutputAudit) -> list[str]:
    same = [
        one
        for rows in found.peer_effects.values()
        for one in rows
        if (one.protocol, one.metric) == (effect.protocol, effect.metric)
    ]
    beyond = beyond_peers(effect, same)
    enough = effect.without.cases >= audit.thresholds.fewest_clean_clusters
    clean = _value(effect.without.value, effect.without.n) if enough else "not estimable"
    return [
        effect.protocol,
        METRIC_TITLES.get(effect.metric, markdown_text(effect.metric)),
        _value(effect.all.value, effect.all.n),
        clean,
        _value(effect.only.value, effect.only.n),
        "-" if beyond is None or not enough else f"{100 * beyond:+.1f}",
    ]


def _value(value: float | None, n: int) -> str:
    return "-" if value is None else f"{100 * value:.2f} (n={n})"


def _example(found: TaskAudit, example: Example) -> str:
    item = found.cell.items[example.row]
    run = example.run
    head = (
        f"**{markdown_text(item.sample_id)}**, case {markdown_text(item.group)}: {_WHY[example.why]}; {example.words} "
        f"words, similarity {example.similarity:.2f}, longest common run {run.words} words."
    )
    if found.withheld:
        return head
    reference, answer = found.cell.references[example.row], found.cell.predictions[example.row]
    rows = [
        ["reference", markdown_text(cut(item.reference) or "")],
        ["answer", markdown_text(cut(item.prediction) or "")],
        ["reference, normalised", _marked(reference, run.first, run.words)],
        ["answer, normalised", _marked(answer, run.second, run.words)],
        *([name, markdown_text(cut(one) or "")] for name, one in _said_by_peers(found, example.row).items()),
    ]
    if example.nearest is not None:
        label = f"nearest training reference ({example.nearest.similarity:.2f})"
        rows.append([label, markdown_text(cut(example.nearest.text) or "")])
    return f"{head}\n\n{markdown_table(['', 'text'], rows)}"


def _said_by_peers(found: TaskAudit, row: int) -> Mapping[str, str | None]:
    return {markdown_text(name): cell.items[row].prediction for name, cell in found.peer_cells.items()}


def _marked(text: str | None, start: int, words: int) -> str:
    """Return a normalised text with the common run in bold; it holds letters, digits and spaces alone."""
    parts = (text or "").split()
    pieces = [parts[:start], parts[start : start + words], parts[start + words :]]
    before, common, after = (" ".join(piece) for piece in pieces)
    return " ".join(piece for piece in (cut(before), f"**{cut(common)}**" if common else "", cut(after)) if piece)


def _own_explanations(audit: OutputAudit) -> list[str]:
    found = []
    for task, one in audit.tasks.items():
        composed, exact = one.evidence.of_train_sentences, len(one.judged.counts.counted_rows)
        if composed and exact:
            found.append(
                f"{markdown_text(audit.titles[task])}: {composed} of {exact} matching references consist of sentences "
                "that stand in known training references."
            )
        if one.verdict.ref_in_train:
            found.append(
                f"{markdown_text(audit.titles[task])}: {percent(one.verdict.ref_in_train)} of the long test references "
                "stand word for word in the known training data. That is a finding about the data, not the model: "
                "medbench audit data."
            )
    return found


def _settings(audit: OutputAudit) -> str:
    facts = [[markdown_text(name), markdown_text(value)] for name, value in audit.facts.items()]
    lines = [["normaliser", NORM_VERSION]]
    lines += [[name.replace("_", " "), f"{value:g}"] for name, value in asdict(audit.thresholds).items()]
    lines += [[f"answers and references of {task}", found.cell.fingerprint()] for task, found in audit.tasks.items()]
    known = {found.cell.train_references for found in audit.tasks.values() if found.cell.train_references is not None}
    lines += [
        [f"training references, {len(texts):,} long ones", texts_fingerprint(texts)]
        for texts in sorted(known, key=texts_fingerprint)
    ]
    return markdown_table(["", "value"], [*facts, *lines])
