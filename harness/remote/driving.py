"""A served model in a run: what may be sent to it, its outcomes as they come, and what they took."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from medbench.adapters.remote import RemoteAdapter
from medbench.harness.engine.request import Outcome
from medbench.harness.phases import Phases
from medbench.harness.remote.asking import Asking, Finished
from medbench.harness.remote.background import in_background
from medbench.harness.remote.calls import CALLS_FILE, CallLog
from medbench.harness.remote.order import in_order
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.sample import Sample
from medbench.tasks.terms import is_under_agreement, terms_of_prepared


def answer_remotely(
    adapter: RemoteAdapter,
    loads: Sequence[TaskLoad],
    missing: Mapping[str, Sequence[Sample]],
    folder: Path,
    phases: Phases,
) -> Iterator[list[Outcome]]:
    """Yield outcomes as they come; what they took goes to `calls.jsonl` of the run's folder, and its sums to `phases`.

    Args:
        adapter: The model.
        loads: The tasks.
        missing: Samples to answer, by task.
        folder: Folder of the run.
        phases: Where the time goes.

    Raises:
        UsageError: If a task's data must not be sent to the server.
        RunError: If the server refuses everything, cannot be reached, or answers no more.
    """
    to_send = [load for load in loads if missing[load.spec.name]]
    refuse_to_send(adapter, to_send)
    warn_of_sending(adapter, to_send)
    questions = in_order(loads, missing)
    begun: list[Asking] = []

    async def work(put: Callable[[Finished], None]) -> None:
        begun.append(Asking(adapter, put, answered=_answered_before(loads, missing)))
        await begun[0].ask(questions)

    with closing(CallLog(folder / CALLS_FILE)) as calls:
        with closing(in_background(work)) as batches:
            while True:
                with phases.time("answer"):
                    finished = next(batches, None)
                if finished is None:
                    break
                calls.append(finished)
                yield [one.outcome for one in finished]
        phases.notes["server"] = _notes(adapter, begun[0], calls)
        changes = changes_in(phases.notes["server"])
        # They stand beside the numbers as well, not only in the log.
        adapter.notices = (*adapter.notices, *changes)
        _tell(phases.notes["server"], changes)


def refuse_to_send(adapter: RemoteAdapter, loads: Sequence[TaskLoad]) -> None:
    """Refuse to send data under a signed agreement to another machine, unless the user said that it may go there.

    The mini suite's stand-ins for such data are free.

    Raises:
        UsageError: If there are such data.
    """
    if adapter.on_this_machine or adapter.may_send_credentialed:
        return
    closed = [load.spec.name for load in loads if is_under_agreement(load.prepared)]
    if closed:
        raise UsageError(
            f"The data of {', '.join(closed)} are under a signed agreement and must not be sent to {adapter.host}.",
            "Leave them out with --tasks, serve the model on this machine, or, if your agreement covers that server, "
            "say --model-arg credentialed=send.",
        )


def warn_of_sending(adapter: RemoteAdapter, loads: Sequence[TaskLoad]) -> None:
    """Say loudly which data go to another machine although nobody has said that they may be passed on."""
    told = [load.spec.name for load in loads if terms_of_prepared(load.prepared).openness == "closed"]
    if told and not adapter.on_this_machine:
        warn(
            f"The questions and images of {', '.join(told)} are sent to {adapter.host}, and nothing says that these "
            "data may be passed on. Stop now if they may not."
        )


def _notes(adapter: RemoteAdapter, asking: Asking, calls: CallLog) -> dict[str, Any]:
    """Return sums over all parts of the run, and what this part saw of the server's strength."""
    window = asking.gate.window
    return {
        "host": adapter.host,
        "concurrency": {"start": adapter.retry_policy.concurrency, "highest": window.highest, "last": window.limit},
        "troubles": dict(sorted(asking.troubles.items())),
        **calls.summary(),
    }


def _answered_before(loads: Sequence[TaskLoad], missing: Mapping[str, Sequence[Sample]]) -> set[bool]:
    """Return whether questions with pictures (True), or without (False), have an answer already."""
    still = {load.spec.name: {sample.sample_id for sample in missing[load.spec.name]} for load in loads}
    return {
        bool(sample.images)
        for load in loads
        for sample in load.samples
        if sample.sample_id not in still[load.spec.name]
    }


def changes_in(notes: Mapping[str, Any]) -> list[str]:
    """Return what must be said loudly where a server did not stay the same while it answered a run."""
    said = {
        "models": "THE MODEL CHANGED: several answered under one name",
        "fingerprints": "THE SERVER CHANGED: its software or settings had several marks (system_fingerprint)",
    }
    counted = {
        name: ", ".join(f"{mark} ({count:,})" for mark, count in notes[name].items())
        for name in said
        if len(notes[name]) > 1
    }
    return [f"{said[name]}: {marks}. Their answers need not be comparable." for name, marks in counted.items()]


def _tell(notes: Mapping[str, Any], changes: Sequence[str]) -> None:
    thought = f" ({notes['thought_tokens']:,} of them thoughts)" if notes["thought_tokens"] else ""
    cost = f", cost {notes['cost']:,.4f}" if "cost" in notes else ""
    say(
        f"Server: {notes['answered']:,} answered, {notes['failed']:,} failed, {notes['requests']:,} requests, "
        f"{notes['prompt_tokens']:,} tokens read ({notes['cached_tokens']:,} remembered), "
        f"{notes['output_tokens']:,} written{thought}{cost}; up to {notes['concurrency']['highest']} at once."
    )
    for change in changes:
        warn(change)
