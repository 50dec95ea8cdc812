"""An audit of outputs as `audit.json`: everything that is needed to check it or to repeat it; the same bytes always."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from medbench.leaderboard.audit.effect import Effect, beyond_peers
from medbench.leaderboard.audit.evidence import Example
from medbench.leaderboard.audit.items import texts_fingerprint
from medbench.leaderboard.audit.normalise import NORM_VERSION, is_long, word_count
from medbench.leaderboard.audit.outputs import CellVerdict, Share
from medbench.leaderboard.audit.run_audit import OutputAudit, TaskAudit
from medbench.leaderboard.audit.thresholds import Thresholds
from medbench.leaderboard.audit.wording import ALTERNATIVES, LIMITS, sentence
from medbench.tasks.foundation.files import canonical_json

SCHEMA = 1
LONGEST_TEXT = 2000
Document = dict[str, Any]


def audit_text(document: Document) -> str:
    """Return a document as it is written and printed."""
    return canonical_json(_rounded(document), indent=2) + "\n"


def run_document(audit: OutputAudit) -> Document:
    """Return the audit of a run."""
    verdicts = audit.verdicts
    return {
        "schema": SCHEMA,
        "question": "outputs",
        "run": audit.run,
        "model": audit.model,
        "verdicts": verdicts,
        "findings": [{"task": task, "verdict": verdict, **_finding(audit, task)} for task, verdict in verdicts.items()],
        "tasks": {task: cell_document(found, audit) for task, found in audit.tasks.items()},
        "not_checked": dict(audit.problems),
        **_common(audit),
    }


def predictions_document(audit: OutputAudit) -> Document:
    """Return the audit of a file of predictions: its one task at the top."""
    ((task, found),) = audit.tasks.items()
    return {
        "schema": SCHEMA, "question": "outputs", "file": audit.model, "kind": task, **cell_document(found, audit),
        **_common(audit),
    }  # fmt: skip


def _common(audit: OutputAudit) -> Document:
    return {
        "facts": dict(audit.facts),
        "notes": list(audit.notes),
        "normaliser": NORM_VERSION,
        "thresholds": asdict(audit.thresholds),
        "limits": list(LIMITS),
        "alternative_explanations": list(ALTERNATIVES),
        "rebuttal": None,
        "revealed": audit.revealed,
    }


def _finding(audit: OutputAudit, task: str) -> Document:
    found = audit.tasks.get(task)
    if found is None:
        return {"text": f"Could not be checked: {audit.problems[task]}"}
    verdict = found.verdict
    return {
        "text": sentence(verdict, audit.thresholds),
        "matches": f"{verdict.k} of {verdict.K} cases",
        "exact matches": verdict.exact,
        "items": verdict.n,
    }


def cell_document(found: TaskAudit, audit: OutputAudit) -> Document:
    """Return everything about one task."""
    controls, evidence = found.controls, found.evidence
    known = found.cell.train_references
    return {
        **verdict_document(found.verdict, audit.thresholds),
        "controls": {
            "planted_cases": controls.planted_cases,
            "testable": controls.testable,
            "planted": _brief(controls.planted),
            "shuffled": _brief(controls.shuffled),
            "exact_by_chance": asdict(found.chance),
        },
        "near_matches": evidence.near_matches,
        "of_train_sentences": evidence.of_train_sentences,
        "cut_alike": evidence.cut_alike,
        "similarities": list(evidence.similarities),
        "examples": [_example(found, example) for example in evidence.examples],
        "matches": _matches(found, audit.run),
        "effect": [_effect(found, effect, audit.thresholds) for effect in found.effects],
        "withheld": found.withheld,
        "items_sha256": found.cell.fingerprint(),
        "train_references": None if known is None else len(known),
        "train_references_sha256": None if known is None else texts_fingerprint(known),
    }


def verdict_document(found: CellVerdict, thresholds: Thresholds) -> Document:
    """Return the verdict with its numbers."""
    return {
        "verdict": found.verdict,
        "text": sentence(found, thresholds),
        "n": found.n,
        "cases": found.cases,
        "K": found.K,
        "k": found.k,
        "rate": found.rate,
        "ci": None if found.ci is None else list(found.ci),
        "p": found.p,
        "p_skill": found.p_skill,
        "skill": found.skill,
        "p_holm": found.p_holm,
        "p0": found.p0,
        "p0_source": found.p0_source,
        "p_default": found.p_default,
        "detectable_rate": found.detectable_rate,
        "exact": found.exact,
        "exact_by_reason": dict(found.exact_by_reason),
        "items_by_reason": dict(found.items_by_reason),
        "ref_in_train": found.ref_in_train,
        "attribution": found.attribution,
        "in_train": _share(found.in_train),
        "not_in_train": _share(found.not_in_train),
        "sensitivity": asdict(found.sensitivity),
        "peers": [
            {"name": peer.name, "run": peer.run, "exact": peer.exact, **(_share(peer.share) or {})}
            for peer in found.peers
        ],
        "version": found.version,
    }


def _brief(found: CellVerdict) -> Document:
    return {"verdict": found.verdict, "k": found.k, "K": found.K, "p": found.p}


def _share(share: Share | None) -> Document | None:
    return None if share is None else {"matches": share.matches, "of": share.of, "rate": share.rate}


def _example(found: TaskAudit, example: Example) -> Document:
    item = found.cell.items[example.row]
    shown: Document = {
        "sample_id": item.sample_id,
        "group": item.group,
        "why": example.why,
        "words": example.words,
        "similarity": example.similarity,
        "run": asdict(example.run),
    }
    if found.withheld:
        return shown
    nearest = example.nearest
    return shown | {
        "reference": cut(item.reference),
        "prediction": cut(item.prediction),
        "normalised_reference": cut(found.cell.references[example.row]),
        "normalised_prediction": cut(found.cell.predictions[example.row]),
        "peers": {name: cut(cell.items[example.row].prediction) for name, cell in found.peer_cells.items()},
        "nearest_training_reference": None
        if nearest is None
        else {"text": cut(nearest.text), "similarity": nearest.similarity},
    }


def cut(text: str | None) -> str | None:
    """Return a text as far as it is shown."""
    return text if text is None or len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."


def _matches(found: TaskAudit, run: str) -> list[Document]:
    """Return every exact match on a long reference; its text only as a hash that is salted with run and sample."""
    cell, counts = found.cell, found.judged.counts
    return [
        {
            "sample_id": item.sample_id,
            "group": item.group,
            "reason": counts.reasons[row],
            "words": word_count(cell.references[row]),
            "hash": _salted(run, item.sample_id, cell.references[row] or ""),
        }
        for row, item in enumerate(cell.items)
        if counts.exact[row] and is_long(cell.references[row])
    ]


def _salted(run: str, sample_id: str, text: str) -> str:
    return hashlib.blake2b(canonical_json([run, sample_id, text]).encode(), digest_size=16).hexdigest()


def _effect(found: TaskAudit, effect: Effect, thresholds: Thresholds) -> Document:
    peers = {
        name: same
        for name, rows in found.peer_effects.items()
        for same in rows
        if (same.protocol, same.metric) == (effect.protocol, effect.metric)
    }
    return {
        "protocol": effect.protocol,
        "metric": effect.metric,
        **_parts(effect, thresholds),
        "peers": {name: _parts(one, thresholds) for name, one in peers.items()},
        "beyond_peers": beyond_peers(effect, list(peers.values())) if _is_enough(effect, thresholds) else None,
    }


def _is_enough(effect: Effect, thresholds: Thresholds) -> bool:
    return effect.without.cases >= thresholds.fewest_clean_clusters


def _parts(effect: Effect, thresholds: Thresholds) -> Document:
    parts = {"all": effect.all, "without_matches": effect.without, "matches_only": effect.only}
    return {name: asdict(part) for name, part in parts.items()} | {"estimable": _is_enough(effect, thresholds)}


def _rounded(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return plain values with six digits that say something: libraries differ in the last ones."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(name): _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
