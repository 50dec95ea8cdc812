"""Somebody's predictions of one task, scored by the protocols of our own runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from medbench.adapters.base import Answer as Understood
from medbench.harness.doubts import doubts_of
from medbench.harness.predictions.formats import FORMATS, TABLE, format_of, read_predictions
from medbench.harness.predictions.rows import Prediction, Source, predictions_of
from medbench.harness.results import MetricResult
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import numbers_of, predict
from medbench.tasks.answers.box_space import BOX_SPACES, UNI_MED, BoxSpace
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.protocols import PROTOCOLS, Item, Protocol, State, count_states, evaluate
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

_METRICS = TypeAdapter(dict[str, MetricResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScores:
    """What the protocols make of predictions; `doubts` say what looks wrong in them."""

    task: str
    samples: int
    states: dict[State, int]
    protocols: dict[Protocol, dict[str, MetricResult]]
    doubts: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the document that `medbench score --format json` prints."""
        protocols = {name: _METRICS.dump_python(metrics, mode="json") for name, metrics in self.protocols.items()}
        return {"task": self.task, "n": self.samples, "states": self.states, "protocols": protocols}


def score(
    task: str, predictions: str | Path | Iterable[Mapping[str, Any]], *, source: str = "",
    references: Path | None = None, columns: Mapping[str, str] = MappingProxyType({}), boxes: str = "",
    protocols: Sequence[Protocol] = PROTOCOLS,
) -> PredictionScores:  # fmt: skip
    """Score anybody's predictions of a task: a file in one of `FORMATS`, or objects with the fields of a row.

    `source` is the format of a file, by default seen by itself; `columns` are names of its columns by ours. `boxes` is
    how the model writes boxes: `uni-med` by default, see `medbench.tasks.answers.box_space`. Raises UsageError if there
    is no such task, format or space, or something was given that has no effect; DataError that names row and field if
    the predictions are of another form.
    """
    spec, form = get_task(task), source or TABLE
    if isinstance(predictions, str | Path):
        given = Source(path=Path(predictions), form=source, references=references, columns=columns)
        form, found = format_of(given), read_predictions(given, spec)
    else:
        found = tuple(predictions_of(((f"prediction {place}", row) for place, row in enumerate(predictions)), spec))
        if not found:
            raise DataError(f"There are no predictions for {spec.name}.", "Give one object for each.")
    return score_predictions(spec, found, _space(spec, form, boxes), protocols)


def _space(spec: TaskSpec, source: str, boxes: str) -> BoxSpace | None:
    if boxes and spec.kind != "rec":
        raise UsageError(f"--boxes has no effect on {spec.name}, whose answers are no boxes.", "Leave it out.")
    if FORMATS[source].boxes_are_read:
        if boxes:
            problem = f"--boxes has no effect on the format {source}, which holds boxes in pixels."
            raise UsageError(problem, "Leave it out.")
        return None
    if boxes and boxes not in BOX_SPACES:
        raise unknown_name("way to write boxes", boxes, BOX_SPACES)
    return BOX_SPACES[boxes or UNI_MED.name]


def score_predictions(
    spec: TaskSpec, predictions: Sequence[Prediction], boxes: BoxSpace | None, protocols: Sequence[Protocol]
) -> PredictionScores:
    """Score predictions of one task; without a space for boxes those count that their writer has read.

    DataError if one of REC lacks box or image size, or a reference is no answer of a closed list; MedbenchError if
    Java, which a metric needs, cannot start.
    """
    samples = [sample_of(prediction, spec, boxes) for prediction in predictions]
    items = [_item(*pair, spec, boxes) for pair in zip(predictions, samples, strict=True)]
    evaluations = {protocol: evaluate(spec.name, spec.kind, protocol, items) for protocol in protocols}
    unit = "group" if any(prediction.group for prediction in predictions) else "sample"
    return PredictionScores(
        task=spec.name, samples=len(items), states=count_states(items),
        protocols=numbers_of(spec, evaluations, items, samples, unit=unit, boxes=boxes),
        doubts=doubts_of(spec, samples, items, boxes, "--boxes"),
    )  # fmt: skip


def sample_of(one: Prediction, spec: TaskSpec, boxes: BoxSpace | None) -> Sample:
    """Return what a prediction answers, as a sample of our own; raises like `score_predictions`."""
    choices = one.choices or spec.choices_by_key()
    if one.reference is None:
        way_out = "Name its column (--column reference=NAME), or give --references FILE; or import it: medbench import"
        raise DataError(f"{one.where} has no reference, by which {spec.name} is scored.", way_out)
    reference = _reference(one.reference, one.where, spec, choices)
    if spec.kind == "rec" and boxes is not None and (one.box is None or one.image_size is None):
        way_out = "Give the right box as `box` [x1, y1, x2, y2] in pixels and the image's `image_size` [width, height]."
        raise DataError(f"{one.where} has no box or no image_size, which {spec.name} is scored by.", way_out)
    return Sample(
        sample_id=one.where, task=spec.name, split="test", reference=reference, choices=choices, box=one.box,
        image_size=one.image_size, labels={"answer_type": one.answer_type} if one.answer_type else {},
        groups={"group": one.group} if one.group else {},
    )  # fmt: skip


def _item(prediction: Prediction, sample: Sample, spec: TaskSpec, boxes: BoxSpace | None) -> Item:
    text, error = prediction.prediction or "", "failed" if prediction.prediction is None else ""
    record = GenerationRecord(run="", sample_id=sample.sample_id, text=text, error=error)

    def parse(said: str, *_: object) -> Understood:
        if boxes is None or spec.kind != "rec" or sample.image_size is None:
            return Understood(text=said, box=prediction.predicted_box)
        return Understood(text=said, box=boxes.read(said, sample.image_size))

    return predict(record, sample, spec, parse)


def _reference(given: str, where: str, spec: TaskSpec, choices: Mapping[str, str]) -> str:
    """Return the reference, where there are choices as the key that it names in any case."""
    if not choices:
        return given
    for key in choices:
        if key.lower() == given.strip().lower():
            return key
    way_out = f"Allowed: {', '.join(choices)}. Other answers need the field `choices` (key to text) in the row."
    raise DataError(f"{where} has a reference that is none of the answers of {spec.name}.", way_out)
