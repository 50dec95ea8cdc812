"""The middle of a run: what is still to be answered goes to the model, what comes back goes to the disk."""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from medbench.adapters.base import Adapter, DirectAdapter, LocalAdapter
from medbench.adapters.guarding import answered, plugin_faults
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.engine.requests import GREEDY, LONG_ANSWERS_FIRST, Outcome, Request, Sampling, make_request
from medbench.harness.phases import Phases
from medbench.harness.rundir import GenerationRecord, Recorded, RunDirectory, append_lines, is_cut_off, open_whole_lines
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad
from medbench.tasks.answers.thoughts import split_thought
from medbench.tasks.foundation.console import meter, say
from medbench.tasks.foundation.errors import RunError, SampleError
from medbench.tasks.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is left of a run: samples without a good record, by task; `recorded` counts the others."""

    loads: tuple[TaskLoad, ...]
    missing: Mapping[str, Sequence[Sample]]
    recorded: int

    @property
    def total(self) -> int:
        """All samples of the run, recorded ones included."""
        return self.recorded + sum(len(samples) for samples in self.missing.values())


def make_plan(loads: tuple[TaskLoad, ...], recorded: Recorded) -> Plan:
    """Return what is left to answer of some tasks; failed samples are tried again."""
    missing: dict[str, list[Sample]] = {}
    for load in loads:
        good = {name for name, record in recorded[load.spec.name].items() if not record.error}
        missing[load.spec.name] = [sample for sample in load.samples if sample.sample_id not in good]
    done = sum(len(load.samples) - len(missing[load.spec.name]) for load in loads)
    return Plan(loads=loads, missing=missing, recorded=done)


def generate(plan: Plan, adapter: Adapter, directory: RunDirectory, phases: Phases, settings: Settings) -> list[str]:
    """Answer what is missing, appending each answer as it comes; then put every file in its final order.

    Returns the error of each sample that failed.
    """
    if plan.recorded:
        say(f"Continuing: {plan.recorded} of {plan.total} samples are already recorded.")
    files = {load.spec.name: directory.of_task(load) for load in plan.loads}
    with ExitStack() as stack, meter("Generating", plan.total, done=plan.recorded) as progress:
        streams = {name: stack.enter_context(open_whole_lines(file.path)) for name, file in files.items()}
        states: Counter[str] = Counter()
        # Closed at once when the writing fails or is interrupted: a server is then asked no more.
        for outcomes in stack.enter_context(closing(_outcomes(plan, adapter, directory, phases, settings))):
            with phases.time("write"):
                for task in dict.fromkeys(outcome.task for outcome in outcomes):
                    own = (GenerationRecord.of(directory.identity, one) for one in outcomes if one.task == task)
                    append_lines(streams[task], (record.as_json() for record in own))
            states.update(map(_state_of, outcomes))
            if outcomes:
                status = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
                progress.advance(len(outcomes), label=outcomes[-1].task, status=status)
    failures = []
    for file in files.values():
        records = list(file.read().values())
        failures += [record.error for record in records if record.error]
        file.rewrite(records)
    return failures


def _state_of(outcome: Outcome) -> str:
    if outcome.generation is None:
        return "error"
    said = split_thought(outcome.generation.text)
    return "truncated" if is_cut_off(said, outcome.generation) else "answered" if said.answer else "empty"


def _outcomes(
    plan: Plan, adapter: Adapter, directory: RunDirectory, phases: Phases, settings: Settings
) -> Generator[list[Outcome], None, None]:
    with plugin_faults(adapter.card.name, "answering", type(adapter).__module__):
        if isinstance(adapter, DirectAdapter):
            yield from _answer_directly(plan, adapter, phases)
        elif isinstance(adapter, LocalAdapter):
            from medbench.harness.local import drive, note_agreement, sampling_of

            refused: list[Outcome] = []
            requests = requests_of(plan, adapter, phases, refused, sampling_of(settings, adapter))
            yield from drive(adapter, requests, directory, phases, settings)
            yield refused
            note_agreement(adapter, plan.loads, directory, phases, settings)
        elif isinstance(adapter, RemoteAdapter):
            from medbench.harness.remote.serving import answer_remotely

            yield from answer_remotely(adapter, plan.loads, plan.missing, directory.path, phases)
        else:
            problem = f"The model {adapter.card.name!r} is neither direct, local nor remote."
            raise RunError(problem, "Use a model of `medbench models`.")


def _answer_directly(plan: Plan, adapter: DirectAdapter, phases: Phases) -> Iterator[list[Outcome]]:
    for load in plan.loads:
        outcomes = []
        for sample in plan.missing[load.spec.name]:
            generation, why = None, ""
            try:
                with phases.time("answer"):
                    generation = answered(adapter, sample, load.spec)
            except SampleError as error:
                why = str(error)
            outcomes.append(Outcome(task=load.spec.name, sample_id=sample.sample_id, generation=generation, error=why))
        yield outcomes


def requests_of(
    plan: Plan, adapter: LocalAdapter, phases: Phases, refused: list[Outcome], sampling: Sampling = GREEDY
) -> Iterator[Request]:
    """Yield the missing samples as rendered requests, tasks with long answers first; note what cannot be rendered."""
    for load in sorted(plan.loads, key=lambda load: LONG_ANSWERS_FIRST.index(load.spec.kind)):
        for sample in plan.missing[load.spec.name]:
            try:
                with phases.time("render"):
                    request = make_request(adapter, sample, load.spec, load.prepared.source, sampling)
            except SampleError as error:
                refused.append(Outcome(task=load.spec.name, sample_id=sample.sample_id, error=str(error)))
                continue
            yield request
