"""`medbench doctor scorers`: every pseudo-model through every task, metric and protocol."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from medbench.adapters.base import answer_with_box
from medbench.harness.doctor.pseudo_models import EXACT_BOXES, PSEUDO_MODELS
from medbench.harness.records import GenerationRecord
from medbench.harness.score import predict
from medbench.harness.workload import TaskLoad
from medbench.tasks.protocols import PROTOCOLS, Item, Protocol, evaluate, tokenise_together

_SILENT = ("empty", "refusal")
_PERFECT = 1 - 1e-6
"""Corpus BLEU has constants against division by zero that keep even the oracle a hair below 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One metric of one task, by pseudo-model.

    Attributes:
        task: Name of the task.
        protocol: Whose definition.
        metric: Id of the metric.
        values: By pseudo-model, fractions; None where nothing could be scored.
    """

    task: str
    protocol: Protocol
    metric: str
    values: Mapping[str, float | None]

    @property
    def fault(self) -> str:
        """What is wrong: thoughts that are read; under `strict` an oracle below 1, or silence above 0; else empty."""
        oracle, thinking = self.values["oracle"], self.values["thinking"]
        if thinking != oracle:
            return f"the oracle scores {_told(oracle)}, and {_told(thinking)} if it thinks first"
        if self.protocol != "strict":
            return ""
        if oracle is not None and oracle < _PERFECT:
            return f"the oracle scores {_told(oracle)}"
        silent = [model for model in _SILENT if self.values[model]]
        return f"the model `{silent[0]}` scores {_told(self.values[silent[0]])}" if silent else ""

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain values."""
        return {"task": self.task, "protocol": self.protocol, "metric": self.metric, "values": dict(self.values)}


def examine_scorers(loads: Sequence[TaskLoad]) -> list[Diagnosis]:
    """Return what every metric says of every pseudo-model, by task, protocol and metric.

    Raises:
        MedbenchError: If a metric of reports needs Java and Java cannot start.
    """
    answered = {(load.spec.name, name): _items(load, name) for load in loads for name in PSEUDO_MODELS}
    tokenise_together(
        (load.spec.name, load.spec.kind, answered[load.spec.name, name]) for load in loads for name in PSEUDO_MODELS
    )
    return [diagnosis for load in loads for diagnosis in _diagnoses(load, answered)]


def _items(load: TaskLoad, model: str) -> list[Item]:
    parse = partial(answer_with_box, EXACT_BOXES)
    texts = PSEUDO_MODELS[model](load.spec, load.samples)
    return [
        predict(GenerationRecord(run="doctor", sample_id=sample.sample_id, text=text), sample, load.spec, parse)
        for sample, text in zip(load.samples, texts, strict=True)
    ]


def _diagnoses(load: TaskLoad, answered: Mapping[tuple[str, str], Sequence[Item]]) -> list[Diagnosis]:
    spec = load.spec
    found = []
    for protocol in PROTOCOLS:
        by_model = {name: evaluate(spec.name, spec.kind, protocol, answered[spec.name, name]) for name in PSEUDO_MODELS}
        for index, evaluation in enumerate(by_model["oracle"]):
            values = {name: _value(evaluations[index].value) for name, evaluations in by_model.items()}
            metric = evaluation.metric.metric_id
            found.append(Diagnosis(task=spec.name, protocol=protocol, metric=metric, values=values))
    return found


def _told(value: float | None) -> str:
    return "nothing" if value is None else f"{100 * value:.2f} %"


def _value(number: float) -> float | None:
    return None if math.isnan(number) else number
