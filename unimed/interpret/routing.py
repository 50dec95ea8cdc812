"""How the connector weighs its experts over a training (Fig. 4c): of the checkpoints on the way, and of the log."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.files import canonical_json, read_json_lines, write_atomically
from medbench.tasks.validation import parse_json_file, parse_value
from medbench.unimed.checkpoint import restore_weights
from medbench.unimed.interpret.document import Moment, Vector
from medbench.unimed.interpret.gradients import UniMedSource
from medbench.unimed.interpret.results import means_of
from medbench.unimed.training.folder import LOG_FILE

BATCHES = 10  # Of each task, for a checkpoint on the way.
_STEP = re.compile(r"step-(\d{8})")


def moments_of(source: UniMedSource, training: Path, kept: Path) -> tuple[Moment, ...]:
    """Return the routing over a training, by step, from its folder; the log's before that of a checkpoint.

    The model of `source` has other weights afterwards. A checkpoint that was measured already is read from `kept`.
    """
    found = [*logged(training), *_of_checkpoints(source, training, kept)]
    return tuple(sorted(found, key=lambda one: (one.step, one.source != "log")))


def _of_checkpoints(source: UniMedSource, training: Path, kept: Path) -> Iterator[Moment]:
    if not source.model.config.is_moe:
        return
    folders = {match[1]: one for one in training.glob("checkpoints/step-*") if (match := _STEP.fullmatch(one.name))}
    for step, folder in sorted(folders.items()):
        file = kept / f"routing-{step}.json"
        if not file.exists():
            restore_weights(source.model, folder)
            weights = means_of({task: source.routing(task, BATCHES) for task in source.tasks})
            moment = Moment(step=int(step), source="checkpoint", weights=weights)
            write_atomically(file, canonical_json(moment.model_dump(mode="json")) + "\n")
        yield parse_json_file(Moment, file)


def logged(training: Path) -> Iterator[Moment]:
    """Yield what the log of a training says, by entry of its mixture; nothing if it has no log or no experts."""
    log = training / LOG_FILE
    for record in read_json_lines(log) if log.is_file() else ():
        if record.get("expert_use"):
            weights: dict[str, Any] = parse_value(dict[str, Vector], record["expert_use"], str(log))
            yield parse_value(Moment, {"step": record.get("step"), "source": "log", "weights": weights}, str(log))
