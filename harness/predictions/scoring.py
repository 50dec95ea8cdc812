"""Scoring of predictions that somebody else made, by the very protocols that score our own runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from medbench.harness.predictions.record import Prediction
from medbench.harness.results import MetricResult
from medbench.harness.summarise import metric_result
from medbench.tasks.answers.box_space import BoxSpace, doubt_about_boxes
from medbench.tasks.answers.choice import choice_beside
from medbench.tasks.answers.thoughts import Said, take_apart
from medbench.tasks.ceiling import rec_ceilings
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, Protocol, State, count_states, evaluate, state_of
from medbench.tasks.sample import Box
from medbench.tasks.spec import TaskSpec

_METRICS = TypeAdapter(dict[str, MetricResult])


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionScores:
    """What the protocols make of predictions.

    Attributes:
        task: Name of the task.
        samples: Number of predictions.
        states: Predictions by state.
        protocols: By protocol and metric.
        doubt: Why the boxes may have been read in the wrong space, or empty.
    """

    task: str
    samples: int
    states: dict[State, int]
    protocols: dict[Protocol, dict[str, MetricResult]]
    doubt: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the document that `medbench score --format json` prints."""
        return {
            "task": self.task,
            "n": self.samples,
            "states": self.states,
            "protocols": {
                protocol: _METRICS.dump_python(metrics, mode="json") for protocol, metrics in self.protocols.items()
            },
        }


def score_predictions(
    spec: TaskSpec,
    predictions: Sequence[Prediction],
    boxes: BoxSpace | None,
    protocols: Sequence[Protocol],
) -> PredictionScores:
    """Score predictions of one task.

    Args:
        spec: The task.
        predictions: All of them, failed ones included.
        boxes: How the model writes boxes (REC only); None if the file holds boxes that its writer has read.
        protocols: Whose definitions.

    Raises:
        DataError: If a prediction of REC lacks its box or image size, or a reference is no answer of a closed list.
        MedbenchError: If a metric of reports needs Java and Java cannot start.
    """
    items = [_item(prediction, spec, boxes) for prediction in predictions]
    groups = [prediction.group or prediction.where for prediction in predictions]
    right = [(found.box, found.image_size) for found in predictions if found.box and found.image_size]
    unit = "group" if any(prediction.group for prediction in predictions) else "sample"

    def results(protocol: Protocol) -> dict[str, MetricResult]:
        limits = rec_ceilings(spec.name, right, boxes, protocol) if boxes and right else {}
        return {
            found.metric.metric_id: metric_result(
                found, items, groups, unit=unit, ceiling=limits.get(found.metric.metric_id)
            )
            for found in evaluate(spec.name, spec.kind, protocol, items)
        }

    return PredictionScores(
        task=spec.name,
        samples=len(items),
        states=count_states(items),
        protocols={protocol: results(protocol) for protocol in protocols},
        doubt=_doubt(spec, predictions, items, boxes),
    )


def _doubt(spec: TaskSpec, predictions: Sequence[Prediction], items: Sequence[Item], boxes: BoxSpace | None) -> str:
    if boxes is None or spec.kind != "rec":
        return ""
    sizes = (prediction.image_size for prediction in predictions)
    read = [
        (item.scorable.predicted_box, size)
        for item, size in zip(items, sizes, strict=True)
        if item.scorable.predicted_box is not None and size is not None
    ]
    return doubt_about_boxes(spec.name, read, space=boxes.name, declared_by="--boxes")


def _item(prediction: Prediction, spec: TaskSpec, boxes: BoxSpace | None) -> Item:
    said = take_apart(prediction.prediction or "")
    choices = prediction.choices or spec.choices_by_key()
    reference = _reference(prediction, spec, choices)
    scorable = Scorable(
        prediction=said.answer,
        reference=reference,
        choices=choices,
        choice=choice_beside(said.answer, choices, reference),
        predicted_box=_predicted_box(prediction, said.answer, spec, boxes),
        reference_box=prediction.box,
        labels={"answer_type": prediction.answer_type} if prediction.answer_type else {},
    )
    return Item(state=_state(prediction, scorable, spec, said), scorable=scorable)


def _state(prediction: Prediction, scorable: Scorable, spec: TaskSpec, said: Said) -> State:
    if prediction.prediction is None:
        return "error"
    return "truncated" if said.unfinished else state_of(scorable, spec.kind)


def _reference(prediction: Prediction, spec: TaskSpec, choices: Mapping[str, str]) -> str:
    """Return the reference, where there are choices as the key that it names in any case."""
    if not choices:
        return prediction.reference
    given = prediction.reference.strip().lower()
    key = next((key for key in choices if key.lower() == given), None)
    if key is None:
        raise DataError(
            f"{prediction.where} has a reference that is none of the answers of {spec.name}.",
            f"Allowed: {', '.join(choices)}. Other answers need the field `choices` (key to text) in the line.",
        )
    return key


def _predicted_box(prediction: Prediction, answer: str, spec: TaskSpec, boxes: BoxSpace | None) -> Box | None:
    if spec.kind != "rec" or boxes is None:
        return prediction.predicted_box
    if prediction.box is None or prediction.image_size is None:
        raise DataError(
            f"{prediction.where} has no box or no image_size, which {spec.name} is scored by.",
            "Give the right box as `box` [x1, y1, x2, y2] in pixels and the image's `image_size` [width, height].",
        )
    return boxes.read(answer, prediction.image_size)
