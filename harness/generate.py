"""The middle of a run: what is still to be answered goes to the model, what comes back goes to the disk."""

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from medbench.adapters.base import DirectAdapter, LocalAdapter
from medbench.adapters.guarding import answered
from medbench.harness.engine.requests import GREEDY, LONG_ANSWERS_FIRST, Name, Outcome, Request, Sampling, make_request
from medbench.harness.failing import Failed, Watch, failures_of
from medbench.harness.phases import Phases
from medbench.harness.rundir import GenerationRecord, Recorded, RunDirectory, append_lines, is_cut_off, open_whole_lines
from medbench.harness.workload import TaskLoad
from medbench.tasks.answers.thoughts import split_thought
from medbench.tasks.foundation.console import meter, say
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import Sample

# Syncing the disk after every answer would take longer than a fast model does.
_MOST_SECONDS_KEPT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is left of a run: samples without a good record, by task; `recorded` counts the others."""

    loads: tuple[TaskLoad, ...]
    missing: Mapping[str, Sequence[Sample]]
    recorded: int
    failed: frozenset[Name] = frozenset()  # Those of the missing that failed before.

    @property
    def total(self) -> int:
        """All samples of the run, recorded ones included."""
        return self.recorded + sum(len(samples) for samples in self.missing.values())


def make_plan(loads: tuple[TaskLoad, ...], recorded: Recorded) -> Plan:
    """Return what is left to answer of some tasks; failed samples are tried again."""
    missing: dict[str, list[Sample]] = {}
    failed: set[Name] = set()
    for load in loads:
        task, records = load.spec.name, recorded[load.spec.name]
        good = {name for name, record in records.items() if not record.error}
        missing[task] = [sample for sample in load.samples if sample.sample_id not in good]
        failed |= {(task, name) for name in records.keys() - good}
    done = sum(len(load.samples) - len(missing[load.spec.name]) for load in loads)
    return Plan(loads=loads, missing=missing, recorded=done, failed=frozenset(failed))


def again(plan: Plan, failed: Iterable[Failed]) -> Plan:
    """Return what is left of a plan when only what failed is asked again."""
    names = frozenset((one.task, one.sample_id) for one in failed)
    missing = {
        load.spec.name: [one for one in load.samples if (load.spec.name, one.sample_id) in names] for load in plan.loads
    }
    samples = sum(len(load.samples) for load in plan.loads)
    return Plan(loads=plan.loads, missing=missing, recorded=samples - len(names), failed=names)


def generate(
    plan: Plan, outcomes_of: Generator[list[Outcome], None, None], directory: RunDirectory, phases: Phases, watch: Watch
) -> list[Failed]:
    """Append what is answered as it comes; then put every file in its final order.

    Returns the samples that failed. RunError, with all that came on disk, where `watch` sees that the run fails.
    """
    if plan.recorded:
        say(f"Continuing: {plan.recorded} of {plan.total} samples are already recorded.")
    files = {load.spec.name: directory.of_task(load) for load in plan.loads}
    with ExitStack() as stack, meter("Generating", plan.total, done=plan.recorded) as progress:
        streams = {name: stack.enter_context(open_whole_lines(file.path)) for name, file in files.items()}
        states: Counter[str] = Counter()
        # Closed at once when the writing fails or is interrupted: a server is then asked no more.
        for outcomes in stack.enter_context(closing(outcomes_of)):
            with phases.time("write"):
                for task in dict.fromkeys(outcome.task for outcome in outcomes):
                    own = (GenerationRecord.of(directory.identity, one) for one in outcomes if one.task == task)
                    append_lines(streams[task], (record.as_json() for record in own))
            watch.see(outcomes, plan.failed)
            states.update(map(state_of, outcomes))
            if outcomes:
                other = sorted(item for item in states.items() if item[0] != "answered")
                status = ", ".join(f"{count} {state}" for state, count in other)
                phases.count("answers kept", len(outcomes))
                progress.advance(len(outcomes), label=outcomes[-1].task, status=status)
    failures: list[Failed] = []
    for task, file in files.items():
        file.refuse_if_gone()
        records = list(file.read().values())
        failures += failures_of(task, records)
        file.rewrite(records)
    return failures


def state_of(outcome: Outcome) -> str:
    """Return what became of a sample: `answered`, `empty`, `truncated` (by the limit of tokens) or `error`."""
    if outcome.generation is None:
        return "error"
    said = split_thought(outcome.generation.text)
    return "truncated" if is_cut_off(said, outcome.generation) else "answered" if said.answer else "empty"


def answer_directly(plan: Plan, adapter: DirectAdapter, phases: Phases) -> Iterator[list[Outcome]]:
    """Yield what a direct model answers, a list of a task at a time: what took long to say is soon on the disk."""
    for load in plan.loads:
        outcomes: list[Outcome] = []
        began = time.monotonic()
        for sample in plan.missing[load.spec.name]:
            generation, why, kind = None, "", ""
            try:
                with phases.time("answer"):
                    generation = answered(adapter, sample, load.spec)
            except SampleError as error:
                why, kind = str(error), error.kind
            name = sample.sample_id
            outcomes.append(Outcome(task=load.spec.name, sample_id=name, generation=generation, error=why, kind=kind))
            if time.monotonic() - began > _MOST_SECONDS_KEPT:
                yield outcomes
                outcomes, began = [], time.monotonic()
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
                name = sample.sample_id
                refused.append(Outcome(task=load.spec.name, sample_id=name, error=str(error), kind=error.kind))
                continue
            yield request
