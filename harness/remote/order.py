"""In which order a served model is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.workload import TaskLoad
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One sample of a task.

    Attributes:
        sample: The question.
        spec: Its task.
        source: Folder that the sample's image references start from.
    """

    sample: Sample
    spec: TaskSpec
    source: Path


def in_order(loads: Sequence[TaskLoad], missing: Mapping[str, Sequence[Sample]]) -> list[Question]:
    """Return the missing samples: reports first, and all questions about the same images one after another.

    They begin alike, so a server that remembers beginnings reads the images once, also across tasks. Reports take the
    longest; begun early, they do not keep the others waiting at the end.
    """
    together: dict[tuple[object, ...], list[Question]] = {}
    for load in sorted(loads, key=lambda load: load.spec.kind != "report"):
        source = load.prepared.source
        for sample in missing[load.spec.name]:
            # Without images only the questions of one task begin alike.
            key = (source, *sample.images) if sample.images else (load.spec.name,)
            together.setdefault(key, []).append(Question(sample=sample, spec=load.spec, source=source))
    return [question for questions in together.values() for question in questions]
