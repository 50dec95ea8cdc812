"""The middle of a run: what is still to be answered goes to the model, what comes back goes to the disk."""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import IO

from medbench.adapters.base import Adapter, DirectAdapter, Generation, LocalAdapter
from medbench.adapters.guarding import answered, plugin_faults
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.engine.requests import GREEDY, Outcome, Request, Sampling, make_request
from medbench.harness.phases import Phases
from medbench.harness.records import GenerationRecord, RecordFile, append
from medbench.harness.rundir import RunDirectory
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, Workload
from medbench.harness.written import is_cut_off
from medbench.tasks.answers.thoughts import take_apart
from medbench.tasks.foundation.console import Meter, meter, say
from medbench.tasks.foundation.errors import RunError, SampleError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is left of a run.

    Attributes:
        loads: The tasks that the model can answer.
        missing: Samples without a good record, by task.
        recorded: Samples that were answered before.
    """

    loads: tuple[TaskLoad, ...]
    missing: Mapping[str, Sequence[Sample]]
    recorded: int

    @property
    def total(self) -> int:
        """All samples of the run, recorded ones included."""
        return self.recorded + sum(len(samples) for samples in self.missing.values())


def answerable(workload: Workload, kinds: Collection[Kind]) -> tuple[TaskLoad, ...]:
    """Return the tasks of some kinds, those that the model can answer."""
    return tuple(load for load in workload.loads if load.spec.kind in kinds)


def make_plan(workload: Workload, kinds: Collection[Kind], directory: RunDirectory) -> Plan:
    """Return what is left to answer by a model of these kinds; failed samples are tried again."""
    loads = answerable(workload, kinds)
    missing: dict[str, list[Sample]] = {}
    recorded = 0
    for load in loads:
        records = _record_file(directory, load).read()
        good = {sample_id for sample_id, record in records.items() if not record.error}
        missing[load.spec.name] = [sample for sample in load.samples if sample.sample_id not in good]
        recorded += len(good)
    return Plan(loads=loads, missing=missing, recorded=recorded)


def generate(plan: Plan, adapter: Adapter, directory: RunDirectory, phases: Phases, settings: Settings) -> list[str]:
    """Answer what is missing, appending each answer as it comes; then put every file in its final order.

    Returns:
        The error of each sample that failed.
    """
    if plan.recorded:
        say(f"Continuing: {plan.recorded} of {plan.total} samples are already recorded.")
    with ExitStack() as stack, meter("Generating", plan.total, done=plan.recorded) as progress:
        streams = {
            load.spec.name: stack.enter_context(_record_file(directory, load).open_for_appending())
            for load in plan.loads
        }
        states: Counter[str] = Counter()
        # Closed at once when the writing fails or is interrupted: a server is then asked no more.
        answers = stack.enter_context(closing(_outcomes(plan, adapter, directory, phases, settings)))
        for outcomes in answers:
            with phases.time("write"):
                _write(outcomes, directory.identity, streams)
            _show(progress, outcomes, states)
    failures = []
    for load in plan.loads:
        file = _record_file(directory, load)
        records = file.read().values()
        failures += [record.error for record in records if record.error]
        file.rewrite(records)
    return failures


def _record_file(directory: RunDirectory, load: TaskLoad) -> RecordFile:
    return directory.generations(load.spec.name, [sample.sample_id for sample in load.samples])


def _outcomes(
    plan: Plan, adapter: Adapter, directory: RunDirectory, phases: Phases, settings: Settings
) -> Generator[list[Outcome], None, None]:
    with plugin_faults(adapter.card.name, "answering", type(adapter).__module__):
        yield from _outcomes_of(plan, adapter, directory, phases, settings)


def _outcomes_of(
    plan: Plan, adapter: Adapter, directory: RunDirectory, phases: Phases, settings: Settings
) -> Generator[list[Outcome], None, None]:
    if isinstance(adapter, DirectAdapter):
        yield from _answer_directly(plan, adapter, phases)
    elif isinstance(adapter, LocalAdapter):
        yield from _drive_engine(plan, adapter, directory, phases, settings)
    elif isinstance(adapter, RemoteAdapter):
        from medbench.harness.remote.serving import answer_remotely

        yield from answer_remotely(adapter, plan.loads, plan.missing, directory.path, phases)
    else:
        raise RunError(
            f"The model {adapter.card.name!r} is neither direct, local nor remote.",
            "Use a model of `medbench models`.",
        )


def _answer_directly(plan: Plan, adapter: DirectAdapter, phases: Phases) -> Iterator[list[Outcome]]:
    for load in plan.loads:
        outcomes = []
        for sample in plan.missing[load.spec.name]:
            try:
                with phases.time("answer"):
                    generation = answered(adapter, sample, load.spec)
                outcomes.append(Outcome(task=load.spec.name, sample_id=sample.sample_id, generation=generation))
            except SampleError as error:
                outcomes.append(Outcome(task=load.spec.name, sample_id=sample.sample_id, error=str(error)))
        yield outcomes


def _drive_engine(
    plan: Plan, adapter: LocalAdapter, directory: RunDirectory, phases: Phases, settings: Settings
) -> Iterator[list[Outcome]]:
    from medbench.harness.driving import choosing_of, drive, note_agreement

    refused: list[Outcome] = []
    requests = requests_of(plan, adapter, phases, refused, choosing_of(settings, adapter))
    yield from drive(adapter, requests, directory, phases, settings)
    yield refused
    note_agreement(adapter, plan.loads, directory, phases, settings)


def requests_of(
    plan: Plan, adapter: LocalAdapter, phases: Phases, refused: list[Outcome], choosing: Sampling = GREEDY
) -> Iterator[Request]:
    """Yield the missing samples as rendered requests, tasks with long answers first; note what cannot be rendered."""
    from medbench.harness.engine.requests import LONG_ANSWERS_FIRST

    for load in sorted(plan.loads, key=lambda load: LONG_ANSWERS_FIRST.index(load.spec.kind)):
        for sample in plan.missing[load.spec.name]:
            try:
                with phases.time("render"):
                    request = make_request(adapter, sample, load.spec, load.prepared.source, choosing)
            except SampleError as error:
                refused.append(Outcome(task=load.spec.name, sample_id=sample.sample_id, error=str(error)))
                continue
            yield request


def _write(outcomes: Sequence[Outcome], run: str, streams: Mapping[str, IO[bytes]]) -> None:
    by_task: dict[str, list[GenerationRecord]] = {}
    for outcome in outcomes:
        by_task.setdefault(outcome.task, []).append(GenerationRecord.of(run, outcome))
    for task, records in by_task.items():
        append(streams[task], records)


def _show(progress: Meter, outcomes: Sequence[Outcome], states: "Counter[str]") -> None:
    for outcome in outcomes:
        states["error" if outcome.generation is None else _word(outcome.generation)] += 1
    if outcomes:
        status = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        progress.advance(len(outcomes), label=outcomes[-1].task, status=status)


def _word(generation: Generation) -> str:
    said = take_apart(generation.text)
    if is_cut_off(said, generation):
        return "truncated"
    return "answered" if said.answer else "empty"
