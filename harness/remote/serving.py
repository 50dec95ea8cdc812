"""A served model in a run: what may be sent to it, its outcomes as they come, and what they took (`calls.jsonl`)."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from medbench.adapters.remote import RemoteAdapter, Usage
from medbench.harness.cache.memory import Memory
from medbench.harness.engine.requests import Outcome
from medbench.harness.phases import Phases
from medbench.harness.remote.asking import Finished, in_order
from medbench.harness.remote.sharing import Fleet
from medbench.harness.rundir import append_lines, open_whole_lines
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.sample import Sample
from medbench.tasks.terms import is_under_agreement, terms_of_prepared

T = TypeVar("T")
LOG_FILE = "calls.jsonl"
_NONE_CACHED = "none in its cache, or does not say"


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class LoggedRequest(Usage):
    """What one question took: a line of `calls.jsonl`; `Finished` says what else is in it."""

    task: str
    sample_id: str
    state: str  # `answered` or `failed`.
    attempts: int
    seconds: float
    model: str = ""  # The model that answered, in the server's words.


class RequestLog:
    """What all questions of a run took, those of its earlier parts included; raises RunError for a foreign line."""

    def __init__(self, path: Path) -> None:
        self._logged: list[LoggedRequest] = []
        for number, line in read_numbered_json_lines(path, torn_tail="drop") if path.exists() else ():
            try:
                self._logged.append(LoggedRequest(**line))
            except ValidationError as error:
                problem = f"{path}, line {number} is no record of a call: {error.errors()[0]['msg']}."
                raise RunError(problem, "Delete the file: it only counts what the answers took.") from error
        self._stream = open_whole_lines(path)

    def append(self, finished: Iterable[Finished]) -> None:
        """Write what questions took."""
        new = [
            LoggedRequest(
                task=one.question.spec.name, sample_id=one.question.sample.sample_id, attempts=one.attempts,
                state="answered" if said else "failed", seconds=round(one.seconds, 3),
                model=said.served.model if said else "", **asdict(one.reply.usage),
            )
            for one, said in ((one, one.reply.generation) for one in finished)
        ]  # fmt: skip
        append_lines(self._stream, map(asdict, new))
        self._logged += new

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def summary(self) -> dict[str, Any]:
        """Return the sums over all parts of the run, as plain values; a sample's state is its last one."""
        last = {(one.task, one.sample_id): one for one in self._logged}
        costs = [one.cost for one in self._logged if one.cost is not None]
        answered = [one for one in last.values() if one.state == "answered"]
        asked = [one for one in answered if one.attempts]
        latency, most = sorted(one.seconds for one in asked), len(asked)
        places = {"median": most // 2, "p95": math.ceil(0.95 * most) - 1, "longest": most - 1}
        counted = ("prompt_tokens", "output_tokens", "thought_tokens", "cached_tokens")
        marks = {
            name: Counter(filter(None, (getattr(one, name) for one in answered))) for name in ("model", "fingerprint")
        }
        return {
            "answered": len(answered),
            "failed": len(last) - len(answered),
            "requests": sum(one.attempts for one in self._logged),
            **{name: sum(getattr(one, name) for one in self._logged) for name in counted},
            **({"cost": round(math.fsum(costs), 6)} if costs else {}),
            "latency_seconds": {name: latency[place] for name, place in places.items()} if asked else {},
            **{f"{name}s": dict(sorted(counted.items())) for name, counted in marks.items()},
        }


def answer_remotely(
    adapter: RemoteAdapter, loads: Sequence[TaskLoad], missing: Mapping[str, Sequence[Sample]], folder: Path,
    phases: Phases, memory: Memory | None = None,
) -> Iterator[list[Outcome]]:  # fmt: skip
    """Answer the missing samples of each task; yield outcomes as they come; what they took goes to `LOG_FILE`.

    What is in `memory` is not asked, and what is not is kept there.

    Raises UsageError if a task's data must not be sent to the server; RunError if the server refuses everything, cannot
    be reached, or answers no more.
    """
    to_send = [load for load in loads if missing[load.spec.name]]
    refuse_to_send(adapter, to_send)
    warn_of_sending(adapter, to_send)
    still = {(name, sample.sample_id) for name, samples in missing.items() for sample in samples}
    before = [sample for load in loads for sample in load.samples if (load.spec.name, sample.sample_id) not in still]
    begun: list[Fleet] = []

    async def work(put: Callable[[Finished], None]) -> None:
        known = {} if memory is None else {"recall": memory.recall}
        begun.append(Fleet(adapter.servers, put, answered={bool(sample.images) for sample in before}, **known))
        await begun[0].ask(in_order(loads, missing))

    with closing(RequestLog(folder / LOG_FILE)) as log, memory or nullcontext():
        with closing(in_background(work)) as batches:
            while True:
                with phases.time("answer"):
                    finished = next(batches, None)
                if finished is None:
                    break
                log.append(finished)
                if memory is not None:
                    _remember(memory, finished)
                yield [one.outcome for one in finished]
        notes = {**begun[0].notes, **log.summary()}
    changes = changes_in(notes)
    phases.notes["server"] = notes
    # They stand beside the numbers as well, not only in the log.
    adapter.notices = (*adapter.notices, *changes)
    say_what_it_took(notes, adapter.uncached_hint)
    for change in changes:
        warn(change)


def _remember(memory: Memory, finished: Sequence[Finished]) -> None:
    """Keep what a server was asked, and count what it was not."""
    asked = [one for one in finished if one.attempts]
    memory.count(sum(bool(one.key) for one in finished if not one.attempts), len(asked))
    memory.keep((one.key, one.outcome, one.reply.usage.fingerprint) for one in asked)


def say_what_it_took(notes: Mapping[str, Any], uncached_hint: str = "") -> None:
    """Say a run's questions, tokens and cost, and what servers had in their caches; if nothing, the hint."""
    thought = f" ({notes['thought_tokens']:,} of them thoughts)" if notes["thought_tokens"] else ""
    cost = f", cost {notes['cost']:,.4f}" if "cost" in notes else ""
    servers, read, cached = len(notes.get("servers", ())), notes["prompt_tokens"], notes["cached_tokens"]
    say(
        f"{f'{servers} servers' if servers > 1 else 'Server'}: {notes['answered']:,} answered, {notes['failed']:,} "
        f"failed, {notes['requests']:,} requests, {notes['output_tokens']:,} tokens written{thought}{cost}; up to "
        f"{notes['concurrency']['highest']} at once."
    )
    if read:
        had = f"{cached:,} ({100 * cached / read:.0f} %) in its cache" if cached else _NONE_CACHED
        say(f"Of {read:,} prompt tokens the server had {had}. {'' if cached else uncached_hint}".rstrip())


def other_machines(adapter: RemoteAdapter) -> str:
    """Return the names of the servers on other machines; empty if there are none."""
    return ", ".join(server.host for server in adapter.servers if not server.on_this_machine)


def refuse_to_send(adapter: RemoteAdapter, loads: Sequence[TaskLoad]) -> None:
    """Refuse to send data under a signed agreement to another machine, unless the user said that it may go there.

    The mini suite's stand-ins for such data are free. Raises UsageError if there are such data.
    """
    elsewhere = other_machines(adapter)
    if not elsewhere or adapter.may_send_credentialed:
        return
    closed = [load.spec.name for load in loads if is_under_agreement(load.prepared)]
    if closed:
        raise UsageError(
            f"The data of {', '.join(closed)} are under a signed agreement and must not be sent to {elsewhere}.",
            "Leave them out with --tasks, serve the model on this machine, or, if your agreement covers that server, "
            "say --model-arg credentialed=send.",
        )


def warn_of_sending(adapter: RemoteAdapter, loads: Sequence[TaskLoad]) -> None:
    """Say loudly which data go to another machine although nobody has said that they may be passed on."""
    told = [load.spec.name for load in loads if terms_of_prepared(load.prepared).openness == "closed"]
    elsewhere = other_machines(adapter)
    if told and elsewhere:
        warn(
            f"The questions and images of {', '.join(told)} are sent to {elsewhere}, and nothing says that these "
            "data may be passed on. Stop now if they may not."
        )


def joined_notes(folder: Path, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `answer_remotely` notes as if one process had asked: the sums of the calls that a folder holds.

    The retries of all `parts` are added; of their concurrency the most stands there, for each asked beside others.
    Several servers of parts stand there one after another.
    """
    with closing(RequestLog(folder / LOG_FILE)) as log:
        summary = log.summary()
    retries: Counter[str] = Counter()
    for part in parts:
        retries.update(part["retries"])
    most = {name: max(part["concurrency"][name] for part in parts) for name in parts[0]["concurrency"]}
    several = [server for part in parts for server in part.get("servers", ())]
    told = {"servers": several} if several else {}
    return {**parts[0], **told, "concurrency": most, "retries": dict(sorted(retries.items())), **summary}


def changes_in(notes: Mapping[str, Any]) -> list[str]:
    """Return what must be said loudly where a server did not stay the same while it answered a run."""
    said = {
        "models": "THE MODEL CHANGED: several answered under one name",
        "fingerprints": "THE SERVER CHANGED: its software or settings had several marks (system_fingerprint)",
    }
    changes = []
    for name, words in said.items():
        if len(notes[name]) > 1:
            marks = ", ".join(f"{mark} ({count:,})" for mark, count in notes[name].items())
            changes.append(f"{words}: {marks}. Their answers need not be comparable.")
    return changes


def in_background(work: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Generator[list[T], None, None]:
    """Yield what a coroutine puts, in lists of whatever came since the last one; raise what it raises.

    It runs in an event loop of a thread of its own, so a notebook may call it. A caller that is interrupted while it
    waits still gets what was put until then; one that leaves early must close the generator.
    """
    box: SimpleQueue[T | None] = SimpleQueue()
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(work(box.put))

    def run() -> None:
        with runner:
            loop.run_until_complete(task)

    def cancel() -> None:
        # A loop that is closed by now has nothing left to cancel.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="asking") as pool:
        done = pool.submit(run)
        # None comes last.
        done.add_done_callback(lambda _: box.put(None))
        found: list[T | None] = []
        try:
            while None not in found:
                found = _batch(box)
                if items := [item for item in found if item is not None]:
                    yield items
        except KeyboardInterrupt:
            cancel()
            wait([done])
            if rest := [item for item in _there(box) if item is not None]:
                yield rest
            raise
        finally:
            cancel()
    done.result()


def _batch(box: "SimpleQueue[T]") -> list[T]:
    """Wait for something, and return it with all else that is there."""
    return [box.get(), *_there(box)]


def _there(box: "SimpleQueue[T]") -> Iterator[T]:
    while not box.empty():
        yield box.get()
