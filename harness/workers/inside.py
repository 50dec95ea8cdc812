"""What runs in a worker: it loads the model once, says what it is, and answers units; and all that it says or hears.

It reads the tasks itself, from the same folder of data, so that names travel, and no pictures.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medbench.adapters.catalog import ChosenModel, choose_model
from medbench.adapters.guarding import plugin_faults
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.agreement import Agreement
from medbench.harness.answering import Answering, Told, expect, told_by
from medbench.harness.cache.memory import memory_of
from medbench.harness.engine.faults import DeviceError
from medbench.harness.engine.requests import Name, Outcome
from medbench.harness.generate import Plan
from medbench.harness.identity import code_of_all
from medbench.harness.learned import Learned
from medbench.harness.models import ModelFacts, Share, load_share
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import Silent, heard_by
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is to load, and how."""

    settings: Mapping[str, Any]  # As in run.yaml: they are checked again where they arrive.
    share: Share
    folder: str  # Where relative names start from, such as `hf:./model`; a machine that lacks it has none of them.
    sharers: int = 1  # Workers on its machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Samples to answer, by task and sample."""

    names: tuple[Name, ...]
    learned: Mapping[str, int]  # What the run learned to hold at once; empty before memory ran out.


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Answers of the run, with their names, to be written again one by one."""

    said: tuple[tuple[Name, str], ...]


Work = Unit | Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has loaded the model."""

    told: Told
    facts: ModelFacts  # As they are when the model knows which tasks to expect.
    identity: Mapping[str, object]  # What every worker of the run must have alike.
    place: str  # Its machine and process, for people.


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A line that a worker said, aloud if it must not be overlooked."""

    text: str
    loud: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Outcomes, as they come."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A piece of work is over."""

    phases: Mapping[str, Any]  # All that the worker spent so far, as in env.json, and what it noted.
    notes: Mapping[str, Any]
    learned: Mapping[str, int]  # What it learned to hold at once.
    agreement: Agreement | None = None  # Of a comparison; None where none is called for.


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What keeps the whole run from going on."""

    error: MedbenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A worker is gone; said by whoever started it."""

    reason: str


Message = Ready | Talk | Answered | Finished | Refused | Died


def identity_of(settings: Settings, workload: Workload, model: ChosenModel, told: Told) -> dict[str, object]:
    """Return what must be alike wherever a part of a run is answered, medbench's own code and the data included."""
    return {**told.identity(settings, workload, model), "medbench": code_of_all()}


class Inside:
    """A worker; both methods yield what the writer must hear, and end after a `Refused`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._phases = Phases()
        self._ear = _Ear()

    def load(self) -> Iterator[Message]:
        """Load the model and say what it is."""
        yield from self._heard(self._load())

    def do(self, work: Work) -> Iterator[Message]:
        """Answer a unit, or compare answers."""
        yield from self._heard(self._answer(work) if isinstance(work, Unit) else self._compare(work))

    def _heard(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield messages, and before each what was said until then."""
        message: Message | None
        while True:
            try:
                with heard_by(self._ear):
                    message = next(messages, None)
            except DeviceError:
                # Another process may answer: this one is to be replaced.
                raise
            except MedbenchError as error:
                message = Refused(error=error)
            yield from self._ear.emptied()
            if message is None:
                return
            yield message

    def _load(self) -> Iterator[Message]:
        with suppress(OSError):
            os.chdir(self._job.folder)
        settings = Settings(**self._job.settings)
        model = choose_model(settings.model, settings.model_args)
        workload = load_workload(settings)
        adapter = load_share(settings, model, workload, self._job.share)
        if isinstance(adapter, RemoteAdapter):
            problem = (
                f"--workers is for models that run here; {settings.model.partition(':')[0]!r} is asked over a network."
            )
            raise UsageError(problem, "Leave --workers out: the server is asked many questions at a time anyway.")
        self._loads = {load.spec.name: load for load in workload.loads}
        self._samples: dict[Name, Sample] = {
            (load.spec.name, one.sample_id): one for load in workload.loads for one in load.samples
        }
        told = told_by(adapter, ModelFacts.of(adapter), settings, workload)
        own = workload.only(self._job.share.tasks).answerable(told.facts.kinds)
        expect(adapter, Plan(loads=own, missing={}, recorded=0))
        self._whose = adapter.card.name, "answering", type(adapter).__module__
        self._learned = Learned()
        specs = [load.spec for load in own]
        identity = told.identity(settings, workload, model)
        memory = memory_of(adapter, identity, settings, workload, self._phases, specs=specs)
        self._answering = Answering(adapter, settings, self._phases, self._learned, memory, sharers=self._job.sharers)
        yield Ready(
            told=told, facts=ModelFacts.of(adapter), identity=identity_of(settings, workload, model, told),
            place=f"{socket.gethostname()}, process {os.getpid()}",
        )  # fmt: skip

    def _answer(self, unit: Unit) -> Iterator[Message]:
        self._learned.known.update(self._learned.within(unit.learned))
        missing: dict[str, list[Sample]] = {}
        for name in unit.names:
            missing.setdefault(name[0], []).append(self._samples[name])
        plan = Plan(loads=tuple(self._loads[task] for task in missing), missing=missing, recorded=0)
        with plugin_faults(*self._whose):
            for outcomes in self._answering.outcomes(plan):
                yield Answered(outcomes=tuple(outcomes))
        yield self._finished()

    def _compare(self, comparison: Comparison) -> Iterator[Message]:
        said = [(self._loads[name[0]], self._samples[name], text) for name, text in comparison.said]
        yield self._finished(self._answering.compare(lambda: said))

    def _finished(self, agreement: Agreement | None = None) -> Finished:
        notes, phases = dict(self._phases.notes), self._phases.as_json()
        return Finished(phases=phases, notes=notes, learned=self._learned.known, agreement=agreement)


class _Ear(Silent):
    """Keeps what is said until it can be sent."""

    def __init__(self) -> None:
        self._heard: list[Talk] = []

    def say(self, text: str) -> None:
        self._heard.append(Talk(text=text, loud=False))

    def warn(self, text: str) -> None:
        self._heard.append(Talk(text=text, loud=True))

    def emptied(self) -> Iterator[Talk]:
        """Yield what was heard. A generator, not a list: Ray sends to what a stream is made of."""
        heard, self._heard = self._heard, []
        yield from (talk for talk in heard)
