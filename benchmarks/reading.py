"""How well are answers read? Outputs whose right reading is known, through the very code that scores runs.

Prints a table by form and writes `build/bench-reading.json`: `python -m benchmarks.reading`, under a minute. An
invented reading (one that differs from the truth, or any where the truth is none) ends it with exit code 1. `--share
0.1` for a tenth of the outputs, `--faults FILE` for what was misread.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.reading_boxes import boxes
from benchmarks.reading_choices import Output, classes, letters, polar, sides
from benchmarks.reading_real import real
from benchmarks.reading_thoughts import thoughts
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import predict
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import EXIT_FAILED
from medbench.tasks.foundation.files import canonical_json, json_lines, write_atomically
from medbench.tasks.protocols import Item, evaluate
from medbench.tasks.sample import Box

OUTPUT = Path("build/bench-reading.json")
SEED = 16
_CLOSE = 1e-6

Reading = str | Box | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of the outputs of one form.

    Attributes:
        form: What they are examples of.
        outputs: How many.
        right: Share that was read rightly; of those that take nothing, the share in which nothing was read.
        invented: Share that was read as something else.
        left: Share that takes something and was left unread.
    """

    form: str
    outputs: int
    right: float
    invented: float
    left: float


def generated(share: float = 1.0, seed: int = SEED) -> list[Output]:
    """Return the generated outputs, the same ones every time.

    Args:
        share: Share of them; each template of a choice comes at least once.
        seed: Of the draws.
    """
    random = Random(seed)
    plain = [
        *letters(random, share), *polar(random, share), *sides(random, share), *classes(random, share),
        *boxes(random, share),
    ]  # fmt: skip
    return [*plain, *thoughts(random, share, plain)]


def read(outputs: Sequence[Output]) -> list[Reading]:
    """Return what the scorer reads in each output."""
    readings: list[Reading] = [None] * len(outputs)
    closed: list[int] = []
    for place, output in enumerate(outputs):
        item = _item(output)
        if output.answers:
            closed.append(place)
        elif item.state == "ok":
            readings[place] = item.scorable.predicted_box if output.task.kind == "rec" else item.scorable.choice or None
    for place, reading in zip(closed, _closed_readings([outputs[place] for place in closed]), strict=True):
        readings[place] = reading
    return readings


def _item(output: Output, reference: str | None = None) -> Item:
    sample = output.sample if reference is None else replace(output.sample, reference=reference)
    record = GenerationRecord(run="reading", sample_id=sample.sample_id, text=output.text)
    return predict(record, sample, output.task, output.parse)


def _closed_readings(outputs: Sequence[Output]) -> Iterator[Reading]:
    """Yield the answers under which `strict` calls each output right: one, none, or several side by side."""
    pairs = [(place, answer) for place, output in enumerate(outputs) for answer in output.answers]
    items = [_item(outputs[place], answer) for place, answer in pairs]
    right: list[list[str]] = [[] for _ in outputs]
    for (place, answer), item, value in zip(pairs, items, _closed_accuracy(items), strict=True):
        if value and item.state == "ok":
            right[place].append(answer)
    for answers in right:
        yield " and ".join(answers) or None


def _closed_accuracy(items: Sequence[Item]) -> list[float]:
    values = [0.0] * len(items)
    for evaluation in evaluate("slake-vqa", "vqa", "strict", items):
        if evaluation.metric.metric_id == "closed_accuracy":
            for place, value in zip(evaluation.indices.tolist(), evaluation.per_sample().tolist(), strict=True):
                values[place] = value
    return values


def is_right(reading: Reading, truth: Reading) -> bool:
    """Return whether a reading is the truth; boxes may differ by rounding."""
    if isinstance(reading, Box) and isinstance(truth, Box):
        return all(
            math.isclose(edge, true, rel_tol=_CLOSE, abs_tol=_CLOSE) for edge, true in zip(reading, truth, strict=True)
        )
    return reading == truth


def measure(outputs: Sequence[Output], readings: Sequence[Reading]) -> list[Row]:
    """Return one row for each form, in the order in which they come."""
    forms = dict.fromkeys(output.form for output in outputs)
    return [
        _row(form, [pair for pair in zip(outputs, readings, strict=True) if pair[0].form == form]) for form in forms
    ]


def _row(form: str, pairs: Sequence[tuple[Output, Reading]]) -> Row:
    right = sum(is_right(reading, output.truth) for output, reading in pairs)
    left = sum(reading is None and output.truth is not None for output, reading in pairs)
    count = len(pairs)
    return Row(
        form=form, outputs=count, right=right / count, invented=(count - right - left) / count, left=left / count
    )


def cells(row: Row) -> list[str]:
    """Return a row as the cells of a table, in percent."""
    return [row.form, str(row.outputs), *(f"{100 * share:.1f}" for share in (row.right, row.invented, row.left))]


HEADER = ["form", "outputs", "read rightly, %", "invented, %", "left unread, %"]


def faults(
    outputs: Sequence[Output], readings: Sequence[Reading], *, invented: bool = False
) -> list[dict[str, object]]:
    """Return what was misread, or only what was invented."""
    return [
        {
            "form": output.form, "text": output.text, "choices": dict(output.sample.choices) or list(output.answers),
            "got": reading, "want": output.truth, "invented": reading is not None,
        }
        for output, reading in zip(outputs, readings, strict=True)
        if not is_right(reading, output.truth) and (reading is not None or not invented)
    ]  # fmt: skip


def all_of(rows: Iterable[Row]) -> Row:
    """Return the sum of rows."""
    counted = list(rows)
    total = sum(row.outputs for row in counted)
    shares = (sum(row.outputs * share(row) for row in counted) / total for share in (_right, _invented, _left))
    right, invented, left = shares
    return Row(form="all", outputs=total, right=right, invented=invented, left=left)


def _right(row: Row) -> float:
    return row.right


def _invented(row: Row) -> float:
    return row.invented


def _left(row: Row) -> float:
    return row.left


def main() -> int:
    """Read all outputs, print the table, write the file."""
    parser = argparse.ArgumentParser(description="Read outputs whose right reading is known.")
    parser.add_argument("--share", type=float, default=1.0, help="Share of the generated outputs.")
    parser.add_argument("--faults", type=Path, help="Where to write what was misread, as JSON lines.")
    given = parser.parse_args()
    outputs = [*generated(given.share), *real()]
    readings = read(outputs)
    rows = measure(outputs, readings)
    total = all_of(rows)
    emit_table(HEADER, [cells(row) for row in [*rows, total]])
    write_atomically(OUTPUT, canonical_json({"rows": [asdict(row) for row in [*rows, total]]}, indent=2))
    if given.faults:
        write_atomically(given.faults, json_lines(faults(outputs, readings)))
    invented = faults(outputs, readings, invented=True)
    for fault in invented[:20]:
        say(f"{fault['form']}: {fault['text']!r} is read as {fault['got']}, not as {fault['want']}")
    return EXIT_FAILED if invented else 0


if __name__ == "__main__":
    sys.exit(main())
