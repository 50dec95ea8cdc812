"""What is said of a run beside its scores: where it comes from, where its time went, what an audit found."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medbench.harness.settings import CHOOSING, Settings
from medbench.leaderboard.report.sources import RunSource

Lines = list[list[str]]
_PHASES = ("seconds", "background_seconds", "efficiency", "counts", "tasks")
_LONGEST = 2000


def provenance(run: RunSource) -> list[dict[str, Any]]:
    """Return tables of name and value that identify a run; nothing in them names a folder of this machine."""
    results, environment, model = run.results, run.environment or {}, run.results.model
    parts = _mapping(run.document.get("identity_of"))
    trained_on = ", ".join(model.trained_on) or "none of these tasks, as far as is known"
    tables = {
        "Run": {
            "identity": results.run, "suite": results.suite,
            "samples per task": "all" if results.limit is None else f"the first {results.limit}", "seed": results.seed,
        },
        "Model": {
            "name": model.name, "weights": model.weights, "device": model.device, "type": model.dtype,
            "trained on the train split of": trained_on, "choices": parts.get("arguments", {}),
        },
        "Decoding": _decoding(run.settings),
        "Code": {
            "medbench, all": environment.get("code"), "medbench, what answers depend on": parts.get("code"),
            "python": environment.get("python"), **_mapping(environment.get("packages")),
        },
        "Machine": _mapping(environment.get("machine")),
        "Data": {
            name: f"{task.data} (version {task.version}, {task.samples:,} samples)"
            for name, task in results.tasks.items()
        },
    }  # fmt: skip
    return [{"title": title, "rows": lines(table)} for title, table in tables.items() if lines(table)]


def _decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    if not settings:
        return {}
    default = Settings(model="")
    chosen = {name: settings.get(name, getattr(default, name)) for name in CHOOSING}
    greedy = all(chosen[name] == getattr(default, name) for name in CHOOSING)
    names = {"batch_size": "most rows at a time", "compile": "torch.compile"}
    return {
        "way": "greedy, the likeliest token" if greedy else "as chosen below",
        **{name.replace("_", " "): value for name, value in chosen.items()},
        **{label: settings.get(name) for name, label in names.items() if settings.get(name)},
    }


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def lines(value: object) -> Lines:
    """Return nested plain values as rows of name and text, names joined by points; empty values are left out."""
    return [[name, text] for name, text in _flat("", value) if text]


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), one)
    elif isinstance(value, list | tuple):
        yield name, ", ".join(_plain(one) for one in value)
    else:
        yield name, _plain(value)


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)[:_LONGEST]


def timing(run: RunSource) -> dict[str, Any] | None:
    """Return seconds by phase and what the engine says of itself, or None if the run recorded nothing."""
    if run.environment is None:
        return None
    phases = _mapping(run.environment.get("phases"))
    engine = {name: value for name, value in _mapping(run.environment.get("engine")).items() if name != "routing"}
    found = {name: _finite(phases.get(name)) for name in _PHASES}
    return {**found, "engine": lines(engine)} if any(found.values()) or engine else None


def _finite(value: object) -> dict[str, Any]:
    """Return a mapping with its finite numbers and its mappings, the same way down."""
    there = [(str(name), one) for name, one in _mapping(value).items() if isinstance(one, dict) or _is_number(one)]
    return {name: _finite(one) if isinstance(one, dict) else one for name, one in there}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def routing(run: RunSource) -> dict[str, list[float]] | None:
    """Return the weights of Uni-Med's experts by kind of task, or None if the run did not record them."""
    recorded = _mapping(_mapping((run.environment or {}).get("engine")).get("routing"))
    rows = [(str(kind), row) for kind, row in recorded.items() if isinstance(row, list) and row]
    return {kind: row for kind, row in rows if all(map(_is_number, row))} or None


def audit_findings(run: RunSource, withheld: Sequence[str]) -> list[dict[str, Any]]:
    """Return what an audit found, as a list of task, verdict, text and further lines.

    `audit.json` holds a list of findings, or a mapping with them under `findings`; each is a mapping with `task`,
    `verdict`, `text` and whatever else, or stands under its task's name. Of tasks that are withheld only the verdict
    remains, since the evidence of a leak is text of patients.
    """
    document = run.audit
    found = document.get("findings", document) if isinstance(document, dict) else document
    if isinstance(found, dict):
        found = [{"task": name, **one} for name, one in found.items() if isinstance(one, dict)]
    if not isinstance(found, list):
        return []
    return [_finding(one, withheld) for one in found if isinstance(one, dict)]


def _finding(found: Mapping[str, Any], withheld: Sequence[str]) -> dict[str, Any]:
    task, verdict, text = (_plain(found.get(name)) for name in ("task", "verdict", "text"))
    if task in withheld:
        return {"task": task, "verdict": verdict, "text": "", "rows": [], "withheld": True}
    rest = {name: value for name, value in found.items() if name not in {"task", "verdict", "text"}}
    return {"task": task, "verdict": verdict, "text": text, "rows": lines(rest), "withheld": False}
