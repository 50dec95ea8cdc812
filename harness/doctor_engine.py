"""`medbench doctor engine`: the engine under several schedules against transformers' `generate`, one by one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medbench.adapters.base import Generation, LocalAdapter
from medbench.harness.engine.budget import Budget, auto_budget
from medbench.harness.engine.engine import Engine, answers
from medbench.harness.engine.requests import Name, make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import SampleError

_FEW_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many answers of a schedule are those of `generate`: the same text, end and number of tokens."""

    schedule: str
    equal: int
    total: int
    differing: str  # Task and sample of the first that differs; empty if none does.


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDiagnosis:
    """What was found."""

    agreements: tuple[Agreement, ...]  # By schedule.
    driven: bool  # Whether the decoder is driven row by row; otherwise it gets static batches.
    unreadable: int  # Samples that no way can answer, since an image is missing or broken.


def examine_engine(adapter: LocalAdapter, loads: Sequence[TaskLoad], *, samples: int) -> EngineDiagnosis:
    """Answer up to `samples` test samples of tasks in several ways and compare.

    They are the first of every task, one task after the other, so that several questions share an image.
    """
    each = max(1, samples // max(1, len(loads)))
    chosen = [(sample, load.spec, load.prepared.source) for load in loads for sample in load.samples[:each]]
    requests = [make_request(adapter, *asked) for asked in chosen[:samples]]
    alone = {}
    for request in requests:
        try:
            alone[request.name] = generate_alone(adapter, request)
        except SampleError:
            continue
    readable = [request for request in requests if request.name in alone]
    other_order = list(readable)
    random.Random(0).shuffle(other_order)
    wide = auto_budget(adapter.decoder)
    few = Budget(rows=_FEW_ROWS, tokens=wide.tokens)
    as_run = Engine(adapter, wide, Phases())
    schedules = {
        "engine, as a run uses it": (as_run, readable),
        f"{_FEW_ROWS} rows at a time": (Engine(adapter, few, Phases()), readable),
        "another order": (Engine(adapter, wide, Phases()), other_order),
        "static batches": (Engine(adapter, wide, Phases(), continuous=False), readable),
    }
    return EngineDiagnosis(
        agreements=tuple(_agreement(name, answers(*schedule), alone) for name, schedule in schedules.items()),
        driven=not as_run.why_static,
        unreadable=len(requests) - len(readable),
    )


def _agreement(schedule: str, found: Mapping[Name, Generation], alone: Mapping[Name, Generation]) -> Agreement:
    differing = ["/".join(key) for key, generation in alone.items() if found.get(key) != generation]
    equal = len(alone) - len(differing)
    return Agreement(schedule=schedule, equal=equal, total=len(alone), differing=next(iter(differing), ""))
