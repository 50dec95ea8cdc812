"""`medbench doctor engine`: the engine under several schedules against transformers' `generate`, one by one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medbench.adapters.base import Generation, LocalAdapter
from medbench.harness.engine.alone import generate_alone
from medbench.harness.engine.budget import Budget, auto_budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request, make_request
from medbench.harness.phases import Phases
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import SampleError

Answers = Mapping[tuple[str, str], Generation]

_FEW_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One way to answer all requests.

    Attributes:
        name: What a user reads.
        budget: Rows and tokens.
        continuous: Whether rows leave and enter.
        shuffled: Whether the requests come in another order.
    """

    name: str
    budget: Budget
    continuous: bool = True
    shuffled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many answers of a schedule are those of `generate`.

    Attributes:
        schedule: Its name.
        equal: Answers with the same text, end and number of tokens.
        total: All answers.
        differing: Task and sample of the first that differs; empty if none does.
    """

    schedule: str
    equal: int
    total: int
    differing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDiagnosis:
    """What was found.

    Attributes:
        agreements: By schedule.
        driven: Whether the decoder is driven row by row; otherwise it gets static batches.
        unreadable: Samples that no way can answer, since an image is missing or broken.
    """

    agreements: tuple[Agreement, ...]
    driven: bool
    unreadable: int


def examine_engine(adapter: LocalAdapter, loads: Sequence[TaskLoad], *, samples: int) -> EngineDiagnosis:
    """Answer up to `samples` test samples, of all tasks in turn, in several ways and compare.

    Args:
        adapter: The model.
        loads: Tasks that it can answer.
        samples: How many are compared.
    """
    requests = [make_request(adapter, *asked) for asked in _in_turn(loads, samples)]
    alone = {}
    for request in requests:
        try:
            alone[_key(request)] = generate_alone(adapter, request)
        except SampleError:
            continue
    readable = [request for request in requests if _key(request) in alone]
    agreements = tuple(
        _agreement(schedule.name, _answers(adapter, readable, schedule), alone) for schedule in _schedules(adapter)
    )
    driven = not Engine(adapter, auto_budget(adapter.decoder), Phases()).why_static
    return EngineDiagnosis(agreements=agreements, driven=driven, unreadable=len(requests) - len(readable))


def _in_turn(loads: Sequence[TaskLoad], samples: int) -> list[tuple[Any, Any, Any]]:
    """Return the first samples of all tasks, one task after the other, so that several questions share an image."""
    each = max(1, samples // max(1, len(loads)))
    chosen = [(sample, load.spec, load.prepared.source) for load in loads for sample in load.samples[:each]]
    return chosen[:samples]


def _schedules(adapter: LocalAdapter) -> tuple[Schedule, ...]:
    wide = auto_budget(adapter.decoder)
    few = Budget(rows=_FEW_ROWS, tokens=wide.tokens)
    return (
        Schedule(name="engine, as a run uses it", budget=wide),
        Schedule(name=f"{_FEW_ROWS} rows at a time", budget=few),
        Schedule(name="another order", budget=wide, shuffled=True),
        Schedule(name="static batches", budget=wide, continuous=False),
    )


def _answers(adapter: LocalAdapter, requests: Sequence[Request], schedule: Schedule) -> Answers:
    asked = list(requests)
    if schedule.shuffled:
        random.Random(0).shuffle(asked)
    engine = Engine(adapter, schedule.budget, Phases(), continuous=schedule.continuous)
    return {
        (outcome.task, outcome.sample_id): outcome.generation
        for outcomes in engine.generate(asked)
        for outcome in outcomes
        if outcome.generation is not None
    }


def _agreement(schedule: str, found: Answers, alone: Answers) -> Agreement:
    differing = [key for key, generation in alone.items() if found.get(key) != generation]
    return Agreement(
        schedule=schedule,
        equal=len(alone) - len(differing),
        total=len(alone),
        differing="/".join(differing[0]) if differing else "",
    )


def _key(request: Request) -> tuple[str, str]:
    return request.spec.name, request.sample.sample_id
