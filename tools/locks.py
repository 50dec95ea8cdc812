"""`python -m tools.locks`: write what ties versions to scores, and the mini suite to its samples.

- `tasks/versions.lock.json`: version, declaration and scores of every built-in task. An edit that changes a score must
  raise the version of the tasks it touches; a test and this command hold that.
- `tasks/mini_suite/prepared.json`: digests by which the prepared mini suite is recognised.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medbench.tasks import catalog
from medbench.tasks.answers.choice import read_choice
from medbench.tasks.answers.thoughts import final_answer
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.console import say, show_error
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, fingerprint, read_json, write_atomically
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.prepared import load_prepared, prepared_names
from medbench.tasks.protocols import PROTOCOLS, Item, metrics_for, scored_items, state_of
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.suite import RECORD_FILE, prepare_mini_suite

LOCK_FILE = Path(catalog.__file__).with_name("versions.lock.json")
LOCK_COMMAND = "python -m tools.locks"

_DIGITS = 10
_PAIRS = (
    ("Yes, there is a left-sided mass.", "yes", "CLOSED"),
    ("no", "No", "CLOSED"),
    ("The lungs are normal", "no", "CLOSED"),
    ("lung lung heart", "left lung", "OPEN"),
    ("two 1,000 mL chest tubes. No pneumothorax.", "2 chest tubes. no pneumothorax", "OPEN"),
    ("A", "a", "OPEN"),
    ("", "liver", "OPEN"),
    ("<think>No, the heart.</think> **Yes**", "yes", "CLOSED"),
    ("No doubt, the left or the right lung.", "right", "CLOSED"),
    ("I cannot tell.", "yes", "CLOSED"),
    ("\\boxed{T2\u2011weighted}</s>", "T2-weighted", "OPEN"),
    ("\u5fc3\u80ba", "\u5fc3\u80ba\u672a\u89c1", "OPEN"),
    (" ".join(f"w{number % 7}" for number in range(60)), " ".join(f"w{number % 9}" for number in range(70)), "OPEN"),
)
_CHOICES = {"yes": "yes", "no": "no", "a": "a"}
_BOXES = (
    (Box(0, 0, 10, 10), Box(0, 0, 10, 10)),
    (Box(0, 0, 4, 4), Box(1.4, 0, 5.4, 4)),
    (Box(0, 0, 10, 10), Box(10, 0, 20, 10)),
    (None, Box(0, 0, 20, 20)),
)


def scores_fingerprint(spec: TaskSpec) -> str:
    """Return the identity of a task's metrics: their signatures and what they say of the fixed predictions."""
    items = _items(spec.kind)
    found: dict[str, float | None] = {}
    for protocol in PROTOCOLS:
        _, scorables = scored_items(protocol, spec.kind, items)
        for metric in metrics_for(spec.name, spec.kind, protocol):
            chosen = [scorable for scorable in scorables if metric.applies(scorable)]
            needs_java = metric.tokenised is not None
            value = None if needs_java else float(metric.compute(metric.statistics(chosen).sum(axis=0)))
            found[metric.signature] = None if value is None else round(value, _DIGITS)
    return fingerprint(found)


def _items(kind: Kind) -> Sequence[Item]:
    scorables = _of_boxes() if kind == "rec" else _of_texts(kind)
    return [Item(state=state_of(scorable, kind), scorable=scorable) for scorable in scorables]


def _of_boxes() -> list[Scorable]:
    return [
        Scorable(prediction="a box", reference="liver", predicted_box=predicted, reference_box=reference)
        for predicted, reference in _BOXES
    ]


def _of_texts(kind: Kind) -> list[Scorable]:
    choices = _CHOICES if kind == "cls" else {}
    return [
        Scorable(
            prediction=answer,
            reference=reference.lower() if choices else reference,
            choices=choices,
            choice=read_choice(answer, choices) or "",
            labels={"answer_type": answer_type},
        )
        for text, reference, answer_type in _PAIRS
        for answer in [final_answer(text)]
        if not choices or reference.lower() in choices
    ]


def current_versions() -> dict[str, dict[str, object]]:
    """Return version, declaration and scores of the built-in tasks, as they are declared and scored now."""
    specs = (get_task(name) for name in catalog.BUILTIN)
    return {
        spec.name: {"version": spec.version, "fingerprint": spec.fingerprint(), "scores": scores_fingerprint(spec)}
        for spec in specs
    }


def unversioned_changes(locked: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks whose declaration or scores differ from the locked ones although the version is the same."""
    shared = sorted(locked.keys() & current.keys())
    return tuple(
        name for name in shared if locked[name] != current[name] and locked[name]["version"] == current[name]["version"]
    )


def write_lock(path: Path = LOCK_FILE) -> None:
    """Write the lock file.

    Raises:
        UsageError: If a task was changed without raising its version.
    """
    current = current_versions()
    changed = unversioned_changes(read_json(path), current) if path.is_file() else ()
    if changed:
        raise UsageError(
            f"The declaration or the scores of {changed[0]} were changed, but its version was not.",
            f"Raise the version at its declaration (tasks/tasks.yaml), then run {LOCK_COMMAND} again.",
        )
    write_atomically(path, f"{canonical_json(current, indent=2)}\n")


def prepared_test_splits() -> dict[str, str]:
    """Return the digest of each bundled task's test split, prepared now."""
    folder = prepare_mini_suite()
    return {name: load_prepared(folder, name).manifest.sha256["test"] for name in prepared_names(folder)}


def main(arguments: Sequence[str]) -> int:
    """Write both files; return the exit code."""
    try:
        if arguments:
            raise UsageError(f"The arguments {list(arguments)} are not understood.", f"Usage: {LOCK_COMMAND}")
        write_lock()
        write_atomically(RECORD_FILE, f"{canonical_json(prepared_test_splits(), indent=2)}\n")
    except MedbenchError as error:
        show_error(error)
        return error.exit_code
    say(f"Wrote {LOCK_FILE.name} and {RECORD_FILE.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
